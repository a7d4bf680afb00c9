"""Training that was killed goes on, to the very weights of one that was not."""

import random
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_glimpse
from keras_glimpse import data


class Killed(Exception):
    pass


class Killer(keras.callbacks.Callback):
    """Ends everything after so many steps, in whatever stage they fall."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Killed


def arrays(images, labels):
    return images, labels, {"batch_size": 16}


def shuffled(images, labels):
    return tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(64).batch(16), None, {}


def endless(images, labels):
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).repeat().shuffle(64).batch(16)
    return dataset, None, {"steps_per_epoch": 4}


def fresh_places(images, labels):
    digits = data.Digits(np.uint8(255 * images[:, :8, :8]), labels, np.uint8(images[:2, :8, :8]), labels[:2])
    return data.jittered(digits, 16, canvas=20, copies=1, fresh_places=True).train, None, {}


class Batches(keras.utils.PyDataset):
    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.images[16 * i : 16 * i + 16], self.labels[16 * i : 16 * i + 16]


def shuffled_batches(images, labels):
    return Batches(images, labels), None, {"shuffle": True}


def generator(images, labels):
    rng = np.random.default_rng(0)
    batches = ((images[chosen], labels[chosen]) for chosen in (rng.integers(0, 64, 16) for _ in range(1000)))
    return batches, None, {"steps_per_epoch": 4, "stages": [1]}  # Keras reads ahead: another stage has other batches.


def train(source, batch, folder, killer=None, epochs=3, num_glimpses=1, **model_args):
    """All stages with dropout, momentum and a schedule, as in a program that starts anew: the weights and the history."""
    keras.utils.set_random_seed(5)
    x, y, fit_args = source(*batch)
    layers = [keras.layers.Flatten(), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
    options = {"low_res_size": 5, "patch_size": 6, "hidden_units": 8, "glimpse_net": keras.Sequential(layers)} | model_args
    model = keras_glimpse.GlimpseClassifier(3, num_glimpses, **options)
    history = keras_glimpse.fit_greedy(
        model,
        x,
        y,
        epochs=epochs,
        checkpoint=folder,
        callbacks=lambda stage: [killer] if killer else [],
        compile_args={"jit_compile": False, "steps_per_execution": 1},
        verbose=0,
        **fit_args,
    )
    return model.get_weights(), {stage: history[stage].history for stage in history}


def assert_same(one, other):
    for mine, theirs in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert one[1] == other[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the others are compared with, trained once."""
    rng = np.random.default_rng(0)
    batch = rng.random((64, 20, 24, 1), dtype=np.float32), rng.integers(0, 3, 64).astype(np.int32)
    return train(arrays, batch, tmp_path_factory.mktemp("whole"))


SOURCES = [arrays, shuffled, endless, fresh_places, shuffled_batches, generator]


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_killed_in_every_stage(source, batch, tmp_path):
    """Two stages of three epochs of four steps, killed in each: a process repeats the steps since the last checkpoint."""
    whole = train(source, batch, tmp_path / "whole")
    for steps in (6, 15)[: len(whole[1])]:
        with pytest.raises(Killed):
            train(source, batch, tmp_path / "killed", Killer(steps))
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {f"stage_{stage}" for stage in whole[1]}
    assert_same(train(source, batch, tmp_path / "killed"), whole)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_other_precisions(policy, batch, tmp_path):
    """The scale of the loss is kept too; and NumPy files have no bfloat16."""
    whole = train(arrays, batch, tmp_path / "whole", dtype=policy)
    with pytest.raises(Killed):
        train(arrays, batch, tmp_path / "killed", Killer(9), dtype=policy)
    assert_same(train(arrays, batch, tmp_path / "killed", dtype=policy), whole)


def test_what_is_finished_is_not_trained_again(whole, batch, tmp_path):
    assert_same(train(arrays, batch, tmp_path), whole)
    assert_same(train(arrays, batch, tmp_path, Killer(1)), whole)
    longer = train(arrays, batch, tmp_path, epochs=4)
    assert [len(history["loss"]) for history in longer[1].values()] == [4, 4]


