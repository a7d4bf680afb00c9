"""The crop against `tf.image.crop_and_resize` and NumPy, in every way it can be run; and the thumbnail."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import crop

from keras_glimpse import MultiScaleCrop
from keras_glimpse._compat import is_compiled_by_xla
from keras_glimpse.ops.crop import crop_window
from keras_glimpse.ops.runtime import TENSORFLOW
from keras_glimpse.ops.thumbnail import downsample


def by_op(image, location, size):
    """What DESIGN calls the meaning of a crop: `tf.image.crop_and_resize` on the window's box."""
    extent = np.array(image.shape[1:3], np.float32) - 1
    start = location * extent - (size - 1) / 2
    boxes = np.concatenate([start, start + size - 1], axis=1) / np.tile(extent, 2)
    return tf.image.crop_and_resize(image, boxes, np.arange(len(image)), [size, size])


WAYS = {
    "eager": crop_window,
    "TensorFlow": tf.function(partial(crop_window, runtime=TENSORFLOW)),
    "XLA": tf.function(crop_window, jit_compile=True),
    "portable": tf.function(crop_window),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 2, 7, 12, 28])
def test_crop_equals_crop_and_resize(rng, way, size):
    image = rng.random((40, 17, 23, 3), dtype=np.float32)
    location = rng.uniform(-0.3, 1.3, (40, 2)).astype(np.float32)  # inside, across the border and outside
    np.testing.assert_allclose(WAYS[way](image, location, size), by_op(image, location, size), atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("location", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.5, 0.5)])
def test_crop_at_the_corners(rng, way, location):
    image = rng.random((1, 17, 23, 1), dtype=np.float32)
    location = np.array([location], np.float32)
    np.testing.assert_allclose(WAYS[way](image, location, 6), by_op(image, location, 6), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 30),
    st.integers(2, 30),
    st.integers(1, 4),
    st.integers(1, 20),
    st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)),
    st.sampled_from(["float32", "float64", "uint8", "uint16", "float16"]),
)
def test_both_implementations_agree(height, width, channels, size, location, dtype):
    image = np.random.default_rng(0).uniform(0, 200, (1, height, width, channels)).astype(dtype)
    location = np.array([location], np.float32)
    start = location * (np.array([height, width]) - 1) - (size - 1) / 2
    edge = np.stack([start - i for i in range(-size, 31)])
    if np.any((np.abs(edge) < 1e-3) & (edge != 0)):
        return  # Within rounding of a border pixel, the op itself may read the pixel or 0.
    if np.any(edge == 0) or np.any(np.abs(start + np.arange(size)[:, None] - (np.array([height, width]) - 1)) < 1e-3):
        return
    np.testing.assert_allclose(
        crop_window(image, location, size), WAYS["portable"](image, location, size), atol=2e-2, rtol=1e-4
    )


def test_xla_is_noticed():
    seen = []

    @tf.function(jit_compile=True)
    def compiled(x):
        seen.append(is_compiled_by_xla())
        return tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, inner(x)), (0, x))[1]

    @tf.function
    def inner(x):
        seen.append(is_compiled_by_xla())
        return x + 1

    @tf.function
    def plain(x):
        seen.append(is_compiled_by_xla())
        return compiled(x)

    plain(tf.ones(1))
    assert seen[0] is False and all(seen[1:]) and len(seen) >= 3
    assert not is_compiled_by_xla()


@pytest.mark.parametrize("scales", [(1,), (1, 2), (2,), (1, 2, 3), (1, 3, 4)])
@pytest.mark.parametrize("size", [4, 5])
def test_multi_scale_crop_against_numpy(rng, scales, size):
    image = rng.random((6, 18, 21, 2), dtype=np.float32)
    location = rng.random((6, 2)).astype(np.float32)
    patches = MultiScaleCrop(size, scales)(image, location)
    for i in range(6):
        expected = crop(image[i].astype(np.float64), location[i] * np.array([17, 20]), size, scales)
        np.testing.assert_allclose(patches[i], expected, atol=1e-5)


@pytest.mark.parametrize("scales", [(1, 2), (1, 2, 3)])
@pytest.mark.parametrize(("search_size", "stride"), [(1, 1), (3, 2), (3, 1), (5, 3)])
def test_candidates_are_the_crops_at_the_grid(rng, scales, search_size, stride):
    """One union crop, sliced, is the same as a crop at every candidate."""
    image, location = rng.random((5, 30, 26, 1), dtype=np.float32), rng.random((5, 2)).astype(np.float32)
    layer = MultiScaleCrop(6, scales)
    steps = stride * (np.arange(search_size) - (search_size - 1) / 2)
    got = layer.candidates(image, location, search_size, stride)
    for n, offset in enumerate((dy, dx) for dy in steps for dx in steps):
        moved = (location + np.array(offset) / np.array([29, 25])).astype(np.float32)
        np.testing.assert_allclose(got[:, n], layer(image, moved), atol=2e-5)


@pytest.mark.parametrize("method", ["area", "strided", "bilinear"])
def test_unsigned_integers_are_scaled(rng, method):
    image = rng.integers(0, 256, (2, 24, 24, 1)).astype(np.uint8)
    scaled = image.astype(np.float32) / 255
    np.testing.assert_allclose(downsample(image, (6, 6), method), downsample(scaled, (6, 6), method), atol=1e-6)
    location = rng.random((2, 2)).astype(np.float32)
    np.testing.assert_allclose(MultiScaleCrop(6)(image, location), MultiScaleCrop(6)(scaled, location), atol=1e-6)


def test_area_thumbnail_is_the_mean_of_what_lies_under_a_pixel(rng):
    image = rng.random((2, 28, 21, 2), dtype=np.float32)
    fine = image.astype(np.float64).repeat(10, axis=1).repeat(8, axis=2)  # 280 x 168: divisible by both 10 and 8
    expected = fine.reshape(2, 10, 28, 8, 21, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(downsample(image, (10, 8), "area"), expected, atol=1e-6)
    np.testing.assert_allclose(downsample(image, (7, 7), "area"), image.reshape(2, 7, 4, 7, 3, 2).mean(axis=(2, 4)), atol=1e-6)


def test_other_thumbnails(rng):
    image = rng.random((2, 28, 20, 3), dtype=np.float32)
    expected = tf.image.resize(image, (7, 6), method="bilinear", antialias=False)
    np.testing.assert_allclose(downsample(image, (7, 6), "bilinear"), expected, atol=1e-6)
    np.testing.assert_allclose(downsample(image, (7, 5), "strided"), image[:, 2::4, 2::4])


def test_no_gradient_through_the_crop(rng):
    image, location = rng.random((1, 20, 20, 1), dtype=np.float32), tf.Variable([[0.4, 0.6]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(MultiScaleCrop(6)(image, location))
    assert tape.gradient(total, location) is None


@pytest.mark.parametrize("method", ["area", "strided", "bilinear"])
def test_a_thumbnail_as_large_as_the_image(rng, method):
    """It is the image: what exported files of accelerators take."""
    image = rng.integers(0, 256, (2, 7, 9, 3), np.uint8)
    np.testing.assert_allclose(downsample(image, (7, 9), method), image / np.float32(255))
