"""Where the paper does not add up: places, distances and strides in units that fit every image, and shared weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

from keras_glimpse import GlimpseClassifier, paper_sgd
from keras_glimpse.layers import MultiScaleCrop
from keras_glimpse.ops.geometry import candidate_locations, relative_sides, search_grid, stride_in_pixels
from keras_glimpse.ops.labels import label_shares
from keras_glimpse.training.search import search
from keras_glimpse.training.step import look_until_stage

SIZES = {"low_res_size": 5, "patch_size": 6, "hidden_units": 8}


def test_no_candidate_lies_outside_the_image(make_model, batch):
    """Every head looks at a corner: of nine candidates four are left, the prediction among them."""
    model = make_model()
    for head in model.location_heads:
        kernel, bias, from_logits = head.get_weights()
        head.set_weights([0 * kernel, bias - 20.0, 0 * from_logits])
    model.compile(paper_sgd(), stage=1, jit_compile=False)
    images, shares = tf.constant(batch[0]), label_shares(batch[1], 3)
    evidence, locations, _ = look_until_stage(model, model.stage, images, shares)
    places = search(model, images, shares, evidence, locations)[1].places
    inside = (places >= 0).numpy() & (places <= 1).numpy()
    assert inside.all()
    steps = np.round(places * [19, 23]).astype(int).reshape(-1, 2)
    assert {*map(tuple, steps)} <= {(0, 0), (0, 2), (2, 0), (2, 2)} and len({*map(tuple, steps)}) > 1


def test_the_tables_protocol_stays():
    """What 48x48 has by default is what the tables were trained with: 2 pixels, lambda 10, sides of one length."""
    model = GlimpseClassifier(10)
    settings = {"search_size": 3, "location_weight": 10.0, "diversity_weight": 0.01, "diversity_variance": 0.002}
    assert {name: getattr(model, name) for name in settings} == settings
    for side in (28, 48):
        assert stride_in_pixels(model.search_stride, (None, side, side, 1)) == 2
    explicit = GlimpseClassifier(10, search_stride=2)
    assert stride_in_pixels(explicit.search_stride, (None, 4096, 4096, 1)) == 2


@pytest.mark.parametrize("shape", [(480, 480), (48, 96), (2000, 4096)])
def test_one_default_fits_every_size(shape):
    """An image of n times as many pixels a side has n times the stride, and pays the same for the same share of a side."""
    stride = stride_in_pixels(GlimpseClassifier(10).search_stride, (None, *shape, 1))
    assert stride == pytest.approx(max(shape) / 24, abs=0.5)


def test_distances_are_alike_in_both_directions(make_model, rng):
    """A step of two pixels down costs what one of two pixels to the right costs, in an image that is not square."""
    model = make_model((20, 60, 1))
    location = tf.constant([[0.5, 0.5]])
    places = candidate_locations(location, np.float32([[2, 0], [0, 2], [-2, 0]]), (None, 20, 60, 1))
    penalty = model.objective.place_penalty(location, places, [], relative_sides((None, 20, 60, 1)))[0]
    np.testing.assert_allclose(penalty, 3 * [model.location_weight / 2 * (2 / 59) ** 2], rtol=1e-5)


@pytest.mark.parametrize("stride", [2, 5, 13, 40])
@pytest.mark.parametrize("jit_compile", one_fast([False, True]))
def test_candidates_far_apart_are_what_single_crops_are(rng, stride, jit_compile):
    """By one union crop, or by crops of their own where it would be larger than all of them."""
    images = tf.constant(rng.random((3, 90, 110, 2), dtype=np.float32))
    locations = tf.constant(rng.random((3, 2), dtype=np.float32))
    crop = MultiScaleCrop(6, (1, 2))
    crop(images, locations)
    candidates = tf.function(lambda i, z: crop.candidates(i, z, 3, stride), jit_compile=jit_compile)
    places = candidate_locations(locations, search_grid(3, stride), images.shape)
    expected = tf.stack([crop(images, place) for place in tf.unstack(places, axis=1)], axis=1)
    np.testing.assert_allclose(candidates(images, locations), expected, atol=2e-4)


@pytest.mark.slow
def test_what_shared_weights_say_changes_with_a_later_stage(batch):
    """As the docs say: it is the same network."""
    said = []
    model = GlimpseClassifier(3, share_weights=True, **SIZES)
    for stage in (1, 2):
        model.compile(paper_sgd(), stage=stage, jit_compile=False)
        model.fit(*batch, verbose=0)
        said.append(model.look(batch[0])["logits"][:, 1].numpy())
    assert np.abs(said[1] - said[0]).max() > 1e-4
    own = GlimpseClassifier(3, **SIZES)
    said = []
    for stage in (1, 2):
        own.compile(paper_sgd(), stage=stage, jit_compile=False)
        own.fit(*batch, verbose=0)
        said.append(own.look(batch[0])["logits"][:, 1].numpy())
    np.testing.assert_allclose(said[1], said[0], atol=1e-5)


@pytest.mark.slow
def test_larger_images_learn_with_defaults(rng):
    """Dots of a colour in 96x192 images, enlarged twice or not: nothing but the defaults, and alike."""
    keras.utils.set_random_seed(1)
    labels = rng.integers(0, 2, 400)
    images = 0.1 * rng.random((400, 48, 96, 1), dtype=np.float32)
    for image, label, y, x in zip(images, labels, rng.integers(0, 42, 400), rng.integers(0, 90, 400)):
        image[y : y + 6, x : x + 6] = 0.5 + 0.5 * label
    moved = []
    for factor in (1, 2):
        enlarged = images.repeat(factor, axis=1).repeat(factor, axis=2)
        model = GlimpseClassifier(2, 1, low_res_size=12, patch_size=8 * factor, hidden_units=16)
        model.compile(paper_sgd(), jit_compile=False)
        history = model.fit(enlarged, labels, batch_size=20, epochs=2, verbose=0).history
        moved.append(history["moved_px"][-1] / factor)
    assert moved[0] == pytest.approx(moved[1], rel=0.25)
