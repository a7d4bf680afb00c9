"""The objective of training, whole: eqs. 9 to 12 and 15 to 18.

One step alternates between two (section 2.2). With the weights fixed, it chooses among the candidates around the predicted
location l the best place z* and the most offending one z- (`choose_places`). With the places fixed, it follows the gradient of

    L = E0 + En(z*) + En(z-) + lambda/2 |l - z*|^2 + gamma sum_j exp(-|z* - l_j|^2 / (2 sigma^2))       (`loss_terms`)

    low_res_loss    E0       eq. 10, of the low-resolution network        stage 1 only: eq. 16
    best_loss       En(z*)   eq. 10, after n glimpses, the last at z*     every stage: eqs. 16 and 17
    offending_loss  En(z-)   the same, the last at z-                     unless contrastive=False
    location_loss   the last two terms, eq. 9 and eq. 18                  gamma from stage 2 on: eq. 18

With `assignment="soft"` the place is a hidden variable with a prior p(z) and the likelihood p(y | z) of the label by the
glimpse network alone. The E step is their posterior r(z) (`posterior`); eqs. 11 and 12 take its largest value, and eq. 9 is a
Gaussian prior: -log p(z) = lambda/2 |l - z|^2. The prior of a `LocationMap` is the map. With a `sharpness` b, r(z) is
proportional to p(z) p(y | z)^b: the label counts as if it had been seen b times. (With p(z)^b too, a map would be trained
towards its own peak before the glimpse network can tell one place from another.) The gradient is that of

    L = E0 + mean over z ~ r of En(z) + (En(z0) + En(z-)) / 2 - sum_z r(z) log p(z),

in which, with b = 1, the mean over r and the last sum have the gradient of -log sum_z p(z) p(y | z), the likelihood of the
label. At z0, drawn from all places, the network learns to say no more than the classes' frequencies; z- is that of eq. 15,
without the prior.

Fine-tuning has `best_loss` alone, at the predicted place: lambda is infinite (section 2.2.2).
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

SAMPLES = 4  # Places that a soft assignment draws from the posterior


class Objective(NamedTuple):
    """The numbers of the objective.

    Attributes:
        location_weight: lambda of eq. 9.
        diversity_weight: gamma of eq. 18.
        diversity_variance: sigma^2 of eq. 18, in squared units of the image's longer side.
        contrastive: whether there is a z- (eqs. 15 and 16).
        sharpness: the exponent of p(y | z) in a soft assignment.
    """

    location_weight: float
    diversity_weight: float
    diversity_variance: float
    contrastive: bool
    sharpness: float = 1.0

    def place_penalty(self, predicted, places, previous: list, sides: np.ndarray, log_prior=None) -> tf.Tensor:
        """The terms of the loss that depend on the place alone, `[batch, candidates]` (eqs. 9 and 18).

        Args:
            predicted: `[batch, 2]`, l, the location that the location head gave.
            places: `[batch, candidates, 2]`, z.
            previous: l_j, `[batch, 2]` each, the locations of the glimpses before this one.
            sides: `[2]`, the sides of the image, the longer one being 1: distances are alike in both directions.
            log_prior: `[batch, candidates]`, log p(z) of a `LocationMap`, which takes the place of eq. 9.
        """
        penalty = 0.5 * self.location_weight * _squared_distance(places, predicted, sides) if log_prior is None else -log_prior
        if previous and self.diversity_weight:
            squared = ops.stack([_squared_distance(places, each, sides) for each in previous], axis=-1)
            penalty += self.diversity_weight * ops.sum(ops.exp(-0.5 * squared / self.diversity_variance), axis=-1)
        return penalty

    def posterior(self, outputs: tf.Tensor, shares: tf.Tensor, penalty: tf.Tensor, proposal=0.0) -> tf.Tensor:
        """The soft E step: r(z), proportional to p(z) p(y | z)^sharpness, `[batch, candidates]`.

        Args:
            outputs: `[batch, candidates, num_classes]`, the logits of the glimpse network alone.
            shares, penalty: as in `choose_places`.
            proposal: `[batch, candidates]`, log q(z), of candidates that were drawn from q: r / q is importance sampling.
        """
        return tf.nn.softmax(-self.sharpness * cross_entropy(outputs, shares[:, None]) - penalty - proposal)

    def choose_places(self, logits: tf.Tensor, shares: tf.Tensor, penalty: tf.Tensor, low_res=None, nearby=None) -> tf.Tensor:
        """The E step: z* and, if `contrastive`, z-, as numbers of candidates, `[batch, 1 or 2]`, int32.

        z* (eqs. 11 and 12) has the lowest loss for the label. z- (eq. 15) has the lowest loss for any class that the label
        rules out: there the network is most confident of something wrong. (It is z* if no class is ruled out.) Of equal
        candidates the first is taken.

        Args:
            logits: `[batch, candidates, num_classes]`, the class logits if that place were looked at.
            shares: `[batch, num_classes]`, the labels (see `label_shares`).
            penalty: `[batch, candidates]`, of `place_penalty`; infinite where there is no candidate.
            low_res: in the first stage, the logits of the low-resolution network: E0 depends on the class, not on the place.
            nearby: `[batch or 1, candidates, candidates]`, for each z* which places may be z-; None for all. Of a whole image,
                places far from z* show something else, which need not be of the label's class.

        Example:
        >>> objective = Objective(10.0, 0.01, 0.002, contrastive=True)
        >>> logits = ops.array([[[4.0, 0.0], [0.0, 4.0], [1.0, 1.0]]])  # three places, two classes
        >>> objective.choose_places(logits, ops.array([[1.0, 0.0]]), penalty=ops.zeros((1, 3))).numpy()
        array([[0, 1]], dtype=int32)
        """
        loss = penalty[..., None] - ops.log_softmax(logits, axis=-1)
        if low_res is not None:
            loss -= ops.log_softmax(low_res, axis=-1)[:, None]
        weighted = ops.where(shares[:, None] > 0, shares[:, None] * loss, 0.0)  # 0 * inf is NaN.
        best = ops.argmin(ops.sum(weighted, axis=-1), axis=-1)
        if not self.contrastive:
            return best[:, None]
        return ops.stack([best, self.offending_place(loss, shares, best, nearby)], axis=1)

    def offending_place(self, loss, shares, best, nearby=None) -> tf.Tensor:
        """z- of eq. 15, int32 `[batch]`: that of least `loss` `[batch, candidates, num_classes]` for a wrong class."""
        wrong = wrong_classes(shares[:, None])
        for_others = ops.min(ops.where(wrong, loss, float("inf")), axis=-1)
        if nearby is not None:
            nearby = ops.broadcast_to(nearby, (ops.shape(best)[0], *ops.shape(nearby)[1:]))
            near = ops.take_along_axis(nearby, best[:, None, None], axis=1)[:, 0]
            for_others = ops.where(near, for_others, float("inf"))
        return ops.where(ops.any(wrong, axis=(1, 2)), ops.argmin(for_others, axis=-1), best)

    def loss_terms(self, logits: tf.Tensor, shares: tf.Tensor, penalty=None, low_res=None) -> dict[str, tf.Tensor]:
        """The terms of the loss, by name, each `[batch]`; `loss` is their sum.

        Args:
            logits: `[batch, 1 or 2, num_classes]`, after the glimpse at z* (or at the predicted place) and that at z-.
            shares: `[batch, num_classes]`, the labels.
            penalty: `[batch]`, of `place_penalty` at z*; None in fine-tuning.
            low_res: in the first stage, the logits of the low-resolution network.
        """
        errors = cross_entropy(logits, shares[:, None])
        terms = {"best_loss": errors[:, 0]}
        if penalty is not None:
            terms["location_loss"] = penalty
        if self.contrastive and penalty is not None:
            terms["offending_loss"] = errors[:, 1]
        return _with_sum(terms, shares, low_res)

    def soft_loss_terms(self, outputs, shares, penalty, posterior, low_res=None) -> dict[str, tf.Tensor]:
        """The same for a soft assignment.

        Args:
            outputs: `[batch, SAMPLES + 1 or 2, num_classes]`, the logits of the glimpse network alone: at samples of the
                posterior, at a place drawn from all, and if `contrastive` at z-.
            shares, low_res: as in `loss_terms`.
            penalty, posterior: `[batch, candidates]`, of `place_penalty` and of `posterior`.
        """
        errors = cross_entropy(outputs, shares[:, None])
        terms = {"best_loss": ops.mean(errors[:, :SAMPLES], axis=-1)}
        terms["location_loss"] = ops.sum(ops.where(posterior > 0, posterior * penalty, 0.0), axis=-1)
        terms["offending_loss"] = ops.mean(errors[:, SAMPLES:], axis=-1)
        return _with_sum(terms, shares, low_res)


def _with_sum(terms, shares, low_res):
    if low_res is not None:
        terms["low_res_loss"] = cross_entropy(low_res, shares)
    return {"loss": sum(terms.values())} | terms


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


def wrong_classes(shares: tf.Tensor) -> tf.Tensor:
    """Which classes a label rules out, in the shape of `shares`, bool: the "incorrect" ones of eq. 15.

    Those with less than an even share, 1 / C, and never the largest. So label smoothing changes nothing, and of two images
    that MixUp has mixed both are right. At least one class is right, and unless all shares are even, one is wrong.
    """
    largest = ops.equal(shares, ops.max(shares, axis=-1, keepdims=True))
    return ops.logical_and(shares < 1.0 / shares.shape[-1], ops.logical_not(largest))


def _squared_distance(places, location, sides):
    return ops.sum(ops.square((places - location[:, None]) * sides), axis=-1)
