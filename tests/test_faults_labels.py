"""Labels as people have them, against the equations in NumPy; and what the loss is called."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import Paper, softmax
from tiers import one_fast

from keras_glimpse import cascade_curve, paper_sgd
from keras_glimpse.training.objective import Objective, cross_entropy
from keras_glimpse.training.step import training_step

OBJECTIVE = Objective(location_weight=1.0, diversity_weight=0.0, diversity_variance=1.0, contrastive=True)
SORTS = {
    "integers": lambda y: y,
    "int64 column": lambda y: y.astype(np.int64)[:, None],
    "float column": lambda y: y.astype(np.float32)[:, None],  # label_mode="binary"
    "float16": lambda y: y.astype(np.float16),
    "one-hot": lambda y: np.eye(3, dtype=np.float32)[y],  # label_mode="categorical"
    "one-hot integers": lambda y: np.eye(3, dtype=np.int64)[y],
    "list": lambda y: y.tolist(),
}


@pytest.mark.slow
@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("way", ["fit", "dataset", "train_on_batch"])
def test_all_sorts_of_labels_train_alike(make_model, batch, sort, way):
    images, labels = batch
    model, twin = make_model(), make_model()
    twin.set_weights(model.get_weights())
    results = []
    for each, y in ((twin, labels), (model, SORTS[sort](labels))):
        each.compile(paper_sgd(), jit_compile=False, metrics=["accuracy"])
        if way == "fit":
            each.fit(images, y, batch_size=16, shuffle=False, verbose=0)
        elif way == "dataset":
            each.fit(tf.data.Dataset.from_tensor_slices((images, np.asarray(y))).batch(16), verbose=0)
        else:
            for start in range(0, 64, 16):
                each.train_on_batch(images[start : start + 16], y[start : start + 16])
        results.append(each.evaluate(images, y, verbose=0, return_dict=True))
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert results[0] == pytest.approx(results[1])
    assert results[0]["accuracy"] == pytest.approx(results[0]["accuracy_1"])


@pytest.mark.parametrize("sort", one_fast(["categorical", "int", "binary"]))
def test_datasets_of_folders(tmp_path, rng, sort):
    """`image_dataset_from_directory` in each `label_mode`."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(6):
            pixels = rng.integers(0, 256, (20, 24, 3))
            keras.utils.save_img(tmp_path / name / f"{i}.png", pixels)
    options = {"image_size": (20, 24), "label_mode": sort, "batch_size": 4, "verbose": False}
    dataset = keras.utils.image_dataset_from_directory(str(tmp_path), **options)
    from keras_glimpse import GlimpseClassifier

    scaling = keras.layers.Rescaling(1 / 255)
    model = GlimpseClassifier(2, 1, low_res_size=5, patch_size=6, hidden_units=8, preprocess=scaling)
    model.compile(paper_sgd(), jit_compile=False)
    history = model.fit(dataset, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and len(history["loss"]) == 2
    assert cascade_curve(model, dataset).full_error == pytest.approx(
        1 - model.evaluate(dataset, verbose=0, return_dict=True)["accuracy_1"]
    )


def soft_labels(rng, kind, n, classes):
    """As label smoothing and MixUp make them."""
    one_hot = np.eye(classes)[rng.integers(0, classes, n)]
    if kind == "smoothed":
        return 0.9 * one_hot + 0.1 / classes
    share = rng.uniform(0.3, 0.7, (n, 1))
    return share * one_hot + (1 - share) * one_hot[::-1]


@pytest.mark.parametrize("kind", ["smoothed", "mixed"])
def test_soft_labels_in_the_search(rng, kind):
    """Eqs. 10, 12 and 15 for shares q: -sum_c q_c log p_c, and a class is wrong if its share is less than even."""
    logits, penalty = rng.normal(size=(50, 9, 5)), rng.random((50, 9))
    shares = soft_labels(rng, kind, 50, 5)
    inputs = (np.float32(logits), np.float32(shares))
    best, offending = np.transpose(OBJECTIVE.choose_places(*inputs, np.float32(penalty)))
    for i in range(50):
        loss = penalty[i][:, None] - np.log(softmax(logits[i]))
        expected = (shares[i] * loss).sum(-1)
        assert int(best[i]) == expected.argmin()
        wrong = [c for c in range(5) if shares[i, c] < 1 / 5 and shares[i, c] < shares[i].max()]
        assert wrong and int(offending[i]) == loss[:, wrong].min(-1).argmin()
    np.testing.assert_allclose(
        cross_entropy(*(tf.constant(each) for each in (inputs[0], inputs[1][:, None]))),
        -(shares[:, None] * np.log(softmax(logits))).sum(-1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("stage", [1, 2])
def test_soft_labels_in_the_whole_loss(make_model, rng, stage):
    """Eqs. 16 to 18 are linear in q at places that are given: mixed by hand from those of the two classes."""
    sizes = {"low_res_size": 4, "patch_size": 6, "scales": (1, 2)}
    model = make_model((20, 24, 2), search_size=1, **sizes)  # The prediction is the only candidate.
    for head in model.location_heads:
        head.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in head.get_weights()])
    images = rng.random((6, 20, 24, 2), dtype=np.float32)
    first, second = rng.integers(0, 3, 6), rng.integers(0, 3, 6)
    shares = 0.7 * np.eye(3)[first] + 0.3 * np.eye(3)[second]
    model.compile(keras.optimizers.SGD(0.0), stage=stage, jit_compile=False)
    measured, _ = training_step(model, (tf.constant(images), tf.constant(shares, tf.float32)))
    paper = Paper(model, **sizes)
    hyper = {"search_size": 1, "stride": 2, "lam": 10.0, "gamma": 0.01, "variance": 0.002}
    for i, image in enumerate(images.astype(np.float64)):
        expected = sum(
            share * paper.loss(stage - 1, image, label, **hyper) for share, label in ((0.7, first[i]), (0.3, second[i]))
        )
        np.testing.assert_allclose(measured["loss"][i], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((64, 3), 0.5, np.float32), "must not be negative and sum to 1; got .0.5 0.5 0.5. for image 0"),
        (np.tile(np.float32([1.5, -0.5, 0.0]), (64, 1)), "must not be negative"),
        (np.full((64, 3), np.nan, np.float32), "must not be negative"),
        (np.full(64, 0.5, np.float32), "class numbers, 0, 1, ...; got 0.5"),
        (np.full(64, np.nan, np.float32), "must lie in"),
        (np.zeros((64, 4), np.float32), r"one-hot or soft labels \[batch, 3\]; got labels of shape \(64, 4\)"),
        (np.array(["cat"] * 64), "labels that are numbers; got string"),
    ],
)
@pytest.mark.parametrize("way", one_fast(["fit", "dataset", "train_on_batch"]))
def test_labels_that_are_neither(make_model, batch, labels, message, way):
    model = make_model()
    model.compile(paper_sgd(), jit_compile=False)
    before = model.get_weights()
    calls = {
        "fit": lambda: model.fit(batch[0], labels, verbose=0),
        "dataset": lambda: model.fit(tf.data.Dataset.from_tensor_slices((batch[0], labels)).batch(64), verbose=0),
        "train_on_batch": lambda: model.train_on_batch(batch[0], labels),
    }
    if way == "dataset":
        is_seen_in_spec = "shape" in message or "string" in message
        message = message.replace("64, 4", "None, 4") if is_seen_in_spec else "Batch 0 of the training data has"
    with pytest.raises((ValueError, TypeError), match=message):
        calls[way]()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


