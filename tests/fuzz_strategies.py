"""Hypothesis strategies for test_fuzz.py: damaged files, and images, labels and arguments that nothing can use."""

import copy
import io
import json
import random
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from fuzz_worker import SHAPE
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.lite.python import schema_py_generated as schema

ODD = [None, True, -1, 0, 1, 3, 0.5, 10**9, 10**30, 1e308, float("nan"), "", "x", "keras", "A" * 100_000]
ODD += [[], [0], [-1, -1], {}, {"a": 1}, [[[]]]]
odd = st.sampled_from(ODD)
seeds = st.integers(0, 2**32 - 1)


class Damage(NamedTuple):
    """What becomes of files, by their path in a folder (None: removed), and whether only the undamaged answer may come."""

    how: str
    files: dict[str, bytes | None]
    exact: bool = True

    def __repr__(self):
        return self.how


# ---- Bytes and folders ----


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Truncated; or with a block zeroed, overwritten, removed, repeated or appended; or with a few bits flipped."""
    start, length = draw(st.integers(0, len(content) - 1)), 2 ** draw(st.integers(0, 12))
    head, block, tail = content[:start], content[start : start + length], content[start + length :]
    noise = random.Random(draw(seeds)).randbytes(len(block))
    flipped = bytearray(content)
    for bit in draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=8)):
        flipped[bit // 8] ^= 1 << bit % 8
    ways = [b"", head, head + bytes(len(block)) + tail, head + noise + tail, head + tail, head + 2 * block + tail]
    ways += [content + noise, bytes(flipped)]
    return ways[draw(st.integers(0, len(ways) - 1))]


@st.composite
def damaged_folders(draw, folder: Path):
    """One file damaged, removed, or with the content of another; or all of them removed."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    name, other = draw(st.sampled_from(sorted(files))), draw(st.sampled_from(sorted(files)))
    how = draw(st.sampled_from(["damaged", "damaged", "damaged", "removed", "content of another", "all removed"]))
    if how == "damaged":
        return Damage(f"{name} damaged", {name: draw(damaged(files[name].read_bytes()))})
    if how == "content of another":
        return Damage(f"{name} has the content of {other}", {name: files[other].read_bytes()})
    return Damage(f"{name} {how}", dict.fromkeys(files if how == "all removed" else [name]))


# ---- Trees of dicts and lists ----


@st.composite
def changed_trees(draw, tree, evil=()):
    """A JSON tree in which something was removed, renamed, or replaced by something odd, evil or from elsewhere in it."""
    tree = copy.deepcopy(tree)
    places = list(_places_in(tree))
    (parent, key), (other, its_key) = draw(st.sampled_from(places)), draw(st.sampled_from(places))
    how = draw(st.sampled_from(["odd", "odd", "removed", "renamed", "that of another", *(["evil"] if evil else [])]))
    if how == "removed":
        del parent[key]
    elif how == "renamed" and isinstance(parent, dict):
        parent[f"{key}_"] = parent.pop(key)
    else:
        value = other[its_key] if how == "that of another" else draw(st.sampled_from(evil) if how == "evil" else odd)
        parent[key] = copy.deepcopy(value)
    return f"{key}: {how}", json.dumps(tree).encode()


