"""The cascade on images that are read in parts: slides, maps, files, encoded bytes, arrays."""

import csv
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_built_classifier, check_integers, check_one_of, check_threshold
from keras_glimpse._validation.images import check_spec
from keras_glimpse.cascade.macs import known_stage_macs
from keras_glimpse.cascade.stages import cascade_looks, until_sure
from keras_glimpse.sources.batches import listed, readable
from keras_glimpse.sources.image import ImageSource, UnreadableImage
from keras_glimpse.sources.opening import open_image

AT_A_TIME = 2  # Batches: one is read while the networks look at the other.


class SourcePrediction(NamedTuple):
    """Result of `cascade_predict` for images that are read in parts: one entry for each image.

    Attributes:
        probabilities: Float32 array `[n, num_classes]`, the class probabilities at the stage at which the image stopped. NaN
            for an image that cannot be read.
        exit_stage: Integer array `[n]`, the number of glimpses used: 0 for the thumbnail alone, -1 for an image that cannot be
            read.
        macs: Integer array `[n]`, the multiply-accumulates spent, as counted by `stage_macs`; `None` if it cannot count them.
        locations: Float32 array `[n, active_glimpses, 2]`, where it looked, `(y, x)` in [0, 1]; NaN where it did not.
        pixels_read: Integer array `[n]`, how many pixels were read, of all levels of the image.
        bytes_read: Integer array `[n]`, how many bytes were asked of the operating system; `None` if it does not count them.
        names: List of strings, the paths of the images.
        errors: Dict from an index to what is wrong with the image; empty unless `on_error="skip"`.
    """

    probabilities: np.ndarray
    exit_stage: np.ndarray
    macs: np.ndarray | None
    locations: np.ndarray
    pixels_read: np.ndarray
    bytes_read: np.ndarray | None
    names: list[str]
    errors: dict[int, str]


class ImagePrediction(NamedTuple):
    """The same of one image: `error` is `None`, or what is wrong with it."""

    probabilities: np.ndarray
    exit_stage: int
    locations: np.ndarray
    pixels_read: int
    bytes_read: int | None
    name: str
    error: str | None = None


def predict_sources(model, images, threshold, batch_size, on_error, verbose) -> SourcePrediction:
    """`cascade_predict` for images that are read in parts."""
    found = [*predictions(model, images, threshold, batch_size, on_error, verbose)]
    if not found:
        raise ValueError("Expected at least one image; got none.")
    probabilities, exit_stage, locations, pixels, bytes_read = map(np.stack, [*zip(*found)][:5])
    macs = known_macs(model)
    return SourcePrediction(
        probabilities,
        exit_stage,
        None if macs is None else np.where(exit_stage < 0, 0, macs[exit_stage]),
        locations,
        pixels,
        None if None in bytes_read else bytes_read,
        [each.name for each in found],
        {n: each.error for n, each in enumerate(found) if each.error},
    )


def predictions(model, images, threshold, batch_size, on_error="raise", verbose=0) -> Iterator[ImagePrediction]:
    """Predicts images in order, each as soon as it and all before it are done; arguments as of `cascade_predict`.

    While the networks look at one batch, threads read the next one. In memory are two batches of thumbnails and patches, and
    what the libraries keep that read the files.
    """
    check_threshold(threshold)
    check_integers(1, batch_size=batch_size)
    check_one_of(("raise", "skip"), on_error=on_error)
    check_built_classifier("cascade_predict", model)
    model.check_reads_parts()
    looks = model.cached("cascade of sources", lambda: cascade_looks(model, jit_compile=False))
    look = partial(_look, model, looks, threshold, on_error == "skip")
    total = len(images) if hasattr(images, "__len__") and not isinstance(images, tf.data.Dataset) else None
    progress = keras.utils.Progbar(total, unit_name="image") if verbose else None
    waiting = _in_lists(_one_by_one(images), batch_size)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        running = deque(pool.submit(look, batch) for batch in islice(waiting, AT_A_TIME))
        while running:
            found = running.popleft().result()
            running += [pool.submit(look, batch) for batch in islice(waiting, 1)]
            yield from found
            if progress:
                progress.add(len(found))


def known_macs(model):
    return model.cached("macs", lambda: known_stage_macs(model))


def _one_by_one(images):
    """The images of a list, or of a dataset of batches of paths, with or without labels."""
    if not isinstance(images, tf.data.Dataset):
        return listed(images)
    return chain.from_iterable(listed(batch[0] if isinstance(batch, tuple | list) else batch) for batch in images)


def _in_lists(items, size):
    items = iter(items)
    while batch := [*islice(items, size)]:
        yield batch


def _look(model, looks, threshold, skips, images) -> list[ImagePrediction]:
    """Predicts a batch; if an image cannot be read and they are skipped, then each image by itself."""
    try:
        return _look_at_all(model, looks, threshold, images)
    except (UnreadableImage, ValueError, TypeError) as error:
        if not skips:
            raise
        if len(images) > 1:
            return [*chain.from_iterable(_look(model, looks, threshold, skips, [image]) for image in images)]
        return [_unreadable(model, images[0], error)]


