"""Checks of labels: class numbers, one-hot, or shares of several classes."""

import numpy as np
import tensorflow as tf

from keras_glimpse.ops.labels import are_shares

SHARES_SUM_TO_1 = 1e-2  # Soft labels in half precision are off by a thousandth.


def check_labels(labels, num_classes: int) -> None:
    """Raises unless these are class numbers or shares of classes (see `label_shares`)."""
    check_label_spec(tuple(labels.shape), labels.dtype, num_classes)
    check_label_values("", np.asarray(labels), num_classes)


def check_label_spec(shape: tuple, dtype, num_classes: int) -> None:
    """Raises unless shape and dtype are those of labels."""
    dtype = tf.as_dtype(dtype)
    if not (dtype.is_integer or dtype.is_floating or dtype.is_bool):
        raise TypeError(f"Expected labels that are numbers; got {dtype.name}.")
    if len(shape) != 1 and shape[1:] != (1,) and not are_shares(shape, num_classes):
        raise ValueError(
            f"Expected class numbers [batch] or [batch, 1], or one-hot or soft labels [batch, {num_classes}]; "
            f"got labels of shape {shape}."
        )


def check_label_values(where: str, labels: np.ndarray, num_classes: int) -> None:
    """Raises unless the values are class numbers, or shares of classes; `where` begins the message."""
    if are_shares(labels.shape, num_classes):
        labels = np.asarray(labels, np.float64)
        bad = ~((labels >= 0).all(axis=1) & (np.abs(labels.sum(axis=1) - 1) <= SHARES_SUM_TO_1))
        if bad.any():
            first = int(np.argmax(bad))
            raise ValueError(
                f"{where}One-hot or soft labels must not be negative and sum to 1; got {labels[first]} for image {first}."
            )
        return
    low, high = np.min(labels), np.max(labels)
    if not low >= 0 or not high < num_classes:
        raise ValueError(f"{where}Labels must lie in [0, {num_classes}); got {low} to {high}.")
    if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        wrong = labels[labels != np.floor(labels)][0]
        raise ValueError(f"{where}Expected labels that are class numbers, 0, 1, ...; got {wrong}.")


def label_assertions(message: list, labels: tf.Tensor, num_classes: int) -> list[tf.Operation]:
    """The checks of `check_label_values` as operations of a graph, for a batch of a dataset."""
    if are_shares(labels.shape, num_classes):
        shares = tf.cast(labels, tf.float32)
        good = tf.reduce_all(shares >= 0) & tf.reduce_all(tf.abs(tf.reduce_sum(shares, axis=1) - 1) <= SHARES_SUM_TO_1)
        return [tf.debugging.Assert(good, [*message, "has one-hot or soft labels that are negative or do not sum to 1"])]
    labels = tf.cast(labels, tf.int32) if labels.dtype == tf.bool else labels
    low, high = tf.reduce_min(labels), tf.reduce_max(labels)
    in_range = (low >= 0) & (tf.cast(high, tf.float64) < num_classes)
    limits = [f"has labels outside [0, {num_classes}): from", low, "to", high]
    checks = [tf.debugging.Assert(in_range, [*message, *limits])]
    if labels.dtype.is_floating:
        whole = tf.reduce_all(labels == tf.floor(labels))
        checks.append(tf.debugging.Assert(whole, [*message, "has labels that are not class numbers"]))
    return checks
