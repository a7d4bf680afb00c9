"""The terms of the loss (eqs. 9, 10 and 18). Each function gives one number per image, or per image and candidate."""

import tensorflow as tf
from keras import ops


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """E of eq. 10, -log softmax(logits)[label], in nats.

    Args:
        logits: `[..., num_classes]`.
        labels: integers in [0, num_classes), `[...]` or whatever broadcasts to it.

    Example:
    >>> cross_entropy(ops.zeros((1, 4)), ops.array([2])).numpy()  # log 4
    array([1.3862944], dtype=float32)
    """
    return -ops.sum(ops.one_hot(labels, logits.shape[-1]) * ops.log_softmax(logits, axis=-1), axis=-1)


def location_penalty(predicted: tf.Tensor, chosen: tf.Tensor, weight: float) -> tf.Tensor:
    """lambda / 2 * |l - z|^2 of eq. 9.

    Args:
        predicted: `[..., 2]`, l, the locations that the location head gave.
        chosen: `[..., 2]`, z, the locations that the search looks at.
        weight: lambda.
    """
    return 0.5 * weight * ops.sum(ops.square(predicted - chosen), axis=-1)


def diversity_penalty(chosen: tf.Tensor, previous: tf.Tensor, weight: float, variance: float) -> tf.Tensor:
    """gamma * sum_j exp(-|z - l_j|^2 / (2 sigma^2)) of eq. 18: a bump around each place looked at before.

    Args:
        chosen: `[batch, candidates, 2]`, z.
        previous: `[batch, glimpses, 2]`, the locations l_j of the glimpses before this one.
        weight: gamma.
        variance: sigma^2, in squared units of location.
    """
    squared = ops.sum(ops.square(chosen[:, :, None, :] - previous[:, None, :, :]), axis=-1)
    return weight * ops.sum(ops.exp(-0.5 * squared / variance), axis=-1)
