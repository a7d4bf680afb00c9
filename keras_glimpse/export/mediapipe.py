"""`.tflite` files that the image classifier of MediaPipe Tasks loads as they are."""

import os
from functools import partial

import flatbuffers
import numpy as np
import tensorflow as tf

from keras_glimpse._compat import with_litert_metadata
from keras_glimpse.cascade.graphs import cascade_of_one
from keras_glimpse.export.files import complete_file, write_marked
from keras_glimpse.export.graphs import about, exported_shape
from keras_glimpse.export.litert import calibration_for, check_convertible, convert
from keras_glimpse.quantization import float_products

LABELS = "labels.txt"
GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as JPEG, Pillow and OpenCV have it. TensorFlow's `rgb_to_grayscale` sums to 0.9999.


def export_mediapipe(
    model,
    path: str | os.PathLike,
    quantize: str | None = None,
    *,
    calibration=None,
    image_shape: tuple[int, int] | None = None,
) -> None:
    """Exports the model to a `.tflite` file for MediaPipe's `ImageClassifier`. Requires `pip install keras-glimpse[mediapipe]`.

    There is no early exit: MediaPipe runs files of a single graph only, so all `active_glimpses` are computed for every image.
    `export_litert` writes the cascade.

    The input is `images` `[1, height, width, 3]`, uint8, RGB; MediaPipe resizes images to it. For the model, they are unsigned
    integers, as in training. A model of one channel gets their luma, `0.299 R + 0.587 G + 0.114 B`, rounded; MediaPipe must be
    given RGB for it too. The output is `probabilities` `[1, num_classes]`, float32. The labels are `class_names`, or the
    numbers of the classes.

    Args:
        model: A built `GlimpseClassifier` for images of one or three channels, trained on unsigned integers, or on floats in
            [0, 1] if it has no `preprocess`.
        path: String or path of the file to write. An existing file is replaced atomically.
        quantize: `None`, `"float16"`, `"dynamic"` or `"int8"`, as in `export_litert`. Defaults to `None`.
        calibration: Array `[n, height, width, channels]` of unsigned integers, or of floats in [0, 1] (in [0, 255] if the model
            has `preprocess`), required for `"int8"`: a few hundred representative images, with the channels of the model.
            Defaults to `None`.
        image_shape: Tuple `(height, width)` of the images that the file takes, required for a model of images that differ in
            size. Defaults to `None`, the size that the model was built for.

    Raises:
        TypeError: If `model` is not a `GlimpseClassifier`, or calibration images have an invalid type.
        ValueError: If the model is not built, not float32, for images of two or more than three channels, or quantized to int4;
            `quantize` is invalid or given for a quantized model; `image_shape` is missing, unused or too small; or calibration
            images are missing, unused, of the wrong shape or out of range.
        FileNotFoundError: If the parent folder does not exist.
        ImportError: If mediapipe is not installed.

    Example:
    >>> import tempfile
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=2, class_names=["clean", "defective"])
    >>> model.build((None, 48, 48, 1))
    >>> export_mediapipe(model, tempfile.mkdtemp() + "/model.tflite")
    """
    check_convertible("export_mediapipe", model, None, quantize)
    *sides, channels = exported_shape("export_mediapipe", model, image_shape)
    if channels not in (1, 3):
        raise ValueError(f"export_mediapipe needs a model of one or three channels; this one is for {model.image_shape}.")
    images = calibration_for(quantize, model, (*sides, channels), None, calibration)
    images = None if images is None else _to_rgb(images, largest=255 if model.preprocess else 1)
    signature = tf.TensorSpec((1, *sides, 3), tf.uint8, name="images")
    metadata = _metadata()  # Before the work of converting, since it says if MediaPipe is missing.
    with complete_file(path) as scratch, float_products(model):
        content = convert(partial(_classify, model), model, signature, quantize, images)
        names = model.class_names or map(str, range(model.num_classes))
        told = about(model, (*sides, 3), None) | {"quantize": quantize}
        write_marked(scratch, with_litert_metadata(content, "TFLITE_METADATA", metadata), told, {LABELS: "\n".join(names)})


def _classify(model, images, runtime):
    if model.channels == 1:
        luma = tf.reduce_sum(tf.cast(images, tf.float32) * GREY, axis=-1, keepdims=True)
        images = tf.cast(luma + 0.5, tf.uint8)
    return {"probabilities": cascade_of_one(model, images, None, runtime)["probabilities"]}


def _to_rgb(images, largest):
    """Images of floats in [0, largest] and one or three channels as MediaPipe passes them."""
    if images.min() < 0 or images.max() > largest:
        raise ValueError(
            f"Expected calibration images of unsigned integers, or of floats in [0, {largest}]; "
            f"got floats from {images.min():g} to {images.max():g}."
        )
    return np.repeat(np.round(255 / largest * images).astype(np.uint8), 3 // images.shape[-1], axis=-1)


def _metadata() -> bytes:
    """What the file tells MediaPipe of its input and output.

    The last steps of MediaPipe's own `MetadataWriter` are ours: since version 0.10.30 it imports a C++ module that its
    wheels lack. Version 0.10.21 has it, but needs NumPy 1.
    """
    try:
        from mediapipe.tasks.metadata.metadata_schema_py_generated import ColorSpaceType, SubGraphMetadataT
        from mediapipe.tasks.metadata.schema_py_generated import TensorType
        from mediapipe.tasks.python.metadata.metadata_writers import metadata_info
    except ImportError as error:
        raise ImportError("export_mediapipe needs MediaPipe: pip install 'keras-glimpse[mediapipe]'.") from error

    as_they_are = {"norm_mean": [0.0], "norm_std": [1.0], "color_space_type": ColorSpaceType.RGB}
    images = metadata_info.InputImageTensorMd("images", tensor_type=TensorType.UINT8, **as_they_are)
    labels = [metadata_info.LabelFileMd(LABELS)]
    scores = metadata_info.ClassificationTensorMd("probabilities", label_files=labels, tensor_type=TensorType.FLOAT32)
    graph = SubGraphMetadataT()
    graph.inputTensorMetadata, graph.outputTensorMetadata = [images.create_metadata()], [scores.create_metadata()]
    model = metadata_info.GeneralMd("keras_glimpse").create_metadata()
    model.subgraphMetadata, model.minParserVersion = [graph], "1.0.0"  # The version of the schema that has all of this.
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"M001")
    return bytes(builder.Output())
