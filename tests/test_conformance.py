"""Every layer and the model, put through what Keras users do with layers: config, saving, XLA, mixed precision, export."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import EVERYTHING, as_model, call, flat, inputs
from tiers import one_fast

from keras_glimpse import GlimpseNet, LowResNet, MultiScaleCrop


def assert_close(first, second, atol=1e-5):
    for a, b in zip(flat(first), flat(second), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("name", EVERYTHING)
def test_config_round_trip(name):
    model, shapes = as_model(name)
    config = json.loads(json.dumps(model.get_config()))  # what a file would hold
    twin = type(model).from_config(config)
    call(twin, inputs(shapes))
    twin.set_weights(model.get_weights())
    assert_close(call(model, inputs(shapes)), call(twin, inputs(shapes)))


@pytest.mark.parametrize("name", EVERYTHING)
def test_xla_equals_eager(name):
    model, shapes = as_model(name)
    compiled = tf.function(lambda *values: call(model, list(values)), jit_compile=True)
    assert_close(call(model, inputs(shapes)), compiled(*inputs(shapes)))


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("policy", one_fast(["mixed_bfloat16", "mixed_float16"]))
def test_mixed_precision(name, policy):
    model, shapes = as_model(name)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        mixed = type(model).from_config(_without_dtype(model.get_config()))
        call(mixed, inputs(shapes))
    finally:
        keras.config.set_dtype_policy(previous)
    mixed.set_weights(model.get_weights())
    assert all(weight.dtype == "float32" for weight in mixed.weights)
    assert_close(call(model, inputs(shapes)), call(mixed, inputs(shapes)), atol=0.06)
    if name.startswith(("location", "crop", "model")):  # Geometry and what is summed over glimpses stay float32.
        assert {output.dtype for output in keras.tree.flatten(call(mixed, inputs(shapes)))} == {tf.float32}


def _without_dtype(config):
    """The config with every dtype policy left to the global one."""
    if isinstance(config, dict):
        return {key: _without_dtype(value) for key, value in config.items() if key != "dtype"}
    return [_without_dtype(value) for value in config] if isinstance(config, list) else config


@pytest.mark.parametrize("name", EVERYTHING)
def test_summary(name, capsys):
    as_model(name)[0].summary()
    assert "Total params" in capsys.readouterr().out


LOADER = """
import sys, numpy as np, keras, keras_glimpse
for name in sys.argv[2:]:
    data = np.load(f"{sys.argv[1]}/{name}.npz")
    model = keras.models.load_model(f"{sys.argv[1]}/{name}.keras")
    values = [data[f"input_{i}"] for i in range(sum(key.startswith("input") for key in data))]
    outputs = keras.tree.flatten(model(values[0] if len(values) == 1 else values))
    print(name, max(float(np.abs(np.asarray(out) - data[f"output_{i}"]).max()) for i, out in enumerate(outputs)))
"""

BARE = """
import sys
sys.modules.update({"keras": None, "keras_glimpse": None})  # importing either fails
import numpy as np, tensorflow as tf
for name in sys.argv[2:]:
    data = np.load(f"{sys.argv[1]}/{name}.npz")
    model = tf.saved_model.load(f"{sys.argv[1]}/{name}")
    values = [data[f"input_{i}"] for i in range(sum(key.startswith("input") for key in data))]
    outputs = tf.nest.flatten(model.serve(values[0] if len(values) == 1 else values))
    print(name, max(float(np.abs(np.asarray(out) - data[f"output_{i}"]).max()) for i, out in enumerate(outputs)))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for name in EVERYTHING:
        model, shapes = as_model(name)
        values = inputs(shapes)
        outputs = flat(call(model, values))
        arrays = {f"input_{i}": value for i, value in enumerate(values)}
        np.savez(folder / f"{name}.npz", **arrays, **{f"output_{i}": value for i, value in enumerate(outputs)})
        model.save(folder / f"{name}.keras")
        if not name.startswith("crop"):  # Keras exports nothing without variables.
            model.export(folder / name, verbose=False)
    return folder


def run_python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.slow
def test_saved_models_load_in_a_fresh_process(saved):
    differences = run_python(LOADER, saved, *EVERYTHING)
    assert {name: float(value) < 1e-5 for name, value in differences.items()} == dict.fromkeys(EVERYTHING, True)


@pytest.mark.slow
def test_exports_run_without_keras_or_the_package(saved):
    names = [name for name in EVERYTHING if not name.startswith("crop")]
    differences = run_python(BARE, saved, *names)
    assert {name: float(value) < 1e-5 for name, value in differences.items()} == dict.fromkeys(names, True)


def test_layers_refuse_bad_arguments():
    with pytest.raises(ValueError, match="downsample must be one of"):
        LowResNet(3, downsample="cubic")
    with pytest.raises(ValueError, match="scales must be an integer, at least 1; got 0"):
        MultiScaleCrop(5, scales=(0, 1))
    with pytest.raises(ValueError, match="needs the location"):
        GlimpseNet(3, 8, gated=True)(np.zeros((1, 4, 4, 1), np.float32))
