"""What will run what is traced: TensorFlow, XLA, or nobody knows.

A graph that somebody traces may go anywhere: to LiteRT, to ONNX, into a SavedModel that is converted some day. So the default
is operations that all of those have. TensorFlow's own, which are faster there, are for eager calls and for the graphs that
are ours and go nowhere: those of `fit`, `evaluate`, `predict`, `look`, the cascade and a SavedModel's serving signatures.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

from keras_glimpse._compat import is_compiled_by_xla

_ours = contextvars.ContextVar("ours", default=False)
_quantized = contextvars.ContextVar("quantized", default=False)


@contextlib.contextmanager
def run_by_tensorflow() -> Iterator[None]:
    """What is traced within this context, or in a function that it decorates, is run by TensorFlow and nothing else."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


@contextlib.contextmanager
def quantized_products(quantized: bool = True) -> Iterator[None]:
    """Graphs traced here will have their matrix products in 8 bits: what must not be so is traced as something else."""
    token = _quantized.set(quantized)
    try:
        yield
    finally:
        _quantized.reset(token)


def is_portable() -> bool:
    """Whether what is computed now must be made of operations that every runtime has."""
    return not (tf.executing_eagerly() or _ours.get() or is_compiled_by_xla())


def is_quantized() -> bool:
    return _quantized.get()
