"""Where to look next, as a map over the thumbnail."""

import keras
import numpy as np
from keras import ops

from keras_glimpse._validation.arguments import check_integers, check_numbers
from keras_glimpse.layers.location_head import Float32Dense
from keras_glimpse.ops.geometry import grid, places_of


@keras.saving.register_keras_serializable(package="keras_glimpse")
class LocationMap(keras.layers.Layer):
    """Predicts where to look next by a map: a probability for each cell of the thumbnail, whose peak is the location.

    It takes the place of `LocationHead` (eqs. 3 and 8), with the same inputs. The same weights are used at all places, and of several
    objects one is chosen, where a regression would point between them. The map is

        p(z) = softmax over z of  w . relu(U h(z) + V o + b),

    with h(z) the features of the low-resolution network at cell z, and o the class evidence. The location is the mean of the
    cells around the most probable one, 3x3, weighted by their probabilities. Places that were looked at before are avoided
    (inhibition of return): a bump around each is subtracted from the logarithm of the map.

    Args:
        hidden_units: units between features and map.
        inhibition: radius of the bumps, as a share of the image's side; 0 for none.

    Call arguments:
        hidden: `[batch, rows, columns, units]`, features of the low-resolution network that keep their places.
        logits: `[batch, num_classes]`, the class evidence so far.
        previous: locations of the glimpses before, `[batch, 2]` each.

    Returns:
        `[batch, 2]`, float32: the location `(y, x)` in [0, 1].

    Raises:
        ValueError: features without places.

    Example:
    >>> LocationMap()(ops.zeros((2, 16, 16, 64)), ops.zeros((2, 10))).shape
    TensorShape([2, 2])
    """

    DEPTH = 10.0  # Of the bumps: e^-10 of the probability that a place looked at before had is left.

    def __init__(self, hidden_units: int = 32, inhibition: float = 0.06, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        check_integers(1, hidden_units=hidden_units)
        check_numbers(inhibition=inhibition)
        self.hidden_units = hidden_units
        self.inhibition = inhibition
        self.from_hidden = Float32Dense(hidden_units, dtype="float32")
        self.from_logits = Float32Dense(hidden_units, use_bias=False, dtype="float32")
        self.output_layer = Float32Dense(1, use_bias=False, dtype="float32")

    def build(self, hidden_shape, logits_shape):
        if len(hidden_shape) != 4:
            raise ValueError(f"LocationMap needs features [batch, rows, columns, units]; got {tuple(hidden_shape)}.")
        self.from_hidden.build((None, hidden_shape[-1]))
        self.from_logits.build(logits_shape)
        self.output_layer.build((None, self.hidden_units))

    def log_probabilities(self, hidden, logits, previous=()):
        """log p(z), `[batch, rows * columns]`, float32, row by row."""
        hidden = ops.cast(hidden, "float32")
        mixed = ops.relu(self.from_hidden(hidden) + self.from_logits(ops.cast(logits, "float32"))[:, None, None])
        scores = ops.reshape(self.output_layer(mixed), (-1, hidden.shape[1] * hidden.shape[2]))
        if self.inhibition:
            for location in previous:
                squared = ops.sum(ops.square(places_of(*grid(hidden.shape[1:3])) - location[:, None]), axis=-1)
                scores -= self.DEPTH * ops.exp(-0.5 * squared / self.inhibition**2)
        return ops.log_softmax(scores, axis=-1)

    def call(self, hidden, logits, previous=()):
        log_map = self.log_probabilities(hidden, logits, previous)
        places = places_of(*grid(hidden.shape[1:3]))
        rows = ops.cast(np.indices(hidden.shape[1:3]).reshape(2, -1).T, "float32")
        peak = ops.take(rows, ops.argmax(log_map, axis=-1), axis=0)
        near = ops.all(ops.abs(rows - peak[:, None]) <= 1.0, axis=-1)
        weights = ops.softmax(ops.where(near, log_map, -1e9), axis=-1)
        return ops.sum(weights[..., None] * places, axis=1)

    def get_config(self):
        return super().get_config() | {"hidden_units": self.hidden_units, "inhibition": self.inhibition}
