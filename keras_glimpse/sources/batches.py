"""Batches of images that are read in parts, as tensors: their names, and what graphs read of them by name.

Where a network looks is known only when it has looked before, in the middle of a step. So a graph calls back: it names images
and places, and threads read them.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_glimpse.sources.files import stamp
from keras_glimpse.sources.image import ImageSource, UnreadableImage
from keras_glimpse.sources.opening import open_image

GIVEN = "keras_glimpse source "  # What the names begin with of images that are no files.
OPEN_FILES = 256  # Files that are kept open.
FAILURES = 16  # That are kept until they are raised.
WHOLE = 2**26  # Numbers of an image that is searched everywhere in one pass: 256 MiB.


class Sources(NamedTuple):
    """A batch of images that are read in parts, in place of a tensor of pixels.

    Attributes:
        names: String tensor `[batch]`, paths and names that `named` gave.
        sides: Int32 tensor `[batch, 2]`, heights and widths.
    """

    names: tf.Tensor
    sides: tf.Tensor

    @classmethod
    def of(cls, names, channels: int, check: Callable[[ImageSource], None]) -> "Sources":
        """Of names `[batch]`; `check` raises if the model is not for such an image."""

        def read(image):
            check(image)
            return np.array(image.shape[:2], np.int32)

        return cls(names, _for_each(read, names, channels, tf.int32, (2,)))

    @property
    def shape(self):
        """As of a tensor of images; heights and widths are `[batch]`, and channels not known."""
        return tf.shape(self.names)[0], self.sides[:, 0], self.sides[:, 1], None

    def thumbnails(self, size: tuple[int, int], channels: int) -> tf.Tensor:
        """`ImageSource.thumbnail` of each, `[batch, rows, columns, channels]`."""
        return _for_each(lambda image: image.thumbnail(size), self.names, channels, tf.float32, (*size, channels))

    def patches(self, places, size: int, scales: Sequence[int], channels: int) -> tf.Tensor:
        """`ImageSource.patches` at places `[batch, n, 2]` of each, `[batch, n, size, size, channels * len(scales)]`."""
        read = lambda image, at: image.patches(at, size, scales)  # noqa: E731
        shape = (places.shape[1], size, size, channels * len(scales))
        return _for_each(read, self.names, channels, tf.float32, shape, tf.stop_gradient(places))

    def whole(self, channels: int) -> tf.Tensor:
        """All pixels of images of one size, `[batch, height, width, channels]`, for a search over the whole image."""

        def read(image):
            if np.prod(image.shape) > WHOLE:
                raise UnreadableImage(
                    f"{image.name}: {image.shape[0]}x{image.shape[1]} pixels are too many to search everywhere: set "
                    "search_samples, with which a step reads so many patches."
                )
            return image.pixels()

        return _for_each(read, self.names, channels, tf.float32, (None, None, channels))


def is_read_in_parts(images) -> bool:
    """Whether prepared images are `Sources`, or another object with the same methods, and not a tensor of pixels."""
    return hasattr(images, "thumbnails")


def are_sources(images) -> bool:
    """Whether images are read in parts: `Sources`, names of them, or what `open_image` takes, in a list or an array."""
    if isinstance(images, Sources | ImageSource | str | bytes | os.PathLike):
        return True
    if isinstance(images, list | tuple):
        return bool(images) and all(isinstance(image, ImageSource | str | bytes | os.PathLike) for image in images)
    if isinstance(images, np.ndarray):
        return images.dtype.kind == "U" or images.dtype.kind == "O" and are_sources(images.ravel().tolist())
    return getattr(images, "dtype", None) == tf.string


def has_paths(dataset: tf.data.Dataset) -> bool:
    """Whether the batches of a dataset are of paths."""
    return tf.nest.flatten(dataset.element_spec)[0].dtype == tf.string


def images_of(batch):
    """The images of a batch of a dataset, with or without labels."""
    return batch[0] if isinstance(batch, tuple) else batch


def listed(images) -> list:
    """Images that are read in parts in a list: one, several, or a tensor of paths."""
    if tf.is_tensor(images):
        return [os.fsdecode(name) for name in np.ravel(images)]
    return [images] if isinstance(images, str | bytes | os.PathLike | ImageSource) else [*images]


def name_of(image) -> str:
    """What errors and results call an image, opened or not."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else getattr(image, "name", type(image).__name__)