# ---- `loss` is what is minimised ----


@pytest.mark.parametrize("stage", [1, 2])
def test_loss_has_regularisation_in_it(make_model, batch, stage):
    """Shown, and minimised: SGD on the shown loss is the step that is made."""
    strength, rate = 0.3, 0.05

    def net(regularised):
        kernel = keras.regularizers.L2(strength) if regularised else None
        return keras.Sequential(
            [keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(3, kernel_regularizer=kernel)]
        )

    shown, moved, kernels = [], [], []
    for regularised in (False, True):
        keras.utils.set_random_seed(1)
        model = make_model(glimpse_net=net(regularised), hidden_units=8)
        model.compile(keras.optimizers.SGD(rate), stage=stage, jit_compile=False)
        kernel = model.glimpse_nets[stage - 1].layers[-1].kernel
        kernels.append(kernel.numpy())
        logs = model.train_on_batch(batch[0], batch[1], return_dict=True)
        shown.append(logs)
        moved.append(kernel.numpy() - kernels[-1])
    np.testing.assert_array_equal(*kernels)
    extra = strength * np.square(kernels[0]).sum()
    assert shown[1]["loss"] - shown[0]["loss"] == pytest.approx(extra, rel=1e-4)
    parts = [value for name, value in shown[1].items() if name.endswith("_loss")]
    assert shown[1]["loss"] == pytest.approx(sum(parts) + extra, rel=1e-5)
    np.testing.assert_allclose(moved[1] - moved[0], -rate * 2 * strength * kernels[0], atol=1e-6)


def test_loss_has_sample_weights_and_what_layers_add_in_it(make_model, batch):
    class Penalised(keras.layers.Layer):
        def call(self, x):
            self.add_loss(0.0 * keras.ops.sum(x) + 7.0)
            return x

    net = keras.Sequential([keras.layers.Flatten(), Penalised(), keras.layers.Dense(3)])
    model = make_model(num_glimpses=1, glimpse_net=net)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    plain = model.train_on_batch(*batch, return_dict=True)
    weighted = model.train_on_batch(*batch, sample_weight=np.full(64, 2.0), return_dict=True)
    assert weighted["loss"] - 7 == pytest.approx(2 * (plain["loss"] - 7), rel=1e-5)
    history = model.fit(*batch, batch_size=20, verbose=0).history  # 20, 20, 20, 4
    assert history["loss"][0] == pytest.approx(plain["loss"], rel=1e-4)


def test_even_shares_rule_out_no_class(rng):
    """Half and half of two classes: z- is z*, never a place that is no candidate."""
    logits, penalty = rng.normal(size=(20, 9, 2)).astype(np.float32), rng.random((20, 9)).astype(np.float32)
    penalty[:, 0] = np.inf
    best, offending = np.transpose(OBJECTIVE.choose_places(logits, np.full((20, 2), 0.5, np.float32), penalty))
    np.testing.assert_array_equal(best, offending)
    assert (np.asarray(best) != 0).all()