def _places_in(tree):
    """All (container, key) of it."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()):
        yield tree, key
        yield from _places_in(value)


def evil_configs(trap: Path) -> list[dict]:
    """Keras configurations that would write the file `trap`, or get near it, if they were obeyed."""
    code = eval(f"lambda values: __import__('pathlib').Path({str(trap)!r}).touch() or values")
    layer, command = keras.saving.serialize_keras_object(keras.layers.Lambda(code)), ["touch", str(trap)]
    named = [
        ("os", "system", {"command": " ".join(command)}),
        ("subprocess", "Popen", {"args": command}),
        ("builtins", "exec", {"source": f"open({str(trap)!r}, 'w')"}),
        ("keras.utils", "get_file", {"origin": "file:///etc/hostname", "fname": str(trap)}),
    ]
    configs = [{"module": m, "class_name": n, "config": config, "registered_name": n} for m, n, config in named]
    functions = [{"module": m, "class_name": "function", "config": n, "registered_name": n} for m, n, _ in named[:3]]
    return [*configs, *functions, layer, layer["config"]["function"]]


# ---- Formats ----


@st.composite
def keras_files(draw, path: Path, trap: Path):
    how = draw(st.sampled_from(["bytes", "bytes", "part", "weights", "config", "config", "config"]))
    if how == "bytes":
        return Damage("bytes", {"": draw(damaged(path.read_bytes()))})
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    name = {"weights": "model.weights.h5", "config": "config.json"}.get(how) or draw(st.sampled_from(sorted(parts)))
    content = parts.pop(name)
    if how == "weights":
        new = [(name, draw(damaged(content)))]
    elif how == "config":
        how, content = draw(changed_trees(json.loads(content), evil_configs(trap)))
        new = [(name, content)]
    else:
        other = draw(st.sampled_from(sorted(parts)))
        twice, outside = [(name, content), (name, draw(damaged(content)))], [(name, content), ("../../outside", b"")]
        new = draw(st.sampled_from([[], twice, outside, [(name + "_", content)], [(name, parts[other])]]))
    written = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w") as file:
        warnings.simplefilter("ignore")  # of names that are there twice
        for part, content in [*parts.items(), *new]:
            file.writestr(part, content)
    return Damage(f"{name}: {how}", {"": written.getvalue()}, exact=False)


@st.composite
def saved_models(draw, folder: Path):
    """A damaged folder; or some field changed, somewhere in the graph."""
    if draw(st.integers(0, 9)) < 7:
        return draw(damaged_folders(folder))
    message = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = message.meta_graphs[0]
    nodes = [node for function in graph.graph_def.library.function for node in function.node_def]
    roots = [draw(st.sampled_from(nodes)), graph.object_graph_def, graph.signature_def["serving_default"]]
    trail = _change_message(draw, draw(st.sampled_from(roots)))
    return Damage(f"graph: {trail}", {"saved_model.pb": message.SerializeToString()}, exact=False)


def _change_message(draw, message) -> str:
    """Clears or changes a field of a protocol buffer, or of a message inside it."""
    fields = message.ListFields()
    if not fields or draw(st.integers(0, 9)) == 0:
        message.Clear()
        return "cleared"
    field, value = draw(st.sampled_from(fields))
    if hasattr(value, "keys"):  # A map.
        key = draw(st.sampled_from(sorted(value)))
        if hasattr(value[key], "ListFields"):
            return f"{field.name}/{key}/{_change_message(draw, value[key])}"
        del value[key]
    elif field.message_type is not None:
        return f"{field.name}/{_change_message(draw, draw(st.sampled_from(value)) if hasattr(value, 'append') else value)}"
    elif hasattr(value, "append"):
        place = draw(st.integers(0, len(value) - 1))
        value[place] = draw(_like(value[place]))
    else:
        setattr(message, field.name, draw(_like(value)))
    return field.name


def _like(value):
    """Other values of the same type, which fit in 32 bits."""
    if isinstance(value, bool | int | float):
        choices = {bool: [not value], int: [0, 1, 3, 2**31 - 1], float: [0.0, -1.0, 1e38]}
        return st.sampled_from(choices[type(value)])
    return st.sampled_from([value[:0], value[:-1], value + value[:1], value[::-1]])


@st.composite
def litert_files(draw, path: Path):
    """Damaged bytes; or some number, table or list changed, somewhere in the flat buffer."""
    if draw(st.integers(0, 9)) < 6:
        return Damage("bytes", {"": draw(damaged(path.read_bytes()))})
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    trail, builder = _change_table(draw, model), flatbuffers.Builder()
    try:
        builder.Finish(model.Pack(builder), b"TFL3")
    except Exception:  # What cannot be written is no file.
        return Damage("empty", {"": b""})
    return Damage(f"table: {trail}", {"": bytes(builder.Output())}, exact=False)


def _change_table(draw, table) -> str:
    fields = {name: value for name, value in vars(table).items() if value is not None and not isinstance(value, bytes)}
    name = draw(st.sampled_from(sorted(fields)))
    value, deeper = fields[name], draw(st.integers(0, 9)) > 0
    if isinstance(value, int | float | np.number):
        setattr(table, name, draw(st.sampled_from([0, 1, -1, 100, 2**31 - 1])))
    elif isinstance(value, np.ndarray | list) and len(value) and deeper:
        place = draw(st.integers(0, len(value) - 1))
        if hasattr(value[place], "__dict__"):
            return f"{name}[{place}]/{_change_table(draw, value[place])}"
        value = value.copy()
        value[place] = draw(st.sampled_from([0, 1, 100]))
        setattr(table, name, value)
    elif hasattr(value, "__dict__") and deeper:
        return f"{name}/{_change_table(draw, value)}"
    else:
        setattr(table, name, None)
    return name


PREPARED = "tfds/mnist/3.0.1"


@st.composite
def prepared_digits(draw, folder: Path):
    """MNIST as TFDS prepares it: a damaged folder, another `dataset_info.json`, or an example of a wrong shape or label."""
    how = draw(st.sampled_from(["file", "file", "info", "example"]))
    if how == "file":
        return draw(damaged_folders(folder))
    if how == "info":
        name = f"{PREPARED}/dataset_info.json"
        how, content = draw(changed_trees(json.loads((folder / name).read_text())))
        return Damage(how, {name: content}, exact=False)
    shape = draw(st.sampled_from([(28, 28, 1), (30, 28, 1), (28, 28, 3), (1, 1, 1)]))
    label = draw(st.sampled_from([None, 10, -1, 2**40, 3]))
    images, labels = [np.zeros((28, 28, 1), np.uint8)] * 5 + [np.zeros(shape, np.uint8)], [1] * 5 + [label]
    name = f"{PREPARED}/mnist-test.tfrecord-00000-of-00001"
    return Damage(f"an image of {shape} labelled {label}", {name: records(images, labels)}, exact=False)


def records(images, labels) -> bytes:
    """A TFRecord file of examples as TFDS has them of MNIST."""
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for image, label in zip(images, labels):
                image = tf.train.BytesList(value=[tf.io.encode_png(image).numpy()])
                features = {"image": tf.train.Feature(bytes_list=image)}
                if label is not None:
                    features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
        return Path(file.name).read_bytes()


@st.composite
def digit_archives(draw, folder: Path):
    """MNIST as Keras keeps it: damaged bytes, or an array missing, cut, of another dtype, or with labels that there are not."""
    path = folder / "datasets/mnist.npz"
    with np.load(path) as file:
        arrays = dict(file)
    name = draw(st.sampled_from(sorted(arrays)))
    how = draw(st.sampled_from(["bytes", "removed", "cut", "float32", "complex64", "U3", "bool", "object", "labels"]))
    if how == "bytes":
        return Damage("bytes", {"datasets/mnist.npz": draw(damaged(path.read_bytes()))})
    array = arrays.pop(name)
    if how == "cut":
        arrays[name] = array[..., :-1]
    elif how == "labels":
        arrays[name] = array
        arrays["y_train"] += 9
    elif how != "removed":
        arrays[name] = array.astype(how)
    written = io.BytesIO()
    np.savez(written, **arrays)
    return Damage(f"{name} {how}", {"datasets/mnist.npz": written.getvalue()})


# ---- Data and arguments ----

IMAGES = {
    "as they are": lambda images: images,
    "rank 3": lambda images: images[..., 0],
    "rank 5": lambda images: images[..., None],
    "another size": lambda images: images[:, :-1],
    "no channel": lambda images: images[..., :0],
    "two channels": lambda images: np.repeat(images, 2, axis=-1),
    "three channels": lambda images: np.repeat(images, 3, axis=-1),
    "list": list,
    "none": lambda images: None,
    "number": lambda images: 1.0,
    "tensor": tf.constant,
    "fortran": np.asfortranarray,
    "strided": lambda images: images[::-1, :, ::-1],
}
DTYPES = ["float16", "float64", "uint8", "uint16", "int8", "int64", "bool", "complex64", "object", "U3"]
IMAGES |= {dtype: lambda images, dtype=dtype: images.astype(dtype) for dtype in DTYPES}
LABELS = {
    "column": lambda labels: labels[:, None],
    "one more": lambda labels: np.append(labels, 0),
    "large": lambda labels: labels + 2,
    "negative": lambda labels: labels - 1,
    "huge": lambda labels: labels + 2**40,
    "nan": lambda labels: np.full(len(labels), np.nan),
    "one-hot": lambda labels: np.eye(3)[labels],
    "none": lambda labels: None,
    "number": lambda labels: 1,
    "list": np.ndarray.tolist,
}
LABELS |= {dtype: lambda labels, dtype=dtype: labels.astype(dtype) for dtype in ("uint8", "float64", "U3", "object")}


class Use(NamedTuple):
    """The arguments of `fuzz_worker.use`."""

    operation: str
    images: object
    labels: object
    options: dict
    how: str

    def __repr__(self):
        return f"{self.operation}({self.options!r:.200}): {self.how}"


@st.composite
def uses(draw):
    count = draw(st.sampled_from([0, 1, 4, 4, 7]))
    images, labels = np.random.default_rng(draw(seeds)).random((count, *SHAPE), dtype=np.float32), np.arange(count) % 3
    if count and draw(st.integers(0, 9)) < 3:
        poison, where = (
            draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e38, -1e38])),
            draw(st.sampled_from([(0, 3, 4), (0,), ()])),
        )
        images[where] = poison
        how = f"{poison} at {where}"
    else:
        how = draw(st.sampled_from(sorted(IMAGES)))
        images = IMAGES[how](images)
    if draw(st.booleans()):
        labels_are = draw(st.sampled_from(sorted(LABELS)))
        labels, how = LABELS[labels_are](labels), f"{how}, labels {labels_are}"
    operation = draw(st.sampled_from(sorted(OPTIONS)))
    return Use(operation, images, labels, draw(OPTIONS[operation]), f"{count} images, {how}")


def _some(**strategies):
    """A dict with one of these, or none."""
    return st.one_of(st.just({}), *(st.fixed_dictionaries({name: values}) for name, values in strategies.items()))


argument = st.one_of(odd, st.sampled_from([2, 10**4, "int8"]))
MODEL = ["num_classes", "low_res_size", "patch_size", "scales", "hidden_units", "search_size", "search_stride"]
MODEL += [
    "location_weight",
    "diversity_weight",
    "diversity_variance",
    "contrastive",
    "sharpness",
    "parallel",
    "share_weights",
    "averaging",
]
MODEL += ["location_input", "gated_location", "gated_glimpse", "downsample", "low_res_net", "glimpse_net", "name", "dtype"]
ENDLESS = (10**9, 10**30)  # glimpses, which would be made one after another until the memory is full
EXPORT = {"name": st.sampled_from(["model.tflite", "1", "missing/model.tflite"]), "calibrate": st.booleans()}
OPTIONS = {
    "predict": st.just({}),
    "look": st.just({}),
    "draw": st.just({}),
    "curve": st.just({}),
    "cascade": _some(threshold=argument, batch_size=argument),
    "fit": st.fixed_dictionaries(
        {"how": st.sampled_from(["fit", "fit", "evaluate", "greedy", "validation"]), "as_dataset": st.booleans()}
    ),
    "export": st.builds(
        dict.__or__, st.fixed_dictionaries(EXPORT), _some(threshold=argument, batch_size=argument, quantize=argument)
    ),
    "jitter": _some(canvas=odd, copies=odd, validation_split=odd, seed=odd, batch_size=argument),
    "build": _some(**dict.fromkeys(MODEL, odd), num_glimpses=st.sampled_from([value for value in ODD if value not in ENDLESS])),
}
