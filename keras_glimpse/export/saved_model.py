"""SavedModels for TensorFlow Serving and everything else that reads them."""

import os
from functools import partial

import tensorflow as tf

from keras_glimpse._compat import weights_of
from keras_glimpse._validation.arguments import check_exportable
from keras_glimpse.export.files import complete_folder
from keras_glimpse.export.graphs import cascade_of_batch, cascade_of_one, explain
from keras_glimpse.ops.runtime import ANY, TENSORFLOW
from keras_glimpse.quantization import float_products
from keras_glimpse.version import __version__


def export_saved_model(model, path: str | os.PathLike, threshold: float | None = None) -> None:
    """Writes a SavedModel that needs neither Keras nor this package to run.

    Its signatures take batches of any size, `images` `[batch, height, width, channels]`, but for the last:

    - `serving_default`: float32 images, scaled as the model was trained (to [0, 1] if that was on unsigned integers), give
      `probabilities` `[batch, num_classes]`. With a threshold, the networks of a glimpse run only on the images that
      none before it was sure of.
    - `uint8`: the same for images of unsigned bytes, which are scaled to [0, 1]: for models trained on such images.
    - `explain`: float32 images give `stage_probabilities` `[batch, num_glimpses + 1, num_classes]`, `locations`
      `[batch, num_glimpses, 2]`, `exit_stage` `[batch]`, int32, and `macs` `[batch]`, int64. Every glimpse is computed for
      every image; `exit_stage` and `macs` tell where the cascade stops. (No `macs` for networks of your own with loops or
      branches, which `count_macs` cannot count.)
    - `portable`: as `serving_default`, with operations that converters know: give them its name, as in
      `TFLiteConverter.from_saved_model(path, signature_keys=["portable"])` or `--signature_def portable` of tf2onnx. The others
      crop with an operation of TensorFlow's own, which is faster there. With a threshold it takes one image at a time,
      `[1, height, width, channels]`, and gives `exit_stage` `[1]`, int32, too.

    Args:
        model: a built `GlimpseClassifier`.
        path: folder to write: for TensorFlow Serving, a number in the folder of the model, as in `digits/1`. One with
            nothing in it but what this function wrote is replaced when the new one is complete.
        threshold: confidence at which to stop, in (0, 1]; None to look at everything.

    Raises:
        TypeError: something else than a `GlimpseClassifier`.
        ValueError: a model that is not built, or a threshold outside (0, 1].
        FileNotFoundError: the folder around it does not exist.
        FileExistsError: there is something that this function did not write.

    Example:
    >>> import tempfile
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10)
    >>> model.build((None, 48, 48, 1))
    >>> folder = tempfile.mkdtemp() + "/1"
    >>> export_saved_model(model, folder, threshold=0.95)
    >>> serve = tf.saved_model.load(folder).signatures["serving_default"]
    >>> serve(images=tf.zeros((3, 48, 48, 1)))["probabilities"].shape
    TensorShape([3, 10])
    """
    check_exportable("export_saved_model", model, threshold)
    about = {"keras_glimpse": __version__, "image_shape": model.image_shape, "num_classes": model.num_classes}
    with complete_folder(path, about | {"threshold": threshold and float(threshold)}) as folder:
        tf.saved_model.save(weights_of(model), str(folder), _signatures(model, threshold))


def _signatures(model, threshold):
    portable = cascade_of_batch if threshold is None else cascade_of_one
    signatures = {
        "serving_default": (cascade_of_batch, TENSORFLOW, None, tf.float32),
        "uint8": (cascade_of_batch, TENSORFLOW, None, tf.uint8),
        "explain": (explain, TENSORFLOW, None, tf.float32),
        "portable": (float_products(model)(portable), ANY, threshold and 1, tf.float32),
    }
    return {
        name: tf.function(partial(compute, model, threshold=threshold, runtime=runtime), autograph=False).get_concrete_function(
            tf.TensorSpec((batch, *model.image_shape), dtype, name="images")
        )
        for name, (compute, runtime, batch, dtype) in signatures.items()
    }
