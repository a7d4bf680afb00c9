"""ONNX files, written by Keras's export."""

import json
import os
import warnings

import keras
import tensorflow as tf

from keras_glimpse._validation.arguments import check_exportable
from keras_glimpse.cascade.graphs import cascade_of_batch, cascade_of_one
from keras_glimpse.export.files import complete_file
from keras_glimpse.export.graphs import about, exported_shape
from keras_glimpse.ops.runtime import ANY, for_runtime
from keras_glimpse.quantization import float_products


class Answer(keras.Model):
    """A model with the inputs and outputs of the exported file, for `keras.Model.export`."""

    def __init__(self, model, threshold):
        super().__init__(dtype="float32", autocast=False)  # Whatever the global policy is.
        self.model, self.threshold, self.branches = model, threshold, Branches(model)

    def call(self, images):
        if self.threshold is None:
            return cascade_of_batch(self.model, images, None)
        return cascade_of_one(self.branches, images, self.threshold)


class Branches:
    """A model whose weights are constants of the branch that looks again.

    Those of the whole graph come into an `If` without their shapes, and tf2onnx then writes convolutions that nothing can read.
    """

    def __init__(self, model):
        self.active_glimpses, self.answer = model.active_glimpses, model.answer
        self.prepare, self.first_look = model.prepare, model.first_look
        self._look_again, self._weights = model.look_again, [(weight, weight.numpy()) for weight in model.variables]

    def look_again(self, images, evidence, runtime=ANY):
        with keras.StatelessScope([(weight, tf.constant(value)) for weight, value in self._weights]):
            return for_runtime(self._look_again, runtime)(images, evidence)


def export_onnx(
    model, path: str | os.PathLike, threshold: float | None = None, *, image_shape: tuple[int, int] | None = None
) -> None:
    """Exports the model to an `.onnx` file. Requires `pip install keras-glimpse[onnx]`.

    The input is `images` `[batch, height, width, channels]`, float32, as in training: scaled to [0, 1] if the model was trained
    on unsigned integers, unless it has `preprocess`. The output is `probabilities` `[batch, num_classes]`. With a threshold,
    the file contains the cascade (`If` operations), takes one image at a time, and gives `exit_stage` `[1]`, int32, too; ask
    for outputs by name.

    The file's metadata (`session.get_modelmeta().custom_metadata_map` in onnxruntime) has `class_names`, if the model has them,
    `image_shape`, `num_classes` and `threshold`, each as JSON.

    Args:
        model: A built `GlimpseClassifier`.
        path: String or path of the file to write. An existing file is replaced atomically.
        threshold: Optional float in (0, 1], the confidence at which to stop. Defaults to `None`, which uses all glimpses, for
            batches of any size.
        image_shape: Tuple `(height, width)` of the images that the file takes, required for a model of images that differ in
            size. Defaults to `None`, the size that the model was built for.

    Raises:
        TypeError: If `model` is not a `GlimpseClassifier`.
        ValueError: If the model is not built, not float32, quantized to int4, or has operations without an ONNX equivalent, or
            `threshold` is out of range; or `image_shape` is missing, unused or too small.
        FileNotFoundError: If the parent folder does not exist.
        ImportError: If tf2onnx is not installed.

    Example:
    >>> import tempfile
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10)
    >>> model.build((None, 48, 48, 1))
    >>> export_onnx(model, tempfile.mkdtemp() + "/model.onnx", threshold=0.95)
    """
    check_exportable("export_onnx", model, threshold, float32=True, quantized=("int8",))
    shape = exported_shape("export_onnx", model, image_shape)
    batch = None if threshold is None else 1
    signature = [tf.TensorSpec((batch, *shape), tf.float32, name="images")]
    with float_products(model), complete_file(path) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx and Keras warn of their own internals.
        answer = Answer(model, threshold)
        answer(tf.zeros((1, *shape)))
        answer.export(str(scratch), format="onnx", input_signature=signature, verbose=False)
        _describe(scratch, about(model, shape, threshold))
        _check_valid(scratch)


def _describe(path, about):
    import onnx  # Which tf2onnx brings.

    file = onnx.load(path)
    onnx.helper.set_model_props(file, {name: json.dumps(value) for name, value in about.items()})
    onnx.save(file, path)


def _check_valid(path):
    """Raises if the file is invalid: tf2onnx only logs operations that it cannot convert, and writes the file anyway."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"The model has operations that cannot be exported to ONNX: {error}") from error
