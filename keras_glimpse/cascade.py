"""The cascade: easy images stop early (section 4.1, last row of table 1)."""

from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse import acceleration
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


def cascade_predict(model, images, threshold: float = 0.95, batch_size: int = 2000) -> CascadePrediction:
    """Looks at each image only until the model is sure of it.

    An image stops at the first stage whose largest class probability is at least `threshold`; at the last stage, whatever
    it is. The networks of a stage run on the images that reached it, and on no others.

    Args:
        model: a built `GlimpseClassifier`.
        images: array `[n, height, width, channels]`, or a dataset of batches of images, with labels or without.
        threshold: confidence at which to stop, in (0, 1].
        batch_size: images at a time, in each stage.

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
    stages, macs = _prepared(model)
    line = _Line(stages, np.float32(threshold), batch_size)
    count = 0
    for batch in images:
        batch = np.asarray(batch[0] if isinstance(batch, tuple | list) else batch)
        line.add(0, (np.arange(count, count + len(batch)), batch, ()))
        count += len(batch)
    line.finish()
    order = np.argsort(np.concatenate([rows for rows, _, _ in line.stopped]))
    probabilities = np.concatenate([values for _, values, _ in line.stopped])[order]
    exit_stage = np.concatenate([np.full(len(rows), stage) for rows, _, stage in line.stopped])[order]
    return CascadePrediction(probabilities, exit_stage, macs[exit_stage])


class _Line:
    """Images on their way: at each stage they wait until there are enough for a batch, and those that are sure stop.

    Batches of one size, and at the end of the next larger power of two, need few compiled programs whatever the counts.
    """

    def __init__(self, stages, threshold, batch_size):
        self.stages, self.threshold, self.batch_size = stages, threshold, batch_size
        self.waiting = [None] * len(stages)  # for each stage: rows, images and evidence
        self.stopped = []  # rows, probabilities, stage

    def add(self, stage, batch):
        before = self.waiting[stage]
        if before is not None:
            batch = keras.tree.map_structure(lambda *parts: np.concatenate(parts), before, batch)
        while len(batch[0]) >= self.batch_size:
            self.run(stage, _rows(batch, slice(self.batch_size)))
            batch = _rows(batch, slice(self.batch_size, None))
        self.waiting[stage] = batch

    def finish(self):
        for stage, batch in enumerate(self.waiting):
            if batch is not None and (len(batch[0]) or not self.stopped):
                self.run(stage, self.waiting[stage])

    def run(self, stage, batch):
        rows, *inputs = batch
        count = len(rows)
        room = 1 << max(count - 1, 0).bit_length() if count < self.batch_size else count
        padded = keras.tree.map_structure(lambda values: _pad(values, room), inputs)
        outputs = keras.tree.map_structure(lambda values: values.numpy()[:count], self.stages[stage](*padded))
        evidence, probabilities = outputs
        sure = probabilities.max(axis=-1) >= self.threshold
        if stage + 1 == len(self.stages):
            sure[:] = True
        self.stopped.append((rows[sure], probabilities[sure], stage))
        if not sure.all():
            self.add(stage + 1, _rows((rows, inputs[0], evidence), ~sure))


def _rows(batch, which):
    return keras.tree.map_structure(lambda values: values[which], batch)


def _pad(values, count):
    return np.pad(values, [(0, count - len(values))] + [(0, 0)] * (values.ndim - 1)) if len(values) < count else values


def _prepared(model):
    """The stages as compiled functions, and their MACs, made once for each model and kept with it."""
    if not hasattr(model, "_cascade"):
        jit = acceleration.compiles_inference(model)
        functions = [tf.function(partial(_stage, model), jit_compile=jit, reduce_retracing=True)] * (model.num_glimpses + 1)
        model._cascade = functions, stage_macs(model)
    return model._cascade


def _stage(model, images, evidence):
    """One more look at images: the thumbnail if there is no evidence yet, else the next glimpse."""
    if not evidence:
        evidence = model.first_look(images)
    else:
        location = model.locate(evidence)
        evidence = model.glimpse(evidence, model.crop(images, location), location)
    return evidence, tf.nn.softmax(model.combine(evidence))
