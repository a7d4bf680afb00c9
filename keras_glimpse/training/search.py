"""The E step of section 2.2: which places of each image to train on, with the weights fixed."""

from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_glimpse._compat import batches_seen
from keras_glimpse.ops.geometry import (
    array,
    grid,
    interpolate,
    is_inside,
    places_of,
    relative_sides,
    shape_of,
    stride_in_pixels,
)
from keras_glimpse.ops.runtime import TENSORFLOW
from keras_glimpse.sources.batches import is_read_in_parts
from keras_glimpse.training.objective import SAMPLES

EVERYWHERE = "image"  # The `search_size` of a search over the whole image.


class Candidates(NamedTuple):
    """Places that the next glimpse might look at, and what it would say there.

    Attributes:
        places: Tensor `[batch or 1, n, 2]`.
        outputs: Tensor `[batch, n, num_classes]`, o^{H_n} at each.
        patches: Tensor `[batch, n, size, size, channels]`; `None` if one pass over the image saw them all.
        predicted: Tensor `[batch, num_classes]`, o^{H_n} at the predicted location.
        cell: Array or tensor `[2]`, the distance between places of a grid over the image; `None` of one around the prediction.
        proposal: Tensor `[batch, n]`, log q(z), if the candidates were drawn from q; 0 if they are all that there are.
    """

    places: tf.Tensor
    outputs: tf.Tensor
    patches: tf.Tensor | None
    predicted: tf.Tensor
    cell: np.ndarray | tf.Tensor | None
    proposal: tf.Tensor | float = 0.0


class Chosen(NamedTuple):
    """The places to train on.

    Attributes:
        places: Tensor `[batch, k, 2]`: z* and z-; or samples of the posterior and of the background.
        patches: Tensor `[batch, k, size, size, channels]`.
        best: Tensor `[batch, 2]`, z*, or the most probable place.
        posterior: Tensor `[batch, n]`, r(z) of all candidates of a soft assignment; `None` of a hard one.
    """

    places: tf.Tensor
    patches: tf.Tensor
    best: tf.Tensor
    posterior: tf.Tensor | None


def search(model, images, shares, evidence, locations) -> tuple[Candidates, Chosen]:
    """The E step; `locations` are those of the glimpses so far, the last one predicted for this one."""
    found = _candidates(model, images, evidence, locations[-1], model.search_samples)
    penalty = _penalty(model, images, evidence, locations, found)
    if model.assignment == "soft":
        posterior = model.objective.posterior(found.outputs, shares, penalty, found.proposal)
        best = _most_probable(posterior * tf.exp(found.proposal))  # Without the weights of drawn candidates.
        places, patches = _sample(model, images, shares, found, penalty, posterior, best)
        return found, Chosen(places, patches, _at(found.places, best[:, None])[:, 0], posterior)
    index = _best_and_offending(model, model.stage, shares, evidence, found, penalty)
    places = _at(found.places, index)
    return found, Chosen(places, _patches(model, images, found, index, places), places[:, 0], None)


def best_places(model, stage, images, shares, evidence, locations) -> tf.Tensor:
    """`[batch, 2]`, `Chosen.best` of `search` in a stage, without patches to train on."""
    found = _candidates(model, images, evidence, locations[-1])
    penalty = _penalty(model, images, evidence, locations, found)
    if model.assignment == "soft":
        index = _most_probable(model.objective.posterior(found.outputs, shares, penalty))[:, None]
    else:
        index = _best_and_offending(model, stage, shares, evidence, found, penalty)
    return _at(found.places, index)[:, 0]


def place_penalty(model, images, evidence, locations, places) -> tf.Tensor:
    """The loss of places themselves, `[batch, n]`: minus the logarithm of their prior, and eq. 18."""
    *previous, predicted = locations
    log_map = model.log_map(evidence)
    prior = None if log_map is None else interpolate(log_map, places)
    return model.objective.place_penalty(predicted, places, previous, relative_sides(shape_of(images)), prior)


