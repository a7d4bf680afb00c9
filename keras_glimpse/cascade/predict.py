"""The cascade: easy images stop early (section 4.1, last row of table 1)."""

from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_built_classifier, check_integers, check_threshold
from keras_glimpse._validation.images import check_images
from keras_glimpse.cascade.macs import known_stage_macs
from keras_glimpse.ops.runtime import for_runtime


class CascadePrediction(NamedTuple):
    """What `cascade_predict` gives, as arrays with one entry for each image.

    Attributes:
        probabilities: `[n, num_classes]`, after the glimpse at which the image stopped.
        exit_stage: `[n]`, the number of glimpses looked at: 0 for the thumbnail alone.
        macs: `[n]`, multiply-accumulates spent, as `stage_macs` counts them; None for networks that it cannot count.
    """

    probabilities: np.ndarray
    exit_stage: np.ndarray
    macs: np.ndarray | None


def cascade_predict(model, images, threshold: float = 0.95, batch_size: int = 2000) -> CascadePrediction:
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
        ValueError: a threshold outside (0, 1], a batch size below 1, no images in a dataset, images of another shape, or a
            model that is not built.
        TypeError: not one array of numbers.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10, num_glimpses=2)
    >>> model.build((None, 48, 48, 1))
    >>> result = cascade_predict(model, np.zeros((3, 48, 48, 1), "float32"), threshold=0.01)
    >>> result.exit_stage, result.macs
    (array([0, 0, 0]), array([77000, 77000, 77000]))
    """
    check_threshold(threshold)
    check_integers(1, batch_size=batch_size)
    check_built_classifier("cascade_predict", model)
    if not isinstance(images, tf.data.Dataset):
        check_images(images, model.image_shape)
        images = [images[start : start + batch_size] for start in range(0, len(images), batch_size)] or [images]
    macs = model.cached("macs", lambda: known_stage_macs(model))
    looks = model.cached("cascade", lambda: [model.graph(partial(_look_once, model)) for _ in range(model.active_glimpses + 1)])
    results = [_until_sure(model, looks, _only_images(batch), threshold) for batch in images]
    if not results:
        raise ValueError("Expected at least one batch of images; got an empty dataset.")
    probabilities, exit_stage = (np.concatenate(parts) for parts in zip(*results))
    return CascadePrediction(probabilities, exit_stage, None if macs is None else macs[exit_stage])


def _until_sure(model, looks, images, threshold):
    """Probabilities and exit stages of one batch: each stage looks only at the rows that none before it was sure of."""
    model.see_pixels(images)
    images = model.prepare(tf.convert_to_tensor(images))
    evidence, probabilities = looks[0](images, (), (), ())
    probabilities = probabilities.numpy()
    stages = np.zeros(len(probabilities), np.int64)
    rows, latest = np.arange(len(probabilities)), probabilities
    for stage, look in enumerate(looks[1:], start=1):
        unsure = np.flatnonzero(~(latest.max(axis=-1) >= np.float32(threshold)))  # NaN compares false: such rows stay unsure.
        if not len(unsure):
            break
        rows = rows[unsure]
        evidence, latest = look(images, evidence, _padded(rows), _padded(unsure))
        latest = latest.numpy()[: len(rows)]
        probabilities[rows], stages[rows] = latest, stage
    return probabilities, stages


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
    return evidence, tf.nn.softmax(model.combine(evidence))


def _only_images(batch):
    return batch[0] if isinstance(batch, tuple | list) else batch
