"""The cascade: inference with early exit (section 4.1, last row of table 1)."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_built_classifier, check_integers, check_one_of, check_threshold
from keras_glimpse.cascade.macs import known_stage_macs
from keras_glimpse.cascade.sources import SourcePrediction, predict_sources
from keras_glimpse.cascade.stages import cascade_looks, until_sure
from keras_glimpse.sources.batches import are_sources


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
            images, with or without labels. Or images of which only what is looked at is read, of any sizes: a list of what
            `open_image` takes, or a dataset of batches of paths.
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
    in_parts = are_sources(images) or isinstance(images, tf.data.Dataset) and _has_names(images)
    batch_size = (32 if in_parts else 2000) if batch_size is None else batch_size
    check_integers(1, batch_size=batch_size)
    if in_parts:
        return predict_sources(model, images, threshold, batch_size, on_error, verbose)
    if not isinstance(images, tf.data.Dataset):
        model.check_images(images)
        images = [images[start : start + batch_size] for start in range(0, len(images), batch_size)] or [images]
    macs = model.cached("macs", lambda: known_stage_macs(model))
    looks = model.cached("cascade", lambda: cascade_looks(model))
    results = [_of_pixels(model, looks, _only_images(batch), threshold) for batch in images]
    if not results:
        raise ValueError("Expected at least one batch of images; got an empty dataset.")
    probabilities, exit_stage = (np.concatenate(parts) for parts in zip(*results))
    return CascadePrediction(probabilities, exit_stage, None if macs is None else macs[exit_stage])


def _of_pixels(model, looks, images, threshold):
    model.see_pixels(images)
    return until_sure(model, looks, model.prepare(tf.convert_to_tensor(images)), threshold)


def _only_images(batch):
    return batch[0] if isinstance(batch, tuple | list) else batch


def _has_names(dataset):
    return tf.nest.flatten(dataset.element_spec)[0].dtype == tf.string
