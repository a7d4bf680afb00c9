"""Compiled functions that never answer from an old graph."""

from collections.abc import Callable

from keras_glimpse._compat import all_layers, own_variables

PLAIN = (bool, int, float, complex, str, bytes, type(None))
UNTRACED = {  # Attributes of Keras models that change while they run, and that no graph depends on.
    *("built", "compiled", "history", "loss", "optimizer", "stop_training", "stop_evaluating", "stop_predicting"),
    *("train_function", "test_function", "predict_function", "steps_per_execution"),
}


class Functions:
    """The compiled functions of a model: each is made once, and anew when something that graphs hold has changed.

    A graph holds whatever was no tensor when it was traced: attributes, layers, dtype policies, and which variables there
    are. Values of variables are read when it runs. So weights may be loaded or trained, and no graph is old.
    """

    def __init__(self, model):
        self._model, self._made, self._state = model, {}, None

    def clear(self) -> None:
        self._made.clear()

    def get(self, name: str, make: Callable):
        """What `make()` returned when it was last called under this name, if that is not out of date."""
        state = traced_state(self._model)
        if state != self._state:
            self._made.clear()
            self._state = state
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


class _Same:
    """Compares by identity, and keeps what it compares alive, so that nothing else can get its identity."""

    __slots__ = ("thing",)

    def __init__(self, thing):
        self.thing = thing

    def __eq__(self, other):
        return self.thing is other.thing


def traced_state(model) -> list:
    """All that a graph of the model holds, to be compared with what an earlier one holds."""
    state = [model.active_glimpses, model.stage, model.compiled and model.run_eagerly]
    for layer in all_layers(model):
        state += [_Same(layer), layer.dtype_policy.name, layer.trainable]
        state += [_Same(variable) for variable in own_variables(layer)]
        for name, value in vars(layer).items():
            if name[0] != "_" and name not in UNTRACED:
                _add(state, name, value)
    return state


def _add(state, name, value):
    if isinstance(value, PLAIN):
        state.append((name, value))
    elif isinstance(value, tuple | list) and all(isinstance(each, PLAIN) for each in value):
        state.append((name, tuple(value)))
    elif callable(value) and not hasattr(value, "weights"):  # An activation, say. Layers are compared one by one.
        state.append(_Same(value))
