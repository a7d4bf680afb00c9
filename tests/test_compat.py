"""Each private name of Keras and TensorFlow that we touch does what `_compat.py` says."""

import ast
import importlib.metadata
import pathlib
import tomllib

import keras
import numpy as np
import pytest
import tensorflow as tf
from packaging.requirements import Requirement
from packaging.version import Version
from tensorflow.lite.python import schema_py_generated as schema

import keras_glimpse
from keras_glimpse import _compat


def test_outermost_layer():
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, x):
            seen.append(_compat.outermost_layer())
            return x

    spy = Spy()
    around = keras.Sequential([spy])
    spy(np.zeros((1, 2)))
    around(np.zeros((1, 2)))
    assert seen[0] is spy and seen[-1] is around and _compat.outermost_layer() is None


def test_state_of_keras_random():
    keras.random.normal((2,))
    state = _compat.keras_random_state().numpy()
    first = keras.random.normal((2,)).numpy()
    _compat.keras_random_state().assign(state)
    np.testing.assert_array_equal(keras.random.normal((2,)), first)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_is_compiled_by_xla(jit_compile):
    seen = []

    def function(x):
        inner = tf.function(lambda x: seen.append(_compat.is_compiled_by_xla()) or x)
        tf.while_loop(lambda i: i < 1, lambda i: [i + tf.cast(inner(x), tf.int32)], [0])
        return x

    tf.function(function, jit_compile=jit_compile)(tf.constant(1.0))
    assert seen and set(seen) == {jit_compile} and not _compat.is_compiled_by_xla()


def test_layers_and_variables_however_deep():
    dense = keras.layers.Dense(2)
    around = keras.Sequential([keras.Input((3,)), keras.Sequential([dense])])
    assert dense in _compat.all_layers(around) and around in _compat.all_layers(around)
    assert [variable.path for variable in _compat.own_variables(dense)] == [dense.kernel.path, dense.bias.path]
    assert _compat.own_variables(around) == []


def test_variables_of_an_optimizer():
    optimizer, variable = keras.optimizers.SGD(), keras.Variable(1.0)
    assert _compat.trained_by(optimizer) is None
    optimizer.build([variable])
    assert _compat.trained_by(optimizer) == [variable]


def test_batches_that_an_optimizer_has_seen():
    optimizer, variable = keras.optimizers.SGD(gradient_accumulation_steps=2), keras.Variable(1.0)
    for count in range(4):
        assert (int(_compat.batches_seen(optimizer)), int(optimizer.iterations)) == (count, count // 2)
        optimizer.apply([tf.constant(1.0)], [variable])


def test_operations_of_litert():
    assert {"FULLY_CONNECTED", "CONV_2D", "IF"} <= {*_compat.litert_operations()}


def test_metadata_of_litert_files():
    square = tf.function(lambda x: x**2).get_concrete_function(tf.TensorSpec((1,)))
    content = tf.lite.TFLiteConverter.from_concrete_functions([square]).convert()
    described = _compat.with_litert_metadata(content, "ABOUT", b"squares")
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(described, 0))
    assert {each.name: bytes(file.buffers[each.buffer].data) for each in file.metadata}[b"ABOUT"] == b"squares"
    assert len(file.subgraphs) == 1 and described[4:8] == content[4:8]


def test_trackers_are_what_keras_shows():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    loss, metrics = keras.metrics.Mean("loss"), _compat.CompileMetrics(["mae"], None)
    _compat.track(model, loss, metrics)
    assert _compat.trackers(model) == (loss, metrics) and model.metrics == [loss, metrics]
    loss.update_state(3.0)
    model.reset_metrics()
    assert float(loss.result()) == 0


def test_directions_reach_callbacks():
    shown = [_compat.shown_by_callbacks("score", "up"), _compat.shown_by_callbacks("cost", "down")]
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    _compat.track(model, _compat.MetricsList(shown), None)
    for name, better in (("score", [2.0, 1.0]), ("cost", [1.0, 2.0])):
        stopping = keras.callbacks.EarlyStopping(name, patience=5)
        stopping.set_model(model)
        stopping.on_train_begin()
        for epoch, value in enumerate(better):  # The second is worse.
            stopping.on_epoch_end(epoch, {name: value})
        assert stopping.best == better[0]


def test_metrics_from_the_inside():
    wrapped, auc = keras.metrics.BinaryAccuracy("accuracy"), keras.metrics.AUC(from_logits=True, name="area")
    both = _compat.CompileMetrics([wrapped], [auc])
    both.build(keras.KerasTensor((None, 1)), keras.KerasTensor((None, 1)))
    assert _compat.groups(both) == ([wrapped], [auc])
    assert _compat.averaged(wrapped) is keras.metrics.binary_accuracy
    assert _compat.takes_logits(auc) and not _compat.takes_logits(wrapped)
    assert _compat.takes_logits(keras.metrics.BinaryCrossentropy(from_logits=True))
    assert _compat.takes_logits(keras.losses.BinaryCrossentropy(from_logits=True))


