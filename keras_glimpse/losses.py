"""The terms of the loss (eqs. 9, 10 and 18). Each function gives one number per image, or per image and candidate."""

import numpy as np
import tensorflow as tf
from keras import ops


def cross_entropy(logits: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """E of eq. 10, -sum_c q_c log softmax(logits)_c, in nats: with a class number y, -log softmax(logits)_y.

    Args:
        logits: `[..., num_classes]`.
        shares: q, in a shape that broadcasts to that of the logits (see `label_shares`).

    Example:
    >>> cross_entropy(ops.zeros((1, 4)), ops.array([[0.0, 0.0, 1.0, 0.0]])).numpy()  # log 4
    array([1.3862944], dtype=float32)
    """
    return -ops.sum(shares * ops.log_softmax(logits, axis=-1), axis=-1)


def location_penalty(predicted: tf.Tensor, chosen: tf.Tensor, weight: float, sides: np.ndarray) -> tf.Tensor:
    """lambda / 2 * |l - z|^2 of eq. 9.

    Args:
        predicted: `[..., 2]`, l, the locations that the location head gave.
        chosen: `[..., 2]`, z, the locations that the search looks at.
        weight: lambda.
        sides: `[2]`, the sides of the image, the longer one being 1: distances are alike in both directions.
    """
    return 0.5 * weight * ops.sum(ops.square((predicted - chosen) * sides), axis=-1)


def diversity_penalty(chosen: tf.Tensor, previous: tf.Tensor, weight: float, variance: float, sides: np.ndarray) -> tf.Tensor:
    """gamma * sum_j exp(-|z - l_j|^2 / (2 sigma^2)) of eq. 18: a bump around each place looked at before.

    Args:
        chosen: `[batch, candidates, 2]`, z.
        previous: `[batch, glimpses, 2]`, the locations l_j of the glimpses before this one.
        weight: gamma.
        variance: sigma^2, in squared units of the image's longer side.
        sides: `[2]`, the sides of the image in that unit (see `location_penalty`).
    """
    squared = ops.sum(ops.square((chosen[:, :, None, :] - previous[:, None, :, :]) * sides), axis=-1)
    return weight * ops.sum(ops.exp(-0.5 * squared / variance), axis=-1)
