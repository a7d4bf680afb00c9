"""One step of training and of testing (section 2.2): search outside the tape, gradient on the chosen patches only."""

import keras
import tensorflow as tf

from keras_glimpse.ops.geometry import (
    border_distance,
    candidate_locations,
    cell_locations,
    extent,
    is_inside,
    relative_sides,
    search_grid,
    stride_in_pixels,
)
from keras_glimpse.ops.labels import label_shares
from keras_glimpse.ops.runtime import TENSORFLOW, for_runtime
from keras_glimpse.training.objective import cross_entropy


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
        evidence, locations, correct = look_until_stage(model, images, shares)
        is_soft = model.stage.searches and model.assignment == "soft"
        if is_soft:
            terms, predicted_logits, places = _soft_terms(model, images, shares, evidence)
        elif model.stage.searches:
            with tape.stop_recording():
                patches, places, predicted_logits = search(model, images, shares, evidence, locations)
        else:  # Section 2.2.2: lambda is infinite, the place is the predicted one.
            patches, places = model.crop(images, locations[-1], runtime=TENSORFLOW)[:, None], locations[-1][:, None]
        if not is_soft:
            logits = model.try_glimpse(evidence, patches, places, training=True)
            if not model.stage.searches:
                predicted_logits = logits[:, 0]
            terms = _loss_terms(model, evidence, logits, shares, locations, places, images.shape)
        if weights is not None:
            terms = {name: weights * values for name, values in terms.items()}
        regularization = _regularization(model)
        loss = _global_mean(terms["loss"]) + regularization / tf.distribute.get_strategy().num_replicas_in_sync
        loss = model.optimizer.scale_loss(loss)
    model.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    terms["loss"] += regularization
    correct.append(_is_correct(predicted_logits, shares))
    moved = tf.norm((places[:, 0] - locations[-1]) * extent(images.shape), axis=-1)
    distances = {"moved_px": moved, "border_px": border_distance(locations[-1], images.shape)}
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
    border = border_distance(seen["locations"][:, -1], images.shape)
    return {"loss": loss} | accuracies | {"border_px": border}, logits[-1]


def training_measures(stage, contrastive: bool, assignment: str = "hard") -> list[str]:
    """What `training_step` measures in a stage. `GlimpseClassifier.compile` documents the names."""
    parts = ["low_res_loss"] * stage.trains_low_res
    if stage.searches and assignment == "soft":
        parts += ["marginal_loss", "map_loss", "background_loss"]
    else:
        parts += ["best_loss"]
    if stage.searches and assignment == "hard":
        parts += ["offending_loss"] * contrastive + ["location_loss"]
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


def look_until_stage(model, images, shares):
    """Runs all that precedes the glimpse of this stage; only what the stage trains is in training mode."""
    stage = model.stage
    locate = for_runtime(model.locate, TENSORFLOW)
    evidence = for_runtime(model.first_look, TENSORFLOW)(images, training=stage.trains_low_res)
    correct = [_is_correct(model.combine(evidence), shares)]
    locations = [locate(evidence)]
    for _ in range(stage.glimpse):
        evidence = model.glimpse(evidence, model.crop(images, locations[-1], runtime=TENSORFLOW), locations[-1])
        # With weights shared by all glimpses, the earlier ones are held fixed all the same (section 2.2.1).
        evidence = keras.tree.map_structure(tf.stop_gradient, evidence)
        correct.append(_is_correct(model.combine(evidence), shares))
        locations.append(locate(evidence))
    return evidence, locations, correct


def search(model, images, shares, evidence, locations):
    """The E step: patches and places of z* and, if contrastive, z-; and the logits at the prediction itself."""
    *previous, predicted = locations
    stride = stride_in_pixels(model.search_stride, images.shape)
    offsets = search_grid(model.search_size, stride)
    patches = model.crop.candidates(images, predicted, model.search_size, stride, TENSORFLOW)
    places = candidate_locations(predicted, offsets, images.shape)
    logits = model.try_glimpse(evidence, patches, places, training=False)
    penalty = model.objective.place_penalty(predicted, places, previous, relative_sides(images.shape))
    penalty = tf.where(is_inside(places), penalty, float("inf"))  # Places outside the image are no candidates.
    low_res = evidence.low_res if model.stage.trains_low_res else None
    index = model.objective.choose_places(logits, shares, penalty, low_res)
    patches, places = (tf.gather(values, index, axis=1, batch_dims=1) for values in (patches, places))
    return patches, places, logits[:, len(offsets) // 2]


def _loss_terms(model, evidence, logits, shares, locations, places, image_shape):
    """The terms of the objective that the stage has."""
    *previous, predicted = locations
    penalty = None
    if model.stage.searches:
        penalty = model.objective.place_penalty(predicted, places[:, :1], previous, relative_sides(image_shape))[:, 0]
    low_res = evidence.low_res if model.stage.trains_low_res else None
    return model.objective.loss_terms(logits, shares, penalty, low_res)


def _soft_terms(model, images, shares, evidence):
    """The terms of the soft E step; the logits at the peak of the map, and the most probable place afterwards."""
    log_map = model.log_map(evidence)
    logits = model.try_everywhere(images, evidence, training=True, runtime=TENSORFLOW)
    low_res = evidence.low_res if model.stage.trains_low_res else None
    alone = logits - evidence.low_res[:, None]  # TODO: of the glimpse network alone, for later glimpses and "uniform" too
    terms = model.objective.soft_loss_terms(log_map, alone, shares, low_res)
    predicted_logits = tf.gather(logits, tf.argmax(log_map, axis=-1), axis=1, batch_dims=1)
    best = tf.argmax(log_map - cross_entropy(alone, shares[:, None]), axis=-1)
    places = tf.gather(tf.constant(cell_locations(evidence.hidden.shape)), best)
    return terms, predicted_logits, places[:, None]


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