@pytest.mark.slow
def test_random_generators_go_on(batch, tmp_path, make_model):
    """Those of Python, NumPy, `keras.random` and `tf.random`: callbacks of one's own may draw from any."""
    drawn = []

    class Draws(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            values = keras.random.normal((2,)), tf.random.get_global_generator().normal((2,))
            drawn.append((random.random(), np.random.normal(size=3).tolist(), *(value.numpy().tolist() for value in values)))

    def fit(folder, epochs):
        keras.utils.set_random_seed(1)
        tf.random.set_global_generator(tf.random.Generator.from_seed(1))
        model = make_model()
        model.compile("sgd", jit_compile=False)
        model.fit(*batch, epochs=epochs, checkpoint=folder, callbacks=[Draws()], verbose=0)

    fit(tmp_path / "whole", 4)
    fit(tmp_path / "killed", 2)
    fit(tmp_path / "killed", 4)
    assert drawn[:4] == drawn[4:]
    for values in zip(*drawn[:4]):
        assert len({str(value) for value in values}) == 4  # They do draw.


def test_a_callback_that_ends_a_stage_has_ended_it(batch, tmp_path, make_model):
    def fit():
        model = make_model()
        model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
        stop = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=1.0, restore_best_weights=True)
        history = model.fit(*batch, epochs=9, checkpoint=tmp_path, callbacks=[stop], verbose=0)
        return len(history.history["loss"])

    assert fit() == fit() == 2


@pytest.mark.slow
def test_corrupt_checkpoints_are_passed_over(whole, batch, tmp_path):
    with pytest.raises(Killed):
        train(arrays, batch, tmp_path, Killer(23))  # In the last epoch of the last stage.
    _, last = sorted((tmp_path / "stage_fine_tune").iterdir())
    content = last.read_bytes()
    for spoilt in (b"", content[: len(content) // 2], content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]):
        last.write_bytes(spoilt)
        folder = shutil.copytree(tmp_path, tmp_path.with_name(f"{len(spoilt)}"), dirs_exist_ok=True)
        with pytest.warns(UserWarning, match=f"Corrupt checkpoint, passed over: .*{last.name}"):
            assert_same(train(arrays, batch, folder), whole)
    for path in last.parent.iterdir():
        path.write_bytes(b"?")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="All checkpoints in .*stage_fine_tune are corrupt"):
        train(arrays, batch, tmp_path)


@pytest.mark.parametrize("change", [{"hidden_units": 9}, {"num_glimpses": 2}])
def test_the_checkpoint_of_another_model(change, batch, tmp_path):
    train(arrays, batch, tmp_path, epochs=1)
    with pytest.raises(ValueError, match="is of another model"):
        train(arrays, batch, tmp_path, epochs=1, **change)


def test_a_full_disk(whole, batch, tmp_path):
    """Files may suddenly have no more than 1,000 bytes: an error says so, and what was saved before is enough to go on."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fills(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    try:
        with pytest.raises(OSError, match="checkpoint after epoch 3 was not written; those before it are intact"):
            train(arrays, batch, tmp_path / "full", Fills())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list((tmp_path / "full" / "stage_1").iterdir())) == 2
    assert_same(train(arrays, batch, tmp_path / "full"), whole)


def test_other_keras_models(tmp_path, rng):
    x, y = rng.random((32, 4)), rng.random(32)

    def fit(folder, epochs):
        keras.utils.set_random_seed(2)
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        saved = keras_glimpse.Checkpoints(folder)
        start = saved.restore(model)
        model.fit(dataset, epochs=epochs, initial_epoch=start, callbacks=[saved], shuffle=False, verbose=0)
        return model.get_weights(), saved.history

    whole = fit(tmp_path / "whole", 4)
    fit(tmp_path / "killed", 3)
    assert_same(fit(tmp_path / "killed", 4), whole)
