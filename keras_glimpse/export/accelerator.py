"""Files for accelerators of integers, which have no branches: a network in each, and the rest in a file for the CPU."""

import os
import warnings
from functools import partial

import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_exportable, check_one_of
from keras_glimpse.evidence import Evidence
from keras_glimpse.export.calibration import calibration_images
from keras_glimpse.export.files import complete_folder, write_marked
from keras_glimpse.export.graphs import about, exported_shape
from keras_glimpse.export.litert import converter_of
from keras_glimpse.ops.thumbnail import downsample

INTEGERS = ("int8", "uint8")
BATCH = 32  # Calibration images at a time.


def export_accelerator(
    model,
    path: str | os.PathLike,
    threshold: float | None = None,
    *,
    calibration,
    integers: str = "int8",
    image_shape: tuple[int, int] | None = None,
) -> None:
    """Exports the networks of the model to `.tflite` files of integers only, for Edge TPUs, NPUs and their like.

    Such accelerators have no branches, and every input, output and operation must be an integer. So each network is a file of
    its own, and what lies between them is in one of float32 for the CPU. The folder contains:

    - `first_look.tflite`: the low-resolution network, from `thumbnail` `[1, rows, columns, channels]` to `hidden` and `logits`.
      Of a network that makes its thumbnail itself, the input is the whole image.
    - `glimpse_1.tflite`, `glimpse_2.tflite`, ...: the glimpse networks, from `patches`, and `location` if the glimpse is gated,
      to `logits`.
    - `cpu.tflite`, with the signatures `thumbnail` (`images` to `thumbnail`), `look_1`, ... (`images`, `hidden`, `logits`
      `[1, stages, classes]` and `locations` `[1, glimpses, 2]` so far, as far as the signature asks for them, to `location` and
      `patches`), and `answer_0`, ... (`logits` so far to `probabilities`).

    The cut lies there because a location in 256 steps would be pixels off. Between the files an early exit is an `if` of the
    host program: `recipes/deploy/accelerator.py` is one, with NumPy and LiteRT only. Inputs and outputs of the networks are
    quantized by the scale and zero point that the files tell.

    Args:
        model: A built `GlimpseClassifier`.
        path: String or path of the folder to write. A folder that contains only what this function wrote is replaced.
        threshold: Optional float in (0, 1], the confidence at which the host is to stop; it is kept in the folder's
            `assets.extra/keras_glimpse.json`. Defaults to `None`, which uses all glimpses.
        calibration: Array `[n, height, width, channels]`, a few hundred representative images, to determine the range of
            activations. Unsigned integers are scaled to [0, 1].
        integers: `"int8"` or `"uint8"`, the type of inputs and outputs of the networks. Defaults to `"int8"`.
        image_shape: Tuple `(height, width)` of the images that the files take, required for a model of images that differ in
            size. Defaults to `None`, the size that the model was built for.

    Raises:
        TypeError: If `model` is not a `GlimpseClassifier`, or calibration images have an invalid type.
        ValueError: If the model is not built, not float32, quantized, has `preprocess`, or has operations without an integer
            form; `threshold` or `integers` is invalid; `image_shape` is missing, unused or too small; or calibration images are
            none, of the wrong shape or range, or not finite.
        FileNotFoundError: If the parent folder does not exist.
        FileExistsError: If `path` contains files that this function did not write.

    Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> from keras_glimpse import GlimpseClassifier
    >>> model, folder = GlimpseClassifier(num_classes=10, num_glimpses=1), tempfile.mkdtemp() + "/digits"
    >>> model.build((None, 48, 48, 1))
    >>> export_accelerator(model, folder, threshold=0.95, calibration=np.random.default_rng(0).random((20, 48, 48, 1)))
    >>> sorted(path.name for path in Path(folder).glob("*.tflite"))
    ['cpu.tflite', 'first_look.tflite', 'glimpse_1.tflite']
    """
    check_one_of(INTEGERS, integers=integers)
    check_exportable("export_accelerator", model, threshold, float32=True, quantized=())
    if model.preprocess is not None:
        raise ValueError("export_accelerator needs a model without `preprocess`: the host cuts patches out of pixels.")
    shape = exported_shape("export_accelerator", model, image_shape)
    networks = _networks(model, calibration_images(model, shape, calibration))
    told = about(model, shape, threshold) | {"integers": integers, "networks": [*networks]}
    with complete_folder(path, told) as folder:
        folder.mkdir()
        with converter_of(model, _between(model, shape)) as converter:
            write_marked(folder / "cpu.tflite", converter.convert(), told)
        for name, network in networks.items():
            write_marked(folder / name, _in_integers(model, *network, tf.as_dtype(integers)), told)


