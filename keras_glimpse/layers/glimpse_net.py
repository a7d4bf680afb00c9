"""Nn, the networks on the patches."""

from collections.abc import Sequence
from math import prod

import keras
from keras import ops

from keras_glimpse._validation.arguments import check_integers, integers
from keras_glimpse.attributes import Fixed
from keras_glimpse.layers.inner import KeepsInner


@keras.saving.register_keras_serializable(package="keras_glimpse")
class GlimpseNet(KeepsInner, keras.layers.Layer):
    """A glimpse network Nn: patches, hidden layers, class logits (eqs. 4 and 7).

    Args:
        num_classes: Positive integer, the number of classes C.
        hidden_units: Positive integer or sequence of them, the units of the hidden layer, or of each. Defaults to `500`.
        gated: Boolean, whether the location gates the (first) hidden layer, `h * sigmoid(G l + c)` (section 2.2.3). Defaults to
            `False`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        patches: Tensor `[batch, size, size, channels * len(scales)]`, the output of `MultiScaleCrop`.
        location: Tensor `[batch, 2]`, the location of the patches, `(y, x)` in [0, 1]. Required if `gated`, else ignored.
            Defaults to `None`.

    Returns:
        Tensor `[batch, num_classes]`: o^{H_n}, the logits of this glimpse.

    Raises:
        ValueError: If an argument is out of range, or the layer is gated and `location` is `None`.

    Example:
    >>> GlimpseNet(num_classes=10)(ops.zeros((2, 12, 12, 2))).shape
    TensorShape([2, 10])

    Reference: Ranzato, "On Learning Where To Look", 2014, section 2.1; gating: section 2.2.3.
    """

    inner = ("hidden_layers", "output_layer", "gate")
    num_classes, hidden_units, gated = Fixed(), Fixed(), Fixed()

    def __init__(self, num_classes: int, hidden_units: int | Sequence[int] = 500, gated: bool = False, **kwargs):
        super().__init__(**kwargs)
        check_integers(1, num_classes=num_classes)
        self.num_classes = num_classes
        self.hidden_units = integers("hidden_units", hidden_units)
        self.gated = gated
        policy = self.dtype_policy
        self.hidden_layers = [keras.layers.Dense(n, "relu", dtype=policy) for n in self.hidden_units]
        self.output_layer = keras.layers.Dense(self.num_classes, dtype=policy)
        self.gate = keras.layers.Dense(self.hidden_units[0], "sigmoid", dtype=policy) if gated else None

    def build(self, patches_shape, location_shape=None):
        features = prod(patches_shape[1:])
        for layer in (*self.hidden_layers, self.output_layer):
            layer.build((None, features))
            features = layer.units
        if self.gated:
            self.gate.build((None, 2))

    def call(self, patches, location=None):
        if self.gated and location is None:
            raise ValueError("A gated GlimpseNet needs the location of its patches: net(patches, location).")
        hidden = ops.reshape(patches, (-1, prod(patches.shape[1:])))
        for depth, layer in enumerate(self.hidden_layers):
            hidden = layer(hidden)
            if self.gated and depth == 0:
                hidden = hidden * self.gate(location)
        return self.output_layer(hidden)

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "hidden_units": self.hidden_units,
            "gated": self.gated,
        }
