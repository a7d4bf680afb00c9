"""Metrics, on labels of every sort, and measures, whose directions callbacks know: against plain Keras and NumPy."""

import inspect
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import metrics as M
from tiers import one_fast

from keras_glimpse import _compat
from keras_glimpse.training.measures import Measures
from keras_glimpse.training.metrics import UserMetrics, arguments_of

C, N = 4, 50
PLAIN = {"jit_compile": False, "steps_per_execution": 1}
RUNS = {
    "XLA": {"jit_compile": True, "steps_per_execution": 3},
    "graph": {"jit_compile": False, "steps_per_execution": 3},
    "eager": {"run_eagerly": True, "steps_per_execution": 1},
}


@pytest.fixture
def outputs(rng):
    """What plain Keras would be given, made by hand: logits, probabilities, predicted classes, in NumPy."""
    logits = rng.normal(size=(N, C)).astype("float32") * 3
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return {"logits": logits, "probabilities": exp / exp.sum(-1, keepdims=True), "class": logits.argmax(-1)}


@pytest.fixture
def sorts(rng):
    """The same labels as people have them, and what they are: classes, one-hot, and a distribution."""
    classes = rng.integers(0, C, N).astype("int32")
    one_hot = np.eye(C, dtype="float32")[classes]
    soft = 0.7 * one_hot + 0.3 * rng.dirichlet(np.ones(C), N).astype("float32")
    hard = {"class": classes, "one-hot": one_hot, "distribution": one_hot}
    found = {"int": (classes, hard), "int64 column": (classes[:, None].astype("int64"), hard)}
    found |= {"float column": (classes[:, None].astype("float32"), hard), "one-hot": (one_hot, hard)}
    return found | {"one-hot int": (one_hot.astype("int32"), hard), "soft": (soft, hard | {"distribution": soft})}


# By Keras class: how to make one, and the (y_true, y_pred) that its own documentation asks for.
BINARY, PROBABLE, SPARSE = ("one-hot", "probabilities"), ("distribution", "probabilities"), ("class", "probabilities")
TABLE = [
    *((make, *PROBABLE) for make in (M.CategoricalAccuracy, lambda: M.TopKCategoricalAccuracy(2), M.CategoricalCrossentropy)),
    *((make, *PROBABLE) for make in (M.BinaryCrossentropy, M.KLDivergence, M.Poisson, M.CategoricalHinge, M.Hinge)),
    *((make, *PROBABLE) for make in (M.MeanSquaredError, M.RootMeanSquaredError, M.MeanAbsoluteError, M.LogCoshError)),
    *((make, *PROBABLE) for make in (M.MeanAbsolutePercentageError, M.MeanSquaredLogarithmicError, M.CosineSimilarity)),
    *((make, *PROBABLE) for make in (M.PearsonCorrelation, M.ConcordanceCorrelation, M.SquaredHinge, M.R2Score)),
    *((make, *BINARY) for make in (M.AUC, M.Precision, M.Recall, M.F1Score, M.FBetaScore, M.BinaryAccuracy, M.BinaryIoU)),
    *((make, *BINARY) for make in (M.TruePositives, M.TrueNegatives, M.FalsePositives, M.FalseNegatives)),
    *((lambda make=make: make(0.4), *BINARY) for make in (M.PrecisionAtRecall, M.RecallAtPrecision)),
    *((lambda make=make: make(0.4), *BINARY) for make in (M.SensitivityAtSpecificity, M.SpecificityAtSensitivity)),
    (lambda: M.AUC(curve="PR", multi_label=True, num_labels=C), *BINARY),
    (lambda: M.AUC(thresholds=[0.2, 0.3, 0.9]), *BINARY),
    (lambda: M.AUC(from_logits=True), "one-hot", "logits"),
    (lambda: M.Precision(class_id=1), *BINARY),
    (lambda: M.Recall(top_k=2), *BINARY),
    (lambda: M.F1Score("macro"), *BINARY),
    (lambda: M.OneHotIoU(C, [0, 1]), *BINARY),
    (lambda: M.OneHotMeanIoU(C), *BINARY),
    (lambda: M.OneHotMeanIoU(C, sparse_y_pred=True), "one-hot", "class"),
    (lambda: M.IoU(C, [0]), "class", "class"),
    (lambda: M.MeanIoU(C), "class", "class"),
    (lambda: M.MeanIoU(C, sparse_y_pred=False), "class", "probabilities"),
    (M.Accuracy, "class", "class"),
    *((make, *SPARSE) for make in (M.SparseCategoricalAccuracy, M.SparseCategoricalCrossentropy)),
    (lambda: M.SparseTopKCategoricalAccuracy(2), *SPARSE),
    (lambda: M.SparseCategoricalCrossentropy(from_logits=True), "class", "logits"),
    (lambda: M.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), "distribution", "logits"),
    (lambda: M.MeanMetricWrapper(keras.losses.categorical_crossentropy, from_logits=True), "distribution", "logits"),
    (lambda: M.MeanMetricWrapper(keras.losses.CategoricalCrossentropy(from_logits=True)), "distribution", "logits"),
    (lambda: M.MeanMetricWrapper(M.sparse_top_k_categorical_accuracy, k=2), *SPARSE),
    (lambda: M.MeanMetricWrapper(M.binary_accuracy), *BINARY),
    (lambda: M.MeanMetricWrapper(M.categorical_accuracy), *PROBABLE),
    (type("OfAUC", (M.AUC,), {}), *BINARY),
]


