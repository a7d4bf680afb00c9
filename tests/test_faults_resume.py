"""A training that was stopped goes on to the very weights of one that was not: with defaults, and whatever draws at random."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

from keras_glimpse import GlimpseClassifier, paper_sgd
from keras_glimpse.training.checkpoints import after_epochs


def endless(batch):
    return tf.data.Dataset.from_tensor_slices(batch).repeat().shuffle(64).batch(4), 10


def fresh_order(batch):
    return tf.data.Dataset.from_tensor_slices(batch).shuffle(64).repeat().batch(4), 7


def part_of_a_finite_one(batch):
    """8 of 16 batches an epoch: begun again every other epoch, in another order."""
    return tf.data.Dataset.from_tensor_slices(batch).shuffle(64).batch(4), 8


def all_of_a_finite_one(batch):
    return tf.data.Dataset.from_tensor_slices(batch).shuffle(64).batch(4), None


def train(source, batch, folder, epochs):
    """A program that starts anew, with the defaults of `compile`."""
    keras.utils.set_random_seed(5)
    dataset, steps = source(batch)
    net = keras.Sequential([keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    model = GlimpseClassifier(3, 1, low_res_size=5, patch_size=6, hidden_units=8, glimpse_net=net)
    model.compile(paper_sgd())
    history = model.fit(dataset, epochs=epochs, steps_per_epoch=steps, checkpoint=folder, verbose=0)
    return model.get_weights(), history.history


@pytest.mark.slow
@pytest.mark.parametrize("source", [endless, fresh_order, part_of_a_finite_one, all_of_a_finite_one])
def test_stopped_and_resumed(source, batch, tmp_path):
    whole = train(source, batch, tmp_path / "whole", 5)
    for epochs in (1, 3):
        train(source, batch, tmp_path / "stopped", epochs)
    resumed = train(source, batch, tmp_path / "stopped", 5)
    for a, b in zip(whole[0], resumed[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole[1] == resumed[1]


@pytest.mark.parametrize(("steps", "length"), [(None, 12), (3, 12), (4, 12), (12, 12), (4, -1)])
@pytest.mark.parametrize("epochs", one_fast([3, 0, 1, 2, 5]))
def test_data_go_on_where_keras_would_read_on(steps, length, epochs):
    """What is left is what follows in a run of Keras itself, epoch by epoch."""

    def read(dataset, first, last):
        seen = []

        class Reads(keras.Model):
            def train_step(self, data):
                seen.append(int(data[0][0]))
                return {"loss": tf.constant(0.0)}

        model = Reads()
        model.compile(run_eagerly=True)
        model.fit(dataset, epochs=last, initial_epoch=first, steps_per_epoch=steps, shuffle=False, verbose=0)
        return seen

    numbers = tf.data.Dataset.range(length) if length > 0 else tf.data.Dataset.range(100).repeat()
    dataset = numbers.batch(1).map(lambda n: (n, n))
    before = read(dataset, 0, epochs) if epochs else []
    rest = read(after_epochs(dataset, epochs, steps, is_finished=False), epochs, epochs + 3)
    assert before + rest == read(dataset, 0, epochs + 3)


def test_epochs_that_a_resumed_training_cannot_find_are_refused(make_model, batch, tmp_path):
    model = make_model()
    model.compile(paper_sgd(), jit_compile=False)
    with pytest.raises(ValueError, match="all of their 4 batches; got steps_per_epoch=3. Pass a tf.data.Dataset"):
        model.fit(*batch, batch_size=16, steps_per_epoch=3, checkpoint=tmp_path, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(4)
    with pytest.raises(ValueError, match="must divide the 16 batches of a dataset; got 5"):
        model.fit(dataset, steps_per_epoch=5, checkpoint=tmp_path, verbose=0)
    model.fit(*batch, batch_size=16, steps_per_epoch=4, checkpoint=tmp_path, verbose=0)


def test_a_single_callback_and_a_metric_of_each_class(batch, tmp_path, make_model):
    model = make_model()
    model.compile(paper_sgd(), metrics=[keras.metrics.F1Score(name="f1")], jit_compile=False)
    history = model.fit(*batch, epochs=2, checkpoint=tmp_path, callbacks=keras.callbacks.EarlyStopping("loss"), verbose=0)
    assert np.shape(history.history["f1"]) == (2, 3)
