"""The equations of the paper, against NumPy written from them (oracle.py)."""

import numpy as np
import pytest
import tensorflow as tf
from oracle import Paper

from keras_glimpse.evidence import Evidence, class_evidence, combine
from keras_glimpse.ops.labels import label_shares
from keras_glimpse.training.objective import Objective, cross_entropy
from keras_glimpse.training.search import search
from keras_glimpse.training.step import look_until_stage, training_step

SIZES = {"low_res_size": 4, "patch_size": 6, "scales": (1, 2)}
HYPER = {"search_size": 3, "stride": 2, "lam": 10.0, "gamma": 0.5, "variance": 0.02}


@pytest.fixture
def paper_model(make_model, rng):
    model = make_model((20, 24, 2), diversity_weight=0.5, diversity_variance=0.02, **SIZES)
    for head in model.location_heads:  # Spread the places, or every one would be near the middle.
        head.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in head.get_weights()])
    return model


@pytest.fixture
def images(rng):
    return rng.random((8, 20, 24, 2), dtype=np.float32)


@pytest.mark.parametrize("parallel", [False, True])
def test_forward_pass(make_model, images, parallel):
    """Eqs. 1, 3 to 8 for two glimpses."""
    model = make_model((20, 24, 2), parallel=parallel, **SIZES)
    looked = model.look(images)
    paper = Paper(model, **SIZES)
    for i, image in enumerate(images.astype(np.float64)):
        logits, locations, _ = paper.look(image, 2, parallel)
        np.testing.assert_allclose(looked["logits"][i], logits, atol=1e-5)
        np.testing.assert_allclose(looked["locations"][i], locations, atol=5e-6)
    np.testing.assert_allclose(model(images), looked["logits"][:, -1], atol=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("contrastive", [True, False])
def test_search_and_loss(paper_model, images, rng, stage, contrastive):
    """Eqs. 9 to 12 and 15 to 18: places and loss of every image."""
    paper_model.contrastive = contrastive
    labels = rng.integers(0, 3, len(images)).astype(np.int32)
    paper_model.compile("sgd", stage=stage, jit_compile=False)
    paper = Paper(paper_model, **SIZES)
    measured, _ = training_step(paper_model, (tf.constant(images), labels))
    for i, (image, label) in enumerate(zip(images.astype(np.float64), labels)):
        expected = paper.loss(stage - 1, image, label, contrastive, **HYPER)
        np.testing.assert_allclose(measured["loss"][i], expected, rtol=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_places_of_the_search(paper_model, images, rng, stage):
    labels = rng.integers(0, 3, len(images)).astype(np.int32)
    paper_model.compile("sgd", stage=stage, jit_compile=False)
    shares = label_shares(labels, 3)
    evidence, locations, _ = look_until_stage(paper_model, paper_model.stage, tf.constant(images), shares)
    places = search(paper_model, tf.constant(images), shares, evidence, locations)[1].places
    paper = Paper(paper_model, **SIZES)
    found = [paper.search(stage - 1, image, label, **HYPER)[1:3] for image, label in zip(images.astype(np.float64), labels)]
    np.testing.assert_allclose(places, found, atol=5e-6)
    assert len({tuple(np.round(place, 6)) for place in (places - locations[-1][:, None]).numpy().reshape(-1, 2)}) > 3


def test_eq_6_and_uniform_averaging(rng):
    low, first, second = rng.normal(size=(3, 5, 4)).astype(np.float32)
    evidence = Evidence(None, low, (first, second))
    np.testing.assert_allclose(combine(evidence, "paper"), low + (first + second) / 2, atol=1e-6)
    np.testing.assert_allclose(combine(evidence, "uniform"), (low + first + second) / 3, atol=1e-6)
    np.testing.assert_allclose(class_evidence(evidence, "logits", "paper"), low + first + second, atol=1e-6)


def test_location_input_as_probabilities(rng):
    low, first = rng.normal(size=(2, 5, 4)).astype(np.float32)
    got = class_evidence(Evidence(None, low, (first,)), "probabilities", "paper")
    expected = tf.nn.softmax(low) + tf.nn.softmax(low + first)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_loss_terms(rng):
    logits, labels = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 4, 6)
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    np.testing.assert_allclose(cross_entropy(logits, np.eye(4)[labels]), expected, rtol=1e-5)
    a, b = rng.random((2, 6, 2)).astype(np.float32)
    sides = np.array([0.5, 1.0], np.float32)
    near = Objective(100.0, 0.0, 1.0, True).place_penalty(a, b[:, None], [a], sides)[:, 0]
    np.testing.assert_allclose(near, 50 * (((a - b) * sides) ** 2).sum(-1), rtol=1e-5)
    z, before = rng.random((6, 9, 2)).astype(np.float32), rng.random((6, 3, 2)).astype(np.float32)
    bumps = np.exp(-(((z[:, :, None] - before[:, None]) * sides) ** 2).sum(-1) / (2 * 0.002)).sum(-1)
    apart = Objective(0.0, 0.01, 0.002, True).place_penalty(a, z, [*before.transpose(1, 0, 2)], sides)
    np.testing.assert_allclose(apart, 0.01 * bumps, atol=1e-7)


def test_most_offending_place_is_of_a_wrong_class(rng):
    logits, labels = rng.normal(size=(50, 9, 5)).astype(np.float32), rng.integers(0, 5, 50)
    penalty = rng.random((50, 9)).astype(np.float32)
    chosen = Objective(1.0, 0.0, 1.0, contrastive=True).choose_places(logits, np.float32(np.eye(5)[labels]), penalty)
    best, offending = np.transpose(chosen)
    loss = penalty[..., None] - np.asarray(tf.nn.log_softmax(logits))
    for i, label in enumerate(labels):
        assert best[i] == loss[i, :, label].argmin()
        assert offending[i] == np.delete(loss[i], label, axis=-1).min(axis=-1).argmin()
