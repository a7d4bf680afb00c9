"""The E step: which of the candidate places is best, and which is most misleading (eqs. 11, 12 and 15)."""

import tensorflow as tf
from keras import ops


def best_and_offending(logits: tf.Tensor, labels: tf.Tensor, penalty: tf.Tensor | float) -> tuple[tf.Tensor, tf.Tensor]:
    """Picks z* and z- among the candidates of each image.

    z* (eqs. 11 and 12) has the lowest loss of the correct class. z- (eq. 15) has the lowest loss of any other class: there
    the network is most confident of something wrong. Of equal candidates the first is taken.

    Args:
        logits: `[batch, candidates, num_classes]`, the class logits if that place were looked at.
        labels: `[batch]`, integers.
        penalty: the other terms of the loss, in a shape that broadcasts to that of the logits: those that depend on the
            place alone (eqs. 9 and 18), and in the first stage E0, which depends on the class alone (eq. 9).

    Returns:
        `(best, offending)`, each `[batch]`, int32: indices of candidates.

    Example:
    >>> logits = ops.array([[[4.0, 0.0], [0.0, 4.0], [1.0, 1.0]]])  # three places, two classes
    >>> best, offending = best_and_offending(logits, ops.array([0]), penalty=0.0)
    >>> int(best[0]), int(offending[0])
    (0, 1)
    """
    loss = penalty - ops.log_softmax(logits, axis=-1)
    correct = ops.cast(ops.one_hot(labels, logits.shape[-1]), "bool")[:, None, :]
    of_correct = ops.where(correct, loss, float("inf"))
    of_others = ops.where(correct, float("inf"), loss)
    best = ops.argmin(ops.min(of_correct, axis=-1), axis=-1)
    offending = ops.argmin(ops.min(of_others, axis=-1), axis=-1)
    return best, offending