def _networks(model, images: np.ndarray) -> dict[str, tuple]:
    """By the name of their file, the networks: each a function, and by name what it takes for the calibration images."""
    batches = (tf.constant(images[start : start + BATCH]) for start in range(0, len(images), BATCH))
    seen = [{"thumbnail": _thumbnail(model, batch)} | model.look(batch) for batch in batches]
    thumbnails, patches, locations = (np.concatenate([e[name] for e in seen]) for name in ("thumbnail", "patches", "locations"))
    networks = {"first_look.tflite": (partial(_first_look, model), {"thumbnail": thumbnails})}
    for n in range(model.active_glimpses):
        where = {"location": locations[:, n]} if model.gated_glimpse else {}
        networks[f"glimpse_{n + 1}.tflite"] = partial(_glimpse, model, n), {"patches": patches[:, n], **where}
    return networks


def _in_integers(model, compute, calibration: dict[str, np.ndarray], integers: tf.DType) -> bytes:
    """The content of a file with a network for one image.

    Rounding in layer after layer adds up to a bias of the logits: of up to 2.5 in those of boards, where it cost a percentage
    point. So a first file, which takes and gives floats, tells their mean error, and in the second they are without it.
    """
    first = _converted(model, compute, calibration, tf.float32)
    correction = tf.constant(-_mean_error(first, compute, calibration))

    def corrected(*inputs):
        answer = compute(*inputs)
        return answer | {"logits": answer["logits"] + correction}  # Which the converter adds to the bias of the last layer.

    content = _converted(model, corrected, calibration, integers)
    _check_integers(content)
    return content


def _converted(model, compute, calibration, outside: tf.DType) -> bytes:
    """A file that is of integers inside."""
    specs = [tf.TensorSpec((1, *values.shape[1:]), tf.float32, name) for name, values in calibration.items()]
    with converter_of(model, {"serving_default": (compute, specs)}) as converter:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = partial(_one_by_one, calibration)
        converter.inference_input_type = converter.inference_output_type = outside
        return converter.convert()


def _check_integers(content: bytes) -> None:
    """Raises if there is a float: the converter leaves operations that have no integer form as they are."""
    tensors = _interpreter(content).get_tensor_details()
    floats = [tensor["name"] for tensor in tensors if np.issubdtype(tensor["dtype"], np.floating)]
    if floats:
        raise ValueError(f"export_accelerator needs operations that have an integer form; floats are left in {floats}.")


def _interpreter(content: bytes) -> tf.lite.Interpreter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It is deprecated in favour of a package that we need not have.
        return tf.lite.Interpreter(model_content=content)


def _mean_error(content: bytes, compute, calibration) -> np.ndarray:
    """Of the logits `[1, classes]` of a file that takes and gives floats."""
    run = _interpreter(content).get_signature_runner()
    one_by_one = _one_by_one(calibration)
    return np.mean([run(**each)["logits"] - compute(*map(tf.constant, each.values()))["logits"] for each in one_by_one], axis=0)


def _one_by_one(calibration):
    count = len(next(iter(calibration.values())))
    return ({name: values[n : n + 1] for name, values in calibration.items()} for n in range(count))


def _between(model, shape) -> dict[str, tuple]:
    """What the CPU computes, by the name of its signature."""

    def spec(name, *sides):
        return tf.TensorSpec((1, *sides), tf.float32, name)

    images = spec("images", *shape)
    hidden = spec("hidden", *_first_look(model, _thumbnail(model, tf.zeros((1, *shape))))["hidden"].shape[1:])
    signatures = {"thumbnail": (lambda images: {"thumbnail": _thumbnail(model, images)}, [images])}
    for n in range(model.active_glimpses + 1):
        logits, locations = spec("logits", n + 1, model.num_classes), [spec("locations", n, 2)] if n else []
        signatures[f"answer_{n}"] = partial(_answer, model), [logits]
        if n < model.active_glimpses:
            signatures[f"look_{n + 1}"] = partial(_look, model), [images, hidden, logits, *locations]
    return signatures


# ---- The cascade, in parts ----


def _thumbnail(model, images):
    net = model.low_res_net
    return downsample(images, net.size, net.downsample) if getattr(net, "scales_integers", False) else images


def _first_look(model, thumbnail):
    evidence = model.first_look(thumbnail)
    return {"hidden": evidence.hidden, "logits": evidence.low_res}


def _look(model, images, hidden, logits, locations=None):
    location = model.locate(_evidence(hidden, logits, locations))
    return {"location": location, "patches": model.patches(images, location)}


def _glimpse(model, n, patches, location=None):
    before = Evidence(None, None, (None,) * n)  # How many there were is all that this network asks for.
    return {"logits": model.glimpse(before, patches, location).glimpses[-1]}


def _answer(model, logits):
    return {"probabilities": tf.nn.softmax(model.answer(_evidence(None, logits)))}


def _evidence(hidden, logits, locations=None):
    low_res, *glimpses = tf.unstack(logits, axis=1)
    return Evidence(hidden, low_res, tuple(glimpses), () if locations is None else tuple(tf.unstack(locations, axis=1)))
