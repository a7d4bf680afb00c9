"""Graphs for other runtimes: within this context, models are traced with operations that XLA, LiteRT and ONNX all have."""

import contextlib
import contextvars
from collections.abc import Iterator

_portable = contextvars.ContextVar("portable", default=False)
_quantized = contextvars.ContextVar("quantized", default=False)


@contextlib.contextmanager
def portable_operations(quantized: bool = False) -> Iterator[None]:
    """`quantized` graphs will have their matrix products in 8 bits: what must not be so is traced as something else."""
    tokens = _portable.set(True), _quantized.set(quantized)
    try:
        yield
    finally:
        _portable.reset(tokens[0])
        _quantized.reset(tokens[1])


def is_portable() -> bool:
    return _portable.get()


def is_quantized() -> bool:
    return _quantized.get()
