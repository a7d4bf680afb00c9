"""Attributes of models and layers: fixed when they are made, or checked whenever they are set."""

from collections.abc import Callable

import numpy as np


class Fixed:
    """An attribute that is set once, when the model is made. Numbers of NumPy become those of Python, as Keras expects."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, model, owner=None):
        if model is None:
            return self
        try:
            return vars(model)[self.name]
        except KeyError:
            raise AttributeError(f"{type(model).__name__} has no {self.name} yet.") from None

    def __set__(self, model, value):
        value = _of_python(value)
        if self.name in vars(model) and vars(model)[self.name] != value:
            raise AttributeError(
                f"{self.name} is fixed at construction; got {value!r} for {vars(model)[self.name]!r}. "
                f"Make a new {type(model).__name__} with it."
            )
        vars(model)[self.name] = value


class Setting(Fixed):
    """An attribute that may be set at any time, and takes effect everywhere: all graphs are traced anew (see `tracing`).

    Args:
        check: Callable, called as `check(**{name: value})`; raises ValueError or TypeError if the value is invalid.
    """

    def __init__(self, check: Callable):
        self.check = check

    def __set__(self, model, value):
        self.check(**{self.name: value})
        vars(model)[self.name] = _of_python(value)


def _of_python(value):
    return value.item() if isinstance(value, np.generic) else value
