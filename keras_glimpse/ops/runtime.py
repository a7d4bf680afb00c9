"""What will run the operations, which decides their form.

A graph that somebody traces may go anywhere: to LiteRT, to ONNX, into a SavedModel that is converted some day. So the default
is operations that all of those have. TensorFlow's own, which are faster there, are for eager calls and for graphs that no
other runtime will see: those of `fit`, `evaluate`, `predict`, `look`, the cascade and a SavedModel's serving signatures.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from inspect import signature

import keras
import tensorflow as tf

from keras_glimpse._compat import is_compiled_by_xla

ANY = "any"
TENSORFLOW = "tensorflow"
LITERT_QUANTIZED = "litert_quantized"  # LiteRT, by a converter that quantizes weights or matrix products.
RUNTIMES = (ANY, TENSORFLOW, LITERT_QUANTIZED)
_RUNTIME = ContextVar("runtime", default=ANY)


def is_portable(runtime: str) -> bool:
    """Whether what is computed now must be made of operations that every runtime has.

    Args:
        runtime: `ANY`, `TENSORFLOW` or `LITERT_QUANTIZED`. Eager computation and XLA stay in TensorFlow.

    Raises:
        ValueError: another `runtime`.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {RUNTIMES}; got {runtime!r}.")
    return runtime != TENSORFLOW and not tf.executing_eagerly() and not is_compiled_by_xla()


def for_runtime(function: Callable, runtime: str) -> Callable:
    """A function with its argument `runtime` set, if it has one with our default. Users' layers and methods need not."""
    parameter = parameters_of(function).get("runtime")
    if parameter is not None and parameter.default == ANY:
        return partial(function, runtime=runtime)
    return partial(_quantized, function) if runtime == LITERT_QUANTIZED and isinstance(function, keras.Layer) else function


def of_user_network() -> str:
    """The runtime of our layers within a network of the user's, which cannot hand it on: `ANY`, or `LITERT_QUANTIZED`."""
    return _RUNTIME.get()


def _quantized(network, *args, **kwargs):
    token = _RUNTIME.set(LITERT_QUANTIZED)
    try:
        return network(*args, **kwargs)
    finally:
        _RUNTIME.reset(token)


def parameters_of(function: Callable) -> dict:
    """The parameters of a function, or of the `call` of a layer, by name."""
    return dict(signature(function.call if isinstance(function, keras.Layer) else function).parameters)
