"""Labels as people have them: class numbers, one-hot, or shares of several classes."""

import tensorflow as tf
from keras import ops


def label_shares(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """q, how much of each class a label is: `[batch, num_classes]`, float32, not negative, 1 in all.

    With a class number y, q is 1 for y and 0 for all others, and the loss of eq. 10 is what it is in the paper. Label
    smoothing, MixUp and CutMix give shares of several classes.

    Args:
        labels: class numbers `[batch]` or `[batch, 1]` of any dtype, or the shares themselves.
        num_classes: number of classes, C.

    Example:
    >>> label_shares(ops.array([[2.0], [0.0]]), num_classes=3).numpy()
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    if are_shares(labels.shape, num_classes):
        return ops.cast(labels, "float32")
    return ops.cast(ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), num_classes), "float32")


def are_shares(shape, num_classes: int) -> bool:
    """Whether labels of this shape are shares of classes, and not class numbers."""
    return len(shape) == 2 and shape[-1] == num_classes
