"""What holds for images of any size and kind, by hypothesis: against NumPy, and eager, graph and XLA against each other.

The examples are the same in every run. HYPOTHESIS_PROFILE=thorough draws others each time, 20 times as many.
"""

import os
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import Paper, crop

from keras_glimpse import GlimpseClassifier, MultiScaleCrop, cascade_predict, stage_macs

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
DTYPES = ["float32", "float16", "uint8", "uint16"]
SCALES = st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True)


def examples(count):
    return settings(max_examples=count * (20 if THOROUGH else 1), derandomize=not THOROUGH, deadline=None, database=None)


def images_of(shape, dtype, seed=0):
    """Random images, and the same as float64 in [0, 1]: what bytes count as."""
    values = np.random.default_rng(seed).random(shape)
    if dtype.startswith("u"):
        images = (values * np.iinfo(dtype).max).astype(dtype)
        return images, images / np.iinfo(dtype).max
    return values.astype(dtype), values.astype(dtype).astype(np.float64)


@st.composite
def crops(draw):
    """A layer, images and places: anywhere within, at and beyond the border, but no pixel of a window within rounding of it."""
    batch, height, width, channels = draw(st.tuples(st.integers(1, 4), *[st.integers(6, 30)] * 2, st.integers(1, 4)))
    layer = MultiScaleCrop(draw(st.integers(1, 6)), draw(SCALES))
    images, exact = images_of((batch, height, width, channels), draw(st.sampled_from(DTYPES)))
    eighth = st.integers(-4 * 8, (30 + 4) * 8)
    pixels = np.array(draw(st.lists(st.tuples(eighth, eighth), min_size=batch, max_size=batch))) / 8 + 1 / 16
    return layer, images, exact, (pixels / [height - 1, width - 1]).astype(np.float32)


def ways(function):
    yield function
    yield tf.function(partial(function, runtime="tensorflow"), autograph=False)
    yield tf.function(function, jit_compile=True)


@examples(60)
@given(crops())
def test_crops_are_those_of_numpy(drawn):
    layer, images, exact, places = drawn
    patches = layer(images, places)
    for image, place, patch in zip(exact, places, patches):
        centre = place.astype(np.float64) * (np.array(image.shape[:2]) - 1)
        np.testing.assert_allclose(patch, crop(image, centre, layer.size, layer.scales), atol=2e-5)


@pytest.mark.slow
@examples(5)
@given(crops(), st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e9]))
def test_crops_in_every_way(drawn, nowhere):
    """Also at places that are no numbers: these are outside the image, and do not touch the rest of the batch."""
    layer, images, _, places = drawn
    places[-1, 0] = nowhere
    eager, *others = [way(images, places).numpy() for way in ways(layer)]
    assert not eager[-1].any() and np.isfinite(eager).all()
    for other in others:
        np.testing.assert_allclose(other, eager, atol=2e-5)


@examples(10)
@given(st.tuples(*[st.integers(2, 9)] * 2), st.integers(1, 4), st.integers(1, 4), SCALES, st.sampled_from(DTYPES))
def test_windows_that_end_at_the_border(half, size, channels, scales, dtype):
    """Exactly there, where windows begin and end on a pixel, the compiled crop reads that pixel, as NumPy does."""
    shape = (2 * half[0] + 1, 2 * half[1] + 1, channels)  # Odd, so that 0, 1/2 and 1 are pixels.
    assume(2 * size <= min(shape[:2]))
    images, exact = images_of((3, *shape), dtype)
    places = np.array([[0, 1], [1, 0.5], [0.5, 0]], np.float32)
    patches = tf.function(MultiScaleCrop(size, scales), jit_compile=True)(images, places)
    for image, place, patch in zip(exact, places, patches):
        np.testing.assert_allclose(patch, crop(image, place * (np.array(shape[:2]) - 1), size, scales), atol=2e-5)


@st.composite
def any_model(draw, paper=False):
    """The arguments of a model, and the shape and dtype of images for it."""
    low_res = draw(st.tuples(*[st.integers(2, 5)] * 2)) if not paper else (draw(st.integers(2, 5)),) * 2
    blocks = draw(st.tuples(*[st.integers(3, 5)] * 2))
    rest = (0, 0) if paper else draw(st.tuples(*[st.integers(0, 4)] * 2))
    shape = [n * block + more for n, block, more in zip(low_res, blocks, rest)]
    arguments = {
        "num_classes": draw(st.integers(2, 5)),
        "num_glimpses": draw(st.integers(1, 3)),
        "low_res_size": low_res,
        "patch_size": draw(st.integers(2, min(6, *shape))),
        "scales": draw(SCALES),
        "hidden_units": draw(st.sampled_from([5, (6, 4)])),
        "parallel": draw(st.booleans()),
        "share_weights": draw(st.booleans()),
    }
    if not paper:
        arguments |= {
            "parallel": draw(st.sampled_from([False, True, 2])),
            "averaging": draw(st.sampled_from(["paper", "uniform"])),
            "location_input": draw(st.sampled_from(["logits", "probabilities"])),
            "gated_location": draw(st.booleans()),
            "gated_glimpse": draw(st.booleans()),
            "downsample": draw(st.sampled_from(["area", "strided", "bilinear"])),
        }
    shape = (draw(st.integers(1, 5)), *shape, draw(st.integers(1, 4)))
    return arguments, shape, draw(st.sampled_from(DTYPES))


