"""`fit`: its gradient against the loss in NumPy, what a stage freezes, and every way of running it."""

import keras
import numpy as np
import pytest
from oracle import Paper
from tiers import slow

from keras_glimpse import GlimpseClassifier, data, fit_greedy, paper_sgd
from keras_glimpse.training import execution

HYPER = {"search_size": 3, "stride": 2, "lam": 10.0, "gamma": 0.01, "variance": 0.002}


@pytest.mark.parametrize(("stage", "jit_compile"), [(1, True), (2, False), *map(slow, [(1, False), (2, True)])])
def test_fit_follows_the_gradient_of_the_objective(make_model, batch, rng, stage, jit_compile):
    """A step of plain SGD, against differences of the loss in NumPy along random directions, the places held fixed."""
    images, labels = batch[0][:8].astype(np.float64), batch[1][:8]
    model = make_model(low_res_size=4)  # It divides the sides, as NumPy's thumbnail needs.
    paper, n = Paper(model, low_res_size=4, patch_size=6, scales=(1, 2)), stage - 1
    places = [paper.search(n, image, label, **HYPER)[1:3] for image, label in zip(images, labels)]
    model.compile(keras.optimizers.SGD(1.0), stage=stage, jit_compile=jit_compile)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(*(part[:8] for part in batch), batch_size=8, verbose=0)
    gradient = [w - variable.numpy() for w, variable in zip(before, model.trainable_variables)]

    def loss(direction, length):
        for array, step in zip(paper.trained_weights(n), direction, strict=True):
            array += length * step
        losses = [paper.loss_with(n, *each, *found, **HYPER) for *each, found in zip(images, labels, places)]
        for array, step in zip(paper.trained_weights(n), direction):
            array -= length * step
        return np.mean(losses)

    for _ in range(4):
        direction = [rng.normal(size=array.shape) for array in gradient]
        expected = (loss(direction, 1e-5) - loss(direction, -1e-5)) / 2e-5
        along = sum((g * d).sum() for g, d in zip(gradient, direction))
        assert abs(along) > 0.01 and along == pytest.approx(expected, rel=1e-3, abs=1e-4)


QUIET = {"compile_args": {"run_eagerly": True}, "verbose": 0}  # For what does not depend on graphs.
RUNS = {
    "graph": {"jit_compile": False},
    "auto": {"jit_compile": "auto", "steps_per_execution": "auto"},
    "one step": {"jit_compile": False, "steps_per_execution": 1},
    "eager": {"run_eagerly": True, "steps_per_execution": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, "fine_tune"])
def test_every_way_of_running_gives_the_same(make_model, batch, stage):
    """Batches of 12, so that the last of an epoch has 4."""
    initial = make_model().get_weights()
    results = {}
    for name, run in RUNS.items():
        model = make_model()
        model.set_weights(initial)
        model.compile(paper_sgd(), stage=stage, **run)
        history = model.fit(*batch, batch_size=12, shuffle=False, verbose=0).history
        results[name] = model.get_weights(), history
    expected, history = results.pop("one step")
    for name, (weights, other) in results.items():
        for a, b in zip(weights, expected):
            np.testing.assert_allclose(a, b, atol=2e-6, err_msg=name)
        for key in history:
            np.testing.assert_allclose(other[key], history[key], rtol=1e-4, atol=1e-5, err_msg=f"{name} {key}")


