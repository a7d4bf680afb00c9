"""The location of the next glimpse."""

from math import prod

import keras
from keras import ops

from keras_glimpse.attributes import Fixed
from keras_glimpse.layers.inner import KeepsInner
from keras_glimpse.ops.runtime import ANY, LITERT_QUANTIZED


@keras.saving.register_keras_serializable(package="keras_glimpse")
class LocationHead(KeepsInner, keras.layers.Layer):
    """Predicts the location of the next glimpse from low-resolution features and class evidence (eqs. 3 and 8).

    The layer computes in float32 whatever its dtype policy, and `quantize` leaves it unchanged.

    Args:
        gated: Boolean, whether class evidence gates the features, `h * sigmoid(V o + c)`, before the weighted sum (section
            2.2.3). Defaults to `False`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        hidden: Tensor `[batch, units]`, the features h^L of the low-resolution network; further axes are flattened.
        logits: Tensor `[batch, num_classes]`, the class evidence: o^L plus the sum of the outputs of earlier glimpses.
        runtime: String, the runtime of the traced graph: `"any"`, `"tensorflow"`, or `"litert_quantized"`, which avoids
            operations that LiteRT would quantize. Defaults to `"any"`.

    Returns:
        Float32 tensor `[batch, 2]`: the location `(y, x)` in [0, 1].

    Example:
    >>> LocationHead()(ops.zeros((2, 500)), ops.zeros((2, 10))).numpy()
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)

    Reference: Ranzato, "On Learning Where To Look", 2014, section 2.1; gating: section 2.2.3.
    """

    inner = ("from_hidden", "from_logits", "gate")
    gated = Fixed()

    def __init__(self, gated: bool = False, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        self.gated = gated
        self.from_hidden = Float32Dense(2, dtype="float32")
        self.from_logits = Float32Dense(2, use_bias=False, dtype="float32")
        self.gate = Float32Dense(1, "sigmoid", dtype="float32") if gated else None  # One unit for each feature: see `build`.

    def build(self, hidden_shape, logits_shape):
        features = prod(hidden_shape[1:])
        self.from_hidden.build((None, features))
        self.from_logits.build(logits_shape)
        if self.gated:
            self.gate.units = features
            self.gate.build(logits_shape)

    def call(self, hidden, logits, runtime=ANY):
        hidden = ops.reshape(hidden, (-1, self.from_hidden.kernel.shape[0]))
        if self.gated:
            hidden = ops.cast(hidden, "float32") * self.gate(logits)
        apply = dense_for(runtime)
        return ops.sigmoid(apply(self.from_hidden, hidden) + apply(self.from_logits, logits))

    def get_config(self):
        return super().get_config() | {"gated": self.gated}


class Float32Dense(keras.layers.Dense):
    """A dense layer that `quantize` leaves unchanged: in 8 bits, or in half precision, a location would be pixels off."""

    def quantize(self, mode=None, type_check=True, config=None):
        pass


def dense_for(runtime: str):
    """How to apply a dense layer, `apply(layer, inputs)`, in a graph for this runtime."""
    return _in_float32 if runtime == LITERT_QUANTIZED else lambda layer, inputs: layer(inputs)


def _in_float32(layer, inputs):
    """A dense layer by operations that LiteRT does not quantize: 256 locations are too few in a large image."""
    products = ops.sum(inputs[..., None, :] * ops.transpose(layer.kernel), axis=-1)
    return products if layer.bias is None else products + layer.bias
