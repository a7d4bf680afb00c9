"""Steps are counted exactly, by `fit`, `evaluate`, `predict` and callbacks, with defaults as with one step a call."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

import keras_glimpse
from keras_glimpse import GlimpseClassifier, paper_sgd
from keras_glimpse.training import execution

WAYS = {"auto": {}, "without XLA": {"jit_compile": False}, "eager": {"run_eagerly": True}}


def endless(batch, size=4):
    """Batches that tell how many of them were read."""
    read = tf.Variable(0)

    def count(images, labels):
        with tf.control_dependencies([read.assign_add(1)]):
            return tf.identity(images), labels

    return tf.data.Dataset.from_tensor_slices(batch).repeat().batch(size).map(count), read


class Seen(keras.callbacks.Callback):
    """Steps that the optimizer has made when Keras says that a batch has ended."""

    def __init__(self):
        super().__init__()
        self.train, self.test, self.predict = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.train.append((batch, int(self.model.optimizer.iterations)))

    def on_test_batch_end(self, batch, logs=None):
        self.test.append(batch)

    def on_predict_batch_end(self, batch, logs=None):
        self.predict.append(batch)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [10, 3, 33])
def test_an_epoch_has_the_steps_that_were_asked_for(make_model, batch, way, steps):
    model, (dataset, read) = make_model(), endless(batch)
    model.compile(paper_sgd(), **WAYS[way])
    history = model.fit(dataset, steps_per_epoch=steps, epochs=3, verbose=0)
    assert int(model.optimizer.iterations) == 3 * steps and len(history.epoch) == 3
    assert 3 * steps <= int(read) <= 3 * steps + 64  # What `prefetch` has read ahead; not more at every epoch.


@pytest.mark.slow
@pytest.mark.parametrize("way", ["without XLA", "auto", "eager"])
def test_same_training_as_one_step_a_call(make_model, batch, way):
    """A finite dataset of 16 batches, read five at a time: begun again where Keras begins it again."""
    model, twin = make_model(), make_model()
    twin.set_weights(model.get_weights())
    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(4)
    model.compile(paper_sgd(), **WAYS[way])
    twin.compile(paper_sgd(), jit_compile=False, steps_per_execution=1)
    histories = []
    for each in (model, twin):
        with pytest.warns(UserWarning, match="ran out of data"):
            histories.append(
                each.fit(dataset, steps_per_epoch=5, epochs=6, verbose=0, validation_data=dataset, validation_steps=3)
            )
    assert int(model.optimizer.iterations) == int(twin.optimizer.iterations) < 30
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(a, b, atol=2e-6)
    for name, values in histories[1].history.items():
        np.testing.assert_allclose(histories[0].history[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_rate_falls_to_0_at_the_last_step(make_model, batch):
    model = make_model()
    model.compile(paper_sgd(40))
    model.fit(endless(batch)[0], steps_per_epoch=10, epochs=4, verbose=0)
    assert float(model.optimizer.learning_rate) == 0.0
    model.compile(paper_sgd(41))
    model.fit(endless(batch)[0], steps_per_epoch=10, epochs=4, verbose=0)
    assert float(model.optimizer.learning_rate) > 0.0


def test_evaluate_and_predict_read_the_steps_that_were_asked_for(make_model, batch):
    model = make_model()
    model.compile(paper_sgd(), jit_compile=False)
    dataset = endless(batch)[0]
    five = model.evaluate(dataset, steps=5, verbose=0, return_dict=True)
    assert five == pytest.approx(
        model.evaluate(batch[0][:20], batch[1][:20], batch_size=4, verbose=0, return_dict=True), abs=1e-6
    )
    rows = model.predict(dataset, steps=5, verbose=0)
    np.testing.assert_allclose(rows, model(batch[0][:20]), atol=1e-5)
    assert model.predict(batch[0], batch_size=5, steps=3, verbose=0).shape == (15, 3)


@pytest.mark.slow
def test_callbacks_that_look_at_steps_see_every_one(make_model, batch):
    model, seen = make_model(), Seen()
    model.compile(paper_sgd())
    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(4)
    model.fit(dataset, epochs=2, validation_data=dataset, validation_steps=3, callbacks=[seen], verbose=0)
    assert seen.train == [(step % 16, step + 1) for step in range(32)]
    assert seen.test == [0, 1, 2] * 2
    model.predict(dataset, callbacks=[seen], verbose=0)
    assert seen.predict == [*range(16)]


@pytest.mark.slow
def test_checkpoints_of_single_steps(make_model, batch, tmp_path):
    model = make_model()
    model.compile(paper_sgd())
    saving = keras.callbacks.ModelCheckpoint(str(tmp_path / "{batch:03}.weights.h5"), save_freq=5, save_weights_only=True)
    model.fit(tf.data.Dataset.from_tensor_slices(batch).batch(4), callbacks=[saving], verbose=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["005.weights.h5", "010.weights.h5", "015.weights.h5"]


@pytest.mark.parametrize(
    ("make", "watches"),
    [
        (lambda: keras.callbacks.EarlyStopping(), False),
        (lambda: keras.callbacks.ModelCheckpoint("x.keras"), False),
        (lambda: keras.callbacks.ModelCheckpoint("x.keras", save_freq=5), True),
        (lambda: keras.callbacks.BackupAndRestore("x", save_freq=5), True),
        (lambda: keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None), True),
        (lambda: keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None), False),
        (lambda: keras.callbacks.TerminateOnNaN(), True),
        (lambda: keras.callbacks.TensorBoard(), False),
        (lambda: keras.callbacks.TensorBoard(update_freq="batch"), True),
        (lambda: [[Seen()]], True),
        (lambda: keras.callbacks.CallbackList([keras.callbacks.CSVLogger("x"), Seen()], add_history=True), True),
        (lambda: None, False),
    ],
)
def test_which_callbacks_look_at_steps(make, watches):
    assert execution.watches_steps(make(), "train") == watches


@pytest.mark.slow
def test_many_steps_a_call_and_nothing_compiled_for_a_remainder(make_model, batch, monkeypatch):
    """40 steps and 15 steps an epoch are 20 and 20, and 15: calls of nearly one size, of one trace each."""
    counts = []
    begin = execution.StepFunction.begin

    def spy(function, *args, **kwargs):
        run = function._run if not hasattr(function, "spied") else function.spied
        function.spied = run
        function._run = lambda iterator, limit, room: counts.append((limit, room)) or run(iterator, limit, room)
        begin(function, *args, **kwargs)

    monkeypatch.setattr(execution.StepFunction, "begin", spy)
    model = make_model()
    model.compile(paper_sgd(), jit_compile=True)
    for steps in (40, 45):
        model.fit(endless(batch)[0], steps_per_epoch=steps, epochs=2, verbose=0)
    assert counts == [(20, 20)] * 4 + [(23, 23), (22, 23)] * 2


def test_a_cap_on_steps_for_debugging(make_model, batch):
    """`keras.config.set_max_steps_per_epoch`."""
    model = make_model()
    model.compile(paper_sgd(), jit_compile=False)
    keras.config.set_max_steps_per_epoch(3)
    try:
        with pytest.warns(UserWarning, match="Limiting steps_per_epoch to 3"):
            model.fit(endless(batch)[0], steps_per_epoch=10, epochs=2, verbose=0)
    finally:
        keras.config.set_max_steps_per_epoch(None)
    assert int(model.optimizer.iterations) == 6


USES = {
    "fit": lambda model, x, y: model.fit(x, y, batch_size=12, verbose=0),
    "evaluate": lambda model, x, y: model.evaluate(x, y, batch_size=12, verbose=0),
    "predict": lambda model, x, y: model.predict(x, batch_size=12, verbose=0),
    "look": lambda model, x, y: model.look(x),
    "cascade": lambda model, x, y: keras_glimpse.cascade_predict(model, x, 0.5),
    "curve": lambda model, x, y: keras_glimpse.cascade_curve(model, x, y),
}


@pytest.mark.parametrize("jit_compile", one_fast([False, "auto"]))
@pytest.mark.parametrize("use", USES)
def test_nothing_is_traced_on_a_second_call(make_model, batch, monkeypatch, use, jit_compile):
    """While a graph is traced, Python runs `first_look`."""
    model, traced = make_model(), []
    model.compile(paper_sgd(), jit_compile=jit_compile)
    first_look = GlimpseClassifier.first_look
    counted = lambda *args, **kwargs: traced.append(use) or first_look(*args, **kwargs)  # noqa: E731
    monkeypatch.setattr(GlimpseClassifier, "first_look", counted)
    USES[use](model, *batch)
    assert traced
    traced.clear()
    USES[use](model, *batch)
    assert not traced


@pytest.mark.parametrize("steps", one_fast([7, 16]))
def test_keras_asked_for_many_steps_does_as_keras_does(batch, steps):
    """`steps_per_execution=4` rounds up to 4, as in any Keras model; and 5, set later, to 5."""
    ours = GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8)
    ours.compile("sgd", jit_compile=False, steps_per_execution=4)
    made = 0
    for size in (4, 5):
        plain = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
        plain.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=size)
        ours.steps_per_execution = size
        for model in (ours, plain):
            model.fit(endless(batch)[0], steps_per_epoch=steps, epochs=2, shuffle=False, verbose=0)
        made += int(plain.optimizer.iterations)
        assert int(ours.optimizer.iterations) == made


def test_predict_holds_one_batch_of_large_images_at_a_time(make_model, rng):
    model, held = make_model((300, 300, 1)), []
    model.compile(paper_sgd(), jit_compile=False)
    model.make_predict_function()
    predict = model.predict_function
    model.make_predict_function = lambda: setattr(
        model, "predict_function", lambda data: held.append(len(data)) or predict(data)
    )
    model.predict(rng.random((12, 300, 300, 1), dtype=np.float32), batch_size=2, verbose=0)
    assert held == [1] * 6


def test_eager_steps_are_eager_whatever_xla_was_asked_for(make_model, batch):
    model, eager = make_model(), []

    class Mine(keras.layers.Layer):
        def call(self, x):
            eager.append(tf.executing_eagerly())
            return x

    net = keras.Sequential([keras.layers.Flatten(), Mine(), keras.layers.Dense(3)])
    model = make_model(num_glimpses=1, glimpse_net=net)
    eager.clear()
    model.compile(paper_sgd(), jit_compile=True, run_eagerly=True)
    model.fit(*batch, batch_size=32, verbose=0)
    assert eager and all(eager)


def test_generators_that_give_none_for_weights(make_model, batch):
    model = make_model()
    model.compile(paper_sgd(), jit_compile=False)
    parts = ((batch[0][i : i + 16], batch[1][i : i + 16], None) for i in range(0, 64, 16))
    model.fit(parts, steps_per_epoch=4, verbose=0)
    assert int(model.optimizer.iterations) == 4
