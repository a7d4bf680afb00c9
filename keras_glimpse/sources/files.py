"""Whether a file is as it was when it was opened."""

import os

from keras_glimpse.sources.image import UnreadableImage


def stamp(path: str | os.PathLike | int) -> tuple[int, int] | None:
    """The size of a file, given by its path or descriptor, and when it was changed; `None` if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: no file has such a name.
        return None
    return status.st_size, status.st_mtime_ns


def check_unchanged(name: str, path: str | os.PathLike | int, opened: tuple[int, int] | None) -> None:
    """Raises UnreadableImage if the stamp of a file is not what it was when the file was opened."""
    if stamp(path) != opened:
        raise UnreadableImage(f"{name}: the file was changed or removed after it had been opened.")
