"""The outputs of the networks after some glimpses, and how they are combined (eqs. 5, 6 and 8)."""

from typing import NamedTuple

import tensorflow as tf
from keras import ops

AVERAGING = ("paper", "uniform")
LOCATION_INPUTS = ("logits", "probabilities")


class Evidence(NamedTuple):
    """Outputs of the networks so far. Logits are float32, `[..., num_classes]`.

    Attributes:
        hidden: Tensor, h^L, the features of the low-resolution network.
        low_res: Tensor, o^L, the logits of the low-resolution network.
        glimpses: Tuple of tensors, o^{H_1}, o^{H_2}, ..., the logits of the glimpses so far, in order.
        locations: Tuple of tensors `[batch, 2]`, where these glimpses were.
    """

    hidden: tf.Tensor
    low_res: tf.Tensor
    glimpses: tuple = ()
    locations: tuple = ()


def combine(evidence: Evidence, averaging: str) -> tf.Tensor:
    """Class logits of eqs. 5 and 6: an average of logits, which is a geometric mean of the distributions.

    Args:
        evidence: The `Evidence` after n glimpses.
        averaging: `"paper"`, o^L + 1/n sum_j o^{H_j}, or `"uniform"`, the mean of all n + 1 (section 2.1: "worked comparably
            well").

    Returns:
        Float32 tensor `[..., num_classes]`.
    """
    if not evidence.glimpses:
        return evidence.low_res
    total = sum(evidence.glimpses)
    if averaging == "uniform":
        return (evidence.low_res + total) / (1 + len(evidence.glimpses))
    return evidence.low_res + total / len(evidence.glimpses)


def class_evidence(evidence: Evidence, location_input: str, averaging: str) -> tf.Tensor:
    """Class evidence for a location head (eqs. 3 and 8): o^L + sum_j o^{H_j}, a sum and not a mean.

    As printed, eq. 8 has the location of glimpse n depend on glimpse n itself; here the sum is over earlier glimpses, which
    agrees with eq. 3.

    Args:
        evidence: The `Evidence` after the glimpses before this one.
        location_input: `"logits"`, or `"probabilities"`: y^L and y^{H_j} (eqs. 2 and 6) instead of logits (end of section 2.1).
        averaging: As in `combine`, for the probabilities.

    Returns:
        Float32 tensor `[..., num_classes]`.
    """
    if location_input == "logits":
        return evidence.low_res + sum(evidence.glimpses)
    prefixes = [evidence._replace(glimpses=evidence.glimpses[:n]) for n in range(len(evidence.glimpses) + 1)]
    return sum(ops.softmax(combine(prefix, averaging)) for prefix in prefixes)