def _look_at_all(model, looks, threshold, images):
    sources = [open_image(image, model.channels) for image in images]
    for source in sources:
        try:
            check_spec((None, *source.shape), source.dtype, model.image_shape, model.least_sides)
        except ValueError as error:
            raise UnreadableImage(f"{source.name}: {error}") from error
    before = [(source.pixels_read, source.bytes_read) for source in sources]
    places = np.full((len(images), model.active_glimpses, 2), np.nan, np.float32)
    with model.named(sources) as names, readable():
        probabilities, stages = until_sure(model, looks, model.prepare(tf.constant(names)), threshold, places)
    return [
        ImagePrediction(answer, int(stage), place, source.pixels_read - pixels, _more(source.bytes_read, count), source.name)
        for answer, stage, place, source, (pixels, count) in zip(probabilities, stages, places, sources, before)
    ]


def _more(after, before):
    return None if after is None or before is None else after - before


def _unreadable(model, image, error):
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else getattr(image, "name", type(image).__name__)
    nothing = np.full(model.num_classes, np.nan, np.float32), -1, np.full((model.active_glimpses, 2), np.nan, np.float32)
    return ImagePrediction(*nothing, 0, 0, name, str(error))


# ---- Results in a file, as they come ----


def predict_to_csv(
    model,
    images: Iterable,
    path: str | os.PathLike,
    threshold: float = 0.95,
    batch_size: int = 32,
    class_names=None,
    verbose: int = 0,
) -> int:
    """Predicts images that are read in parts and writes each result to a CSV file as it comes.

    An image that cannot be read gets a row with the error. If the file exists, it is continued: images that have a row are not
    looked at again. So after an interruption, run the same call again.

    Args:
        model: A built `GlimpseClassifier`.
        images: Iterable of paths or `ImageSource`s, or a `tf.data.Dataset` of batches of paths. Their names must differ.
        path: String or path of the file, with columns `image`, `class`, `confidence`, `glimpses`, `places` (`y x` in [0, 1],
            separated by `;`), `macs`, `pixels_read`, `bytes_read` and `error`.
        threshold: Float in (0, 1], the confidence at which to stop. Defaults to `0.95`.
        batch_size: Positive integer, images per batch. Defaults to `32`.
        class_names: Optional sequence of strings. Defaults to `None`, the indices of the classes.
        verbose: `0` or `1`, whether to show a progress bar. Defaults to `0`.

    Returns:
        Integer, how many images could not be read, of those that were looked at now.

    Raises:
        ValueError: If the file has other columns, two images have one name, or an argument is out of range.

    Example:
    >>> import tempfile
    >>> from keras_glimpse import GlimpseClassifier, open_image
    >>> model = GlimpseClassifier(num_classes=10)
    >>> model.build((None, 48, 48, 1))
    >>> images = [open_image(np.zeros((48, 48), "uint8"))]
    >>> predict_to_csv(model, images, tempfile.mkdtemp() + "/results.csv")
    0
    """
    rows = rows_to_csv(model, images, path, threshold, batch_size, class_names, verbose)
    return sum(bool(row["error"]) for row in rows)


def rows_to_csv(model, images, path, threshold, batch_size, class_names=None, verbose=0) -> Iterator[dict[str, str]]:
    """`predict_to_csv`, which yields each row that it has written."""
    done = {row["image"] for row in rows_of(path)}
    with Path(path).open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not file.tell():
            writer.writeheader()
        for found in predictions(model, _new(images, done), threshold, batch_size, "skip", verbose):
            row = row_of(model, found, class_names)
            writer.writerow(row)
            file.flush()
            yield row


COLUMNS = ("image", "class", "confidence", "glimpses", "places", "macs", "pixels_read", "bytes_read", "error")


def row_of(model, found: ImagePrediction, class_names=None) -> dict[str, str]:
    """What `COLUMNS` say of an image."""
    if found.error is not None:
        return dict.fromkeys(COLUMNS, "") | {"image": found.name, "error": " ".join(found.error.split())}
    macs = known_macs(model)
    index = int(found.probabilities.argmax())
    places = "; ".join(f"{y:.4f} {x:.4f}" for y, x in found.locations[: found.exit_stage])
    label, confidence = class_names[index] if class_names is not None else index, f"{found.probabilities[index]:.4f}"
    cost = "" if macs is None else macs[found.exit_stage]
    read = found.pixels_read, "" if found.bytes_read is None else found.bytes_read
    values = [found.name, label, confidence, found.exit_stage, places, cost, *read, ""]
    return dict(zip(COLUMNS, map(str, values)))


def rows_of(path: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of a file that `rows_to_csv` wrote, if there is one; a last row that an interruption cut off is removed."""
    path = Path(path)
    if not path.exists():
        return []
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    rows = csv.DictReader(complete.decode().splitlines())
    if complete and tuple(rows.fieldnames) != COLUMNS:
        raise ValueError(f"{path}: expected a file with the columns {', '.join(COLUMNS)}; got {', '.join(rows.fieldnames)}.")
    if len(complete) < len(content):
        path.write_bytes(complete)
    return [*rows]


def _new(images, done):
    """Images whose name is not in `done`; an error if two have the same."""
    seen = set()
    for image in _one_by_one(images):
        name = image.name if isinstance(image, ImageSource) else os.fspath(image)
        if name in seen:
            raise ValueError(f"Two images are called {name!r}: results could not be told apart.")
        seen.add(name)
        if name not in done:
            yield image