@pytest.mark.slow
def test_stacks_that_hold_fewer_batches_than_an_execution(make_model, batch, monkeypatch):
    """16 batches of 4 and stacks of 3: all of them are trained on, each once."""
    model, twin = make_model(), make_model()
    twin.set_weights(model.get_weights())
    monkeypatch.setattr(execution, "STACK_BYTES", 3 * 4 * 20 * 24 * 4)
    model.compile(paper_sgd(), steps_per_execution=8, jit_compile=True)
    twin.compile(paper_sgd(), steps_per_execution=1, jit_compile=False)
    for each in (model, twin):
        each.fit(batch[0][:62], batch[1][:62], batch_size=4, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == 16
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(a, b, atol=2e-6)


def parts_of(model):
    parts = {"low": model.low_res_net}
    parts |= {f"head {n + 1}": head for n, head in enumerate(model.location_heads)}
    return parts | {f"net {n + 1}": net for n, net in enumerate(model.glimpse_nets)}


@pytest.mark.parametrize(
    ("stage", "trained"),
    [(1, {"low", "head 1", "net 1"}), (2, {"head 2", "net 2"}), (3, {"head 3", "net 3"}), ("fine_tune", {"net 3"})],
)
def test_what_a_stage_freezes_stays_bit_identical(make_model, batch, stage, trained):
    model = make_model(num_glimpses=3)
    before = {name: layer.get_weights() for name, layer in parts_of(model).items()}
    model.compile(paper_sgd(), stage=stage, jit_compile=False)
    model.fit(*batch, batch_size=16, verbose=0)
    changed = set()
    for name, layer in parts_of(model).items():
        same = [np.array_equal(a, b) for a, b in zip(before[name], layer.get_weights())]
        assert all(same) or not any(same), name
        changed |= set() if all(same) else {name}
    assert changed == trained


def test_statistics_of_frozen_networks_stay_too(batch):
    """A frozen network runs in inference mode, and so does the search: dropout and batch normalisation notice both."""

    def network():
        layers = [keras.layers.Flatten(), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
        return keras.Sequential([*layers, keras.layers.Dense(3)])

    model = GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8, glimpse_net=network())
    model.compile(paper_sgd(), stage=1, jit_compile=False)
    model.fit(*batch, verbose=0)
    frozen = model.glimpse_nets[0].get_weights()
    assert not np.allclose(frozen[2], 0)  # The moving mean was trained in stage 1 ...
    model.compile(paper_sgd(), stage=2, jit_compile=False)
    model.fit(*batch, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(frozen, model.glimpse_nets[0].get_weights()))  # ... and not in 2.
    assert not np.allclose(model.glimpse_nets[1].get_weights()[2], 0)


def test_shared_weights_are_one_network(make_model, batch):
    model = make_model(share_weights=True)
    assert model.glimpse_nets[0] is model.glimpse_nets[1]
    fit_greedy(model, *batch, **QUIET)
    assert len({id(variable) for variable in model.variables}) == len(model.variables)


def test_sample_weights(make_model, batch):
    """An image of weight 0 is as if it were not there, but for the size of the batch."""
    images, labels = batch
    model, twin = make_model(), make_model()
    twin.set_weights(model.get_weights())
    for each in (model, twin):
        each.compile(keras.optimizers.SGD(0.1), jit_compile=False, steps_per_execution=1)
    history = model.fit(images, labels, batch_size=64, sample_weight=np.arange(64) < 32, verbose=0).history
    twin.optimizer.learning_rate = 0.05
    expected = twin.fit(images[:32], labels[:32], batch_size=32, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], expected["loss"][0] / 2, rtol=1e-5)
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("jit_compile", "policies"), [(True, ["mixed_bfloat16", "mixed_float16"]), (False, ["mixed_float16"])])
def test_mixed_precision_learns_as_float32_does(jit_compile, policies):
    train = data.jittered(data.embedded_digits(), copies=2).train
    losses = {}
    for policy in ("float32", *policies):
        keras.utils.set_random_seed(0)
        model = GlimpseClassifier(10, 1, hidden_units=50, dtype=policy)
        model.compile(paper_sgd(), jit_compile=jit_compile)
        losses[policy] = model.fit(train, epochs=3, verbose=0).history["loss"]
        assert all(variable.dtype == "float32" for variable in model.trainable_variables)
    assert losses["float32"][-1] < 0.8 * losses["float32"][0]
    for loss in losses.values():
        np.testing.assert_allclose(loss[-1], losses["float32"][-1], rtol=0.1)


