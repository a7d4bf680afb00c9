"""LiteRT files in which easy images stop early, with built-in operations only."""

import os
import tempfile
import warnings
from pathlib import Path

import tensorflow as tf

from keras_glimpse.checks import check_threshold
from keras_glimpse.cropping import portable_crops


def export_litert(model, path: str | os.PathLike, threshold: float | None = None) -> None:
    """Writes a `.tflite` file that classifies one image at a time, by built-in operations of LiteRT.

    Its input is `images` `[1, height, width, channels]`, float32, scaled as the model was trained: to [0, 1] if that was
    on unsigned integers. Its outputs are `probabilities` `[1, num_classes]` and
    `exit_stage` `[1]`, int32. With a threshold the cascade runs inside the file: once a stage is sure, the networks after it
    are skipped, which is what makes it fast on a phone.

    Args:
        model: a built `GlimpseClassifier`.
        path: file to write; an existing one is replaced when the new one is complete.
        threshold: confidence at which to stop, in (0, 1]; None to look at everything.

    Raises:
        ValueError: a model that is not built or not of float32, or a threshold outside (0, 1].
        FileNotFoundError: the folder does not exist.

    Example:
    >>> import tempfile
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10)
    >>> model.build((None, 48, 48, 1))
    >>> export_litert(model, tempfile.mkdtemp() + "/model.tflite", threshold=0.95)
    """
    if threshold is not None:
        check_threshold(threshold)
    if not model.built:
        raise ValueError("export_litert needs a model that is built: fit it, load it or call it on images first.")
    if model.compute_dtype != "float32":
        raise ValueError(f"export_litert needs a model of float32; got {model.dtype_policy.name}.")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder to write to does not exist: {path.parent}")
    signature = tf.TensorSpec((1, *model.image_shape), tf.float32, name="images")
    with portable_crops(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The converter warns of its own internals.
        function = tf.function(lambda images: one_image(model, images, threshold), autograph=False)
        holder = tf.Module()
        holder.weights = [variable.value for variable in model.variables]
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(holder, folder, {"serving_default": function.get_concrete_function(signature)})
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            content = converter.convert()
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_bytes(content)
    os.replace(scratch, path)


def one_image(model, images: tf.Tensor, threshold: float | None) -> dict[str, tf.Tensor]:
    """The cascade for a batch of one, as branches that a runtime takes or skips."""

    def go_on(evidence):
        stage = len(evidence.glimpses)
        probabilities = tf.nn.softmax(model.combine(evidence))
        stop = lambda: {"probabilities": probabilities, "exit_stage": tf.constant([stage])}  # noqa: E731
        if stage == model.num_glimpses:
            return stop()
        look = lambda: go_on(model.look_again(images, evidence))  # noqa: E731
        return look() if threshold is None else tf.cond(tf.reduce_max(probabilities) >= threshold, stop, look)

    return go_on(model.first_look(images))
