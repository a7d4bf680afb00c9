"""Warm-up requests, which TensorFlow Serving replays when it loads a SavedModel: else the first users wait while TensorFlow
initializes what it needs."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_glimpse._validation.images import check_images
from keras_glimpse.export.calibration import check_every_stage_is_reached
from keras_glimpse.export.integrity import ASSETS
from keras_glimpse.ops.thumbnail import to_unit_range

FILE = Path(ASSETS) / "tf_serving_warmup_requests"  # Where TensorFlow Serving looks.
BATCH = 8  # Images of a request. The server refuses a model with a warm-up request above its max_batch_size.


def warmup_images(model, images, threshold: float | None) -> np.ndarray:
    """Of the images, the one that stops first, and then up to `BATCH` that stop last, of which one uses all glimpses."""
    _prediction_log()
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"Expected warm-up images [n, height, width, channels]; got an array of shape {images.shape}.")
    check_images(images, model.image_shape, model.least_sides, at_least=1)
    if not np.isfinite(images).all():
        raise ValueError("Expected warm-up images of finite numbers; got some that are infinite or not numbers.")
    if threshold is None:
        stages = np.full(len(images), model.active_glimpses)
    else:
        stages = check_every_stage_is_reached(model, images, threshold, 1, "a warm-up image")
    order = np.argsort(stages, kind="stable")
    return images[[order[0], *order[::-1][:BATCH]]]


def write_warmup(folder: Path, model, signatures: dict, images: np.ndarray) -> None:
    """Writes two requests for each signature: the first of the images, and the others, or as many as the signature takes."""
    log = _prediction_log()
    values = _as_each_dtype(model, images, "encoded" in signatures)
    (folder / FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / FILE)) as file:
        for name, function in signatures.items():
            (spec,), _ = function.structured_input_signature
            inputs = values[spec.dtype]
            for batch in (inputs[:1], inputs[1:][: spec.shape[0]]):
                record = log.PredictionLog()
                request = record.predict_log.request
                request.model_spec.signature_name = name
                request.inputs[spec.name].CopyFrom(tf.make_tensor_proto(batch, spec.dtype))
                file.write(record.SerializeToString())


def _as_each_dtype(model, images, encoded: bool):
    """The images as floats, as bytes, and as files: a JPEG of the first, a PNG and a JPEG of others; PNGs of four channels."""
    if model.preprocess is None:
        floats, largest = to_unit_range(images, images.dtype).numpy(), 255
    else:
        floats, largest = images.astype(np.float32), 1  # Whose inputs are not scaled.
    pixels = np.clip(np.rint(largest * floats), 0, 255).astype(np.uint8)
    values = {tf.float32: floats, tf.uint8: pixels}
    if encoded:
        encoders = [tf.io.encode_png, tf.io.encode_jpeg][: 1 if model.channels == 4 else 2]
        values[tf.string] = [encode(image).numpy() for image in pixels for encode in encoders][len(encoders) - 1 :]
    return values


def _prediction_log():
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError as error:
        raise ImportError(
            "Warm-up requests need tensorflow-serving-api: pip install keras-glimpse[serving]; or export without `warmup`."
        ) from error
    return prediction_log_pb2
