"""One step of training and of testing (section 2.2): search outside the tape, gradient on the chosen patches only."""

from functools import partial

import keras
import tensorflow as tf

from keras_glimpse.ops.geometry import border_distance, extent, shape_of
from keras_glimpse.ops.labels import label_shares
from keras_glimpse.ops.runtime import TENSORFLOW, for_runtime
from keras_glimpse.training.objective import cross_entropy
from keras_glimpse.training.search import best_places, place_penalty, search


def training_step(model, data) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Alternates once between the two steps of section 2.2 on one batch, for the stage that `model` is compiled for.

    Args:
        model: a compiled `GlimpseClassifier`.
        data: `(images, labels)` or `(images, labels, sample_weight)`.

    Returns:
        `(measures, logits)`: measures `[batch]` in a dict, as named by `training_measures`, and the logits at the predicted
        place, `[batch, num_classes]`.
    """
    images, shares, weights = _unpack(model, data)
    images = model.prepare(images, training=True)
    variables = model.trainable_variables
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in variables])
        evidence, locations, correct = look_until_stage(model, model.stage, images, shares)
        if model.stage.searches:
            terms, predicted_logits, best = _search_and_learn(model, images, shares, evidence, locations, tape)
        else:  # Section 2.2.2: lambda is infinite, the place is the predicted one.
            terms, predicted_logits, best = _learn_as_predicted(model, images, shares, evidence, locations)
        if weights is not None:
            terms = {name: weights * values for name, values in terms.items()}
        regularization = _regularization(model)
        loss = _global_mean(terms["loss"]) + regularization / tf.distribute.get_strategy().num_replicas_in_sync
        loss = model.optimizer.scale_loss(loss)
    model.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    terms["loss"] += regularization
    correct.append(_is_correct(predicted_logits, shares))
    moved = tf.norm((best - locations[-1]) * extent(shape_of(images)), axis=-1)
    distances = {"moved_px": moved, "border_px": border_distance(locations[-1], shape_of(images))}
    return terms | _accuracies(correct) | distances, predicted_logits


def evaluation_step(model, data) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Measures of what the model answers, looking where it says, for one batch; returns as `training_step`."""
    images, shares, weights = _unpack(model, data)
    images = model.prepare(images)
    seen = model.look_at_prepared(images, runtime=TENSORFLOW)
    logits = tf.unstack(seen["logits"], axis=1)
    loss = cross_entropy(logits[-1], shares)
    if weights is not None:
        loss *= weights
    accuracies = _accuracies([_is_correct(each, shares) for each in logits])
    border = border_distance(seen["locations"][:, -1], shape_of(images))
    return {"loss": loss} | accuracies | {"border_px": border}, logits[-1]


def places_for_labels(model, stage, images, labels) -> tf.Tensor:
    """`[batch, 2]`, the best place of each image that the E step of a stage would choose, given its label."""
    images, shares = model.prepare(images), label_shares(labels, model.num_classes)
    evidence, locations, _ = look_until_stage(model, stage, images, shares, training=False)
    return best_places(model, stage, images, shares, evidence, locations)


def training_measures(stage, offends: bool) -> list[str]:
    """What `training_step` measures in a stage. `GlimpseClassifier.compile` documents the names."""
    parts = ["low_res_loss"] * stage.trains_low_res + ["best_loss"]
    if stage.searches:
        parts += ["offending_loss"] * offends + ["location_loss"]
    accuracies = [f"accuracy_{n}" for n in range(stage.glimpse + 2)]
    return ["loss", *parts, *accuracies, *["moved_px"] * stage.searches, "border_px"]


def evaluation_measures(glimpses: int) -> list[str]:
    """What `evaluation_step` measures of so many glimpses."""
    return ["loss", *(f"accuracy_{n}" for n in range(glimpses + 1)), "border_px"]


def _unpack(model, data):
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        weights = tf.cast(tf.reshape(weights, [-1]), tf.float32)
    return images, label_shares(labels, model.num_classes), weights


def look_until_stage(model, stage, images, shares, training=True):
    """Runs all that precedes the glimpse of a stage; only what the stage trains is in training mode."""
    locate = for_runtime(model.locate, TENSORFLOW)
    evidence = for_runtime(model.first_look, TENSORFLOW)(images, training=training and stage.trains_low_res)
    correct = [_is_correct(model.combine(evidence), shares)]
    locations = [locate(evidence)]
    for _ in range(stage.glimpse):
        evidence = model.glimpse(evidence, model.patches(images, locations[-1], TENSORFLOW), locations[-1])
        # With weights shared by all glimpses, the earlier ones are held fixed all the same (section 2.2.1).
        evidence, locations = keras.tree.map_structure(tf.stop_gradient, (evidence, locations))
        correct.append(_is_correct(model.combine(evidence), shares))
        locations.append(locate(evidence))
    return evidence, locations, correct


def _search_and_learn(model, images, shares, evidence, locations, tape):
    """The E step with the weights fixed, then the terms of the loss at the places that it chose."""
    with tape.stop_recording():
        found, chosen = search(model, images, shares, evidence, locations)
        predicted_logits = model.combined(evidence, found.predicted[:, None])[:, 0]
    low_res = evidence.low_res if model.stage.trains_low_res else None
    penalty = partial(place_penalty, model, images, evidence, locations)
    outputs = model.outputs_at(evidence, chosen.patches, chosen.places, training=True)
    if chosen.posterior is None:
        logits = model.combined(evidence, outputs)
        terms = model.objective.loss_terms(logits, shares, penalty(chosen.places[:, :1])[:, 0], low_res)
    else:
        terms = model.objective.soft_loss_terms(outputs, shares, penalty(found.places), chosen.posterior, low_res)
    return terms, predicted_logits, chosen.best


def _learn_as_predicted(model, images, shares, evidence, locations):
    patches = model.patches(images, locations[-1], TENSORFLOW)[:, None]
    logits = model.combined(evidence, model.outputs_at(evidence, patches, locations[-1][:, None], training=True))
    return model.objective.loss_terms(logits, shares), logits[:, 0], locations[-1]


def _global_mean(losses):
    """The sum over the global batch divided by its size, as this replica's share: n replicas then equal one."""
    size = tf.cast(tf.shape(losses)[0], losses.dtype)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        size = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, size)
    return tf.reduce_sum(losses) / size


def _regularization(model):
    """What the trained networks add to the loss by themselves (`kernel_regularizer`, `add_loss`)."""
    return sum(tf.cast(tf.reduce_sum(loss), tf.float32) for layer in model.trained_layers for loss in layer.losses)


def _is_correct(logits, shares):
    return tf.cast(tf.argmax(logits, axis=-1) == tf.argmax(shares, axis=-1), tf.float32)


def _accuracies(correct):
    return {f"accuracy_{n}": values for n, values in enumerate(correct)}
