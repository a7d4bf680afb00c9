"""The cascade's curve of error against cost, against the cascade itself."""

import numpy as np
import pytest
import tensorflow as tf

import keras_glimpse
from keras_glimpse.cascade.curve import THRESHOLDS


@pytest.fixture
def digits(rng):
    return rng.random((60, 20, 24, 1), dtype=np.float32), rng.integers(0, 4, 60)


@pytest.mark.slow
def test_points_are_those_of_the_cascade(sharp_model, digits):
    images, labels = digits
    curve = keras_glimpse.cascade_curve(sharp_model, images, labels, thresholds=[0.3, 0.8, 1.0], batch_size=25)
    for threshold, error, macs in zip(curve.thresholds, curve.errors, curve.macs):
        result = keras_glimpse.cascade_predict(sharp_model, images, threshold)
        assert error == pytest.approx(np.mean(result.probabilities.argmax(axis=-1) != labels))
        assert macs == pytest.approx(result.macs.mean())
    assert curve.full_error == pytest.approx(np.mean(sharp_model(images).numpy().argmax(axis=-1) != labels))
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(7)
    again = keras_glimpse.cascade_curve(sharp_model, batches, thresholds=[0.3, 0.8, 1.0])
    np.testing.assert_array_equal(again.errors, curve.errors)


@pytest.mark.slow
def test_labels_of_other_shapes(sharp_model, digits):
    images, labels = digits
    curve = keras_glimpse.cascade_curve(sharp_model, images, labels)
    np.testing.assert_array_equal(keras_glimpse.cascade_curve(sharp_model, images, labels[:, None]).errors, curve.errors)
    weighted = tf.data.Dataset.from_tensor_slices((images, labels, np.ones(60))).batch(7)
    np.testing.assert_array_equal(keras_glimpse.cascade_curve(sharp_model, weighted).errors, curve.errors)
    np.testing.assert_array_equal(keras_glimpse.cascade_curve(sharp_model, images, np.eye(4)[labels]).errors, curve.errors)
    with pytest.raises(ValueError, match=r"one-hot or soft labels \[batch, 4\]; got labels of shape \(60, 5\)"):
        keras_glimpse.cascade_curve(sharp_model, images, np.eye(5)[labels])


def test_the_best_threshold_within_a_budget():
    curve = keras_glimpse.CascadeCurve(np.array([0.5, 0.7, 0.9]), np.array([0.1, 0.02, 0.03]), np.array([10, 20, 30]), 0.03)
    assert [curve.within(macs) for macs in (10, 20, 1000)] == [0.5, 0.7, 0.7]
    with pytest.raises(ValueError, match="No threshold costs 9 .* the cheapest, 10"):
        curve.within(9)


def test_cheapest_threshold():
    curve = keras_glimpse.CascadeCurve(np.array([0.5, 0.7, 0.9]), np.array([0.04, 0.021, 0.02]), np.array([1, 2, 3]), 0.02)
    assert curve.cheapest(0.0) == 0.9
    assert curve.cheapest(0.0011) == 0.7
    assert curve.cheapest(1.0) == 0.5
    with pytest.raises(ValueError, match="No threshold has an error of 0.0100 or less"):
        curve._replace(full_error=0.01).cheapest(0.0)
    assert curve._replace(full_error=0.01).cheapest(0.0, default=1.0) == 1.0
    assert curve.cheapest(0.0, default=1.0) == 0.9
    assert THRESHOLDS.min() > 0.1 and THRESHOLDS.max() < 1 and (np.diff(THRESHOLDS) > 0).all()


def test_bad_input(sharp_model, digits):
    with pytest.raises(ValueError, match="got 60 and"):
        keras_glimpse.cascade_curve(sharp_model, digits[0], digits[1][:9])
    with pytest.raises(ValueError, match="threshold must lie in"):
        keras_glimpse.cascade_curve(sharp_model, *digits, thresholds=[0.5, 7])
    with pytest.raises(ValueError, match="cascade_curve needs a model that is built"):
        keras_glimpse.cascade_curve(keras_glimpse.GlimpseClassifier(4), *digits)
    with pytest.raises(ValueError, match="an empty dataset"):
        keras_glimpse.cascade_curve(sharp_model, tf.data.Dataset.from_tensor_slices(digits).batch(5).take(0))
