"""Each private name of Keras and TensorFlow that we touch does what `_compat.py` says."""

import ast
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

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


def test_deterministic_ops():
    assert _compat.deterministic_ops() is False


def private_names(path):
    """Attributes with one underscore, but those of the file itself; and imports of modules that are not public."""
    tree = ast.parse(path.read_text())
    ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)} | {"_replace"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("keras.src", "tensorflow.python")):
            yield f"{path.name}: {node.module}"
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            if node.attr not in ours and ast.unparse(node.value) not in ("self", "cls"):
                yield f"{path.name}: {ast.unparse(node)}"


def test_private_names_are_in_one_file():
    folder = pathlib.Path(keras_glimpse.__file__).parent
    assert {name for path in folder.rglob("*.py") if path.name != "_compat.py" for name in private_names(path)} == set()
