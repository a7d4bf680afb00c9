"""Writing what is complete, or nothing."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MARK = Path("assets.extra") / "keras_glimpse.json"  # TensorFlow leaves this folder of a SavedModel to others.


@contextlib.contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[Path]:
    """A scratch file to write to, which takes the place of `path` if nothing was raised."""
    path = _writable(path)
    if path.is_dir():
        raise IsADirectoryError(f"Expected the path of a file to write; this is a folder: {path}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        yield Path(folder) / path.name
        os.replace(Path(folder) / path.name, path)


@contextlib.contextmanager
def complete_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A scratch folder to fill, which takes the place of `path` if nothing was raised. It must put `MARK` there."""
    path = _writable(path)
    if path.exists() and not (path / MARK).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"Not overwritten, since it was not written by keras_glimpse: {path}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        new, old = Path(folder) / "new", Path(folder) / "old"
        yield new
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)
        shutil.rmtree(old, ignore_errors=True)


def _writable(path):
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder to write to does not exist: {path.parent}")
    return path
