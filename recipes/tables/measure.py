"""The figures of a trained row: errors, cost, and what a cascade does with whom."""

import keras
import numpy as np
import tensorflow as tf

import keras_glimpse
from tables.config import CHEAPEST, Row


def chosen_threshold(model: keras.Model, row: Row, held_out: tf.data.Dataset | None) -> float | None:
    """The threshold of a row, chosen on the digits that it holds out if it does not say a number."""
    if not isinstance(row.threshold, str):
        return row.threshold
    curve = keras_glimpse.cascade_curve(model, held_out)
    return curve.cheapest() if row.threshold == CHEAPEST else curve.within(row.compare["budget"])


def measure(model: keras.Model, test: tf.data.Dataset, threshold: float | None) -> dict:
    """Error and multiply-accumulates, and details of the kind of model it is, on a whole data set."""
    if threshold:
        return _of_cascade(model, test, threshold)
    measured = model.evaluate(test, verbose=0, return_dict=True)
    if not isinstance(model, keras_glimpse.GlimpseClassifier):
        return {"error": _percent(1 - measured["accuracy"]), "macs": keras_glimpse.count_macs(model), "details": {}}
    count = model.stage.glimpse + 1
    errors = [_percent(1 - measured[f"accuracy_{n}"]) for n in range(count + 1)]
    macs = int(keras_glimpse.stage_macs(model)[count])
    return {"error": errors[-1], "macs": macs, "details": {"errors": errors, "border_px": round(measured["border_px"], 2)}}


def _of_cascade(model, test, threshold):
    """As in section 4.1: what stops where, how wrong it is, and what it costs."""
    images, labels = (np.concatenate(parts) for parts in zip(*test.as_numpy_iterator()))
    result = keras_glimpse.cascade_predict(model, images, threshold)
    wrong = result.probabilities.argmax(axis=-1) != labels
    confidence = result.probabilities.max(axis=-1)
    details = {"threshold": threshold, "exit_fractions": [], "exit_errors": [], "rejected": []}
    for stage in range(model.num_glimpses + 1):
        here = (result.exit_stage == stage) & (confidence >= threshold)
        details["exit_fractions"].append(_percent(here.mean()))
        details["exit_errors"].append(_percent(wrong[here].mean() if here.any() else 0.0))
        details["rejected"].append(_percent(1 - np.mean((result.exit_stage <= stage) & (confidence >= threshold))))
    return {"error": _percent(wrong.mean()), "macs": round(float(result.macs.mean())), "details": details}


def _percent(share):
    return round(100 * float(share), 3)
