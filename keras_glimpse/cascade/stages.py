"""The stages of the cascade, for one batch."""

from functools import partial

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse.ops.runtime import for_runtime


def cascade_looks(model, jit_compile: bool | None = None) -> list:
    """A graph for each stage of `until_sure`."""
    return [model.graph(partial(_look_once, model), jit_compile) for _ in range(model.active_glimpses + 1)]


def until_sure(model, looks, images, threshold, places=None):
    """Probabilities and exit stages of a prepared batch: each stage looks only at the rows that none before it was sure of.

    The locations of the glimpses are put into the array `places` `[n, active_glimpses, 2]`, if it is given.
    """
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
        if places is not None:
            places[rows, stage - 1] = evidence.locations[-1].numpy()[: len(rows)]
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
        images = keras.tree.map_structure(lambda values: tf.gather(values, rows), images)
        evidence = keras.tree.map_structure(lambda values: tf.gather(values, evidence_rows), evidence)
        evidence = for_runtime(model.look_again, runtime)(images, evidence)
    return evidence, tf.nn.softmax(model.combine(evidence))
