"""Where to look next, as a map over the thumbnail."""

import keras
import tensorflow as tf
from keras import ops

from keras_glimpse._validation.arguments import check_integers, check_numbers
from keras_glimpse.attributes import Fixed
from keras_glimpse.layers.inner import KeepsInner
from keras_glimpse.layers.location_head import Float32Dense, dense_for
from keras_glimpse.ops.geometry import grid, places_of
from keras_glimpse.ops.runtime import ANY


@keras.saving.register_keras_serializable(package="keras_glimpse")
class LocationMap(KeepsInner, keras.layers.Layer):
    """Predicts where to look next by a map: a probability for each cell of the thumbnail, whose peak is the location.

    It takes the place of `LocationHead` (eqs. 3 and 8), with the same inputs. The same weights are used at all places, and of
    several objects one is chosen, where a regression would point between them. The map is

        p(z) = softmax over z of  w . relu(U h(z) + V o + b),

    with h(z) the features of the low-resolution network at cell z, and o the class evidence. The location is the mean of the
    3x3 cells around the most probable one, weighted by their probabilities. Places that were looked at before are avoided
    (inhibition of return): a bump around each is subtracted from log p(z), and no cell within half its radius, or around the
    place itself, is the most probable one again.

    The layer computes in float32 whatever its dtype policy, and `quantize` leaves it unchanged.

    Args:
        hidden_units: Positive integer, the units between features and map. Defaults to `32`.
        inhibition: Non-negative float, the radius of the bumps, as a fraction of the image's sides; `0` for none. Defaults to
            `0.06`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        hidden: Tensor `[batch, rows, columns, units]`, features of the low-resolution network that keep their places.
        logits: Tensor `[batch, num_classes]`, the class evidence so far.
        previous: Sequence of tensors `[batch, 2]`, the locations of the glimpses before. Defaults to `()`.
        runtime: String, the runtime of the traced graph, as of `LocationHead`. Defaults to `"any"`.

    Returns:
        Float32 tensor `[batch, 2]`: the location `(y, x)` in [0, 1].

    Raises:
        ValueError: If an argument is out of range, or the features have no places.

    Example:
    >>> LocationMap()(ops.zeros((2, 16, 16, 64)), ops.zeros((2, 10))).shape
    TensorShape([2, 2])
    """

    DEPTH = 30.0  # Of the bumps: of the probability that a place looked at before had, e^-30 is left.
    NEVER = 1e4  # More in the middle of a bump: a map may be so sure of an object that e^-30 of it is still the largest.

    inner = ("from_hidden", "from_logits", "output_layer")
    hidden_units, inhibition = Fixed(), Fixed()

    def __init__(self, hidden_units: int = 32, inhibition: float = 0.06, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        check_integers(1, hidden_units=hidden_units)
        check_numbers(inhibition=inhibition)
        self.hidden_units = hidden_units
        self.inhibition = inhibition
        self.from_hidden = Float32Dense(self.hidden_units, dtype="float32")
        self.from_logits = Float32Dense(self.hidden_units, use_bias=False, dtype="float32")
        self.output_layer = Float32Dense(1, use_bias=False, dtype="float32")

    def build(self, hidden_shape, logits_shape):
        if len(hidden_shape) != 4:
            raise ValueError(
                "LocationMap needs features with places, [batch, rows, columns, units], such as those of ConvLowResNet; "
                f"got {tuple(hidden_shape)}."
            )
        self.from_hidden.build((None, hidden_shape[-1]))
        self.from_logits.build(logits_shape)
        self.output_layer.build((None, self.hidden_units))

    def log_probabilities(self, hidden, logits, previous=(), runtime=ANY):
        """log p(z), float32, `[batch, rows, columns]`; arguments as of the call."""
        apply = dense_for(runtime)
        rows, columns, units = hidden.shape[1:]
        cells = ops.reshape(ops.cast(hidden, "float32"), (-1, rows * columns, units))
        evidence = apply(self.from_logits, ops.cast(logits, "float32"))[:, None]
        scores = apply(self.output_layer, ops.relu(apply(self.from_hidden, cells) + evidence))[..., 0]
        if self.inhibition:
            places = places_of_cells(rows, columns)
            middle = [max(self.inhibition / 2, 0.75 / side) for side in (rows, columns)]  # A place may lie between cells.
            for location in previous:
                apart = places - location[:, None]
                scores -= self.DEPTH * ops.exp(-0.5 * ops.sum(ops.square(apart), axis=-1) / self.inhibition**2)
                scores -= ops.where(ops.max(ops.abs(apart) / middle, axis=-1) < 1.0, self.NEVER, 0.0)
        return ops.reshape(ops.log_softmax(scores, axis=-1), (-1, rows, columns))

    def call(self, hidden, logits, previous=(), runtime=ANY):
        rows, columns = hidden.shape[1:3]
        log_map = ops.reshape(self.log_probabilities(hidden, logits, previous, runtime), (-1, rows * columns))
        places = places_of_cells(rows, columns)
        peak = tf.gather(places, tf.argmax(log_map, axis=-1, output_type=tf.int32))  # Keras's is not in LiteRT.
        cells_apart = ops.abs(places - peak[:, None]) * [float(rows), float(columns)]
        near = ops.max(cells_apart, axis=-1) < 1.5
        weights = ops.softmax(ops.where(near, log_map, -1e9), axis=-1)
        return ops.sum(weights[..., None] * places, axis=1)

    def get_config(self):
        return super().get_config() | {"hidden_units": self.hidden_units, "inhibition": self.inhibition}


def places_of_cells(rows, columns):
    """`[rows * columns, 2]`, one constant in the graph however often it is used."""
    return tf.constant(places_of(*grid((rows, columns))))