def _candidates(model, images, evidence, predicted, samples=None) -> Candidates:
    """Evaluates the next glimpse network at a grid over the image or around the prediction, in inference.

    `samples` of the grid over the image are drawn, if it is given.
    """
    if model.search_size == EVERYWHERE:
        cells = _cells(model, images, evidence)
        rows, columns = grid(cells)
        patches = model.patches(images, predicted, TENSORFLOW)
        here = model.outputs_at(evidence, patches[:, None], predicted[:, None])[:, 0]
        places = tf.convert_to_tensor(places_of(rows, columns))[None]
        if samples:
            places, proposal = _draw(model, evidence, places, samples)
            outputs = model.outputs_at(evidence, model.crop_at(images, places, TENSORFLOW), places)
            return Candidates(places, outputs, None, here, 1 / array(cells), proposal)
        outputs = model.outputs_everywhere(images, evidence, rows, columns, TENSORFLOW)
        return Candidates(places, outputs, None, here, 1 / array(cells))
    stride = stride_in_pixels(model.search_stride, shape_of(images))
    places, patches = model.candidates(images, predicted, model.search_size, stride, TENSORFLOW)
    outputs = model.outputs_at(evidence, patches, places)
    return Candidates(places, outputs, patches, outputs[:, model.search_size**2 // 2], None)


def _draw(model, evidence, places, count):
    """`[batch, count, 2]` of the places, and log q(z): equal parts of the distributions of `_proposals`."""
    proposals = _proposals(model, evidence, places)
    proposal = tf.math.log(tf.add_n(proposals) / len(proposals))
    seed = tf.random.experimental.stateless_fold_in(_seeds(model, 3)[0], 1)  # Of none of the draws of `_sample`.
    index = tf.random.stateless_categorical(proposal, count, seed, dtype=tf.int32)
    index = tf.minimum(index, tf.shape(places)[1] - 1)  # Of NaN, one more than there are is drawn.
    return _at(places, index), tf.gather(proposal, index, batch_dims=1)


def _proposals(model, evidence, places):
    """`[batch, places]` each: even; the prior of the map, if there is one; where features stand out, if they have places.

    Most places of a large image look alike and show nothing. Before the map knows anything, even draws hardly meet an object.
    """
    even = tf.fill([tf.shape(evidence.low_res)[0], tf.shape(places)[1]], 1 / tf.cast(tf.shape(places)[1], tf.float32))
    found, log_map = [even], model.log_map(evidence)
    if log_map is not None:
        found.append(tf.nn.softmax(interpolate(log_map, places)))
    if len(evidence.hidden.shape) == 4:  # Then the places are their cells.
        shape = tf.concat([tf.shape(even), evidence.hidden.shape[3:]], axis=0)
        features = tf.reshape(tf.cast(evidence.hidden, tf.float32), shape)
        distance = tf.norm(features - tf.reduce_mean(features, axis=1, keepdims=True), axis=-1) + 1e-6
        found.append(distance / tf.reduce_sum(distance, axis=1, keepdims=True))
    return found


def _penalty(model, images, evidence, locations, found):
    """`place_penalty` of the candidates; infinite outside the image, where there are none."""
    penalty = place_penalty(model, images, evidence, locations, found.places)
    return tf.where(is_inside(found.places), penalty, float("inf"))


def _best_and_offending(model, stage, shares, evidence, found, penalty):
    """z* and, if contrastive, z-, as numbers of candidates."""
    low_res = evidence.low_res if stage.trains_low_res else None
    nearby = None if found.cell is None else _neighbours(found)
    return model.objective.choose_places(model.combined(evidence, found.outputs), shares, penalty, low_res, nearby)


def _most_probable(posterior):
    return tf.argmax(posterior, axis=-1, output_type=tf.int32)


def _sample(model, images, shares, found, penalty, posterior, best):
    """Places drawn from the posterior, one from all candidates, and if contrastive z-; and their patches.

    Here z- may be anywhere in the image. Otherwise a class can hide where there is no object: the map sends the images that the
    thumbnail takes for it to such a place, and the glimpse network learns that the place means that class.
    """
    outside = tf.where(tf.math.is_finite(penalty), 0.0, float("inf"))
    draw = partial(tf.random.stateless_categorical, dtype=tf.int32)
    seeds = _seeds(model, 3)
    index = [draw(tf.math.log(posterior), SAMPLES, seeds[0]), draw(-outside - found.proposal, 1, seeds[1])]
    if model.contrastive:
        loss = outside[..., None] - tf.nn.log_softmax(found.outputs)
        index.append(model.objective.offending_place(loss, shares, best)[:, None])
    index = tf.minimum(tf.concat(index, axis=1), tf.shape(posterior)[1] - 1)  # Of NaN, one more than there are is drawn.
    places = _at(found.places, index)
    if found.cell is not None:  # Any place of the cell: the peak of a map is not the centre of one either.
        places += found.cell * tf.random.stateless_uniform(tf.shape(places), seeds[2], -0.5, 0.5)
    return places, _patches(model, images, found, index, places)


def _seeds(model, count):
    """Seeds of stateless operations: of this step, by which training resumes with the same ones, and of this replica."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    first = model.seed + count * tf.cast(batches_seen(model.optimizer), tf.int64)
    # XLA has no kernel for 64-bit seeds.
    return [tf.stack([tf.cast(first + i, tf.int32), tf.cast(replica, tf.int32)]) for i in range(count)]


def _patches(model, images, found, index, places):
    return model.crop_at(images, places, TENSORFLOW) if found.patches is None else _at(found.patches, index)


def _cells(model, images, evidence):
    """Rows and columns of a grid over the image: the cells of the features, if they have places."""
    if len(evidence.hidden.shape) == 4:
        return evidence.hidden.shape[1:3]
    shape = shape_of(images)
    stride = stride_in_pixels(model.search_stride, shape)
    cells = [-(-side // stride) for side in shape[1:3]]
    return [tf.reduce_max(each) for each in cells] if is_read_in_parts(images) else cells


def _neighbours(found):
    """Which places are next to which, `[batch or 1, n, n]`."""
    apart = tf.abs(found.places[:, :, None] - found.places[:, None]) / found.cell
    return tf.reduce_max(apart, axis=-1) < 1.5


def _at(values, index):
    values = tf.broadcast_to(values, tf.concat([tf.shape(index)[:1], tf.shape(values)[1:]], 0))
    return tf.gather(values, index, axis=1, batch_dims=1)
