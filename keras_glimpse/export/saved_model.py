"""SavedModels, for TensorFlow Serving and other runtimes."""

import os
from functools import partial
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_glimpse._compat import weights_of
from keras_glimpse._validation.arguments import check_exportable, check_integers
from keras_glimpse.cascade.graphs import cascade_of_batch, cascade_of_one
from keras_glimpse.export.encoded import EncodedInGraph
from keras_glimpse.export.files import complete_folder
from keras_glimpse.export.graphs import about, explain
from keras_glimpse.export.warmup import warmup_images, write_warmup
from keras_glimpse.ops.runtime import ANY, TENSORFLOW
from keras_glimpse.quantization import float_products

MAX_PIXELS = 2**26
DECODED = (1, 3, 4)  # Channels to which TensorFlow decodes a PNG; a JPEG only to one or three.


def export_saved_model(
    model, path: str | os.PathLike, threshold: float | None = None, max_pixels: int = MAX_PIXELS, *, warmup=None
) -> None:
    """Exports the model to a SavedModel, which runs without Keras and this package.

    All signatures but `portable` with a threshold take batches of any size. Their input is `images`
    `[batch, height, width, channels]`; of a model of images that differ in size, height and width are not fixed either:

    - `serving_default`: float32 images, as in training: scaled to [0, 1] if the model was trained on unsigned integers, unless
      it has `preprocess`. Returns `probabilities` `[batch, num_classes]`. With a threshold, the networks of a glimpse run only
      on the images still below it.
    - `uint8`: the same for uint8 images, which are scaled as in training; for models trained on such images.
    - `classify`: float32 images. Returns `classes` `[batch, num_classes]`, strings, the most probable first: the model's
      `class_names`, or the numbers of the classes if it has none; and `scores` `[batch, num_classes]`, their probabilities.
    - `explain`: float32 images. Returns `stage_probabilities` `[batch, active_glimpses + 1, num_classes]`, `locations`
      `[batch, active_glimpses, 2]`, `exit_stage` `[batch]`, int32, and `macs` `[batch]`, int64. All glimpses are computed for
      all images; `exit_stage` and `macs` are those of the cascade. `macs` is absent if `stage_macs` cannot count the networks.
    - `encoded`: the contents of JPEG and PNG files, a string tensor `encoded` `[batch]`; in TensorFlow Serving's REST API,
      `{"b64": ...}`. Images may differ in size, if the model is for such. Returns `probabilities` `[batch, num_classes]`,
      `exit_stage` `[batch]`, int32, and `classes` and `scores` as `classify` does. A JPEG is decoded only as far as it is
      looked at: at an eighth of its size for the thumbnail, say, and then the windows of its glimpses, at all scales from the
      image itself; a PNG as a whole. A JPEG's orientation in EXIF is respected, if it is in the first 4096 bytes. Absent for
      models that cannot read images in parts, with `preprocess` or without an averaged thumbnail, and for images of other than
      one, three or four channels; of four, only PNGs are decoded.
    - `portable`: as `serving_default`, but with operations that converters support:
      `TFLiteConverter.from_saved_model(path, signature_keys=["portable"])` or `--signature_def portable` of tf2onnx. The other
      signatures crop with an operation that only TensorFlow has, which is faster there. With a threshold, it takes one image,
      `[1, height, width, channels]`, and also returns `exit_stage` `[1]`, int32.

    Args:
        model: A built `GlimpseClassifier`.
        path: String or path of the folder to write; for TensorFlow Serving, a version number in the model's folder, such as
            `digits/1`. A folder that contains only what this function wrote is replaced.
        threshold: Optional float in (0, 1], the confidence at which to stop. Defaults to `None`, which uses all glimpses.
        max_pixels: Positive integer, the most pixels of an encoded image: the request fails before larger ones are decoded.
            Defaults to `2**26`.
        warmup: Optional array `[n, height, width, channels]` of floats or unsigned integers, representative images of which
            TensorFlow Serving computes some in each signature before the model answers. Two requests a signature, of one and
            of up to 8 images, are written to `assets.extra`: those that use the most glimpses, and one that stops first. With a
            threshold, at least one must use all glimpses. Requires `pip install keras-glimpse[serving]`. Defaults to `None`.

    Raises:
        TypeError: If `model` is not a `GlimpseClassifier`, or warm-up images have an invalid type.
        ValueError: If the model is not built, or `threshold` or `max_pixels` is out of range; or warm-up images are of the
            wrong shape, not finite, or all stop early.
        ImportError: If there are warm-up images and tensorflow-serving-api is not installed.
        FileNotFoundError: If the parent folder does not exist.
        FileExistsError: If `path` contains files that this function did not write.

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
    check_integers(1, max_pixels=max_pixels)
    if warmup is not None:
        warmup = warmup_images(model, warmup, threshold)
    with complete_folder(path, about(model, model.image_shape, threshold)) as folder:
        signatures = _signatures(model, threshold, max_pixels)
        # Gradients of quantized layers refer to operations by name, and a server needs none.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(weights_of(model), str(folder), signatures, options)
        _shorten_names(folder / "saved_model.pb")
        if warmup is not None:
            write_warmup(folder, model, signatures, warmup)


def _shorten_names(path: Path) -> None:
    """Numbers the operations inside functions: a third of the file is their names, which nothing refers to from outside."""
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for function in saved.meta_graphs[0].graph_def.library.function:
        # In capitals, as no argument of a function is.
        short = {node.name: f"N{number}" for number, node in enumerate(function.node_def)}

        def renamed(reference, short=short):
            """Of `operation:output:0`, of `^operation` or of an argument."""
            name, colon, output = reference.removeprefix("^").partition(":")
            return f"{'^' * reference.startswith('^')}{short.get(name, name)}{colon}{output}"

        for node in function.node_def:
            node.name = short[node.name]
            node.input[:] = map(renamed, node.input)
            node.attr.pop("_class", None)  # Beside which operation to place it, by name.
        for returned in (function.ret, function.control_ret):
            returned.update({name: renamed(reference) for name, reference in returned.items()})
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _signatures(model, threshold, max_pixels):
    portable = cascade_of_batch if threshold is None else cascade_of_one
    images = {
        "serving_default": (cascade_of_batch, TENSORFLOW, None, tf.float32),
        "uint8": (cascade_of_batch, TENSORFLOW, None, tf.uint8),
        "explain": (explain, TENSORFLOW, None, tf.float32),
        "portable": (float_products(model)(portable), ANY, threshold and 1, tf.float32),
    }
    signatures = {
        name: tf.function(partial(compute, model, threshold=threshold, runtime=runtime), autograph=False).get_concrete_function(
            tf.TensorSpec((batch, *model.image_shape), dtype, name="images")
        )
        for name, (compute, runtime, batch, dtype) in images.items()
    }
    serve = signatures["serving_default"]
    classify = tf.function(lambda images: _best_first(model, serve(images=images)["probabilities"]), autograph=False)
    signatures["classify"] = classify.get_concrete_function(tf.TensorSpec((None, *model.image_shape), name="images"))
    if model.reads_parts and model.channels in DECODED:
        encoded = tf.function(partial(_cascade_of_encoded, model, threshold, max_pixels), autograph=False)
        signatures["encoded"] = encoded.get_concrete_function(tf.TensorSpec((None,), tf.string, name="encoded"))
    return signatures


def _best_first(model, probabilities):
    """The names of the classes and their probabilities, as TensorFlow Serving's own Classify API calls and orders them."""
    names = model.class_names or tuple(map(str, range(model.num_classes)))
    scores, order = tf.math.top_k(probabilities, model.num_classes)
    return {"classes": tf.gather(tf.constant(names), order), "scores": scores}


def _cascade_of_encoded(model, threshold, max_pixels, encoded):
    def of_one(contents):
        image = EncodedInGraph.of(contents, model.channels, max_pixels)
        fits = [size is None or got == size for size, got in zip(model.image_shape, image.shape[1:3])]
        expected = f"Expected images of {model.image_shape[:2]} pixels; got"
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(fits), [expected, image.stored])]):
            answer = cascade_of_one(model, image._replace(stored=tf.identity(image.stored)), threshold, TENSORFLOW)
        return {name: values[0] for name, values in answer.items()}

    each = {"probabilities": tf.TensorSpec((model.num_classes,), tf.float32), "exit_stage": tf.TensorSpec((), tf.int32)}
    answer = tf.map_fn(of_one, encoded, fn_output_signature=each)
    return answer | _best_first(model, answer["probabilities"])
