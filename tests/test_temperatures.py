"""Calibration by a temperature for each stage, against Keras's own loss at many temperatures.

That all ways of asking and exported files heed them is seen in their own tests, whose models have some (`sharp_model`).
"""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

import keras_glimpse
from keras_glimpse import cascade_predict, fit_temperatures

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def digits(rng, sharp_model):
    """Half of the labels are as the first glimpse says."""
    images, labels = rng.random((60, 20, 24, 1), dtype=np.float32), rng.integers(0, 4, 60)
    return images, np.where(labels % 2, labels, raw_logits(sharp_model, images)[:, 1].argmax(axis=-1))


def losses(logits, labels, temperatures):
    """Keras's cross-entropy of logits `[n, stages, classes]` at each temperature, for each stage, with smoothed labels."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=1 / (len(labels) + 1))
    one_hot = np.eye(logits.shape[-1])[labels]
    return np.array([[float(loss(one_hot, logits[:, n] / t)) for t in temperatures] for n in range(logits.shape[1])])


def raw_logits(model, images):
    """The logits after each glimpse, of eqs. 5 and 6."""
    evidence = model.first_look(images)
    logits = [model.combine(evidence)]
    for _ in range(model.active_glimpses):
        evidence = model.look_again(images, evidence)
        logits.append(model.combine(evidence))
    return np.stack(logits, axis=1)


def test_least_cross_entropy(sharp_model, digits):
    images, labels = digits
    raw = raw_logits(sharp_model, images)
    found = fit_temperatures(sharp_model, images, labels)
    many = np.geomspace(0.01, 100, 801)
    best = many[losses(raw, labels, many).argmin(axis=1)]
    np.testing.assert_allclose(found, best, rtol=0.01)
    assert found == sharp_model.temperatures and min(found) > 0.1 and max(found) < 50 and np.ptp(found) > 0.1
    again = fit_temperatures(sharp_model, images, labels)  # Of the logits as they were, not of those at these temperatures.
    np.testing.assert_allclose(again, found, rtol=1e-4)


def test_a_stage_that_is_always_right_is_not_certain(sharp_model, digits):
    images, _ = digits
    labels = sharp_model.look(images)["logits"].numpy()[:, -1].argmax(axis=-1)
    fit_temperatures(sharp_model, images, labels)
    assert sharp_model.temperatures[-1] > 0.1  # And not 0.01, the least.


@pytest.mark.slow
def test_what_it_takes(sharp_model, digits):
    images, labels = digits
    found = fit_temperatures(sharp_model, images, labels)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(7)
    for arguments in ((images, labels[:, None], 25), (images, np.eye(4)[labels]), (batches,)):
        np.testing.assert_allclose(fit_temperatures(sharp_model, *arguments), found, rtol=1e-4)
    shares = 0.7 * np.eye(4)[labels] + 0.075
    assert min(fit_temperatures(sharp_model, images, shares)) > max(found)  # Less is certain.
    sharp_model.active_glimpses = 1
    sharp_model.temperatures = (1, 1, 7)
    np.testing.assert_allclose(fit_temperatures(sharp_model, *digits), (*found[:2], 7), rtol=1e-4)


def test_a_model_that_knows_nothing(sharp_model, digits):
    np.testing.assert_allclose(fit_temperatures(sharp_model, digits[0], np.full((60, 4), 0.25)), 100, rtol=1e-4)


def test_answers(sharp_model, digits):
    images, labels = digits
    places = sharp_model.look(images)["locations"]
    sharp_model.temperatures = temperatures = np.float32([0.5, 1, 3])
    want = raw_logits(sharp_model, images) / temperatures[:, None]
    seen = sharp_model.look(images)
    np.testing.assert_allclose(seen["logits"], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen["locations"], places)
    np.testing.assert_allclose(sharp_model.predict(images, verbose=0), want[:, -1], rtol=1e-4, atol=1e-5)
    probabilities = tf.nn.softmax(want).numpy()
    sure = probabilities.max(axis=-1) >= 0.7
    stops = np.where(sure[:, 0], 0, np.where(sure[:, 1], 1, 2))
    result = cascade_predict(sharp_model, images, 0.7)
    assert len({*stops}) == 3
    np.testing.assert_array_equal(result.exit_stage, stops)
    np.testing.assert_allclose(result.probabilities, probabilities[range(60), stops], atol=1e-5)
    curve = keras_glimpse.cascade_curve(sharp_model, images, labels, thresholds=[0.7])
    assert curve.errors == pytest.approx(np.mean(result.probabilities.argmax(axis=-1) != labels))


def test_they_are_saved(sharp_model, make_model, digits, tmp_path):
    before = sharp_model.get_weights()
    sharp_model.temperatures = [0.5, 2, 3]
    sharp_model.save(tmp_path / "model.keras")
    sharp_model.save_weights(tmp_path / "model.weights.h5")
    other = make_model(num_classes=4, num_glimpses=2)
    other.load_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(sharp_model)
    clone.build((None, 20, 24, 1))
    clone.set_weights(before)
    for loaded in (keras.models.load_model(tmp_path / "model.keras"), other, clone):
        assert loaded.temperatures == (0.5, 2.0, 3.0)
        np.testing.assert_allclose(loaded(digits[0]), sharp_model(digits[0]), atol=1e-6)
    assert all(map(np.array_equal, before, sharp_model.get_weights()))


@pytest.mark.parametrize(("glimpses", "temperatures"), one_fast([(1, (0.5, 2, 3)), (3, (0.5, 2, 3)), (3, None)]))
def test_weights_for_another_number_of_glimpses(make_model, tmp_path, glimpses, temperatures):
    shared = {"share_weights": True, "location_head": keras_glimpse.LocationHead()}
    model, other = make_model(**shared), make_model(num_glimpses=glimpses, **shared)
    model.temperatures = temperatures
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert other.temperatures == (*model.temperatures, 1.0)[: glimpses + 1]


@pytest.mark.parametrize("name", ["v0_1_small", "model"])
def test_files_of_before_have_none(name):
    model = keras.models.load_model(GOLDEN / f"{name}.keras")
    assert set(model.temperatures) == {1.0}


def test_a_loop_of_the_users_trains_on_plain_logits(sharp_model, digits):
    want = raw_logits(sharp_model, digits[0])[:, -1]
    np.testing.assert_allclose(sharp_model(digits[0], training=True), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sharp_model(digits[0]), want / 1.5, rtol=1e-4, atol=1e-5)


def test_training_sets_them_to_one(make_model, batch):
    """`fit` and `train_on_batch` change the weights that they were of, and learn as if there had been none."""
    after = []
    for temperatures in (None, (0.5, 2, 3)):
        keras.utils.set_random_seed(0)
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1), stage=1, jit_compile=False)
        model.temperatures = temperatures
        model.train_on_batch(*batch)
        assert model.temperatures == (1.0, 1.0, 1.0)
        model.temperatures = temperatures
        model.fit(*batch, validation_data=batch, batch_size=16, shuffle=False, verbose=0)
        assert model.temperatures == (1.0, 1.0, 1.0)
        after.append(model.get_weights())
    assert all(map(np.array_equal, *after))


@pytest.mark.parametrize(
    "bad", [(1, 2), (1, 0, 1), (1, -1, 1), (1, np.nan, 1), (1, 101, 1), 2.0, "abc", ("1", 1, 1), {1, 2, 3}]
)
def test_bad_temperatures(sharp_model, bad):
    with pytest.raises(ValueError, match="temperatures must be 3 numbers from 0.01 to 100.0, after 0, 1, ... glimpses; got"):
        sharp_model.temperatures = bad
    assert sharp_model.temperatures == (1.25, 0.8, 1.5)


def test_bad_input_changes_nothing(sharp_model, digits):
    sharp_model.temperatures = (0.5, 2, 3)
    with pytest.raises(ValueError, match="got 60 and"):
        fit_temperatures(sharp_model, digits[0], digits[1][:9])
    with pytest.raises(ValueError, match="fit_temperatures needs a model that is built"):
        fit_temperatures(keras_glimpse.GlimpseClassifier(4), *digits)
    with pytest.raises(ValueError, match="an empty dataset"):
        fit_temperatures(sharp_model, tf.data.Dataset.from_tensor_slices(digits).batch(5).take(0))
    with pytest.raises(ValueError, match="got 60 and"):
        fit_temperatures(sharp_model, digits[0])
    sharp_model.low_res_net.set_weights([np.full_like(each, np.nan) for each in sharp_model.low_res_net.get_weights()])
    with pytest.raises(ValueError, match="Expected a model that gives finite logits"):
        fit_temperatures(sharp_model, *digits)
    assert sharp_model.temperatures == (0.5, 2.0, 3.0)
