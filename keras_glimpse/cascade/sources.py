"""The cascade on images that are read in parts: slides, maps, files, encoded bytes, arrays."""

import csv
import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_built_classifier, check_integers, check_one_of, check_threshold
from keras_glimpse.cascade.macs import known_stage_macs
from keras_glimpse.ops.runtime import for_runtime
from keras_glimpse.sources.batches import images_of, in_threads, listed, name_of
from keras_glimpse.sources.image import ImageSource, UnreadableImage
from keras_glimpse.sources.opening import open_image, parsing

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
        pixels_read: Integer array `[n]`, how many pixels were read, of all levels of the image; of an `ImageSource` that is
            given several times at once, for all of them.
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
    macs = known_stage_macs(model)
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
    looks = model.cached("cascade of sources", lambda: Looks.of(model))
    look = partial(_look, model, looks, threshold, on_error == "skip")
    total = len(images) if isinstance(images, list | tuple | np.ndarray) else None
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


def _one_by_one(images):
    """The images of a list, or of a dataset of batches of paths, with or without labels."""
    if not isinstance(images, tf.data.Dataset):
        return listed(images)
    return chain.from_iterable(listed(images_of(batch)) for batch in images)


def _in_lists(items, size):
    items = iter(items)
    while batch := [*islice(items, size)]:
        yield batch


# ---- One batch ----


class Looks(NamedTuple):
    """The networks as graphs, for one thread at a time.

    Attributes:
        first: Function of thumbnails; returns evidence, probabilities and the locations of the first glimpse.
        again: List with, for each glimpse, a function of evidence, of the rows of it that are looked at, and of their patches
            and locations; returns the same.
    """

    first: Callable
    again: list[Callable]

    @classmethod
    def of(cls, model) -> "Looks":
        graph = partial(model.graph, jit_compile=False)
        return cls(graph(partial(_first, model)), [graph(partial(_again, model)) for _ in range(model.active_glimpses)])


def _first(model, thumbnails, runtime):
    return _answer(model, for_runtime(model.first_look, runtime)(thumbnails), runtime)


def _again(model, evidence, rows, patches, locations, runtime):
    evidence = keras.tree.map_structure(lambda values: tf.gather(values, rows), evidence)
    return _answer(model, model.glimpse(evidence, patches, locations), runtime)


def _answer(model, evidence, runtime):
    is_last = len(evidence.glimpses) == model.active_glimpses
    following = tf.zeros([0, 2]) if is_last else for_runtime(model.locate, runtime)(evidence)
    return evidence, tf.nn.softmax(model.answer(evidence)), following


@dataclass
class _Looked:
    """An image, and what is known of it."""

    image: object
    source: ImageSource | None = None
    read_before: tuple = (0, 0)
    error: str | None = None
    probabilities: np.ndarray | None = None
    exit_stage: int = -1
    places: list = field(default_factory=list)

    def prediction(self, model) -> ImagePrediction:
        places = np.full((model.active_glimpses, 2), np.nan, np.float32)
        if self.error is not None:
            nothing = np.full(model.num_classes, np.nan, np.float32)
            return ImagePrediction(nothing, -1, places, 0, 0, name_of(self.image), self.error)
        places[: self.exit_stage] = np.reshape(self.places, (-1, 2))
        pixels, count = self.read_before
        read = None if self.source.bytes_read is None else self.source.bytes_read - count
        return ImagePrediction(
            self.probabilities, self.exit_stage, places, self.source.pixels_read - pixels, read, self.source.name
        )


def _look(model, looks, threshold, skips, images) -> list[ImagePrediction]:
    """Predicts a batch: each stage reads and looks only at the images that none before it was sure of."""
    everyone = [_Looked(image) for image in images]
    attempt = partial(_attempt, skips)
    rest, _, _ = attempt(partial(_open, model), everyone)
    rest, pixels, _ = attempt(lambda each: each.source.thumbnail(model.low_res_net.size), rest)
    rows = locations = evidence = None
    for stage in range(model.active_glimpses + 1):
        if not rest:
            break
        with parsing:  # The networks may have to be traced.
            seen = (evidence, tf.constant(rows, tf.int32), np.stack(pixels), locations) if stage else (np.stack(pixels),)
            evidence, answers, following = (looks.again[stage - 1] if stage else looks.first)(*seen)
        answers = answers.numpy()
        for each, answer in zip(rest, answers):
            each.probabilities, each.exit_stage = answer, stage
        if stage < model.active_glimpses:
            unsure = np.flatnonzero(~(answers.max(axis=-1) >= np.float32(threshold)))  # NaN compares false: it stays unsure.
            rest, pixels, kept = attempt(partial(_patch, model), [rest[n] for n in unsure], following.numpy()[unsure])
            rows, locations = unsure[kept], following.numpy()[unsure][kept]
    return [each.prediction(model) for each in everyone]


def _open(model, each):
    source = each.source = open_image(each.image, model.channels)
    each.read_before = source.pixels_read, source.bytes_read
    model.check_source(source)


def _patch(model, each, location):
    each.places.append(location)
    return each.source.patches(location[None], model.crop.size, model.crop.scales)[0]


def _attempt(skips, read, looked, *arguments):
    """Calls `read` of each image in threads: the images that could be read, the results, and their rows."""

    def one(each, *arguments):
        try:
            return read(each, *arguments)
        except (UnreadableImage, TypeError) as error:
            if not skips:
                raise
            each.error = str(error)

    results = in_threads(one, looked, *arguments)
    kept = [n for n, each in enumerate(looked) if each.error is None]
    return [looked[n] for n in kept], [results[n] for n in kept], kept


