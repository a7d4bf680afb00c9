"""LiteRT files with early exit inside, made of built-in operations only."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import tensorflow as tf

from keras_glimpse._compat import litert_operations, weights_of
from keras_glimpse._validation.arguments import check_exportable, check_integers, check_one_of
from keras_glimpse.cascade.graphs import cascade_of_batch, cascade_of_one
from keras_glimpse.export.calibration import calibration_images, check_every_stage_is_reached
from keras_glimpse.export.files import complete_file, write_marked
from keras_glimpse.export.graphs import about, exported_shape
from keras_glimpse.ops.runtime import ANY, LITERT_QUANTIZED
from keras_glimpse.quantization import float_products

QUANTIZE = (None, "float16", "dynamic", "int8")
CALIBRATED_BY = 10  # images, at least, for every network
QUANTIZED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")


def export_litert(
    model,
    path: str | os.PathLike,
    threshold: float | None = None,
    quantize: str | None = None,
    *,
    calibration=None,
    batch_size: int | None = 1,
    image_shape: tuple[int, int] | None = None,
) -> None:
    """Exports the model to a `.tflite` file of built-in LiteRT operations.

    The input is `images` `[batch_size, height, width, channels]`, float32, as in training: scaled to [0, 1] if the model was
    trained on unsigned integers, unless it has `preprocess`. The outputs are `probabilities` `[batch_size, num_classes]` and,
    for `batch_size=1`, `exit_stage` `[1]`, int32. With a threshold, the file contains the cascade: once a stage is confident,
    later networks are not executed. The cost of a glimpse does not depend on the image size.

    A model quantized by `model.quantize("int8")` gives the same outputs here, computed in float32, and a file as large as that
    of the float model. For a small and fast file, export the unquantized model with `quantize="int8"`.

    Args:
        model: A built `GlimpseClassifier`.
        path: String or path of the file to write. An existing file is replaced atomically.
        threshold: Optional float in (0, 1], the confidence at which to stop. Defaults to `None`, which uses all glimpses.
        quantize: `None`, `"float16"` (weights), `"dynamic"` (8-bit weights) or `"int8"` (8-bit matrix products and
            convolutions). Defaults to `None`.
        calibration: Array `[n, height, width, channels]`, required for `"int8"`: a few hundred representative images, to
            determine the range of activations. Unsigned integers are scaled to [0, 1], unless the model has `preprocess`. With
            a threshold, at least ten must use all glimpses. Defaults to `None`.
        batch_size: Positive integer, images per call, or `None` for any number. Must be 1 with a threshold. Defaults to `1`.
        image_shape: Tuple `(height, width)` of the images that the file takes, required for a model of images that differ in
            size. Defaults to `None`, the size that the model was built for.

    Raises:
        TypeError: If `model` is not a `GlimpseClassifier`, or calibration images have an invalid type.
        ValueError: If the model is not built, not float32, or quantized to int4; `threshold`, `quantize` or `batch_size` is
            invalid, or `quantize` is given for a quantized model; `image_shape` is missing, unused or too small; or calibration
            images are missing, unused, of the wrong shape, not finite, or stop too early.
        FileNotFoundError: If the parent folder does not exist.

    Example:
    >>> import tempfile
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10)
    >>> model.build((None, 48, 48, 1))
    >>> export_litert(model, tempfile.mkdtemp() + "/model.tflite", threshold=0.95)
    """
    check_convertible("export_litert", model, threshold, quantize)
    if batch_size is not None:
        check_integers(1, batch_size=batch_size)
    if threshold is not None and batch_size != 1:
        raise ValueError(f"A cascade looks at one image at a time: batch_size must be 1 with a threshold; got {batch_size}.")
    shape = exported_shape("export_litert", model, image_shape)
    images = calibration_for(quantize, model, shape, threshold, calibration)
    compute = cascade_of_one if batch_size == 1 else cascade_of_batch
    signature = tf.TensorSpec((batch_size, *shape), tf.float32, name="images")
    with complete_file(path) as scratch, float_products(model):
        content = convert(partial(compute, model, threshold=threshold), model, signature, quantize, images)
        write_marked(scratch, content, about(model, shape, threshold) | {"quantize": quantize})


def check_convertible(function: str, model, threshold: float | None, quantize: str | None) -> None:
    """Raises unless `function` can export the model to LiteRT, quantized in this way."""
    check_one_of(QUANTIZE, quantize=quantize)
    name, modes = (f"{function}(quantize={quantize!r})", ()) if quantize else (function, ("int8",))
    check_exportable(name, model, threshold, float32=True, quantized=modes)


def calibration_for(quantize: str | None, model, shape: tuple, threshold: float | None, calibration) -> np.ndarray | None:
    """The images to calibrate with, as the file will be given them, in float32; raises unless they are needed and right."""
    if (quantize == "int8") != (calibration is not None):
        raise ValueError(
            f'Calibration images are wanted with quantize="int8" and only then; got quantize={quantize!r} '
            f"{'without' if calibration is None else 'with'} calibration images."
        )
    if calibration is None:
        return None
    images = calibration_images(model, shape, calibration)
    if threshold is not None:
        # A network without calibration data would stay float32.
        check_every_stage_is_reached(model, images, threshold, CALIBRATED_BY, f"at least {CALIBRATED_BY} calibration images")
    return images


def convert(compute: Callable, model, signature: tf.TensorSpec, quantize: str | None = None, calibration=None) -> bytes:
    """Converts a function of images and a `runtime`, with the model's weights, to a LiteRT file; returns its content."""
    compute = partial(compute, runtime=LITERT_QUANTIZED if quantize else ANY)
    with converter_of(model, {"serving_default": (compute, [signature])}) as converter:
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        return _to_int8(converter, signature, calibration) if quantize == "int8" else converter.convert()


@contextlib.contextmanager
def converter_of(model, signatures: dict[str, tuple[Callable, list[tf.TensorSpec]]]) -> Iterator[tf.lite.TFLiteConverter]:
    """Yields a converter to built-in operations, for functions of tensors by the name of their signature."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # The converter warns of its own internals.
        functions = {
            name: tf.function(compute, autograph=False).get_concrete_function(*specs)
            for name, (compute, specs) in signatures.items()
        }
        tf.saved_model.save(weights_of(model), folder, functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[*functions])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        yield converter


def _to_int8(converter, signature, calibration) -> bytes:
    """Matrix products in 8 bits. Geometry stays float32: a place in 256 steps would miss by pixels in a large image."""
    size = signature.shape[0] or len(calibration)
    batches = np.resize(calibration, (-(-len(calibration) // size), size, *calibration.shape[1:]))
    converter.representative_dataset = lambda: ({"images": batch} for batch in batches)
    kept = [name for name in litert_operations() if name not in QUANTIZED]
    debugger = tf.lite.experimental.QuantizationDebugger(  # The public way to name the operations that are not to change.
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=kept),
    )
    return debugger.get_nondebug_quantized_model()