def test_progress_tells_where_the_search_goes(make_model, batch):
    model = make_model()
    model.compile(paper_sgd(), stage=2, jit_compile=False, metrics=["sparse_categorical_accuracy"])
    history = model.fit(*batch, validation_data=batch, verbose=0).history
    names = {"loss", "best_loss", "offending_loss", "location_loss", "accuracy_0", "accuracy_1", "accuracy_2"}
    names |= {"moved_px", "border_px", "sparse_categorical_accuracy"}
    checked = {"val_loss", "val_accuracy_0", "val_accuracy_1", "val_accuracy_2", "val_border_px"}
    assert set(history) == names | checked | {"val_sparse_categorical_accuracy"}
    assert 0 <= history["moved_px"][0] <= 2 * np.sqrt(2) and 0 <= history["border_px"][0] <= 9.5
    np.testing.assert_allclose(history["val_accuracy_2"], history["val_sparse_categorical_accuracy"], atol=1e-6)
    predicted = model.predict(batch[0], verbose=0)
    np.testing.assert_allclose(history["val_accuracy_2"][0], np.mean(predicted.argmax(-1) == batch[1]), atol=1e-6)
    parts = sum(history[name][0] for name in ("best_loss", "offending_loss", "location_loss"))
    np.testing.assert_allclose(history["loss"][0], parts, rtol=1e-5)


def test_a_saturated_location_head_is_seen(make_model, batch):
    model = make_model()
    weights = model.location_heads[0].get_weights()
    model.location_heads[0].set_weights([weights[0], weights[1] + 50.0, weights[2]])
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    assert model.fit(*batch, verbose=0).history["border_px"][0] < 1e-3


def test_fit_greedy_runs_all_stages_with_fresh_optimizers(make_model, batch):
    model, steps = make_model(), []

    def optimizer(total):
        steps.append(total)
        return paper_sgd(total)

    epochs = {1: 2, 2: 1, "fine_tune": 3}
    history = fit_greedy(model, *batch, epochs=epochs, optimizer=optimizer, batch_size=10, **QUIET)
    assert {stage: len(each.history["loss"]) for stage, each in history.items()} == epochs
    assert steps == [14, 7, 21] and int(model.optimizer.iterations) == 21
    steps.clear()
    fit_greedy(make_model(), *batch, optimizer=optimizer, stages=[1], validation_split=0.25, batch_size=10, **QUIET)
    fit_greedy(make_model(), *batch, optimizer=optimizer, stages=[1], steps_per_epoch=3, batch_size=10, **QUIET)
    assert steps == [5, 3]


def test_warm_start_copies_the_glimpse_before(make_model, batch):
    still = {"optimizer": lambda steps: keras.optimizers.SGD(0.0), "stages": [2], **QUIET}
    for warm_start in (False, True):
        model = make_model()
        fit_greedy(model, *batch, stages=[1], **QUIET)
        fit_greedy(model, *batch, warm_start=warm_start, **still)
        for layers in (model.glimpse_nets, model.location_heads):
            copied = all(np.array_equal(a, b) for a, b in zip(layers[0].get_weights(), layers[1].get_weights()))
            assert copied == warm_start


@pytest.fixture
def dots(rng):
    """Noisy RGB images of 64x96, the class the colour of a 6-pixel dot at a random place: for training, and held out."""
    colours = np.eye(3, dtype=np.float32)

    def draw(count):
        images = rng.random((count, 64, 96, 3), dtype=np.float32) * 0.1
        labels = rng.integers(0, 3, count)
        for image, label, y, x in zip(images, labels, rng.integers(0, 58, count), rng.integers(0, 90, count)):
            image[y : y + 6, x : x + 6] = colours[label]
        return images, labels

    return draw(3000), draw(600)


@pytest.mark.slow
def test_coloured_dots(dots):
    """Something else than digits, as a user would write it: three glimpses at three scales on a NumPy array."""
    (images, labels), held_out = dots
    model = GlimpseClassifier(num_classes=3, num_glimpses=3, scales=(1, 2, 4))
    for stage in (1, 2, 3):
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), stage=stage)
        model.fit(images, labels, batch_size=50, epochs=2, verbose=0)
    accuracy = model.evaluate(*held_out, verbose=0, return_dict=True)["accuracy_3"]
    print(f"accuracy on held-out images after three glimpses: {accuracy:.4f}")
    assert accuracy > 0.97


@pytest.mark.slow
def test_seeds_decide_everything(batch):
    def train():
        keras.utils.set_random_seed(7)
        model = GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8)
        model.compile(paper_sgd(), jit_compile=False)
        model.fit(*batch, batch_size=16, epochs=2, verbose=0)
        return model.get_weights()

    assert all(np.array_equal(a, b) for a, b in zip(train(), train()))
