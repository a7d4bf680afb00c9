"""Compiled functions, traced again when something that their graphs hold has changed."""

import operator
from collections.abc import Callable

import keras
import numpy as np

from keras_glimpse._compat import all_layers, own_variables

PLAIN = {bool, int, float, complex, str, bytes, type(None)}
UNTRACED = {  # Attributes of Keras models that change while they run, and that no graph depends on.
    *("built", "compiled", "history", "loss", "stop_training", "stop_evaluating", "stop_predicting"),
    *("train_function", "test_function", "predict_function", "steps_per_execution"),
}


class Functions:
    """The compiled functions of a model: each is made once, and anew when something that graphs hold has changed.

    A graph holds whatever was no tensor when it was traced: attributes, layers, dtype policies, and which variables there
    are. Values of variables are read when it runs. So weights may be loaded or trained without a new trace.
    """

    def __init__(self, model):
        self._model, self._made, self._state = model, {}, ([], [])

    def clear(self) -> None:
        self._made.clear()

    def get(self, name: str, make: Callable):
        """What `make()` returned when it was last called under this name, if that is not out of date."""
        state = traced_state(self._model)
        if not _is_same(state, self._state):
            self._made.clear()
            self._state = state
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def traced_state(model) -> tuple[list, list]:
    """All that a graph of the model holds.

    Returns:
        `(values, things)`: values that are compared by equality, and things that are compared by identity.
    """
    values, things = model.traced()
    for layer in all_layers(model):
        values.append(layer.trainable)
        things += (layer, layer.dtype_policy, *own_variables(layer))
        for name, value in vars(layer).items():
            if name[0] == "_" or name in UNTRACED:
                continue
            if type(value) in PLAIN or isinstance(value, np.generic):
                values.append(value)
            elif isinstance(value, tuple | list):
                values.append(tuple(each for each in value if type(each) in PLAIN))
            elif callable(value) and not isinstance(value, keras.Layer):  # An activation, say.
                things.append(value)
    return values, things


def _is_same(state, other):
    (values, things), (other_values, other_things) = state, other
    return values == other_values and len(things) == len(other_things) and all(map(operator.is_, things, other_things))
