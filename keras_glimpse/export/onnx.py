"""ONNX files, by Keras's own export."""

import os
import warnings

import keras
import tensorflow as tf

from keras_glimpse.checks import check_exportable
from keras_glimpse.export.files import complete_file
from keras_glimpse.export.graphs import one_image, until_sure


class Answer(keras.Model):
    """A model as Keras exports it: from images to the answers that the file gives."""

    def __init__(self, model, threshold):
        super().__init__(dtype="float32", autocast=False)  # Whatever the global policy is.
        self.model, self.threshold = model, threshold

    def call(self, images):
        compute = until_sure if self.threshold is None else one_image
        return compute(self.model, images, self.threshold)


def export_onnx(model, path: str | os.PathLike, threshold: float | None = None) -> None:
    """Writes an `.onnx` file. Needs `pip install keras-glimpse[onnx]`.

    Its input is `images`, float32, scaled as the model was trained: to [0, 1] if that was on unsigned integers; its
    output is `probabilities` `[batch, num_classes]`. With a threshold the cascade runs inside the file, by `If`, on one image
    at a time, and there is a second output, `exit_stage` `[1]`, int32.

    Args:
        model: a built `GlimpseClassifier`.
        path: file to write; an existing one is replaced when the new one is complete.
        threshold: confidence at which to stop, in (0, 1]; None to look at everything, in batches of any size.

    Raises:
        TypeError: something else than a `GlimpseClassifier`.
        ValueError: a model that is not built or not of float32, or a threshold outside (0, 1].
        FileNotFoundError: the folder does not exist.
        ImportError: tf2onnx is not installed.
    """
    check_exportable("export_onnx", model, threshold, float32=True)
    batch = None if threshold is None else 1
    signature = [tf.TensorSpec((batch, *model.image_shape), tf.float32, name="images")]
    with complete_file(path) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx and Keras warn of their own internals.
        answer = Answer(model, threshold)
        answer(tf.zeros((1, *model.image_shape)))
        answer.export(str(scratch), format="onnx", input_signature=signature, verbose=False)
