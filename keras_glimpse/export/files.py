"""Atomic writes of files and of folders."""

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from keras_glimpse.export import integrity

MARK = Path(integrity.ASSETS) / integrity.MARK


@contextlib.contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a scratch file that replaces `path` on exit, unless an exception was raised."""
    path = _writable(path)
    if path.is_dir():
        raise IsADirectoryError(f"Expected the path of a file to write; this is a folder: {path}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        yield Path(folder) / path.name
        os.replace(Path(folder) / path.name, path)


@contextlib.contextmanager
def complete_folder(path: str | os.PathLike, about: dict) -> Iterator[Path]:
    """Yields a scratch folder that replaces `path` on exit, unless an exception was raised; `about` is written to its `MARK`.

    An existing folder is replaced only if it is empty or contains only files that an earlier call wrote.
    """
    path = _writable(path)
    if path.exists() and not _is_ours(path):
        raise FileExistsError(f"Not overwritten, since not all of it was written by keras_glimpse: {path}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        new, old = Path(folder) / "new", Path(folder) / "old"
        yield new
        (new / MARK).parent.mkdir(exist_ok=True)
        (new / MARK).write_text(json.dumps(about | {"files": _checksums(new)}) + "\n")
        try:
            if path.exists():
                os.replace(path, old)
            os.replace(new, path)
        finally:
            if old.exists() and not path.exists():  # Interrupted in between.
                os.replace(old, path)


def write_marked(path: Path, content: bytes, about: dict, files: dict[str, str] | None = None) -> None:
    """Writes a `.tflite` file, followed by a zip archive, ignored by LiteRT, with metadata, the checksum, and text `files`."""
    path.write_bytes(content)
    about = about | {"bytes": len(content), "sha256": integrity.sha256(content)}
    with zipfile.ZipFile(path, "a") as file:
        for name, text in ((files or {}) | {integrity.MARK: json.dumps(about) + "\n"}).items():
            file.writestr(name, text)


def _checksums(folder):
    return {name: integrity.sha256((folder / name).read_bytes()) for name in integrity.files_in(folder)}


def _is_ours(path):
    if not path.is_dir():
        return False
    written = json.loads((path / MARK).read_text())["files"] if (path / MARK).is_file() else []
    return {*integrity.files_in(path)} <= {*written, MARK.as_posix()}


def _writable(path):
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder to write to does not exist: {path.parent}")
    return path