# ---- Names ----

_given: dict[str, ImageSource] = {}
_numbers = itertools.count()


@contextmanager
def named(images: Sequence, channels: int | None) -> Iterator[np.ndarray]:
    """The names of images by which graphs read them, an array of strings: paths of files, made-up names of all others.

    Names that were made up are forgotten afterwards.
    """
    names, made_up = [], []
    try:
        for image in images:
            name = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
            if not _is_text(name):
                name = f"{GIVEN}{next(_numbers)}"
                _given[name] = open_image(image, channels)
                made_up.append(name)
            names.append(name)
        yield np.array(names, object)
    finally:
        for name in made_up:
            _given.pop(name, None)


def _is_text(name):
    """Whether TensorFlow and Keras take it for a string: a name of a file may be any bytes."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def source(name: bytes | str, channels: int | None) -> ImageSource:
    """The image of a name."""
    name = os.fsdecode(name)
    found = _given.get(name) or _opened(name, channels, stamp(name))
    if channels is not None and found.channels != channels:
        raise UnreadableImage(f"{found.name}: expected {channels} channels; got {found.channels}.")
    return found


def shapes(names, channels: int | None) -> list[tuple[int, int, int]]:
    """Of all images, opened by threads."""
    return in_threads(lambda name: source(name, channels).shape, names)


def check_each(names, channels: int, check: Callable[[ImageSource], None]) -> None:
    """Calls `check` of all images, opened by threads."""
    in_threads(lambda name: check(source(name, channels)), names)


@lru_cache(OPEN_FILES)
def _opened(path, channels, stamp):
    return open_image(path, channels)


# ---- What graphs read ----


def _for_each(read: Callable, names, channels, dtype, shape, *arguments) -> tf.Tensor:
    """What `read` returns for each image, in threads; `shape` is that of one."""

    def at_once(names, *arguments):
        try:
            results = in_threads(lambda name, *each: read(source(name, channels), *each), names, *arguments)
            if len({result.shape for result in results}) > 1:
                different = sorted({result.shape[:2] for result in results})
                raise UnreadableImage(f"Images of a batch that are searched everywhere must be of one size; got {different}.")
            # Of several replicas, one may have no images.
            return np.stack(results) if results else np.zeros([0, *(side or 0 for side in shape)], dtype.as_numpy_dtype)
        except Exception as error:
            raise _kept(error) from error

    result = tf.numpy_function(at_once, [names, *arguments], dtype)
    result.set_shape((names.shape[0], *shape))
    return result


def in_threads(function: Callable, *arguments) -> list:
    """What `map` gives, by threads that all readers share."""
    return [*_threads().map(function, *arguments)]


@lru_cache(1)
def _threads():
    return ThreadPoolExecutor(2 * os.cpu_count(), thread_name_prefix="keras_glimpse")


_failures: dict[str, Exception] = {}


def _kept(error):
    """An error whose message, all of it that TensorFlow passes on, has a number by which `readable` finds the first one."""
    number = str(next(_numbers))
    _failures[number] = error
    for old in [*_failures][:-FAILURES]:
        _failures.pop(old, None)
    return RuntimeError(f"{error} <failure {number}>")


@contextmanager
def readable() -> Iterator[None]:
    """Raises what a graph failed to read as it was raised, and not as an error of TensorFlow."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"<failure (\d+)>", str(error))
        if not found or found[1] not in _failures:
            raise
        raise _failures.pop(found[1]) from None