# ---- Results in a file, as they come ----


def predict_to_csv(
    model,
    images: Iterable,
    path: str | os.PathLike,
    threshold: float = 0.95,
    batch_size: int = 32,
    verbose: int = 0,
) -> int:
    """Predicts images that are read in parts and writes each result to a CSV file as it comes.

    An image that cannot be read gets a row with the error. If the file exists, it is continued: images that have a row are not
    looked at again. So after an interruption, run the same call again. Every row has the threshold and a checksum of the model,
    and a file is continued only with the same ones.

    Args:
        model: A built `GlimpseClassifier`.
        images: Iterable of paths or `ImageSource` objects, or a `tf.data.Dataset` of batches of paths. Their names must differ.
        path: String or path of the file, with columns `image`, `class` (its name, if the model has `class_names`),
            `confidence`, `glimpses`, `places` (`y x` in [0, 1], separated by `;`), `macs`, `pixels_read`, `bytes_read`,
            `error`, `threshold` and `model`.
        threshold: Float in (0, 1], the confidence at which to stop. Defaults to `0.95`.
        batch_size: Positive integer, images per batch. Defaults to `32`.
        verbose: `0` or `1`, whether to show a progress bar. Defaults to `0`.

    Returns:
        Integer, how many images could not be read, of those that were looked at now.

    Raises:
        ValueError: If the file has other columns or is of another model or threshold, two images have one name, or an argument
            is out of range.

    Example:
    >>> import tempfile
    >>> from keras_glimpse import GlimpseClassifier, open_image
    >>> model = GlimpseClassifier(num_classes=10)
    >>> model.build((None, 48, 48, 1))
    >>> images = [open_image(np.zeros((48, 48), "uint8"))]
    >>> predict_to_csv(model, images, tempfile.mkdtemp() + "/results.csv")
    0
    """
    rows = rows_to_csv(model, images, path, threshold, batch_size, verbose)
    return sum(bool(row["error"]) for row in rows)


def rows_to_csv(model, images, path, threshold, batch_size, verbose=0) -> Iterator[dict[str, str]]:
    """`predict_to_csv`, which yields each row that it has written. Arguments and the file are checked at once."""
    check_threshold(threshold)
    check_built_classifier("predict_to_csv", model)
    made_by, before = {"threshold": str(float(threshold)), "model": _checksum(model)}, rows_of(path)
    for name, value in made_by.items():
        if before and before[-1][name] != value:
            raise ValueError(f"{path} has results of {name} {before[-1][name]}, not of {value}: remove it, or give another.")
    new = _new(images, {row["image"] for row in before})
    found = predictions(model, new, threshold, batch_size, "skip", verbose)
    return _written(path, (row_of(model, each) | made_by for each in found))


def _written(path, rows):
    with Path(path).open("a", newline="", **ENCODING) as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not file.tell():
            writer.writeheader()
        for row in rows:
            writer.writerow(row)
            file.flush()
            yield row


ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}  # Names of files may be any bytes.
FOUND = ("image", "class", "confidence", "glimpses", "places", "macs", "pixels_read", "bytes_read", "error")
COLUMNS = (*FOUND, "threshold", "model")


def _checksum(model):
    """Of what answers depend on, beside the threshold."""
    found = hashlib.sha256(repr((model.active_glimpses, model.temperatures, model.class_names)).encode())
    for weights in model.get_weights():
        found.update(weights.tobytes())
    return found.hexdigest()[:8]


def row_of(model, found: ImagePrediction) -> dict[str, str]:
    """What the columns `FOUND` say of an image."""
    if found.error is not None:
        return dict.fromkeys(FOUND, "") | {"image": found.name, "error": " ".join(found.error.split())}
    macs = known_stage_macs(model)
    index = int(found.probabilities.argmax())
    places = "; ".join(f"{y:.4f} {x:.4f}" for y, x in found.locations[: found.exit_stage])
    label, confidence = model.class_names[index] if model.class_names else index, f"{found.probabilities[index]:.4f}"
    cost = "" if macs is None else macs[found.exit_stage]
    read = found.pixels_read, "" if found.bytes_read is None else found.bytes_read
    values = [found.name, label, confidence, found.exit_stage, places, cost, *read, ""]
    return dict(zip(FOUND, map(str, values)))


def rows_of(path: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of a file that `rows_to_csv` wrote, if there is one; a last row that an interruption cut off is removed."""
    path = Path(path)
    if not path.exists():
        return []
    content, header = path.read_bytes(), ",".join(COLUMNS).encode() + b"\r\n"
    if not content.startswith(header) and not header.startswith(content):
        raise ValueError(f"{path}: expected a file with the columns {', '.join(COLUMNS)}; it begins with {content[:80]!r}.")
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        path.write_bytes(complete)
    return [*csv.DictReader(io.StringIO(complete.decode(**ENCODING), newline=""))]


def _new(images, done):
    """Images whose name is not in `done`; an error if two have the same."""
    seen = set()
    for image in _one_by_one(images):
        name = name_of(image)
        if name in seen:
            raise ValueError(f"Two images are called {name!r}: results could not be told apart.")
        seen.add(name)
        if name not in done:
            yield image
