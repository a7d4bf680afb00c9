"""N0, the network on the downsampled image."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_glimpse._validation.arguments import check_integers, check_one_of, integers
from keras_glimpse.attributes import Fixed
from keras_glimpse.layers.inner import KeepsInner
from keras_glimpse.ops.geometry import check_image, check_image_shape
from keras_glimpse.ops.runtime import ANY
from keras_glimpse.ops.thumbnail import METHODS, downsample


@keras.saving.register_keras_serializable(package="keras_glimpse")
class LowResNet(KeepsInner, keras.layers.Layer):
    """The low-resolution network N0: downsampling to a thumbnail, hidden layers, class logits (eq. 1).

    Args:
        num_classes: Positive integer, the number of classes C.
        size: Positive integer, the side d of the thumbnail in pixels, or a tuple `(rows, columns)`. Defaults to `12`.
        hidden_units: Positive integer or sequence of them, the units of the hidden layer, or of each. Defaults to `500`.
        downsample: String, how the thumbnail is computed. Defaults to `"area"`.

            - `"area"` averages all image pixels under each thumbnail pixel, weighted by overlap.
            - `"strided"` takes the image pixel at the centre of each thumbnail pixel. Its cost does not grow with the image,
              but it aliases.
            - `"bilinear"` interpolates between the four image pixels around that centre, at a constant cost too, and aliases.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        image: Tensor `[batch, height, width, channels]` of floats (used unchanged) or unsigned integers (scaled to [0, 1]).
        runtime: String, the runtime of the traced graph: `"any"` uses portable operations only, `"tensorflow"` also faster ones
            that only TensorFlow has. Defaults to `"any"`.

    Returns:
        Tuple `(hidden, logits)` of tensors `[batch, units]` and `[batch, num_classes]`: h^L and o^L of eq. 1.

    Raises:
        ValueError: If an argument is out of range, or the image is smaller than the thumbnail.

    Example:
    >>> hidden, logits = LowResNet(num_classes=10)(ops.zeros((2, 48, 48, 1)))
    >>> hidden.shape, logits.shape
    (TensorShape([2, 500]), TensorShape([2, 10]))

    Reference: Ranzato, "On Learning Where To Look", 2014, section 2.1.
    """

    inner = ("hidden_layers", "output_layer")
    num_classes, size, hidden_units, downsample = Fixed(), Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        num_classes: int,
        size: int | Sequence[int] = 12,
        hidden_units: int | Sequence[int] = 500,
        downsample: str = "area",
        **kwargs,
    ):
        super().__init__(**{"autocast": False, **kwargs})  # The thumbnail is averaged in float32.
        check_one_of(METHODS, downsample=downsample)
        check_integers(1, num_classes=num_classes)
        self.num_classes = num_classes
        self.size = integers("size", size, length=2)
        self.hidden_units = integers("hidden_units", hidden_units)
        self.downsample = downsample
        policy = self.dtype_policy
        self.hidden_layers = [keras.layers.Dense(n, "relu", dtype=policy) for n in self.hidden_units]
        self.output_layer = keras.layers.Dense(self.num_classes, dtype=policy)

    def build(self, image_shape):
        check_image_shape(image_shape, "The thumbnail (`size`)", self.size)
        features = self.size[0] * self.size[1] * image_shape[3]
        for layer in (*self.hidden_layers, self.output_layer):
            layer.build((None, features))
            features = layer.units

    def call(self, image, runtime=ANY):
        check_image(image, "The thumbnail (`size`)", self.size, runtime)
        hidden = downsample(image, self.size, self.downsample, runtime)
        hidden = ops.reshape(hidden, (-1, self.size[0] * self.size[1] * image.shape[3]))
        for layer in self.hidden_layers:
            hidden = layer(hidden)
        return hidden, self.output_layer(hidden)

    @property
    def scales_integers(self) -> bool:
        """Whether `call` takes unsigned integers, which it scales after averaging; that of a subclass may expect floats."""
        return type(self).call is LowResNet.call

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "size": self.size,
            "hidden_units": self.hidden_units,
            "downsample": self.downsample,
        }
