"""The E step: which of the candidate places is best, and which is most misleading (eqs. 11, 12 and 15)."""

import tensorflow as tf
from keras import ops

from keras_glimpse.labels import wrong_classes


def best_and_offending(logits: tf.Tensor, shares: tf.Tensor, penalty: tf.Tensor | float) -> tuple[tf.Tensor, tf.Tensor]:
    """Picks z* and z- among the candidates of each image.

    z* (eqs. 11 and 12) has the lowest loss for the label. z- (eq. 15) has the lowest loss for any class that the label rules
    out: there the network is most confident of something wrong. (It is z* if no class is ruled out.) Of equal candidates the
    first is taken.

    Args:
        logits: `[batch, candidates, num_classes]`, the class logits if that place were looked at.
        shares: `[batch, num_classes]`, the labels (see `label_shares`).
        penalty: the other terms of the loss, in a shape that broadcasts to that of the logits: those that depend on the
            place alone (eqs. 9 and 18), and in the first stage E0, which depends on the class alone (eq. 9). Infinite where
            there is no candidate.

    Returns:
        `(best, offending)`, each `[batch]`, int32: indices of candidates.

    Example:
    >>> logits = ops.array([[[4.0, 0.0], [0.0, 4.0], [1.0, 1.0]]])  # three places, two classes
    >>> best, offending = best_and_offending(logits, ops.array([[1.0, 0.0]]), penalty=0.0)
    >>> int(best[0]), int(offending[0])
    (0, 1)
    """
    loss = penalty - ops.log_softmax(logits, axis=-1)
    shares = shares[:, None, :]
    for_label = ops.sum(ops.where(shares > 0, shares * loss, 0.0), axis=-1)  # Where it is infinite, 0 times it is not 0.
    wrong = wrong_classes(shares)
    for_others = ops.min(ops.where(wrong, loss, float("inf")), axis=-1)
    best, offending = ops.argmin(for_label, axis=-1), ops.argmin(for_others, axis=-1)
    return best, ops.where(ops.any(wrong, axis=(1, 2)), offending, best)
