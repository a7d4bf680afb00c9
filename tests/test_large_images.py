"""What finds small things in large images: a search over the whole image, a map of where to look, a soft assignment."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracle import softmax
from tiers import one_fast, slow

from keras_glimpse import (
    Backbone,
    ConvGlimpseNet,
    ConvLowResNet,
    GlimpseClassifier,
    LocationHead,
    LocationMap,
    SearchSchedule,
    fit_greedy,
)
from keras_glimpse.ops.geometry import grid, interpolate, places_of
from keras_glimpse.ops.labels import label_shares
from keras_glimpse.training.objective import SAMPLES, Objective, cross_entropy
from keras_glimpse.training.search import search
from keras_glimpse.training.step import look_until_stage

SHAPE = (64, 48, 1)


@pytest.fixture
def make_large():
    def make(image_shape=SHAPE, **kwargs):
        networks = {
            "low_res_net": ConvLowResNet(3, (16, 12), (4, 6), hidden_units=8),
            "glimpse_net": ConvGlimpseNet(3, 2, (4, 6), (0, 1), 8),
            "location_head": LocationMap(4),
        }
        model = GlimpseClassifier.for_large_images(3, patch_size=16, **networks | kwargs)
        model.build((None, *image_shape))
        return model

    return make


@pytest.fixture
def images(rng):
    return rng.random((4, *SHAPE), dtype=np.float32)


LABELS = np.array([0, 1, 2, 1])


def glimpsed_at(model, images, evidence, place):
    """o^{H_n} of the patches at one place of all images, cropped."""
    places = tf.tile(tf.constant([place], tf.float32), (len(images), 1))
    return model.glimpse(evidence, model.crop(images, places), places).glimpses[-1]


# ---- All places of a grid ----


@pytest.mark.parametrize("scales", [(1, 2), (2, 4), (1,)], ids=str)
def test_all_places_in_one_pass_equal_crops(make_large, images, scales):
    """At the pixel that each place is rounded to, which is half a pixel from the centre of a cell of 4x4 pixels."""
    model = make_large(scales=scales, glimpse_net=ConvGlimpseNet(3, len(scales), (4, 6), (0, 1), 8))
    evidence = model.first_look(tf.constant(images))
    rows, columns = grid(evidence.hidden.shape[1:3])
    everywhere = model.outputs_everywhere(images, evidence, rows, columns)
    assert everywhere.shape == (4, rows.size * columns.size, 3)
    stride = 4 * max(scales)  # Of the convolutions, in pixels: other places are rounded to the nearest.
    for cell in range(0, rows.size * columns.size, 1 if max(scales) == 1 else 5):
        y, x = divmod(cell, columns.size)
        centre = np.array([(y + 0.5) * SHAPE[0] / rows.size, (x + 0.5) * SHAPE[1] / columns.size]) - 0.5
        start = np.rint((centre - (16 * max(scales) - 1) / 2) / stride) * stride
        aligned = start + (16 * max(scales) - 1) / 2
        if max(scales) > 1 and not np.allclose(aligned, centre):
            continue
        crop = glimpsed_at(model, images, evidence, aligned / np.array([SHAPE[0] - 1, SHAPE[1] - 1]))
        np.testing.assert_allclose(everywhere[:, cell], crop, atol=1e-5)


def test_networks_that_see_one_patch_at_a_time(make_model, batch):
    """Dense networks search the whole image too: every place is cropped."""
    model = make_model(search_size="image", search_stride=4)
    images = batch[0][:3]
    evidence = model.first_look(images)
    rows, columns = grid((5, 6))
    everywhere = model.outputs_everywhere(images, evidence, rows, columns)
    for cell, place in enumerate(places_of(rows, columns)):
        np.testing.assert_allclose(everywhere[:, cell], glimpsed_at(model, images, evidence, place), atol=1e-5)
    model.compile("sgd", stage=1, jit_compile=False)
    shares = label_shares(batch[1][:3], 3)
    found, chosen = search(
        model, tf.constant(images), shares, *look_until_stage(model, model.stage, tf.constant(images), shares)[:2]
    )
    np.testing.assert_allclose(found.places[0], places_of(rows, columns))  # A place every 4 pixels of 20x24.
    assert chosen.places.shape == (3, 2, 2)


def test_between_cells_the_map_is_bilinear(rng):
    cells = rng.normal(size=(2, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(interpolate(cells, places_of(*grid((4, 3)))[None]), cells.reshape(2, -1), rtol=1e-6)
    middle = np.array([[[0.5, 0.5], [0.25, 1 / 3], [0.0, 1.0], [7.0, -7.0]]], np.float32)
    means = [cells[:, 1:3, 1].mean(1), cells[:, :2, :2].mean((1, 2)), cells[:, 0, 2], cells[:, 3, 0]]
    np.testing.assert_allclose(interpolate(cells, middle), np.stack(means, axis=1), rtol=1e-5, atol=1e-6)


# ---- The E step ----


@pytest.mark.parametrize("sharpness", [1.0, 2.5])
def test_the_posterior(make_large, images, rng, sharpness):
    """r(z) = p(z) p(y | z)^b / sum, p(y | z) of the glimpse network alone, and the samples are drawn from it."""
    model = make_large(sharpness=sharpness)
    model.compile("sgd", stage=1, jit_compile=False)
    shares = label_shares(LABELS, 3)
    evidence, locations, _ = look_until_stage(model, model.stage, tf.constant(images), shares)
    found, chosen = search(model, tf.constant(images), shares, evidence, locations)
    prior = np.exp(model.log_map(evidence)).reshape(4, -1)
    likelihood = softmax(found.outputs.numpy())[np.arange(4), :, LABELS]
    expected = prior * likelihood**sharpness
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(chosen.posterior, expected, rtol=1e-4)
    np.testing.assert_array_equal(chosen.best, found.places.numpy()[0][expected.argmax(axis=1)])
    assert chosen.places.shape == (4, SAMPLES + 2, 2)
    worst = np.delete(np.moveaxis(softmax(found.outputs.numpy()), 2, 0), 0, axis=0).max(axis=0)[0].argmax()  # Label 0.
    offset = (chosen.places[0, -1] - found.places[0, worst]) * [4, 3]  # Anywhere in its cell, of 4x3.
    assert np.abs(offset).max() <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1, 2.0])
def test_of_drawn_candidates_the_posterior_is_that_of_all(make_large, images, monkeypatch, sharpness):
    """Weighted by 1 / q(z), what falls on a cell has in the mean the probability of the cell among all."""
    monkeypatch.setattr(ConvGlimpseNet, "shares_pass", False)  # In a shared pass, places are rounded.
    model = make_large(contrastive=False, sharpness=sharpness)
    model.compile("sgd", stage=1, jit_compile=False)
    shares = label_shares(LABELS, 3)
    evidence, locations, _ = look_until_stage(model, model.stage, tf.constant(images), shares)
    found, chosen = search(model, tf.constant(images), shares, evidence, locations)
    model.search_samples = 3000
    drawn, of_drawn = search(model, tf.constant(images), shares, evidence, locations)
    assert drawn.outputs.shape == (4, 3000, 3) and of_drawn.places.shape == (4, SAMPLES + 1, 2)
    features = np.reshape(evidence.hidden, (4, 12, -1))
    cells = np.abs(drawn.places.numpy()[:, :, None] - found.places.numpy()[:, None]).sum(-1).argmin(-1)
    for n in range(4):
        np.testing.assert_allclose(drawn.outputs[n], tf.gather(found.outputs[n], cells[n]), atol=1e-5)
        summed = np.bincount(cells[n], of_drawn.posterior[n], minlength=12)
        np.testing.assert_allclose(summed, chosen.posterior[n], atol=0.03)
        np.testing.assert_allclose(of_drawn.best[n], chosen.best[n])  # Not where q is small.
        prior = np.exp(model.log_map(evidence)[n]).ravel()
        apart = np.linalg.norm(features[n] - features[n].mean(axis=0), axis=-1)
        drawn_as = (prior + 1 / 12 + apart / apart.sum()) / 3
        np.testing.assert_allclose(np.bincount(cells[n], minlength=12) / 3000, drawn_as, atol=0.05)


@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("jit_compile", one_fast([False, True]))
def test_training_with_drawn_candidates(make_large, images, assignment, jit_compile):
    model = make_large(search_samples=5, assignment=assignment)
    model.compile(keras.optimizers.SGD(0.01), stage=1, jit_compile=jit_compile)
    before = [weights.numpy() for weights in model.trainable_variables]
    first, second = (model.fit(images, LABELS, verbose=0).history["loss"][0] for _ in range(2))
    assert np.isfinite([first, second]).all() and first != second
    assert all(
        np.any(weights.numpy() != old) for weights, old in zip(model.trainable_variables, before) if "bias" not in weights.path
    )
    assert GlimpseClassifier.from_config(model.get_config()).search_samples == 5


@pytest.mark.slow
def test_samples_follow_the_posterior(make_large, images):
    model = make_large()
    model.location_heads[0].output_layer.kernel.assign(40 * model.location_heads[0].output_layer.kernel)  # Few places.
    model.compile("sgd", stage=1, jit_compile=False)
    shares = label_shares(LABELS, 3)
    evidence, locations, _ = look_until_stage(model, model.stage, tf.constant(images), shares)
    counts = np.zeros((4, 12))
    for step in range(100):
        model.optimizer.iterations.assign(step)
        _, chosen = search(model, tf.constant(images), shares, evidence, locations)
        cells = np.floor(chosen.places[:, :SAMPLES].numpy() * [4, 3]).astype(int) @ [3, 1]
        for image, cell in enumerate(cells):
            np.add.at(counts[image], cell, 1)
    spread = np.sqrt(chosen.posterior * (1 - chosen.posterior) / counts.sum(axis=1, keepdims=True))
    assert (np.abs(counts / counts.sum(axis=1, keepdims=True) - chosen.posterior) < 4 * spread + 0.01).all()


def test_the_gradient_is_that_of_the_likelihood(rng):
    """Of -log sum_z p(z) p(y | z): of the errors and of the map, each weighted with the posterior."""
    scores, logits = (tf.constant(rng.normal(size=shape), tf.float32) for shape in ((5, 7), (5, 7, 3)))
    shares = tf.one_hot(rng.integers(0, 3, 5), 3)
    objective = Objective(10.0, 0.0, 1.0, contrastive=False)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((scores, logits))
        penalty = -tf.nn.log_softmax(scores)
        errors = cross_entropy(logits, shares[:, None])
        likelihood = -tf.reduce_logsumexp(-penalty - errors, axis=-1)
        posterior = tf.stop_gradient(objective.posterior(logits, shares, penalty))
        # As if every place were drawn as often as the posterior says.
        surrogate = tf.reduce_sum(posterior * errors, axis=-1)
        every = tf.concat([logits[:, :SAMPLES], logits[:, :1]], axis=1)
        surrogate += objective.soft_loss_terms(every, shares, penalty, posterior)["location_loss"]
    for of in (scores, logits):
        np.testing.assert_allclose(tape.gradient(surrogate, of), tape.gradient(likelihood, of), atol=1e-6)


def test_the_terms_of_a_soft_assignment(rng):
    outputs, shares = rng.normal(size=(2, SAMPLES + 2, 3)), np.eye(3)[[1, 2]]
    penalty, posterior = rng.random((2, 9)), softmax(rng.normal(size=(2, 9)))
    posterior[0, 4], penalty[0, 4] = 0.0, np.inf  # A place outside the image.
    low_res = rng.normal(size=(2, 3))
    tensors = [tf.constant(values, tf.float32) for values in (outputs, shares, penalty, posterior, low_res)]
    terms = Objective(10.0, 0.0, 1.0, contrastive=True).soft_loss_terms(*tensors)
    errors = -np.log(softmax(outputs))[np.arange(2), :, [1, 2]]
    expected = {
        "best_loss": errors[:, :SAMPLES].mean(axis=1),
        "offending_loss": errors[:, SAMPLES:].mean(axis=1),
        "location_loss": np.where(posterior > 0, posterior, 0) @ np.where(np.isfinite(penalty), penalty, 0).T,
        "low_res_loss": -np.log(softmax(low_res))[np.arange(2), [1, 2]],
    }
    expected["location_loss"] = np.diag(expected["location_loss"])
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], sum(expected.values()), rtol=1e-5)


def test_the_most_offending_place_of_a_whole_image_is_next_to_the_best_one(make_large, images):
    model = make_large(assignment="hard")
    for kernel in (model.glimpse_nets[0].hidden_layer.kernel, model.glimpse_nets[0].output_layer.kernel):
        kernel.assign(10 * kernel)  # So that places differ.
    model.compile("sgd", stage=1, jit_compile=False)
    shares = label_shares(LABELS, 3)
    evidence, locations, _ = look_until_stage(model, model.stage, tf.constant(images), shares)
    found, chosen = search(model, tf.constant(images), shares, evidence, locations)
    logits = np.log(softmax((found.outputs + evidence.low_res[:, None]).numpy()))
    of_thumbnail = -np.log(softmax(evidence.low_res.numpy()))[np.arange(4), LABELS, None]
    cost = of_thumbnail - model.log_map(evidence).numpy().reshape(4, -1)
    best = (cost - logits[np.arange(4), :, LABELS]).argmin(axis=1)
    np.testing.assert_array_equal(chosen.best, found.places.numpy()[0][best])
    apart = np.abs(chosen.places[:, 1] - chosen.places[:, 0]) * [4, 3]
    assert apart.max() < 1.01 and (apart.max(axis=1) > 0).any()


# ---- The map ----


def test_the_map_in_numpy(rng):
    head = LocationMap(5)
    hidden, logits = rng.normal(size=(2, 4, 6, 3)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    location = head(hidden, logits).numpy()
    u, b, v, w = head.get_weights()
    scores = (np.maximum(hidden @ u + b + (logits @ v)[:, None, None], 0) @ w)[..., 0]
    probabilities = softmax(scores.reshape(2, -1)).reshape(2, 4, 6)
    np.testing.assert_allclose(np.exp(head.log_probabilities(hidden, logits)), probabilities, rtol=1e-4)
    for image in range(2):
        y, x = np.unravel_index(probabilities[image].argmax(), (4, 6))
        near = [(i, j) for i in range(max(0, y - 1), min(4, y + 2)) for j in range(max(0, x - 1), min(6, x + 2))]
        weights = np.array([probabilities[image][cell] for cell in near])
        centres = (np.array(near) + 0.5) / [4, 6]
        np.testing.assert_allclose(location[image], weights @ centres / weights.sum(), rtol=1e-4)


def peaks(*cells):
    """Features of which a map of weight 1 has peaks in these cells."""
    hidden = np.zeros((1, 8, 8, 1), np.float32)
    for strength, (y, x) in enumerate(cells, start=10):
        hidden[0, y, x] = strength
    return hidden


@pytest.fixture
def plain_map():
    head = LocationMap(1)
    head.build((None, 8, 8, 1), (None, 2))
    head.set_weights([np.ones((1, 1)), np.zeros(1), np.zeros((2, 1)), np.ones((1, 1))])
    return head


def test_of_two_objects_one_is_chosen_then_the_other(plain_map):
    hidden, logits = peaks((1, 1), (6, 5)), np.zeros((1, 2), np.float32)
    first = plain_map(hidden, logits)
    np.testing.assert_allclose(first, [[6.5 / 8, 5.5 / 8]], atol=0.01)
    second = plain_map(hidden, logits, (first,))
    np.testing.assert_allclose(second, [[1.5 / 8, 1.5 / 8]], atol=0.01)
    third = plain_map(hidden, logits, (first, second))
    assert min(np.abs(third - first).max(), np.abs(third - second).max()) > 1 / 8


def test_a_map_that_is_very_sure_looks_elsewhere_all_the_same(plain_map):
    hidden, logits = peaks((1, 1), (6, 5)), np.zeros((1, 2), np.float32)
    hidden[0, 6, 5] = 200
    first = plain_map(hidden, logits)
    np.testing.assert_allclose(first, [[6.5 / 8, 5.5 / 8]], atol=1e-6)
    np.testing.assert_allclose(plain_map(hidden, logits, (first,)), [[1.5 / 8, 1.5 / 8]], atol=0.01)


def test_two_cells_of_one_object_are_looked_at_once(plain_map):
    """The location lies between them, further from both than half the radius."""
    hidden, logits = peaks((1, 1), (6, 5), (6, 4)), np.zeros((1, 2), np.float32)
    hidden[0, 6, 4:6] = 200
    first = plain_map(hidden, logits)
    np.testing.assert_allclose(first, [[6.5 / 8, 5 / 8]], atol=1e-6)
    np.testing.assert_allclose(plain_map(hidden, logits, (first,)), [[1.5 / 8, 1.5 / 8]], atol=0.01)


def test_without_inhibition_it_looks_there_again(plain_map):
    again = LocationMap.from_config(plain_map.get_config() | {"inhibition": 0.0})
    hidden, logits = peaks((1, 1), (6, 5)), np.zeros((1, 2), np.float32)
    first = again(hidden, logits)
    np.testing.assert_array_equal(again(hidden, logits, (first,)), first)


def test_between_cells(plain_map):
    """Two cells of one strength: the location is between them."""
    hidden = peaks((3, 3))
    hidden[0, 3, 4] = hidden[0, 3, 3]
    np.testing.assert_allclose(plain_map(hidden, np.zeros((1, 2), np.float32)), [[3.5 / 8, 4 / 8]], atol=0.01)


# ---- Training ----


def little_things(count, seed):
    """48x48 noise with a + or an x of 9 pixels somewhere; which, and where its centre is, in pixels."""
    rng = np.random.default_rng(seed)
    images = 0.3 * rng.random((count, 48, 48, 1), dtype=np.float32)
    plus, cross = np.zeros((5, 5)), np.maximum(np.eye(5), np.eye(5)[::-1])
    plus[2] = plus[:, 2] = 1
    labels, corners = rng.integers(0, 2, count), rng.integers(1, 42, (count, 2))
    for image, label, (y, x) in zip(images, labels, corners):
        image[y : y + 5, x : x + 5, 0] += 0.7 * (plus, cross)[label]
    return images, labels, corners + 2


def taught(**kwargs):
    """How often glimpses of 12x12 pixels hold the thing, and the error after the thumbnail and the glimpse."""
    model = GlimpseClassifier.for_large_images(
        2,
        patch_size=12,
        scales=(1,),
        low_res_net=ConvLowResNet(2, 12, (8, 8), (), 8),
        glimpse_net=ConvGlimpseNet(2, 1, (8, 8), (0,), 8),
        **kwargs,
    )
    images, labels, _ = little_things(512, 0)
    fit = {"epochs": {1: 12, "fine_tune": 2}, "batch_size": 32, "verbose": 0}
    fit_greedy(model, images, labels, optimizer=lambda steps: keras.optimizers.Adam(3e-3), **fit)
    images, labels, centres = little_things(256, 1)
    seen = model.look(images)
    held = np.abs(seen["locations"][:, 0] * 47 - centres).max(axis=1) <= 3.5
    return held.mean(), (seen["logits"].numpy().argmax(axis=-1) != labels[:, None]).mean(axis=0)


@pytest.mark.slow
def test_a_soft_assignment_finds_what_a_local_search_does_not():
    """By chance it is in 2 % of the glimpses."""
    found, errors = taught()
    assert found > 0.6 and errors[1] < 0.05
    lost, _ = taught(assignment="hard", search_size=3)
    assert lost < 0.3


@pytest.mark.slow
def test_after_fine_tuning_batch_statistics_are_those_of_predicted_places(make_large, images):
    model = make_large()
    model.compile("adam", stage=1)
    model.fit(images, LABELS, verbose=0)
    model.compile(keras.optimizers.SGD(0.0), stage="fine_tune")
    model.fit(images, LABELS, epochs=150, verbose=0)  # 0.9 ** 150 of what was before is left.
    patches = model.look(images)["patches"][:, 0]
    tower = model.glimpse_nets[0].towers[1]
    before = tower.kernels[0](patches[..., 1:])
    np.testing.assert_allclose(tower.norms[0].moving_mean, ops.mean(before, axis=(0, 1, 2)), atol=1e-5)


@pytest.mark.slow
def test_nothing_is_drawn_anew_when_training_resumes(make_large, images, tmp_path):
    def train(epochs, folder):
        keras.utils.set_random_seed(1)
        model = make_large()
        model.compile(keras.optimizers.Adam(1e-3), stage=1)
        model.fit(images, LABELS, batch_size=2, epochs=epochs, checkpoint=folder, verbose=0)
        return model.get_weights()

    whole = train(3, tmp_path / "whole")
    train(2, tmp_path / "parts")
    for one, other in zip(whole, train(3, tmp_path / "parts"), strict=True):
        np.testing.assert_array_equal(one, other)


SEARCHES = [("soft", "image"), ("hard", "image"), ("soft", 3), ("hard", 3)]


@pytest.mark.parametrize(
    ("assignment", "size", "run_eagerly"),
    [(*SEARCHES[0], True), *(slow((*each, eager)) for each, eager in zip(SEARCHES, (False, True, True, False)))],
)
def test_every_search_trains_every_stage(make_large, images, assignment, size, run_eagerly):
    model = make_large(num_glimpses=2, assignment=assignment, search_size=size)
    how = {"compile_args": {"run_eagerly": run_eagerly}, "verbose": 0}
    history = fit_greedy(model, images, LABELS, optimizer="adam", **how)
    for stage in (1, 2):
        terms = history[stage].history
        assert {"best_loss", "offending_loss", "location_loss", "moved_px"} <= terms.keys()
        parts = sum(terms.get(name, [0])[0] for name in ("low_res_loss", "best_loss", "offending_loss", "location_loss"))
        assert np.isfinite(parts) and parts == pytest.approx(terms["loss"][0], rel=1e-5)


@pytest.mark.slow
def test_a_schedule_from_the_whole_image_to_its_neighbourhood(make_large, images):
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((self.model.search_size, round(1 / self.model.search_stride), self.model.assignment))

    model = make_large()
    model.compile("adam", stage=1, run_eagerly=True)  # Each setting is a graph of its own.
    model.fit(images, LABELS, epochs=6, callbacks=[SearchSchedule.whole_to_local(6), Spy()], verbose=0)
    assert seen == [("image", 16, "soft")] * 3 + [(7, 16, "soft"), (5, 32, "soft"), (3, 48, "soft")]
    hard = SearchSchedule({0: {"search_size": "image", "assignment": "soft"}, 1: {"search_size": 3, "assignment": "hard"}})
    model.fit(images, LABELS, epochs=2, callbacks=[hard, Spy()], verbose=0)
    assert seen[-1] == (3, 48, "hard")


@pytest.mark.parametrize("samples", one_fast([None, 5]))
@pytest.mark.parametrize("assignment", one_fast(["soft", "hard"]))
def test_a_model_that_diverged_has_a_loss_that_is_not_a_number(make_large, images, assignment, samples):
    model = make_large(assignment=assignment, search_samples=samples)
    for layer in (model.low_res_net.output_layer, model.glimpse_nets[0].output_layer):
        layer.bias.assign([np.nan] * 3)
    model.compile("sgd", stage=1)
    assert np.isnan(model.train_on_batch(images, LABELS, return_dict=True)["loss"])


@pytest.mark.slow
def test_sharpness_is_saved_and_scheduled(make_large, images):
    model = make_large(sharpness=2)
    assert GlimpseClassifier.from_config(model.get_config()).sharpness == 2
    without = {name: value for name, value in model.get_config().items() if name != "sharpness"}
    assert GlimpseClassifier.from_config(without).sharpness == 1.0  # Files of version 0.2
    model.compile("sgd", stage=1)
    schedule = SearchSchedule({0: {"search_size": "image", "sharpness": 3.0}, 1: {"sharpness": 1.5}})
    model.fit(images, LABELS, epochs=2, callbacks=[schedule], verbose=0)
    assert model.sharpness == 1.5


def test_samples_depend_on_the_seed(make_large, images):
    def chosen(seed):
        keras.utils.set_random_seed(seed)
        model.compile("sgd", stage=1, jit_compile=False)
        shares = label_shares(LABELS, 3)
        evidence, locations, _ = look_until_stage(model, model.stage, tf.constant(images), shares)
        return search(model, tf.constant(images), shares, evidence, locations)[1].places

    model = make_large()
    np.testing.assert_array_equal(chosen(1), chosen(1))
    assert np.abs(chosen(1) - chosen(2)).max() > 0.1


def test_earlier_locations_pass_no_gradient_to_a_shared_map(make_large, images):
    """Eq. 18 pushes glimpse 2 away from glimpse 1, not the other way round (section 2.2.1)."""
    model = make_large(num_glimpses=2, share_weights=True)
    model.compile("sgd", stage=2, jit_compile=False)
    weights = [each.value for each in model.location_heads[0].weights]
    with tf.GradientTape(persistent=True) as tape:
        _, locations, _ = look_until_stage(model, model.stage, tf.constant(images), label_shares(LABELS, 3))
        first, second = map(tf.reduce_sum, locations)
    assert all(gradient is None for gradient in tape.gradient(first, weights))
    assert any(gradient is not None for gradient in tape.gradient(second, weights))


@pytest.mark.slow
def test_places_for_labels(make_large, images):
    model = make_large(num_glimpses=2)
    fit_greedy(model, images, LABELS, optimizer="adam", verbose=0)  # It ends with fine-tuning, which does not search.
    shares = label_shares(LABELS, 3)
    for glimpse in (1, 2):
        model.compile("sgd", stage=glimpse, jit_compile=False)
        evidence, locations, _ = look_until_stage(model, model.stage, tf.constant(images), shares, training=False)
        _, chosen = search(model, tf.constant(images), shares, evidence, locations)
        model.compile("sgd", stage="fine_tune", jit_compile=False)
        np.testing.assert_allclose(model.best_places(images, LABELS, glimpse), chosen.best, atol=1e-6)
    with pytest.raises(ValueError, match=r"stage must be one of .*; got 3"):
        model.best_places(images, LABELS, 3)


# ---- Networks by argument ----


@pytest.mark.slow
def test_location_heads_of_the_user(make_large, images, tmp_path):
    class Centre(keras.layers.Layer):
        def call(self, features, evidence):
            return ops.full((ops.shape(features)[0], 2), 0.5)

    model = make_large(location_head=Centre(), num_glimpses=2, assignment="hard", search_size=3)
    np.testing.assert_array_equal(model.look(images)["locations"], np.full((4, 2, 2), 0.5))
    heads = [LocationMap(3), LocationHead()]
    model = make_large(location_head=heads, num_glimpses=2)
    assert [type(head) for head in model.location_heads] == [LocationMap, LocationHead]
    fit_greedy(model, images, LABELS, optimizer="adam", verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.look(images)["locations"], model.look(images)["locations"])


@pytest.mark.slow
def test_a_shared_map_looks_elsewhere_each_time(make_large, images, tmp_path):
    model = make_large(num_glimpses=3, share_weights=True)
    assert model.location_heads[0] is model.location_heads[2]
    locations = model.look(images)["locations"].numpy()
    assert all(np.abs(locations[:, i] - locations[:, j]).max(axis=-1).min() > 0.05 for i, j in ((0, 1), (0, 2), (1, 2)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.location_heads[0] is loaded.location_heads[2]
    np.testing.assert_array_equal(loaded.look(images)["locations"], locations)


def small_backbone(weights=None):
    model = keras.applications.MobileNetV2(
        weights=weights, include_top=False, input_shape=(32, 32, 3), alpha=0.35, classifier_activation=None
    )
    return keras.Model(model.input, model.get_layer("block_3_expand_relu").output)  # Cells of 8x8 pixels.


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_a_backbone_with_weights_of_its_own(rng, tmp_path, frozen):
    backbone = small_backbone()
    backbone.set_weights([rng.uniform(0.1, 0.2, weights.shape) for weights in backbone.get_weights()])
    backbone.save_weights(tmp_path / "pretrained.weights.h5")
    backbone = small_backbone()
    backbone.load_weights(tmp_path / "pretrained.weights.h5")
    backbone.trainable = not frozen
    before = backbone.get_weights()
    images = rng.integers(0, 256, (4, 64, 64, 1), np.uint8)
    options = {"low_res_size": 32, "patch_size": 32, "backbone": backbone, "preprocess_input": "mobilenet_v2"}
    model = GlimpseClassifier.for_large_images(3, num_glimpses=2, **options)
    model.build((None, 64, 64, 1))
    inner = [model.low_res_net.features.model, *(net.backbone.model for net in model.glimpse_nets)]
    for copy in inner:
        for one, other in zip(copy.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len({id(copy) for copy in (backbone, *inner)}) == 4
    thumbnail = images.reshape(4, 32, 2, 32, 2, 1).mean(axis=(2, 4)).repeat(3, axis=-1)
    expected = backbone.predict(keras.applications.mobilenet_v2.preprocess_input(thumbnail), verbose=0)
    features, _ = model.low_res_net(images)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)
    model.compile(keras.optimizers.SGD(1e-3), stage=1)
    model.fit(images, LABELS, verbose=0)
    same = [np.array_equal(one, other) for one, other in zip(inner[1].get_weights(), before, strict=True)]
    assert all(same) if frozen else not all(same)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    assert loaded.low_res_net.features.model.trainable == (not frozen)


@keras.saving.register_keras_serializable(package="tests")
class TwoConvolutions(keras.Model):
    """A class, whose configuration does not tell which of its layers are frozen."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = keras.layers.Conv2D(4, 3), keras.layers.Conv2D(4, 3)

    def call(self, pixels):
        return self.second(self.first(pixels))