def test_the_table_has_every_metric_of_keras():
    """If Keras gets another one, someone must say what it takes."""
    of_keras = {found for found in vars(M).values() if inspect.isclass(found) and issubclass(found, M.Metric)}
    tried = {kind for make, *_ in TABLE for kind in type(make()).__mro__}
    assert of_keras - tried - {M.Metric} == {M.Sum}  # Mean is a base of others; neither takes labels.


@pytest.mark.parametrize("sort", one_fast(["soft", "int", "one-hot"]))
def test_every_metric_of_keras(sort, sorts, outputs):
    labels, wanted = sorts[sort]
    ours = UserMetrics([make() for make, *_ in TABLE], None, C)
    ours.build(keras.KerasTensor((None, *labels.shape[1:]), str(labels.dtype)), keras.KerasTensor((None, C)))
    for part in (slice(0, 30), slice(30, N)):
        ours.update_state(tf.constant(labels[part]), tf.constant(outputs["logits"][part]))
    results = list(ours.result().values())
    assert len(results) == len(TABLE)
    for (make, y_true, y_pred), result in zip(TABLE, results):
        plain = make()
        for part in (slice(0, 30), slice(30, N)):
            plain.update_state(wanted[y_true][part], outputs[y_pred][part])
        np.testing.assert_allclose(result, plain.result(), rtol=1e-5, err_msg=plain.name)


@pytest.mark.parametrize("sort", ["int", "int64 column", "float column", "one-hot", "one-hot int", "soft"])
def test_every_sort_of_labels(sort, sorts):
    labels, wanted = sorts[sort]
    by = {"class": M.SparseCategoricalAccuracy(), "distribution": M.CategoricalAccuracy(), "one-hot": M.AUC()}
    found = {kind: arguments_of(metric, labels, np.zeros((N, C), np.float32))[0] for kind, metric in by.items()}
    for kind, values in found.items():
        np.testing.assert_array_equal(values, wanted[kind])
        assert values.dtype == ("int32" if kind == "class" else "float32")


def test_what_the_table_means(sorts, outputs):
    """A few of them by hand, without Keras."""
    classes, predicted, sure = sorts["int"][0], outputs["class"], outputs["probabilities"] > 0.5
    positives = np.eye(C, dtype=bool)[classes] & sure
    expected = {"accuracy": np.mean(predicted == classes), "precision": positives.sum() / sure.sum()}
    expected["categorical_crossentropy"] = -np.log(outputs["probabilities"])[np.arange(N), classes].mean()
    for labels in (classes, np.eye(C)[classes]):
        metrics = UserMetrics(["accuracy", M.Precision(name="precision"), "categorical_crossentropy"], None, C)
        metrics.update_state(tf.constant(labels), tf.constant(outputs["logits"]))
        assert {name: float(value) for name, value in metrics.result().items()} == pytest.approx(expected, rel=1e-5)


