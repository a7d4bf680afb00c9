"""The cascade: inference with early exit (section 4.1, last row of table 1)."""

from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_built_classifier, check_integers, check_one_of, check_threshold
from keras_glimpse._validation.images import check_spec
from keras_glimpse.cascade.graphs import cascade_of_one
from keras_glimpse.cascade.macs import known_stage_macs
from keras_glimpse.cascade.sources import SourcePrediction, predict_sources
from keras_glimpse.ops.runtime import for_runtime
from keras_glimpse.sources.batches import are_sources, has_paths, images_of


class CascadePrediction(NamedTuple):
    """Result of `cascade_predict`: arrays with one entry for each image.

    Attributes:
        probabilities: Float32 array `[n, num_classes]`, the class probabilities at the stage at which the image stopped.
        exit_stage: Integer array `[n]`, the number of glimpses used: 0 for the thumbnail alone.
        macs: Integer array `[n]`, the multiply-accumulates spent, as counted by `stage_macs`; `None` if it cannot count them.
    """

    probabilities: np.ndarray
    exit_stage: np.ndarray
    macs: np.ndarray | None


def cascade_predict(
    model, images, threshold: float = 0.95, batch_size: int | None = None, on_error: str = "raise", verbose: int = 0
) -> CascadePrediction | SourcePrediction:
    """Predicts with early exit: glimpses are added only until the model is confident.

    An image stops at the first stage whose largest class probability is at least `threshold`, at the latest at the last stage.
    The networks of a stage run on the images that reach it only.

    Args:
        model: A built `GlimpseClassifier`.
        images: Array `[n, height, width, channels]` of floats or unsigned integers, or a `tf.data.Dataset` of batches of
            images, with or without labels. Or images of which only what is looked at is read, of any sizes: a list of paths,
            bytes and `ImageSource` objects (see `open_image`), or a dataset of batches of paths.
        threshold: Float in (0, 1], the confidence at which to stop. Defaults to `0.95`.
        batch_size: Optional positive integer, images per batch. Defaults to `None`: 2000 of an array, 32 of images that are
            read in parts.
        on_error: `"raise"`, or `"skip"`, which reports images that cannot be read and goes on, for images that are read in
            parts. Defaults to `"raise"`.
        verbose: `0` or `1`, whether to show a progress bar, for images that are read in parts. Defaults to `0`.

    Returns:
        A `CascadePrediction` of `probabilities`, `exit_stage` and `macs`; a `SourcePrediction`, which also tells locations and
        how much was read, for images that are read in parts.

    Raises:
        ValueError: If `threshold` or `batch_size` is out of range, a dataset is empty, images have the wrong shape, or the
            model is not built; an `UnreadableImage` if a file cannot be read.
        TypeError: If `images` is not one array of floats, uint8 or uint16, or `model` is not a `GlimpseClassifier`.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10, num_glimpses=2)
    >>> model.build((None, 48, 48, 1))
    >>> result = cascade_predict(model, np.zeros((3, 48, 48, 1), "float32"), threshold=0.01)
    >>> result.exit_stage, result.macs
    (array([0, 0, 0]), array([77000, 77000, 77000]))

    Reference: Ranzato, "On Learning Where To Look", 2014, section 4.1.
    """
    check_threshold(threshold)
    check_built_classifier("cascade_predict", model)
    check_one_of(("raise", "skip"), on_error=on_error)
    in_parts = are_sources(images) or isinstance(images, tf.data.Dataset) and has_paths(images)
    batch_size = (32 if in_parts else 2000) if batch_size is None else batch_size
    check_integers(1, batch_size=batch_size)
    if in_parts:
        return predict_sources(model, images, threshold, batch_size, on_error, verbose)
    if not isinstance(images, tf.data.Dataset):
        model.check_images(images)
        images = _batches(images, batch_size)
    macs, stages = model.cached("cascade", lambda: (known_stage_macs(model), Stages(model)))
    results = [_until_sure(model, stages, images_of(batch), threshold) for batch in images]
    if not results:
        raise ValueError("Expected at least one batch of images; got an empty dataset.")
    probabilities, exit_stage = (np.concatenate(parts) for parts in zip(*results))
    return CascadePrediction(probabilities, exit_stage, None if macs is None else macs[exit_stage])


def _batches(images, size):
    """Slices of so many images; what is one batch is not copied."""
    if len(images) <= size:
        return [images]
    return [images[start : start + size] for start in range(0, len(images), size)]


class Stages:
    """A graph for each stage, and one of all stages for a single image, for which calls would take longer than networks."""

    def __init__(self, model):
        self.each = [model.graph(partial(_look_once, model)) for _ in range(model.active_glimpses + 1)]
        self.of_one = model.graph(partial(cascade_of_one, model))


def _until_sure(model, stages, images, threshold):
    """Probabilities and exit stages of one batch: each stage looks only at the rows that none before it was sure of."""
    model.see_pixels(images)
    images = tf.convert_to_tensor(images)
    if images.shape[:1] == (1,):
        check_spec(images.shape, images.dtype, model.image_shape, model.least_sides)  # A graph for any size cannot tell.
        answer = stages.of_one(images, tf.constant(float(threshold), tf.float32))
        return answer["probabilities"].numpy(), answer["exit_stage"].numpy().astype(np.int64)
    images, looks = model.prepare(images), stages.each
    evidence, probabilities = looks[0](images, (), (), ())
    probabilities = probabilities.numpy()
    exit_stage = np.zeros(len(probabilities), np.int64)
    rows, latest = np.arange(len(probabilities)), probabilities
    for stage, look in enumerate(looks[1:], start=1):
        unsure = np.flatnonzero(~(latest.max(axis=-1) >= np.float32(threshold)))  # NaN compares false: such rows stay unsure.
        if not len(unsure):
            break
        rows = rows[unsure]
        evidence, latest = look(images, evidence, _padded(rows), _padded(unsure))
        latest = latest.numpy()[: len(rows)]
        probabilities[rows], exit_stage[rows] = latest, stage
    return probabilities, exit_stage


def _padded(rows):
    """Row numbers, the last one repeated until there are 1, 2, 3, 4, 6, 8, 12, ...: few sizes, so that few are compiled."""
    power = 1 << (len(rows) - 1).bit_length()
    size = 3 * power // 4 if len(rows) <= 3 * power // 4 else power
    return tf.constant(np.pad(rows, (0, size - len(rows)), mode="edge"), tf.int32)


def _look_once(model, images, evidence, rows, evidence_rows, runtime):
    """The thumbnails of all images, prepared; or, where there is evidence, one more glimpse at some rows of them."""
    if not evidence:
        evidence = for_runtime(model.first_look, runtime)(images)
    else:
        images = tf.gather(images, rows)
        evidence = keras.tree.map_structure(lambda values: tf.gather(values, evidence_rows), evidence)
        evidence = for_runtime(model.look_again, runtime)(images, evidence)
    return evidence, tf.nn.softmax(model.answer(evidence))
