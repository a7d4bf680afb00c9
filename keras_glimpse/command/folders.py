"""Folders of images, one sub-folder a class: what is in them, what can be read, and what is held out."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_glimpse.command.options import files_in
from keras_glimpse.sources.image import UnreadableImage
from keras_glimpse.sources.opening import open_image


class Images(NamedTuple):
    """Images and their classes.

    Attributes:
        classes: List of strings, the names of the classes.
        paths: List of strings, a file for each image, ordered by class.
        labels: Integer array, the class of each image.
    """

    classes: list[str]
    paths: list[str]
    labels: np.ndarray

    def where(self, chosen: np.ndarray) -> "Images":
        """Those for which `chosen`, a boolean array, is true."""
        return Images(self.classes, [self.paths[n] for n in np.flatnonzero(chosen)], self.labels[chosen])

    def check_classes(self, least: int, of: str = "file") -> None:
        """Raises unless there are at least so many images of each class."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if counts.min() < least:
            few = ", ".join(f"{name} ({count})" for name, count in zip(self.classes, counts) if count < least)
            raise ValueError(f"Each class needs at least {least} {of}; too few are in {few}.")


def images_of(folder: Path) -> Images:
    """The files in the sub-folders of a folder, each of which is a class."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        raise ValueError(f"{folder} must have a sub-folder for each of at least 2 classes; it has {len(folders)}.")
    files = [files_in(each) for each in folders]
    labels = np.repeat(np.arange(len(files)), [len(each) for each in files])
    images = Images([each.name for each in folders], [str(path) for each in files for path in each], labels)
    images.check_classes(1)
    return images


def read(
    images: Images, channels: int | None, least: tuple[int, int], size: tuple[int, int]
) -> tuple[Images, list[tuple[int, int, int]], list[str]]:
    """Reads a thumbnail of each image, with which nearly all damage shows.

    Args:
        images: The files.
        channels: Optional integer, the channels to convert images to; `None` for the most that one has.
        least: Tuple `(height, width)`, the smallest image that there may be.
        size: Tuple `(rows, columns)` of the thumbnail.

    Returns:
        A tuple of the images that can be read, their shapes, and what is wrong with the others.

    Raises:
        ValueError: If an image is too small, or some have channels that others cannot be converted to.
    """
    images, shapes, unopened = _those_that_can(lambda path: open_image(path, channels).shape, images)
    small = [n for n, shape in enumerate(shapes) if any(side < limit for side, limit in zip(shape, least))]
    if small:
        examples = ", ".join(f"{images.paths[n]} ({shapes[n][0]}x{shapes[n][1]})" for n in small[:3])
        raise ValueError(
            f"Images must be at least {least[0]}x{least[1]} pixels, as large as the thumbnail and a patch (--low-res-size, "
            f"--patch-size); {len(small)} of {len(shapes)} are smaller: {examples}{', ...' if len(small) > 3 else ''}."
        )
    counts = {shape[2] for shape in shapes}
    if channels is None and len(counts) > 1 and not counts <= {1, 3}:
        raise ValueError(f"Images have {sorted(counts)} channels: --channels 1 or 3 leaves out those that it cannot convert.")
    channels = channels or max(counts, default=1)
    images, shapes, unread = _those_that_can(partial(_shape_of_read, channels, size), images)
    return images, shapes, unopened + unread


def _shape_of_read(channels, size, path):
    image = open_image(path, channels)
    if image.channels != channels:
        raise UnreadableImage(f"{path}: expected {channels} channels (--channels); got {image.channels}.")
    image.thumbnail(size)
    return image.shape


def _those_that_can(function: Callable, images: Images) -> tuple[Images, list, list[str]]:
    """Applies a function to paths, in threads: the images for which it does not fail, its results, and the errors."""

    def attempt(path):
        try:
            return function(path)
        except UnreadableImage as error:
            return error

    with ThreadPoolExecutor() as pool:
        results = [*pool.map(attempt, images.paths)]
    failed = [isinstance(result, UnreadableImage) for result in results]
    good = images.where(~np.array(failed, bool))
    return good, [each for each, bad in zip(results, failed) if not bad], [str(e) for e, bad in zip(results, failed) if bad]


def split(images: Images, held_out: float, seed: int) -> tuple[Images, Images]:
    """Images to train on, and that share of each class, at least one image, held out."""
    images.check_classes(2, "readable images")
    rng, is_held_out = np.random.default_rng(seed), np.zeros(len(images.paths), bool)
    for label in range(len(images.classes)):
        index = rng.permutation(np.flatnonzero(images.labels == label))
        is_held_out[index[: min(max(1, round(held_out * len(index))), len(index) - 1)]] = True
    return images.where(~is_held_out), images.where(is_held_out)


def evenly(images: Images, count: int) -> Images:
    """At most `count` images, of all classes alike if they have equally many."""
    chosen = np.zeros(len(images.paths), bool)
    chosen[np.linspace(0, len(chosen) - 1, min(count, len(chosen)), dtype=int)] = True
    return images.where(chosen)


def one_size(shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int] | None:
    """Height and width, if all images have the same."""
    sizes = {shape[:2] for shape in shapes}
    return sizes.pop() if len(sizes) == 1 else None