def test_weights_are_seen_where_keras_shows_them(sorts, outputs, rng):
    """Beside a plain Keras model that gives the same probabilities."""
    weights = rng.random(N).astype("float32")
    makes = (lambda: M.AUC(name="auc"), M.F1Score, M.CategoricalAccuracy, M.CategoricalCrossentropy, M.R2Score)
    ours = UserMetrics([make() for make in makes], [make() for make in makes], C)
    plain = keras.Sequential([keras.Input((C,)), keras.layers.Identity()])
    plain.compile(loss="mse", metrics=[make() for make in makes], weighted_metrics=[make() for make in makes])
    one_hot = sorts["one-hot"][0]
    expected = plain.evaluate(outputs["probabilities"], one_hot, sample_weight=weights, verbose=0, return_dict=True)
    ours.update_state(tf.constant(sorts["int"][0]), tf.constant(outputs["logits"]), weights[:, None])
    results = ours.result()
    assert set(results) == set(expected) - {"loss"} and len(results) == 10
    for name, value in results.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
    assert abs(results["weighted_auc"] - results["auc"]) > 1e-3


class Seen(M.Metric):
    """A user's own, with variables made late: the means of what it is given."""

    def __init__(self, name="seen", **kwargs):
        super().__init__(name=name, **kwargs)
        self.late = None

    def update_state(self, y_true, y_pred, sample_weight=None):
        if self.late is None:
            self.late = self.add_variable((1 + y_pred.shape[-1],), "zeros", name="late")
        sums = [keras.ops.sum(keras.ops.cast(y_true, "float32"))[None], keras.ops.sum(y_pred, axis=0)]
        self.late.assign_add(keras.ops.concatenate(sums))

    def result(self):
        return keras.ops.sum(self.late)


def shape_of_labels(y_true, y_pred):
    return keras.ops.zeros_like(y_pred[:, 0]) + 10 * len(y_true.shape) + y_true.shape[-1]


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_fit_and_evaluate_however_they_run(run, make_model, batch):
    """At a rate of 0 training and test see the same; what metrics must say comes from `predict`."""
    model, (images, labels) = make_model(num_glimpses=1), batch
    makes = (lambda: M.AUC(name="auc"), M.F1Score, M.R2Score, lambda: M.TopKCategoricalAccuracy(2), M.CategoricalCrossentropy)
    metrics = [*(make() for make in makes), M.MeanIoU(3, "iou"), Seen(), shape_of_labels]
    model.compile(keras.optimizers.SGD(0.0), metrics=metrics, **RUNS[run])
    shown = model.fit(images, labels[:, None], batch_size=16, epochs=2, verbose=0).history
    tested = model.evaluate(images, labels[:, None], batch_size=16, verbose=0, return_dict=True)
    logits = model.predict(images, verbose=0)
    probabilities = tf.nn.softmax(logits).numpy()
    for plain in (*(make() for make in makes), M.OneHotMeanIoU(3, "iou")):
        plain.update_state(np.eye(3)[labels], probabilities)
        for value in (*shown[plain.name], tested[plain.name]):
            np.testing.assert_allclose(value, plain.result(), rtol=1e-4, atol=1e-6, err_msg=plain.name)
    assert tested["shape_of_labels"] == 21  # As the data have them, [batch, 1], ...
    np.testing.assert_allclose(tested["seen"], labels.sum() + logits.sum(), rtol=1e-4)  # ... and logits.
    np.testing.assert_allclose(tested["loss"], tested["categorical_crossentropy"], rtol=1e-5)


