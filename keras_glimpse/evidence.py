"""What is known of an image after some glimpses, and how it is combined (eqs. 5, 6 and 8)."""

from typing import NamedTuple

import tensorflow as tf
from keras import ops

AVERAGING = ("paper", "uniform")
LOCATION_INPUTS = ("logits", "probabilities")


class Evidence(NamedTuple):
    """The outputs of the networks so far, float32 logits `[..., num_classes]`.

    Attributes:
        hidden: h^L, the features of the low-resolution network.
        low_res: o^L, its logits.
        glimpses: o^{H_1}, o^{H_2}, ..., the logits of the glimpses looked at, in order.
        locations: where they looked, `[..., 2]` each.
    """

    hidden: tf.Tensor
    low_res: tf.Tensor
    glimpses: tuple = ()
    locations: tuple = ()


def combine(evidence: Evidence, averaging: str) -> tf.Tensor:
    """The class logits of eqs. 5 and 6: averaged logits, which is a geometric mean of the distributions.

    "paper" is o^L + 1/n sum_j o^{H_j}; "uniform" is the plain mean of all n + 1 (section 2.1: "worked comparably well").
    """
    if not evidence.glimpses:
        return evidence.low_res
    total = sum(evidence.glimpses)
    if averaging == "uniform":
        return (evidence.low_res + total) / (1 + len(evidence.glimpses))
    return evidence.low_res + total / len(evidence.glimpses)


def class_evidence(evidence: Evidence, location_input: str, averaging: str) -> tf.Tensor:
    """The class evidence that a location head gets (eqs. 3 and 8): o^L + sum_j o^{H_j}, a sum and not a mean.

    As printed, eq. 8 has the location of glimpse n depend on glimpse n itself; we sum over the glimpses before it, which
    agrees with eq. 3. "probabilities" has y^L and y^{H_j} (eqs. 2 and 6) in place of the logits (end of section 2.1).
    """
    if location_input == "logits":
        return evidence.low_res + sum(evidence.glimpses)
    prefixes = [evidence._replace(glimpses=evidence.glimpses[:n]) for n in range(len(evidence.glimpses) + 1)]
    return sum(ops.softmax(combine(prefix, averaging)) for prefix in prefixes)
