"""Error against mean multiply-accumulates of the cascade, as a function of its threshold."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_threshold
from keras_glimpse.cascade.labelled import look_at_labelled
from keras_glimpse.cascade.macs import known_stage_macs

THRESHOLDS = 1 - np.logspace(-0.05, -6, 120)  # 0.1 to 1 - 1e-6, denser where more depends on it.


class CascadeCurve(NamedTuple):
    """Result of `cascade_curve`: arrays with one entry for each threshold.

    Attributes:
        thresholds: Float array, the confidences at which to stop.
        errors: Float array, the fraction of misclassified images, in [0, 1].
        macs: Float array, the mean multiply-accumulates of an image; `None` if `stage_macs` cannot count the networks.
        full_error: Float, the error with all glimpses for all images.
    """

    thresholds: np.ndarray
    errors: np.ndarray
    macs: np.ndarray | None
    full_error: float

    def cheapest(self, extra_error: float = 0.001, default: float | None = None) -> float:
        """Returns the threshold with the fewest MACs whose error is at most `full_error + extra_error`.

        Use a curve of validation images, which are in neither the training nor the test set.

        Args:
            extra_error: Float, the accepted increase of the error, as a fraction of the images. Defaults to `0.001`.
            default: Optional float, what to return if no threshold has such an error. There may be none even close to 1 if
                images are misclassified with a confidence that rounds to 1: these stop early at any threshold. Defaults to
                `None`: an error is raised.

        Returns:
            Float, the threshold.

        Raises:
            ValueError: If no threshold has such an error and `default` is `None`.

        Example:
        >>> curve = CascadeCurve(np.array([0.5, 0.9]), np.array([0.04, 0.02]), np.array([1e5, 2e5]), full_error=0.02)
        >>> curve.cheapest(extra_error=0.03)
        0.5
        """
        good = np.flatnonzero(self.errors <= self.full_error + extra_error)
        if not len(good):
            if default is not None:
                return default
            raise ValueError(f"No threshold has an error of {self.full_error + extra_error:.4f} or less.")
        return float(self.thresholds[good].min())  # An image never stops earlier at a higher threshold.

    def within(self, macs: float) -> float:
        """Returns the threshold with the lowest error whose mean cost is at most `macs`.

        Use a curve of validation images, which are in neither the training nor the test set.

        Args:
            macs: Float, the budget: mean multiply-accumulates of an image.

        Returns:
            Float, the threshold.

        Raises:
            ValueError: If no threshold is within the budget, or the MACs are not known.

        Example:
        >>> curve = CascadeCurve(np.array([0.5, 0.9]), np.array([0.04, 0.02]), np.array([1e5, 2e5]), full_error=0.02)
        >>> curve.within(macs=3e5)
        0.9
        """
        if self.macs is None:
            raise ValueError("The multiply-accumulates of this model are not known: stage_macs(model) says why.")
        cheap = np.flatnonzero(self.macs <= macs)
        if not len(cheap):
            raise ValueError(
                f"No threshold costs {macs:,.0f} multiply-accumulates or fewer; the cheapest, {self.macs.min():,.0f}."
            )
        return float(self.thresholds[cheap[self.errors[cheap].argmin()]])


def cascade_curve(model, images, labels=None, thresholds=THRESHOLDS, batch_size: int | None = None) -> CascadeCurve:
    """Computes error and mean MACs of the cascade at many thresholds, with one forward pass for each image.

    Args:
        model: A built `GlimpseClassifier`.
        images: Array `[n, height, width, channels]` of floats or unsigned integers, or a `tf.data.Dataset` of batches
            `(images, labels)`. Or images of which only what is looked at is read: a list of paths, bytes and
            `ImageSource` objects (see `open_image`), or a dataset of batches `(paths, labels)`.
        labels: Array of class indices `[n]` or `[n, 1]`, or of one-hot or soft labels `[n, num_classes]`, of which the largest
            counts; `None` for a dataset. Defaults to `None`.
        thresholds: Sequence of floats in (0, 1]. Defaults to 120 values from 0.1 to 1 - 1e-6, denser towards 1.
        batch_size: Optional positive integer, images per batch, for an array or a list. Defaults to `None`: 1000 of an array,
            32 of images that are read in parts.

    Returns:
        A `CascadeCurve` of `thresholds`, `errors`, `macs` and `full_error`.

    Raises:
        ValueError: If there are no images, labels are missing, invalid or not as many as images, a threshold or `batch_size` is
            out of range, or the model is not built.
        TypeError: If images or labels have an invalid type, or `model` is not a `GlimpseClassifier`.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10)
    >>> model.build((None, 48, 48, 1))
    >>> curve = cascade_curve(model, np.zeros((3, 48, 48, 1), "float32"), np.array([1, 2, 3]))
    >>> model_threshold = curve.cheapest()
    """
    for threshold in thresholds:
        check_threshold(threshold)
    logits, shares = look_at_labelled("cascade_curve", model, images, labels, batch_size)
    probabilities, labels = tf.nn.softmax(logits).numpy(), shares.argmax(axis=-1)
    confidence, wrong = probabilities.max(axis=-1), probabilities.argmax(axis=-1) != labels[:, None]
    stops = [first_sure(confidence, threshold) for threshold in thresholds]
    stage_macs, everyone = known_stage_macs(model), np.arange(len(labels))
    errors = np.array([wrong[everyone, stop].mean() for stop in stops])
    macs = None if stage_macs is None else np.array([stage_macs[stop].mean() for stop in stops])
    return CascadeCurve(np.asarray(thresholds), errors, macs, wrong[:, -1].mean())


def first_sure(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """The first stage at which each image is sure, or the last; from confidences `[n, stages]`."""
    sure = confidence >= np.float32(threshold)
    sure[:, -1] = True
    return sure.argmax(axis=-1)