def made(arguments, shape, dtype):
    """That model, with weights large enough for places and beliefs to differ, and such images."""
    model = GlimpseClassifier(**arguments)
    model.build(shape)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weights.shape, scale=0.7) for weights in model.get_weights()])
    return model, *images_of(shape, dtype)


@pytest.mark.slow
@examples(15)
@given(any_model(paper=True))
def test_looking_as_the_paper_in_numpy(drawn):
    arguments, (model, images, exact) = drawn[0], made(*drawn)
    paper = Paper(model, arguments["low_res_size"][0], arguments["patch_size"], arguments["scales"])
    seen = model.look(images)
    for n, image in enumerate(exact):
        logits, locations, _ = paper.look(image, arguments["num_glimpses"], arguments["parallel"])
        np.testing.assert_allclose(seen["locations"][n], locations, atol=1e-4)
        np.testing.assert_allclose(seen["logits"][n], logits, atol=1e-3)


@pytest.mark.slow
@examples(5)
@given(any_model())
def test_looking_in_every_way(drawn):
    model, images, _ = made(*drawn)
    eager, *others = [way(tf.constant(images)) for way in ways(model.look_at_all)]
    for other in others:
        for name, values in other.items():
            np.testing.assert_allclose(values, eager[name], atol=1e-3, err_msg=name)
    batches = model.predict(images, batch_size=2, verbose=0)  # Of odd numbers of images, the last batch has one.
    np.testing.assert_allclose(batches, eager["logits"][:, -1], atol=1e-3)


@pytest.mark.slow
@examples(5)
@given(any_model(), st.integers(1, 6), st.floats(0.01, 1.0))
def test_the_cascade_is_looking_until_sure(drawn, batch_size, threshold):
    model, images, _ = made(*drawn)
    beliefs = tf.nn.softmax(model.look(images)["logits"]).numpy()
    sure = beliefs.max(-1) >= threshold
    assume(np.abs(beliefs.max(-1) - threshold).min() > 1e-4)  # Rounding is not to decide.
    sure[:, -1] = True
    stages = sure.argmax(-1)
    found = cascade_predict(model, images, threshold, batch_size)
    np.testing.assert_array_equal(found.exit_stage, stages)
    np.testing.assert_allclose(found.probabilities, beliefs[np.arange(len(images)), stages], atol=1e-4)
    np.testing.assert_array_equal(found.macs, stage_macs(model)[stages])


def check_one_epoch(model, images, stage, batch_size, xla):
    """Trains what the stage trains, by as many steps as there are batches, to weights that are finite."""
    labels = np.arange(len(images)) % model.num_classes
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), stage=stage, jit_compile=xla)
    trained = {id(variable) for variable in model.trainable_variables}
    before = [variable.numpy() for variable in model.variables]
    history = model.fit(images, labels, batch_size=batch_size, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert int(model.optimizer.iterations) == -(-len(images) // batch_size)
    for variable, old in zip(model.variables, before):
        assert np.isfinite(variable.numpy()).all()
        assert id(variable) in trained or np.array_equal(variable.numpy(), old)
    assert any(not np.array_equal(variable.numpy(), old) for variable, old in zip(model.variables, before))


STAGES = st.sampled_from([1, "last", "fine_tune"])


@pytest.mark.slow
@examples(2)
@given(any_model(), STAGES, st.integers(1, 6))
def test_a_step_trains_its_stage(drawn, stage, batch_size):
    model, images, _ = made(*drawn)
    check_one_epoch(model, images, model.num_glimpses if stage == "last" else stage, batch_size, xla=False)


@pytest.mark.slow
@examples(2)
@given(any_model(), STAGES, st.integers(1, 6))
def test_a_step_trains_its_stage_by_xla(drawn, stage, batch_size):
    model, images, _ = made(*drawn)
    check_one_epoch(model, images, model.num_glimpses if stage == "last" else stage, batch_size, xla=True)
