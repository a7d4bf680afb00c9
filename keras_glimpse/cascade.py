"""The cascade: easy images stop early (section 4.1, last row of table 1)."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse.checks import check_threshold
from keras_glimpse.macs import stage_macs


class CascadePrediction(NamedTuple):
    """What `cascade_predict` gives, as arrays with one entry for each image.

    Attributes:
        probabilities: `[n, num_classes]`, after the glimpse at which the image stopped.
        exit_stage: `[n]`, the number of glimpses looked at: 0 for the thumbnail alone.
        macs: `[n]`, multiply-accumulates spent, as `stage_macs` counts them.
    """

    probabilities: np.ndarray
    exit_stage: np.ndarray
    macs: np.ndarray


def cascade_predict(model, images, threshold: float = 0.95, batch_size: int = 1000) -> CascadePrediction:
    """Looks at each image only until the model is sure of it.

    An image stops at the first stage whose largest class probability is at least `threshold`; at the last stage, whatever
    it is. The networks of a stage run on the images that reached it, and on no others.

    Args:
        model: a built `GlimpseClassifier`.
        images: array `[n, height, width, channels]`, or a dataset of batches of images, with labels or without.
        threshold: confidence at which to stop, in (0, 1].
        batch_size: images at a time, for an array.

    Returns:
        A `CascadePrediction`.

    Raises:
        ValueError: a threshold outside (0, 1], or a model that is not built.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10, num_glimpses=2)
    >>> model.build((None, 48, 48, 1))
    >>> result = cascade_predict(model, np.zeros((3, 48, 48, 1), "float32"), threshold=0.01)
    >>> result.exit_stage, result.macs
    (array([0, 0, 0]), array([77000, 77000, 77000]))
    """
    check_threshold(threshold)
    if not model.built:
        raise ValueError("cascade_predict needs a model that is built: fit it, load it or call it on images first.")
    if not isinstance(images, tf.data.Dataset):
        images = [images[start : start + batch_size] for start in range(0, len(images), batch_size)] or [images]
    threshold = tf.constant(threshold, tf.float32)
    results = [_cascade_function(model, tf.convert_to_tensor(_only_images(batch)), threshold) for batch in images]
    probabilities, stages = (np.concatenate(parts) for parts in zip(*results))
    return CascadePrediction(probabilities, stages, stage_macs(model)[stages])


def cascade(model, images: tf.Tensor, threshold: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The cascade on one batch, as graph: `(probabilities [batch, num_classes], exit_stage [batch], int64)`."""
    evidence = model.first_look(images)
    probabilities = tf.nn.softmax(model.combine(evidence))
    stages = tf.zeros(tf.shape(probabilities)[:1], tf.int64)
    waiting = tf.range(tf.shape(probabilities)[0])  # which images `images` and `evidence` are still about
    latest = probabilities
    for stage in range(1, model.num_glimpses + 1):
        unsure = tf.where(tf.reduce_max(latest, axis=-1) < threshold)[:, 0]
        waiting, images, evidence = keras.tree.map_structure(
            lambda values, rows=unsure: tf.gather(values, rows), (waiting, images, evidence)
        )
        location = model.locate(evidence)
        evidence = model.glimpse(evidence, model.crop(images, location), location)
        latest = tf.nn.softmax(model.combine(evidence))
        probabilities = tf.tensor_scatter_nd_update(probabilities, waiting[:, None], latest)
        stages = tf.tensor_scatter_nd_update(stages, waiting[:, None], tf.fill(tf.shape(waiting), np.int64(stage)))
    return probabilities, stages


_cascade_function = tf.function(cascade, reduce_retracing=True)


def _only_images(batch):
    return batch[0] if isinstance(batch, tuple | list) else batch
