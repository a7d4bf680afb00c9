"""What a threshold costs and gains: error against mean MACs of the cascade."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_built_classifier, check_integers, check_threshold
from keras_glimpse._validation.images import check_images
from keras_glimpse._validation.labels import check_labels
from keras_glimpse.cascade.macs import known_stage_macs
from keras_glimpse.ops.labels import label_shares

THRESHOLDS = 1 - np.logspace(-0.05, -6, 120)  # 0.1 to 1 - 1e-6, denser where more depends on it.


class CascadeCurve(NamedTuple):
    """What `cascade_curve` gives: arrays with one entry for each threshold.

    Attributes:
        thresholds: confidences at which to stop.
        errors: share of images whose class is wrong, in [0, 1].
        macs: multiply-accumulates of an image, on average; None for networks that `stage_macs` cannot count.
        full_error: the error with all glimpses of all images.
    """

    thresholds: np.ndarray
    errors: np.ndarray
    macs: np.ndarray | None
    full_error: float

    def cheapest(self, extra_error: float = 0.001) -> float:
        """The threshold of fewest MACs with an error at most `extra_error` above that of the full model.

        Choose it on images that the model was neither trained nor is tested on.

        Raises:
            ValueError: no threshold is so good.
        """
        good = np.flatnonzero(self.errors <= self.full_error + extra_error)
        if not len(good):
            raise ValueError(f"No threshold has an error of {self.full_error + extra_error:.4f} or less.")
        return float(self.thresholds[good].min())  # An image never stops earlier at a higher threshold.

    def within(self, macs: float) -> float:
        """The threshold of least error that costs at most `macs` multiply-accumulates an image, on average.

        Choose it on images that the model was neither trained nor is tested on.

        Raises:
            ValueError: no threshold is so cheap, or MACs are not known.
        """
        if self.macs is None:
            raise ValueError("The multiply-accumulates of this model are not known: stage_macs(model) says why.")
        cheap = np.flatnonzero(self.macs <= macs)
        if not len(cheap):
            raise ValueError(
                f"No threshold costs {macs:,.0f} multiply-accumulates or fewer; the cheapest, {self.macs.min():,.0f}."
            )
        return float(self.thresholds[cheap[self.errors[cheap].argmin()]])


def cascade_curve(model, images, labels=None, thresholds=THRESHOLDS, batch_size: int = 1000) -> CascadeCurve:
    """Error and mean MACs of the cascade at many thresholds, from one look at every image.

    Args:
        model: a built `GlimpseClassifier`.
        images: array `[n, height, width, channels]`; or a dataset of batches `(images, labels)`.
        labels: class numbers `[n]` or `[n, 1]`, or one-hot or soft labels `[n, num_classes]`, of which the largest counts;
            None with a dataset.
        thresholds: in (0, 1].
        batch_size: images at a time, for an array.

    Raises:
        ValueError: no images, no labels, or not as many; labels of neither sort; a threshold outside (0, 1]; a batch
            size below 1; or a model that is not built.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10)
    >>> model.build((None, 48, 48, 1))
    >>> curve = cascade_curve(model, np.zeros((3, 48, 48, 1), "float32"), np.array([1, 2, 3]))
    >>> model_threshold = curve.cheapest()
    """
    check_integers(1, batch_size=batch_size)
    check_built_classifier("cascade_curve", model)
    for threshold in thresholds:
        check_threshold(threshold)
    if not isinstance(images, tf.data.Dataset):
        check_images(images, model.image_shape, at_least=1)
        if np.shape(labels)[:1] != images.shape[:1]:
            raise ValueError(f"Expected images and as many labels; got {len(images)} and {np.shape(labels)}.")
        images = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    looks = [_look_at_all(model, *keras.utils.unpack_x_y_sample_weight(batch)) for batch in images]
    if not looks:
        raise ValueError("Expected at least one batch of images; got an empty dataset.")
    probabilities, labels = (np.concatenate(parts) for parts in zip(*looks))
    confidence, wrong = probabilities.max(axis=-1), probabilities.argmax(axis=-1) != labels[:, None]
    stops = [first_sure(confidence, threshold) for threshold in thresholds]
    stage_macs, everyone = model.cached("macs", lambda: known_stage_macs(model)), np.arange(len(labels))
    errors = np.array([wrong[everyone, stop].mean() for stop in stops])
    macs = None if stage_macs is None else np.array([stage_macs[stop].mean() for stop in stops])
    return CascadeCurve(np.asarray(thresholds), errors, macs, wrong[:, -1].mean())


def _look_at_all(model, images, labels, sample_weight):
    """Probabilities after each glimpse, and class numbers."""
    if labels is None:
        raise ValueError("Expected batches of (images, labels); got images alone.")
    check_labels(labels, model.num_classes)
    shares = label_shares(labels, model.num_classes)
    return tf.nn.softmax(model.look(images)["logits"]).numpy(), tf.argmax(shares, axis=-1).numpy()


def first_sure(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """The first stage at which each image is sure, or the last; from confidences `[n, stages]`."""
    sure = confidence >= np.float32(threshold)
    sure[:, -1] = True
    return sure.argmax(axis=-1)
