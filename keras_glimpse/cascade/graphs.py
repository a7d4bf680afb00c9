"""The cascade as one graph: for one image, and for a batch."""

from functools import partial

import keras
import tensorflow as tf

from keras_glimpse.ops.runtime import ANY, for_runtime


def cascade_of_one(model, images: tf.Tensor, threshold: float | None, runtime: str = ANY) -> dict[str, tf.Tensor]:
    """The cascade for a batch of one, with branches that a runtime takes or skips."""

    def answer(evidence):
        return tf.nn.softmax(model.answer(evidence)), tf.constant([len(evidence.glimpses)])

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
            answer = tf.nn.softmax(model.answer(seen))
            return continue_unsure(seen, left, answer, tf.tensor_scatter_nd_update(probabilities, left[:, None], answer))

        # TensorFlow's convolutions fail on a batch of no images.
        return tf.cond(tf.size(unsure) > 0, look, lambda: probabilities)

    images = model.prepare(images)
    evidence = for_runtime(model.first_look, runtime)(images)
    probabilities = tf.nn.softmax(model.answer(evidence))
    return {"probabilities": continue_unsure(evidence, tf.range(tf.shape(images)[0]), probabilities, probabilities)}


def _rows(which, values):
    return tf.gather(values, which)
