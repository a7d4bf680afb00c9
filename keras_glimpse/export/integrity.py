"""Detects corrupt model files before anything is loaded from them."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras

from keras_glimpse.hub import CONFIG, PARTS, WEIGHTS

# What the exporters tell of a file: in the folder of a SavedModel that TensorFlow leaves to others; in a zip archive behind a
# `.tflite` file, as the files that belong to LiteRT's own metadata are.
MARK, ASSETS = "keras_glimpse.json", "assets.extra"
NAMES = ("module", "class_name", "registered_name")
MOST_PACKED = 100  # Largest plausible compression ratio; Keras stores without compression.
# Each counts units with at least one weight.
SIZES = ("num_classes", "num_glimpses", "hidden_units", "units", "filters", "lora_rank")


def check_file(path: str | os.PathLike) -> None:
    """Raises if a model file is corrupt, without executing anything in it.

    Loaders may not detect or name corruption: LiteRT uses corrupt weights and can crash on a corrupt graph; TensorFlow and
    Keras raise errors of many types. The checks are:

    - for a `.keras` file, that its parts are complete and match their checksums, and that the weights can be read and are at
      least as many as the configuration implies;
    - for the folder that `save(path, zipped=False)` writes, the same without checksums, which it does not have;
    - for a `.tflite` file, a SavedModel or a folder for an accelerator, that it matches the SHA-256 recorded by the function
      that wrote it: `export_litert`, `export_mediapipe`, `export_saved_model` or `export_accelerator`.

    This detects damage, not tampering: whoever can change a file can change its checksums.

    Args:
        path: String or path of a `.keras` file or such a folder, a `.tflite` file written by `export_litert` or
            `export_mediapipe`, or the folder written by `export_saved_model` or `export_accelerator`.

    Raises:
        FileNotFoundError: If `path` does not exist.
        ValueError: If the file is corrupt or has no checksums; the message names the part and the reason.

    Example:
    >>> import tempfile
    >>> from keras_glimpse import GlimpseClassifier
    >>> model, path = GlimpseClassifier(num_classes=10), tempfile.mkdtemp() + "/model.keras"
    >>> model.build((None, 48, 48, 1))
    >>> model.save(path)
    >>> check_file(path)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no such file: {path}")
    if path.is_dir():
        check = _check_keras_folder if (path / CONFIG).is_file() else _check_saved_model
    else:
        check = {".keras": _check_keras, ".tflite": _check_litert}.get(path.suffix)
    if check is None:
        raise ValueError(f"Expected a .keras file, a .tflite file or the folder of a SavedModel; got {path}")
    try:
        check(path)
    except Exception as error:  # Parsers raise whatever they stumble on.
        raise ValueError(f"{path} is corrupt: {error or type(error).__name__}") from error


def config_of(path: Path) -> dict:
    """The configuration in a `.keras` file, or in a folder with its parts."""
    if path.is_dir():
        return json.loads((path / CONFIG).read_bytes())
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read(CONFIG))


def files_in(folder: Path) -> list[str]:
    """Paths of all files in a folder and its subfolders, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_keras(path):
    with zipfile.ZipFile(path) as file:
        names = [name for name in file.namelist() if not name.startswith("assets/") or ".." in name]
        if sorted(names) != sorted(PARTS):
            raise ValueError(f"expected {', '.join(PARTS)} in it, each once; got {', '.join(names) or 'nothing'}.")
        if sum(part.file_size for part in file.infolist()) > MOST_PACKED * path.stat().st_size:
            raise ValueError("unpacked, it would be far larger than it is.")
        corrupt = file.testzip()
        if corrupt:
            raise ValueError(f"the checksum of {corrupt} is wrong.")
        weights = file.read(WEIGHTS)
    _check_parts(config_of(path), weights)


def _check_keras_folder(path):
    for part in PARTS:
        if not (path / part).is_file():
            raise ValueError(f"{part} is missing.")
    _check_parts(config_of(path), (path / WEIGHTS).read_bytes())


def _check_parts(config, weights: bytes):
    if not isinstance(config, dict) or not {"class_name", "config"} <= config.keys():
        raise ValueError("config.json is not that of a Keras model.")
    numbers = _count_weights(weights)
    for node in _nodes(config):
        _check_node(node, numbers)


def _count_weights(content: bytes) -> int:
    """Reads all weights and returns the total number of elements."""
    counts = []

    def read(name, item):
        if isinstance(item, h5py.Dataset):
            if item.nbytes != item.id.get_storage_size():
                raise ValueError(f"weight {name} has shape {item.shape} and {item.id.get_storage_size()} bytes.")
            counts.append(item[()].size)

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(read)
    return sum(counts)


def _nodes(tree) -> Iterator[dict]:
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(child)


def _check_node(node, numbers):
    """Checks the types of names, and that sizes do not exceed the number of weights, before Keras allocates memory."""
    for key in NAMES:
        if not isinstance(node.get(key, ""), str | None):
            raise ValueError(f"{key} in config.json must be a name; got {str(node[key])[:80]!r}.")
    for key in SIZES:
        for size in keras.tree.flatten(node.get(key, 0)):
            if isinstance(size, int | float) and not size <= numbers:
                raise ValueError(f"config.json has {key} {size:g}, where all weights together are {numbers:,} numbers.")


def _check_litert(path):
    try:
        with zipfile.ZipFile(path) as file:
            about = json.loads(file.read(MARK))
            corrupt = file.testzip()
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"it does not end with the {MARK} that export_litert puts there: {error}") from error
    if corrupt:
        raise ValueError(f"the checksum of {corrupt} is wrong.")
    if sha256(path.read_bytes()[: about["bytes"]]) != about["sha256"]:
        raise ValueError("it does not match its recorded checksum.")


def _check_saved_model(path):
    mark = path / ASSETS / MARK
    if not mark.is_file():
        raise ValueError(f"it has no {ASSETS}/{MARK}, which export_saved_model puts there.")
    written = json.loads(mark.read_text())["files"]
    if not isinstance(written, dict):
        raise ValueError(f"{ASSETS}/{MARK} has no checksums: it is of an older version; export the model again.")
    for name, expected in written.items():
        if not (path / name).is_file():
            raise ValueError(f"{name} is missing.")
        if sha256((path / name).read_bytes()) != expected:
            raise ValueError(f"{name} does not match its recorded checksum.")
    added = [name for name in files_in(path) if name not in written and not name.startswith(f"{ASSETS}/")]
    if added:
        raise ValueError(f"{added[0]} was not written by export_saved_model.")
