"""The graphs of exported files: the cascade for one image, the cascade for a batch, and all stages at once."""

from functools import partial

import keras
import tensorflow as tf

from keras_glimpse._validation.arguments import integers
from keras_glimpse._validation.images import check_spec
from keras_glimpse.cascade.macs import known_stage_macs
from keras_glimpse.ops.runtime import ANY, for_runtime
from keras_glimpse.version import __version__


def exported_shape(function: str, model, sides: tuple[int, int] | None) -> tuple[int, int, int]:
    """`(height, width, channels)` of the images that a file takes: those of the model, with `sides` where any may differ."""
    *built, channels = model.image_shape
    if None not in built:
        if sides is not None:
            raise ValueError(f"image_shape is for models of images that differ in size; this one is for {model.image_shape}.")
        return model.image_shape
    if sides is None:
        raise ValueError(
            f"{function} writes a file for images of one size, and the model is for {model.image_shape}: "
            "pass image_shape=(height, width)."
        )
    sides = integers("image_shape", sides, length=2)
    check_spec((None, *sides, channels), "float32", model.image_shape, model.least_sides)
    return *sides, channels


def about(model, shape: tuple, threshold: float | None) -> dict:
    """What an exported file tells of itself."""
    names = {"class_names": model.class_names} if model.class_names else {}
    shapes = {"image_shape": shape, "num_classes": model.num_classes}
    return {"keras_glimpse": __version__, **shapes, **names, "threshold": threshold and float(threshold)}


def explain(model, images: tf.Tensor, threshold: float | None, runtime: str = ANY) -> dict[str, tf.Tensor]:
    """Probabilities and locations at all stages for all images, and the stage at which the cascade would stop."""
    seen = model.look_at_all(images, runtime=runtime)
    probabilities = tf.nn.softmax(seen["logits"])
    exit_stage = tf.fill(tf.shape(images)[:1], model.active_glimpses)
    if threshold is not None:
        sure = tf.reduce_max(probabilities, axis=-1) >= threshold
        last = tf.one_hot(model.active_glimpses, model.active_glimpses + 1, True, False, dtype=tf.bool)
        exit_stage = tf.argmax(tf.cast(sure | last, tf.int32), axis=-1, output_type=tf.int32)
    answer = {"stage_probabilities": probabilities, "locations": seen["locations"], "exit_stage": exit_stage}
    macs = known_stage_macs(model)
    if macs is not None:
        answer["macs"] = tf.gather(tf.constant(macs), exit_stage)
    return answer


def cascade_of_one(model, images: tf.Tensor, threshold: float | None, runtime: str = ANY) -> dict[str, tf.Tensor]:
    """The cascade for a batch of one, with branches that a runtime takes or skips."""

    def answer(evidence):
        return tf.nn.softmax(model.combine(evidence)), tf.constant([len(evidence.glimpses)])

    def glimpse(evidence, *before):
        """The answer, and what the next glimpse needs to know, if there is one."""
        wanted = slice(None if len(evidence.glimpses) + 1 < model.active_glimpses else 2)

        def look():
            seen = for_runtime(model.look_again, runtime)(images, evidence)
            return (*answer(seen), seen.glimpses[-1], seen.locations[-1])[wanted]

        def stop():
            return (*before, tf.zeros_like(evidence.low_res), tf.zeros((1, 2)))[wanted]

        return look() if threshold is None else tf.cond(tf.reduce_max(before[0]) >= threshold, stop, look)

    images = model.prepare(images)
    evidence = for_runtime(model.first_look, runtime)(images)
    probabilities, exit_stage = answer(evidence)
    # One branch after another, not one in another: before LiteRT runs a branch, it prepares all that is in it.
    for _ in range(model.active_glimpses):
        probabilities, exit_stage, *seen = glimpse(evidence, probabilities, exit_stage)
        if seen:
            logits, location = seen
            evidence = evidence._replace(glimpses=(*evidence.glimpses, logits), locations=(*evidence.locations, location))
    return {"probabilities": probabilities, "exit_stage": exit_stage}


def cascade_of_batch(model, images: tf.Tensor, threshold: float | None, runtime: str = ANY) -> dict[str, tf.Tensor]:
    """The cascade for a batch: each network runs only on the images that are still below the threshold."""
    if threshold is None:
        return {"probabilities": tf.nn.softmax(model.look_at_all(images, runtime=runtime)["logits"][:, -1])}

    def continue_unsure(evidence, rows, latest, probabilities):
        if len(evidence.glimpses) == model.active_glimpses:
            return probabilities
        unsure = tf.where(~(tf.reduce_max(latest, axis=-1) >= threshold))[:, 0]  # NaN compares false: such rows stay unsure.

        def look():
            left, known = keras.tree.map_structure(partial(_rows, unsure), (rows, evidence))
            seen = for_runtime(model.look_again, runtime)(tf.gather(images, left), known)
            answer = tf.nn.softmax(model.combine(seen))
            return continue_unsure(seen, left, answer, tf.tensor_scatter_nd_update(probabilities, left[:, None], answer))

        # TensorFlow's convolutions fail on a batch of no images.
        return tf.cond(tf.size(unsure) > 0, look, lambda: probabilities)

    images = model.prepare(images)
    evidence = for_runtime(model.first_look, runtime)(images)
    probabilities = tf.nn.softmax(model.combine(evidence))
    return {"probabilities": continue_unsure(evidence, tf.range(tf.shape(images)[0]), probabilities, probabilities)}


def _rows(which, values):
    return tf.gather(values, which)
