"""Compiled functions, traced again when something that their graphs hold has changed."""

from collections.abc import Callable, Sequence
from operator import is_, itemgetter

import keras
import numpy as np
import tensorflow as tf

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
        self._model, self._made, self._state = model, {}, None

    def clear(self) -> None:
        self._made.clear()

    def get(self, name: str, make: Callable):
        """What `make()` returned when it was last called under this name, if that is not out of date."""
        if self._state is None or not self._state.is_untouched():
            state = State(self._model)
            if not (self._state and state.is_same(self._state)):
                self._made.clear()
            self._state = state
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


class State:
    """All that a graph of the model holds: values, compared by equality, and things, compared by identity."""

    def __init__(self, model):
        self._model, self._traced = model, model.traced()
        self.values, self.things = map(list, self._traced)
        self._each = [Held(layer) for layer in all_layers(model)]
        for held in self._each:
            self.values.append(held.layer.trainable)
            self.things += (held.layer, *held.things())
            for value in held.attributes():
                self._add(value)

    def _add(self, value):
        if type(value) in PLAIN or isinstance(value, np.generic):
            self.values.append(value)
        elif isinstance(value, tuple | list):
            self.values.append(tuple(each for each in value if type(each) in PLAIN))
        elif tf.is_tensor(value) or isinstance(value, np.ndarray) or _is_function(value):  # `Normalization` has a mean.
            self.things.append(value)

    def is_same(self, other: "State") -> bool:
        return self.values == other.values and _are_same(self.things, other.things)

    def is_untouched(self) -> bool:
        """Whether nothing was set since, not even to what it was: a quicker look than a new state."""
        return (
            self._traced == self._model.traced()
            and _are_same([held.layer for held in self._each], all_layers(self._model))
            and all(held.is_untouched() for held in self._each)
        )


class Held:
    """What a graph may hold of one layer: `trainable`, its policy, which variables it has, and public attributes."""

    def __init__(self, layer):
        self.layer, self._names = layer, [*vars(layer)]
        self._public = itemgetter(*[name for name in self._names if name[0] != "_" and name not in UNTRACED])
        self._before = self._now()
        self._lists = [(value, [*value]) for value in self.attributes() if isinstance(value, list)]

    def things(self) -> tuple:
        return self.layer.dtype_policy, *own_variables(self.layer)

    def attributes(self) -> tuple:
        return self._public(vars(self.layer))

    def _now(self):
        return self.layer.trainable, *self.things(), *self.attributes()

    def is_untouched(self) -> bool:
        return (
            self._names == [*vars(self.layer)]
            and _are_same(self._before, self._now())
            and all(_are_same(value, items) for value, items in self._lists)
        )


def _is_function(value) -> bool:
    """Whether this is an activation, say."""
    return callable(value) and not isinstance(value, keras.Layer)


def _are_same(things: Sequence, others: Sequence) -> bool:
    return len(things) == len(others) and all(map(is_, things, others))