def test_layers_of_a_backbone_stay_frozen():
    model = TwoConvolutions()
    model(np.zeros((1, 8, 8, 1)))
    model.first.trainable = False
    copy = Backbone.from_config(Backbone(model).get_config()).model
    assert copy.trainable and not copy.first.trainable and copy.second.trainable


@pytest.mark.slow
def test_a_backbone_of_keras_hub(rng, tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.VGGBackbone(stackwise_num_repeats=[1, 1], stackwise_num_filters=[8, 16])
    converter = keras_hub.layers.VGGImageConverter(scale=[1 / 58.4, 1 / 57.1, 1 / 57.4], offset=[-2.1, -2.0, -1.8])
    first, second = (layer for layer in backbone.layers if layer.weights)
    first.trainable = False
    images = rng.integers(0, 256, (4, 128, 128, 3), np.uint8)
    options = {"low_res_size": 64, "patch_size": 64, "backbone": backbone, "preprocess_input": converter}
    model = GlimpseClassifier.for_large_images(3, **options)
    features, _ = model.low_res_net(images)
    thumbnail = images.reshape(4, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(features, backbone(converter(thumbnail)), atol=1e-5)
    model(images)
    model.compile(keras.optimizers.SGD(1e-3), stage=1)
    model.fit(images, LABELS, batch_size=2, verbose=0)
    for net in (model.low_res_net.features, model.glimpse_nets[0].backbone):
        frozen, trained = (net.model.get_layer(layer.name).get_weights()[0] for layer in (first, second))
        np.testing.assert_array_equal(frozen, first.kernel)
        assert not np.array_equal(trained, second.kernel)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    assert not loaded.low_res_net.features.model.get_layer(first.name).trainable


# ---- Bad input ----


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: GlimpseClassifier(3, search_size="images"),
            ValueError,
            "must be an odd integer or .image.; got 'images'",
        ),
        (lambda: GlimpseClassifier(3, assignment="softer"), ValueError, r"assignment must be one of \('hard', 'soft'\)"),
        (
            lambda: GlimpseClassifier(3, location_head="map"),
            TypeError,
            "location_head must be a Keras layer or model; got 'map'",
        ),
        (lambda: GlimpseClassifier(3, location_head=[LocationMap()]), ValueError, "location_head must be one layer or 2"),
        (lambda: ConvLowResNet(3, 0), ValueError, "size must be an integer, at least 1; got 0"),
        (lambda: ConvLowResNet(3, 2)(np.zeros((1, 9, 9, 1))), ValueError, "size must be a multiple of 4"),
        (lambda: ConvLowResNet(3, 16)(np.zeros((1, 9, 9, 1))), ValueError, "does not fit in images of 9x9"),
        (lambda: ConvGlimpseNet(3)(np.zeros((1, 8, 8, 2))), ValueError, "must have 38 pixels a side .*; got 8x8"),
        (lambda: ConvGlimpseNet(3)(np.zeros((1, 48, 48, 3))), ValueError, "Expected patches of 2 scales; got 3 channels"),
        (lambda: ConvGlimpseNet(3, pooled=(0, 4)), ValueError, "blocks from 0 to 3, each once"),
        (lambda: ConvGlimpseNet(3, pooled=(0, 0)), ValueError, "blocks from 0 to 3, each once"),
        (lambda: GlimpseClassifier.for_large_images(3, gated_location=True), ValueError, "gated_location is of the default"),
        (lambda: GlimpseClassifier.for_large_images(3, gated_glimpse=True), ValueError, "glimpse_net that takes .patches, loc"),
        (lambda: LocationMap(inhibition=-1), ValueError, "inhibition must be finite and not negative; got -1"),
        (lambda: LocationMap()(np.zeros((1, 9)), np.zeros((1, 3))), ValueError, r"needs features with places.*got \(1, 9\)"),
        (lambda: Backbone("mobilenet_v2"), TypeError, "backbone must be a Keras layer or model; got 'mobilenet_v2'"),
        (lambda: Backbone(keras.layers.Dense(3), "vgg"), ValueError, "preprocess_input must be a layer or one of .*'vgg16'"),
        (lambda: Backbone(keras.layers.Flatten())(np.zeros((1, 8, 8, 3))), ValueError, "'flatten' gives .1, 192"),
        (lambda: SearchSchedule({0: 3, 1: {"assignment": "hard"}}), ValueError, "from epoch 0 on must set assignment"),
        (lambda: SearchSchedule({0: {"stride": 3}}), ValueError, "A phase sets search_size, .*; got 'stride'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_map_for_features_without_places():
    with pytest.raises(ValueError, match="LocationMap needs features with places"):
        GlimpseClassifier(3, location_head=LocationMap()).build((None, 48, 48, 1))


@pytest.mark.slow
def test_a_soft_assignment_compiled_by_xla(batch):
    """XLA has no kernels for some of what draws samples elsewhere."""
    model = GlimpseClassifier(3, 1, low_res_size=5, patch_size=6, hidden_units=8, assignment="soft")
    model.compile("sgd", jit_compile=True)
    assert np.isfinite(model.fit(*batch, verbose=0).history["loss"]).all()
