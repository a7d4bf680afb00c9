"""Quantized models: what `quantize` changes, and how other runtimes compute the same."""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator

import keras
from keras import ops

from keras_glimpse._compat import all_layers, input_quantizer, set_input_quantizer

MODES = ("int8", "int4")
NOT_MODES = {
    "float8": "it is for training large products on a GPU, and not tried with training in stages",
    "gptq": "it calibrates the blocks of a transformer",
    "awq": "it calibrates the blocks of a transformer",
}


def layers_to_quantize(model, mode: str, filters) -> list[keras.Layer]:
    """The layers that `quantize` is to change, each once; or an error, before any of them is changed.

    Location heads are not among them. Keras has checked that the model is built and that `mode` goes with `config`. Layers
    that have weights, but no quantized form in Keras, get a warning.
    """
    if mode not in MODES:
        why = f" ({NOT_MODES[mode]})" if mode in NOT_MODES else ""
        raise ValueError(f"mode must be one of {MODES}; got {mode!r}{why}.")
    heads = {id(layer) for head in model.location_heads for layer in all_layers(head)}
    is_wanted = _matches(filters)
    wanted = [
        layer for layer in all_layers(model) if len(all_layers(layer)) == 1 and id(layer) not in heads and is_wanted(layer)
    ]
    layers = [layer for layer in wanted if type(layer).quantize is not keras.Layer.quantize]
    if not layers:
        raise ValueError(f"Keras can quantize none of the layers{' that match the filters' if filters else ''}.")
    for layer in layers:
        if layer.quantization_mode:
            raise ValueError(f"{layer.name!r} is quantized already: it has {layer.dtype_policy.name}.")
        if mode == "int8" and layer.compute_dtype == "float16":
            raise ValueError(f'"int8" needs layers of float32 or bfloat16; {layer.name!r} has {layer.dtype_policy.name}.')
    left = sorted({type(layer).__name__ for layer in wanted if layer.variables and layer not in layers})
    if left:
        warnings.warn(f"Keras has no quantized form of {', '.join(left)}: such layers stay as they are.", stacklevel=4)
    return layers


def _matches(filters) -> Callable[[keras.Layer], bool]:
    """What Keras's `filters` of `quantize` mean."""
    if filters is None or callable(filters):
        return filters or (lambda layer: True)
    patterns = [filters] if isinstance(filters, str) else filters
    if not isinstance(patterns, list | tuple) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"filters must be a regular expression, a list of them or a function of a layer; got {filters!r}.")
    return lambda layer: any(re.search(pattern, layer.name) for pattern in patterns)


@contextlib.contextmanager
def float_products(model) -> Iterator[None]:
    """Within this context, int8 layers multiply their 8-bit integers as floats: the same numbers, by portable operations."""
    quantizers = {layer: input_quantizer(layer) for layer in all_layers(model) if input_quantizer(layer)}
    try:
        for layer, quantizer in quantizers.items():
            set_input_quantizer(layer, _ToFloats(quantizer))
        yield
    finally:
        for layer, quantizer in quantizers.items():
            set_input_quantizer(layer, quantizer)


class _ToFloats:
    """A quantizer whose integers are floats."""

    def __init__(self, quantizer):
        self.quantizer = quantizer

    def __call__(self, inputs, **kwargs):
        quantized, scale = self.quantizer(inputs, **kwargs)
        return ops.cast(quantized, inputs.dtype), scale
