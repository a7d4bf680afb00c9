"""One step of training and of testing (section 2.2): search outside the tape, gradient on the chosen patches only."""

import keras
import tensorflow as tf

from keras_glimpse.geometry import (
    border_distance,
    candidate_locations,
    extent,
    is_inside,
    relative_sides,
    search_grid,
    stride_in_pixels,
)
from keras_glimpse.labels import label_shares
from keras_glimpse.losses import cross_entropy, diversity_penalty, location_penalty
from keras_glimpse.search import best_and_offending


def train_step(model, data) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Alternates once between the two steps of section 2.2 on one batch, for the stage that `model` is compiled for.

    Args:
        model: a compiled `GlimpseClassifier`.
        data: `(images, labels)` or `(images, labels, sample_weight)`.

    Returns:
        `(measures, logits)`: measures `[batch]` in a dict, as named by `train_measures`, and the logits at the predicted
        place, `[batch, num_classes]`.
    """
    images, shares, weights = _unpack(model, data)
    images = model.prepare(images, training=True)
    variables = model.trainable_variables
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in variables])
        evidence, locations, correct = _look_until_stage(model, images, shares)
        if model.stage.searches:
            with tape.stop_recording():
                patches, places, guess = _search(model, images, shares, evidence, locations)
        else:  # Section 2.2.2: lambda is infinite, the place is the predicted one.
            patches, places = model.crop(images, locations[-1])[:, None], locations[-1][:, None]
        logits = model.try_glimpse(evidence, patches, places, training=True)
        if not model.stage.searches:
            guess = logits[:, 0]
        parts = _loss(model, evidence, logits, shares, locations, places, images.shape)
        if weights is not None:
            parts = {name: weights * values for name, values in parts.items()}
        regularization = _regularization(model)
        loss = _global_mean(parts["loss"]) + regularization / tf.distribute.get_strategy().num_replicas_in_sync
        loss = model.optimizer.scale_loss(loss)
    model.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    parts["loss"] += regularization
    moved = tf.norm((places[:, 0] - locations[-1]) * extent(images.shape), axis=-1)
    correct.append(_correct(guess, shares))
    border = border_distance(locations[-1], images.shape)
    return parts | _accuracies(correct) | {"moved_px": moved, "border_px": border}, guess


def test_step(model, data) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Measures of what the model answers, looking where it says, for one batch; returns as `train_step`."""
    images, shares, weights = _unpack(model, data)
    images = model.prepare(images)
    evidence = model.first_look(images)
    correct = [_correct(model.combine(evidence), shares)]
    for _ in range(model.active_glimpses):
        location = model.locate(evidence)
        evidence = model.glimpse(evidence, model.crop(images, location), location)
        logits = model.combine(evidence)
        correct.append(_correct(logits, shares))
    loss = cross_entropy(logits, shares)
    if weights is not None:
        loss *= weights
    return {"loss": loss} | _accuracies(correct) | {"border_px": border_distance(location, images.shape)}, logits


def train_measures(stage, contrastive: bool) -> list[str]:
    """What `train_step` measures in a stage. What the names mean is told in `GlimpseClassifier.compile`."""
    parts = ["low_res_loss"] * stage.trains_low_res + ["best_loss"]
    if stage.searches:
        parts += ["offending_loss"] * contrastive + ["location_loss"]
    accuracies = [f"accuracy_{n}" for n in range(stage.glimpse + 2)]
    return ["loss", *parts, *accuracies, *["moved_px"] * stage.searches, "border_px"]


def test_measures(glimpses: int) -> list[str]:
    """What `test_step` measures of so many glimpses."""
    return ["loss", *(f"accuracy_{n}" for n in range(glimpses + 1)), "border_px"]


def _unpack(model, data):
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        weights = tf.cast(tf.reshape(weights, [-1]), tf.float32)
    return images, label_shares(labels, model.num_classes), weights


def _look_until_stage(model, images, shares):
    """Runs all that precedes the glimpse of this stage; only what the stage trains is in training mode."""
    stage = model.stage
    evidence = model.first_look(images, training=stage.trains_low_res)
    correct = [_correct(model.combine(evidence), shares)]
    locations = [model.locate(evidence)]
    for _ in range(stage.glimpse):
        evidence = model.glimpse(evidence, model.crop(images, locations[-1]), locations[-1])
        # With weights shared by all glimpses, the earlier ones are held fixed all the same (section 2.2.1).
        evidence = keras.tree.map_structure(tf.stop_gradient, evidence)
        correct.append(_correct(model.combine(evidence), shares))
        locations.append(model.locate(evidence))
    return evidence, locations, correct


def _search(model, images, shares, evidence, locations):
    """The E step: patches and places of z* and, if contrastive, z-; and the logits at the prediction itself."""
    stride = stride_in_pixels(model.search_stride, images.shape)
    offsets = search_grid(model.search_size, stride)
    patches = model.crop.candidates(images, locations[-1], model.search_size, stride)
    places = candidate_locations(locations[-1], offsets, images.shape)
    logits = model.try_glimpse(evidence, patches, places, training=False)
    penalty = _penalty(model, locations, places, images.shape)
    penalty = tf.where(is_inside(places), penalty, float("inf"))[..., None]  # Places outside the image are no candidates.
    if model.stage.trains_low_res:  # E0, a part of L, does not depend on the place, but on the class: it counts in eq. 15.
        penalty -= tf.nn.log_softmax(evidence.low_res)[:, None]
    chosen = best_and_offending(logits, shares, penalty)[: 1 + model.contrastive]
    index = tf.stack(chosen, axis=1)
    patches, places = (tf.gather(values, index, axis=1, batch_dims=1) for values in (patches, places))
    return patches, places, logits[:, len(offsets) // 2]


def _penalty(model, locations, places, image_shape):
    """The terms of the loss that depend on the place alone, `[batch, candidates]` (eqs. 9 and 18)."""
    sides = relative_sides(image_shape)
    penalty = location_penalty(locations[-1][:, None], places, model.location_weight, sides)
    if len(locations) > 1 and model.diversity_weight:
        previous = tf.stack(locations[:-1], axis=1)
        penalty += diversity_penalty(places, previous, model.diversity_weight, model.diversity_variance, sides)
    return penalty


def _loss(model, evidence, logits, shares, locations, places, image_shape):
    """The loss of eq. 16 (first stage), eqs. 17 and 18 (later ones) or section 2.2.2, whole and in parts."""
    errors = cross_entropy(logits, shares[:, None])
    parts = {"best_loss": errors[:, 0]}
    if model.stage.trains_low_res:
        parts["low_res_loss"] = cross_entropy(evidence.low_res, shares)
    if model.stage.searches:
        parts["location_loss"] = _penalty(model, locations, places[:, :1], image_shape)[:, 0]
        if model.contrastive:
            parts["offending_loss"] = errors[:, 1]
    return {"loss": sum(parts.values())} | parts


def _global_mean(losses):
    """The sum over the global batch divided by its size, as this replica's share: n replicas then equal one."""
    size = tf.cast(tf.shape(losses)[0], losses.dtype)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        size = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, size)
    return tf.reduce_sum(losses) / size


def _regularization(model):
    """What the trained networks add to the loss by themselves (`kernel_regularizer`, `add_loss`)."""
    return sum(tf.cast(tf.reduce_sum(loss), tf.float32) for layer in model.trained_layers for loss in layer.losses)


def _correct(logits, shares):
    return tf.cast(tf.argmax(logits, axis=-1) == tf.argmax(shares, axis=-1), tf.float32)


def _accuracies(correct):
    return {f"accuracy_{n}": values for n, values in enumerate(correct)}