@pytest.mark.parametrize("smoothing", one_fast([0.3, 0.0]))
def test_fit_on_distributions(smoothing, make_model, batch):
    model, (images, labels) = make_model(num_glimpses=1), batch
    soft = np.eye(3, dtype="float32")[labels] * (1 - smoothing) + smoothing / 3
    metrics = ["accuracy", M.AUC(name="auc"), M.F1Score("macro"), M.CategoricalCrossentropy(), shape_of_labels]
    model.compile(keras.optimizers.SGD(0.0), metrics=metrics, **PLAIN)
    shown = model.fit(images, soft, validation_data=(images, soft), verbose=0).history
    model.compile(keras.optimizers.SGD(0.0), metrics=["accuracy", M.AUC(name="auc"), M.F1Score("macro")], **PLAIN)
    expected = model.evaluate(images, labels, verbose=0, return_dict=True)
    for name in ("accuracy", "auc", "f1_score", "accuracy_0", "accuracy_1"):
        np.testing.assert_allclose((shown[name][0], shown[f"val_{name}"][0]), expected[name], rtol=1e-5, err_msg=name)
    logits = model.evaluate(images, soft, verbose=0) and keras.ops.log_softmax(model.predict(images, verbose=0))
    np.testing.assert_allclose(shown["val_categorical_crossentropy"][0], -np.mean(np.sum(soft * logits, -1)), rtol=1e-5)
    assert shown["shape_of_labels"] == [23]


@pytest.mark.parametrize("metrics", [{"output": ["acc", "auc"]}, [["acc", "auc"]], {"a": "acc", "b": "auc"}, ("acc", ["auc"])])
def test_dicts_and_nested_lists(metrics, sorts, outputs):
    """One output gets them all, as in Keras."""
    found, expected = UserMetrics(metrics, None, C), UserMetrics(["acc", "auc"], None, C)
    for each in (found, expected):
        each.update_state(sorts["int"][0], outputs["logits"])
    assert [*map(float, found.result().values())] == [*map(float, expected.result().values())] and len(found.result()) == 2


def test_a_later_compile_forgets_metrics(make_model, batch):
    model = make_model()
    model.compile("sgd", metrics=["accuracy"], **PLAIN)
    model.evaluate(*batch, verbose=0)
    model.compile("sgd", **PLAIN)
    accuracies = ["accuracy_0", "accuracy_1", "accuracy_2"]
    assert set(model.evaluate(*batch, verbose=0, return_dict=True)) == {"loss", *accuracies, "border_px"}


def test_metrics_are_saved_and_loaded(make_model, batch, tmp_path):
    model = make_model()
    metrics = ["accuracy", M.F1Score("macro"), M.SparseCategoricalCrossentropy(from_logits=True)]
    model.compile("sgd", metrics=metrics, weighted_metrics=[M.AUC()], **PLAIN)
    model.fit(*batch, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.evaluate(*batch, verbose=0, return_dict=True)
    assert loaded.evaluate(*batch, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-6) and len(expected) == 8


# ---- What cannot work ----


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([M.AUC(name="loss")], "shows loss: give"),
        ([M.AUC(name="accuracy_1")], "shows accuracy_1: give"),
        ([M.AUC(name="val_accuracy_1")], "shows val_accuracy_1"),
        ([M.SparseCategoricalAccuracy("accuracy"), M.Accuracy()], "shows accuracy_1"),  # The second "accuracy" gets that name.
        ([M.Mean()], "averages values"),
        (["acuracy"], "acuracy"),
        ("accuracy", "list, tuple, or dict"),
    ],
)
def test_compile_refuses(metrics, message, make_model):
    model = make_model()
    model.compile("sgd", stage=2)
    for argument in ("metrics", "weighted_metrics")[: 1 if "second" in message or "_1" in message else 2]:
        with pytest.raises(ValueError, match=message):
            model.compile("sgd", stage=1, **{argument: metrics})
    assert model.stage.glimpse == 1  # As it was: the second one.


def test_same_names_are_told_apart_as_in_keras(make_model):
    make_model().compile("sgd", metrics=["accuracy"], weighted_metrics=["accuracy"])