def test_symbolic_updates_make_variables_and_change_none():
    metric = keras.metrics.AUC()
    labels, predictions = keras.KerasTensor((None, 1)), keras.KerasTensor((None, 1))
    _compat.symbolically(lambda y, p: metric.update_state(y, p), labels, predictions)
    assert metric.variables and all(not np.any(variable) for variable in metric.variables)


def test_input_quantizers():
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    assert _compat.input_quantizer(dense) is None
    dense.quantize("int8")
    quantizer = _compat.input_quantizer(dense)
    calls = []
    _compat.set_input_quantizer(dense, lambda *args, **kwargs: calls.append(1) or quantizer(*args, **kwargs))
    dense(np.ones((1, 3), np.float32))
    assert calls


def test_weights_of_a_model_are_saved(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    kernel = model.layers[0].kernel.value
    function = tf.function(lambda x: x @ kernel).get_concrete_function(tf.TensorSpec((None, 2)))
    tf.saved_model.save(_compat.weights_of(model), tmp_path, {"serving_default": function})
    served = tf.saved_model.load(tmp_path).signatures["serving_default"](tf.ones((1, 2)))
    np.testing.assert_allclose(served["output_0"], np.ones((1, 2)) @ kernel, rtol=1e-6)


@pytest.mark.parametrize("batches", [0, (1, 2)])
def test_whether_tensorboard_profiles(monkeypatch, batches):
    monkeypatch.setattr(keras.callbacks.TensorBoard, "_start_profiler", lambda self, logdir: None)  # It warms up.
    assert _compat.profiles_steps(keras.callbacks.TensorBoard(profile_batch=batches)) == bool(batches)
    assert not _compat.profiles_steps(keras.callbacks.EarlyStopping())


def test_deterministic_ops():
    assert _compat.deterministic_ops() is False


def test_keras_asks_for_metrics_and_optimizer_before_the_first_step():
    class Model(_compat.BuildsBeforeTraining, keras.Sequential):
        def build_metrics(self, labels):
            self.asked_for = labels.shape

    model = Model([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    assert model.asked_for == (None, 1)


def test_fit_says_that_it_calls_evaluate():
    class Model(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            self.of_fit = _compat.pop_arguments_of_fit(dict(kwargs))
            return super().evaluate(*args, **kwargs)

    data = np.ones((4, 2)), np.ones((4, 1))
    model = Model([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(*data, validation_data=data, verbose=0)
    assert model.of_fit
    model.evaluate(*data, verbose=0)
    assert not model.of_fit


def bounds():
    """Name, version and specifier of each dependency that has private names in `_compat.py`."""
    project = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in map(Requirement, [*project["dependencies"], *extras["tensorflow"], *extras["gpu"]]):
        if requirement.name in ("keras", "tensorflow"):
            yield requirement.name, requirement.specifier


def test_versions_have_bounds_and_this_one_is_within():
    """A new minor version may change private names: the bound is raised when these tests pass with it."""
    found = dict(bounds())
    assert found.keys() == {"keras", "tensorflow"}
    for name, specifier in bounds():
        installed = Version(importlib.metadata.version(name))
        assert installed in specifier
        assert Version(f"{installed.major}.{installed.minor + 1}") not in specifier


PRIVATE = {name for kind in (keras.Model, keras.Layer, keras.callbacks.Callback, keras.metrics.Metric) for name in dir(kind)}
PRIVATE |= {*vars(keras.Sequential([keras.layers.Dense(1)])), *vars(keras.optimizers.SGD()), *vars(keras.metrics.Accuracy())}
PRIVATE = {name for name in PRIVATE if name.startswith("_") and not name.endswith("__")}


def private_names(path):
    """Attributes with one underscore, but those of the file itself; and imports of modules that are not public."""
    tree = ast.parse(path.read_text())
    ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)} | {"_replace"}
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else ""
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and isinstance(node.args[1], ast.Constant):
            name = node.args[1].value
        is_private = name.startswith("_") and not name.endswith("__") and name not in ours
        if (getattr(node, "value", None) in PRIVATE and isinstance(node, ast.Constant)) or name in PRIVATE:
            yield f"{path.name}: {ast.unparse(node)}"
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if getattr(method, "name", None) in PRIVATE:
                yield f"{path.name}: {node.name}.{method.name}"
        if is_private and not ast.unparse(node).startswith(("self.", "cls.")):
            yield f"{path.name}: {ast.unparse(node)}"
        modules = (node.module or "").split(".") if isinstance(node, ast.ImportFrom) else []
        if {"src", "python"} & {*modules} and modules[0] != "mediapipe":  # Its public modules are in `tasks.python`.
            yield f"{path.name}: {node.module}"


def test_private_names_are_in_one_file():
    folder = pathlib.Path(keras_glimpse.__file__).parent
    assert {name for path in folder.rglob("*.py") if path.name != "_compat.py" for name in private_names(path)} == set()
