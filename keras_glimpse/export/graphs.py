"""What exported files say beside the cascade: all stages at once, and what the file is for."""

import tensorflow as tf

from keras_glimpse._validation.arguments import integers
from keras_glimpse._validation.images import check_spec
from keras_glimpse.cascade.macs import known_stage_macs
from keras_glimpse.ops.runtime import ANY
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
