"""A search over fewer places as training proceeds, against trainings with a constant search."""

import keras
import numpy as np
import pytest

from keras_glimpse import SearchSchedule, fit_greedy


@pytest.mark.slow
@pytest.mark.parametrize("way", [{"jit_compile": True}, {"jit_compile": False, "steps_per_execution": 1}], ids=str)
def test_each_epoch_searches_as_the_schedule_says(make_model, batch, way):
    options = {"batch_size": 4, "shuffle": False, "verbose": 0}
    scheduled, by_hand = make_model(), make_model()
    by_hand.set_weights(scheduled.get_weights())
    scheduled.compile(keras.optimizers.SGD(0.05, momentum=0.9), **way)
    history = scheduled.fit(*batch, epochs=3, callbacks=[SearchSchedule({0: 5, 1: 1})], **options).history
    by_hand.compile(keras.optimizers.SGD(0.05, momentum=0.9), **way)
    for size, epochs in ((5, 1), (1, 2)):
        by_hand.search_size = size
        by_hand.compile(by_hand.optimizer, **way)
        by_hand.fit(*batch, epochs=epochs, **options)
    for one, other in zip(scheduled.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert history["moved_px"][0] > 0 and history["moved_px"][1:] == [0, 0]
    assert scheduled.search_size == 1


class Killed(Exception):
    pass


class Killer(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise Killed


@pytest.mark.slow
def test_a_training_that_goes_on_searches_as_it_would_have(make_model, batch, tmp_path):
    """Killed in the second stage, in an epoch before which the size had already changed."""

    def train(folder, killer=None):
        keras.utils.set_random_seed(0)
        model = make_model()
        extra = lambda stage: [SearchSchedule({0: 5, 1: 1}), *([killer] if killer and stage == 2 else [])]  # noqa: E731
        options = {"compile_args": {"jit_compile": False}, "checkpoint": folder, "verbose": 0}
        fit_greedy(model, *batch, epochs=3, stages=[1, 2], batch_size=4, callbacks=extra, **options)
        return model

    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", Killer())
    again = train(tmp_path / "killed")
    for one, other in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.search_size == 1


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({1: 3}, ValueError, r"from epoch 0 on; got \{1: 3\}"),
        ({}, ValueError, r"from epoch 0 on; got \{\}"),
        ({0: 4}, ValueError, "search_size must be odd, so that the prediction is a candidate; got 4"),
        ({0: 3, 2: 0}, ValueError, "search_size must be an integer, at least 1; got 0"),
        ({0: 3, -1: 1}, ValueError, "epoch must be an integer, at least 0; got -1"),
        ([5, 3], TypeError, r"sizes must map epochs to sizes, such as \{0: 5, 10: 3\}; got \[5, 3\]"),
    ],
    ids=str,
)
def test_bad_schedules(sizes, error, message):
    with pytest.raises(error, match=message):
        SearchSchedule(sizes)


def test_another_model_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="SearchSchedule needs a GlimpseClassifier; got Sequential"):
        model.fit(np.zeros((2, 2)), np.zeros((2, 2)), callbacks=[SearchSchedule({0: 3})], verbose=0)