def other_labels(y_true, y_pred):
    return keras.losses.categorical_crossentropy(y_true, y_pred)


UNUSABLE = {
    "recall": lambda: M.Recall(top_k=5, name="recall"),  # of three classes
    "other_labels": lambda: other_labels,
    "metric": lambda: M.Metric(name="metric"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_computed_is_named_before_the_first_step(name, make_model, batch):
    model = make_model()
    model.compile("sgd", metrics=[UNUSABLE[name]()])
    for call in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(ValueError, match=rf"metric '{name}' cannot be computed from labels \(.*,\) and logits \(None, 3\)"):
            call(*batch)
    assert model.optimizer.iterations == 0


def test_a_metric_of_another_model(make_model, batch):
    """One that fits counts anew; one that has counted other classes is refused."""
    shared = M.F1Score()
    model, other, images = make_model(), make_model(num_classes=4), batch[0]
    for each in (make_model(), model):
        each.compile("sgd", metrics=[shared], **PLAIN)
        f1_score = each.evaluate(*batch, verbose=0, return_dict=True)["f1_score"]
    plain = M.F1Score()
    plain.update_state(np.eye(3)[batch[1]], tf.nn.softmax(model.predict(images, verbose=0) - 9))
    assert f1_score.shape == (3,)
    other.compile("sgd", metrics=[shared], **PLAIN)
    with pytest.raises(ValueError, match="metric 'f1_score' cannot be computed"):
        other.evaluate(*batch, verbose=0)


# ---- Measures ----


def test_callbacks_in_mode_auto_know_what_is_better(make_model, batch, tmp_path):
    up = ["accuracy_0", "val_accuracy_1", "auc", "val_auc"]
    down = ["loss", "val_loss", "low_res_loss", "best_loss", "offending_loss", "location_loss", "moved_px"]
    callbacks = {name: keras.callbacks.EarlyStopping(name, patience=9) for name in up + down}
    plateau = keras.callbacks.ReduceLROnPlateau("val_accuracy_0", patience=9)
    best = keras.callbacks.ModelCheckpoint(tmp_path / "{val_accuracy_1:.2f}.keras", "val_accuracy_1", save_best_only=True)
    model = make_model()
    model.compile("sgd", metrics=[M.AUC(name="auc")], **PLAIN)
    history = model.fit(*batch, validation_data=batch, callbacks=[*callbacks.values(), plateau, best], verbose=0).history
    assert {name for name in up if callbacks[name].monitor_op is keras.ops.greater} == {*up}
    assert {name for name in down if callbacks[name].monitor_op is keras.ops.less} == {*down}
    assert plateau.monitor_op is best.monitor_op is keras.ops.greater
    assert [path.stem for path in tmp_path.iterdir()] == [f"{history['val_accuracy_1'][0]:.2f}"]
    with pytest.raises(ValueError, match="monitor=border_px, but Keras isn't able"):
        model.fit(*batch, callbacks=[keras.callbacks.EarlyStopping("border_px")], verbose=0)


def test_what_is_shown_and_in_which_order(make_model, batch, tmp_path, capsys):
    model = make_model()
    model.compile("sgd", metrics=["accuracy", M.AUC(name="auc")], **PLAIN)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = model.fit(*batch, epochs=2, validation_data=batch, callbacks=[log], verbose=2).history
    head, *lines = (tmp_path / "log.csv").read_text().splitlines()
    assert head.split(",") == ["epoch", *history] and len(lines) == 2
    assert f"val_accuracy_1: {history['val_accuracy_1'][-1]:.4f}" in capsys.readouterr().out
    named = model.evaluate(*batch, verbose=0, return_dict=True)
    assert model.metrics_names == ["loss", "compile_metrics"]  # As in Keras, which keeps all metrics in the second.
    order = ["loss", "accuracy", "auc", "accuracy_0", "accuracy_1", "border_px"]
    assert model.evaluate(*batch, verbose=0) == [named[name] for name in order] and set(named) == {*order}
    assert model.test_on_batch(*batch) == pytest.approx([named[name] for name in order], rel=1e-5)
    rest = ["best_loss", "border_px", "location_loss", "low_res_loss", "moved_px", "offending_loss"]
    named = model.train_on_batch(*batch, return_dict=True)
    assert set(named) == {*order, *rest} == {name for name in history if not name.startswith("val_")}


def test_metrics_of_the_model_are_never_stale(make_model, batch):
    model = make_model()
    model.compile("sgd", metrics=["accuracy"], **PLAIN)
    model.fit(*batch, verbose=0)
    named = model.evaluate(*batch, verbose=0, return_dict=True)
    found = {name: float(value) for metric in model.metrics for name, value in metric.result().items()}
    assert found == pytest.approx(named, rel=1e-6)
    model.reset_metrics()
    assert model.metrics[0].result() == {} and float(model.metrics[1].result()["accuracy"]) == 0


def test_measures_cost_one_variable(make_model):
    model = make_model()
    model.compile("sgd", **PLAIN)
    assert len(model.metrics_variables) == 1 and isinstance(model.metrics[0], Measures)


# ---- Replicas ----

PROGRAM = """
import json, keras, numpy as np, tensorflow as tf, keras_glimpse
from keras import metrics as M
from keras_glimpse.training import replicas
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
images, labels = rng.random((62, 20, 24, 1), dtype=np.float32), rng.integers(0, 3, 62).astype(np.int32)

def evaluate(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras_glimpse.GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8)
        model.build((None, 20, 24, 1))
        metrics, weighted = [M.AUC(name="auc"), M.F1Score("macro")], [M.F1Score("micro", name="micro")]
    model.compile(keras.optimizers.SGD(0.0), metrics=metrics, weighted_metrics=weighted, jit_compile=False)
    weights = np.arange(62) % 5 / 2
    stop = keras.callbacks.EarlyStopping("accuracy_1")
    shown = model.fit(images, labels, sample_weight=weights, batch_size=8, callbacks=[stop], verbose=0).history
    tested = model.evaluate(images, labels, sample_weight=weights, batch_size=8, verbose=0, return_dict=True)
    return {name: float(values[0]) for name, values in shown.items()} | {f"test_{name}": float(v) for name, v in tested.items()}

several_hosts = tf.distribute.MultiWorkerMirroredStrategy()
with several_hosts.scope():
    inside = M.AUC(name="inside")
for metric in (inside, M.AUC(name="outside")):
    try:
        replicas.check_shared(several_hosts, [metric])
    except ValueError as error:
        message = str(error)
one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
print(json.dumps([message, evaluate(one), evaluate(two)]))
"""


@pytest.mark.slow
def test_replicas_count_as_one_device_does():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    message, one, two = json.loads(done.stdout.splitlines()[-1])
    assert message.startswith("The metric 'outside' was made outside strategy.scope()")
    assert two == pytest.approx(one, rel=1e-4, abs=1e-5) and "test_micro" in one


# ---- Private names of Keras ----


def test_keras_keeps_its_trackers_where_ours_are_put(batch):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    function = keras.losses.mean_squared_error
    wrapper = M.MeanMetricWrapper(function, from_logits=True)
    model.compile(loss="mse", metrics=[wrapper], weighted_metrics=["mse"])
    loss, metrics = _compat.trackers(model)
    assert isinstance(loss, M.Mean) and isinstance(metrics, _compat.CompileMetrics)
    metrics.build(keras.KerasTensor((None, 1)), keras.KerasTensor((None, 1)))
    plain, weighted = _compat.groups(metrics)
    assert [metric.name for metric in plain + weighted] == [wrapper.name, "mse"]
    assert _compat.averaged(wrapper) is function and _compat.takes_logits(wrapper)
    assert _compat.takes_logits(M.AUC(from_logits=True)) and not _compat.takes_logits(M.AUC())
    _compat.track(model, M.Sum("ours"), None)
    assert model.metrics_names == ["ours"]
