"""Multiply-accumulates against the table in the paper, and the cascade against looking at everything."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

from keras_glimpse import GlimpseClassifier, cascade_predict, count_macs, stage_macs


def dense(side):
    return keras.Sequential([keras.Input((side, side, 1)), keras.layers.Flatten(), *_dense_layers(500)])


def conv(side):
    layers = [keras.layers.Conv2D(64, 5, activation="relu"), keras.layers.MaxPooling2D(2)]
    layers += [keras.layers.Conv2D(64, 5, activation="relu"), keras.layers.MaxPooling2D(2), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((side, side, 1)), *layers, *_dense_layers(128)])


def _dense_layers(units):
    return keras.layers.Dense(units, "relu"), keras.layers.Dense(10)


def glimpses(side, **kwargs):
    model = GlimpseClassifier(num_classes=10, **kwargs)
    model.build((None, side, side, 1))
    return model


@pytest.mark.parametrize(
    ("make", "macs"),
    [
        (lambda: dense(48), 1_157_000),
        (lambda: dense(12), 77_000),
        (lambda: glimpses(48, num_glimpses=1), 227_020),
        (lambda: glimpses(48, num_glimpses=1, scales=(1,)), 155_020),
        (lambda: glimpses(48, num_glimpses=2), 377_040),
        (lambda: conv(48), 36_940_032),
        (lambda: dense(28), 397_000),
        (lambda: dense(10), 55_000),
        (lambda: glimpses(28, num_glimpses=1, low_res_size=10, patch_size=10, scales=(1,)), 111_020),
        (lambda: conv(28), 7_607_552),
    ],
)
def test_the_papers_macs(make, macs):
    """Counted by hand: inputs x hidden + hidden x classes for each network, and (hidden + classes) x 2 for a head."""
    assert count_macs(make()) == macs


def test_macs_of_other_layers():
    layers = [keras.layers.DepthwiseConv2D(3), keras.layers.SeparableConv2D(4, 3), keras.layers.Dense(6)]
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(8, 5, strides=2), *layers])
    by_hand = 6 * 6 * 8 * 75 + 4 * 4 * 8 * 9 + (2 * 2 * 8 * 9 + 2 * 2 * 4 * 8) + 2 * 2 * 4 * 6
    assert count_macs(model) == by_hand
    assert count_macs(keras.Sequential([keras.Input((9, 2)), keras.layers.Conv1D(3, 4)])) == 6 * 3 * 8
    assert count_macs(keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2DTranspose(3, 5)])) == 16 * 2 * 75
    assert count_macs(keras.layers.EinsumDense("abc,cd->abd", (None, 7)), (5, 3)) == 5 * 3 * 7
    with pytest.raises(ValueError, match="cannot tell what While"):
        count_macs(keras.layers.LSTM(3), (5, 2))
    with pytest.raises(ValueError, match="needs the shape"):
        count_macs(keras.layers.Dense(3))


def test_thumbnails_and_crops_cost_nothing_whatever_the_image():
    sizes = [(48, 48, 1), (50, 70, 1), (300, 200, 1)]
    counts = []
    for shape in sizes:
        model = GlimpseClassifier(num_classes=10)
        model.build((None, *shape))
        counts.append(stage_macs(model).tolist())
    assert counts == [[77_000, 227_020, 377_040]] * 3


@pytest.fixture
def model_and_images(make_model, rng):
    model = make_model(num_classes=4, num_glimpses=3)
    for net in (model.low_res_net, *model.glimpse_nets):  # Sharper, so that images differ in how sure the model is.
        net.set_weights([4 * weights for weights in net.get_weights()])
    return model, rng.random((300, 20, 24, 1), dtype=np.float32)


@pytest.mark.parametrize("threshold", one_fast([0.8, 0.3, 0.6, 0.999, 1.0]))
@pytest.mark.parametrize("batch_size", [70, 1])  # A single image has a graph of its own.
def test_cascade_equals_looking_at_everything(model_and_images, threshold, batch_size):
    model, images = model_and_images
    result = cascade_predict(model, images, threshold, batch_size=batch_size)
    assert result.exit_stage.dtype == np.int64
    probabilities = tf.nn.softmax(model.look(images)["logits"]).numpy()
    compared = 0
    for i, stages in enumerate(probabilities):
        confidence = stages.max(axis=-1)
        if np.abs(confidence[:3] - threshold).min() < 1e-5:  # Rounding decides; the cascade is compiled by XLA.
            continue
        sure = [n for n in range(4) if confidence[n] >= threshold]
        expected = sure[0] if sure else 3
        assert result.exit_stage[i] == expected
        np.testing.assert_allclose(result.probabilities[i], stages[expected], atol=1e-4)  # The logits are in the hundreds.
        compared += 1
    assert compared > 200
    np.testing.assert_array_equal(result.macs, stage_macs(model)[result.exit_stage])


def test_one_unsure_image_is_looked_at_to_the_end(model_and_images):
    model, images = model_and_images
    result = cascade_predict(model, np.full_like(images[:1], np.nan), 0.5)
    assert result.exit_stage.tolist() == [3]
    assert np.isnan(result.probabilities).all()


def test_networks_that_one_image_does_not_need_do_not_run(rng):
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, patches):
            tf.py_function(lambda: seen.append("glimpse"), [], [])
            return tf.zeros((tf.shape(patches)[0], 4))

    model = GlimpseClassifier(4, 1, low_res_size=5, patch_size=6, hidden_units=8, glimpse_net=Spy())
    model.build((None, 20, 24, 1))
    model.compile(jit_compile=False)
    image = rng.random((1, 20, 24, 1), dtype=np.float32)
    confidence = float(tf.nn.softmax(model.look(image)["logits"][0, 0]).numpy().max())
    seen.clear()
    assert cascade_predict(model, image, confidence - 1e-3).exit_stage.tolist() == [0]
    assert not seen
    assert cascade_predict(model, image, confidence + 1e-3).exit_stage.tolist() == [1]
    assert seen == ["glimpse"]


@keras.saving.register_keras_serializable(package="tests")
class Middle(keras.layers.Layer):
    """A location head that answers in its own dtype."""

    def call(self, hidden, logits):
        return 0.5 + 0.0 * keras.ops.cast(logits[:, :2], self.compute_dtype)


@pytest.mark.parametrize("policy", one_fast(["mixed_bfloat16", "float64"]))
def test_one_image_where_locations_are_no_float32(rng, policy):
    model = GlimpseClassifier(
        4, 2, low_res_size=5, patch_size=6, hidden_units=8, location_head=Middle(dtype=policy), dtype=policy
    )
    model.build((None, 20, 24, 1))
    images = rng.random((2, 20, 24, 1), dtype=np.float32)
    one, two = cascade_predict(model, images[:1], 1.0), cascade_predict(model, images, 1.0)
    np.testing.assert_allclose(one.probabilities, two.probabilities[:1], atol=1e-2)


def test_single_images_of_wrong_sizes(model_and_images, rng):
    sizes = (1, 20, 24, 1), (1, 30, 24, 1)
    images = tf.data.Dataset.from_generator(
        lambda: (rng.random(size, dtype=np.float32) for size in sizes), output_signature=tf.TensorSpec((1, None, None, 1))
    )
    with pytest.raises(ValueError, match=r"built for images \(20, 24, 1\); got images \(30, 24, 1\)"):
        cascade_predict(model_and_images[0], images)


def test_cascade_stops_at_every_stage_somewhere(model_and_images):
    assert set(cascade_predict(*model_and_images, 0.9).exit_stage) == {0, 1, 2, 3}


def test_later_networks_run_on_unsure_images_only(model_and_images):
    images, seen = model_and_images[1], []

    class Spy(keras.layers.Layer):
        def call(self, patches):
            tf.py_function(lambda count: seen.append(int(count)), [tf.shape(patches)[0]], [])
            return tf.zeros((tf.shape(patches)[0], 4))

    model = GlimpseClassifier(4, 1, low_res_size=5, patch_size=6, hidden_units=8, glimpse_net=Spy())
    model.build((None, 20, 24, 1))
    model.low_res_net.set_weights([4 * weights for weights in model.low_res_net.get_weights()])
    seen.clear()
    model.compile(jit_compile=False)
    result = cascade_predict(model, images, 0.9, batch_size=64)
    unsure = np.sum(result.exit_stage > 0)
    assert max(seen) <= 64 and unsure <= sum(seen) < 1.5 * unsure and 0 < unsure < 300


def test_cascade_needs_images_and_a_batch_size(model_and_images):
    model, images = model_and_images
    with pytest.raises(ValueError, match="batch_size must be an integer, at least 1; got 0"):
        cascade_predict(model, images, batch_size=0)
    with pytest.raises(ValueError, match="got an empty dataset"):
        cascade_predict(model, tf.data.Dataset.from_tensor_slices(images).batch(8).take(0))


@pytest.mark.slow
def test_cascade_takes_datasets(model_and_images):
    model, images = model_and_images
    dataset = tf.data.Dataset.from_tensor_slices((images, np.zeros(300, np.int32))).batch(128)
    one, other = cascade_predict(model, dataset, 0.7), cascade_predict(model, images, 0.7)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1, float("nan")])
def test_bad_thresholds(model_and_images, threshold):
    with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\]"):
        cascade_predict(*model_and_images, threshold)


def test_cascade_needs_a_built_model(rng):
    with pytest.raises(ValueError, match="built"):
        cascade_predict(GlimpseClassifier(3), rng.random((1, 48, 48, 1)))
