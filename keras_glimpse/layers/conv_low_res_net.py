"""N0 for images in which what matters is small: convolutions over a thumbnail, that keep where things are."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_glimpse._validation.arguments import check_integers, check_one_of, integers
from keras_glimpse.layers.convolutions import Convolutions
from keras_glimpse.ops.geometry import check_image_shape
from keras_glimpse.ops.runtime import ANY
from keras_glimpse.ops.thumbnail import METHODS, downsample


@keras.saving.register_keras_serializable(package="keras_glimpse")
class ConvLowResNet(keras.layers.Layer):
    """A convolutional low-resolution network: a thumbnail, convolutions, their maximum and mean over all places, logits.

    It takes the place of `LowResNet` (eq. 1). Its features keep their places, which `LocationMap` needs.

    Args:
        num_classes: number of classes, C.
        size: side of the thumbnail in pixels; or `(rows, columns)`. A multiple of 4.
        filters: of the blocks of convolution 3x3, batch normalisation and ReLU; pooling 2x2 follows the first two.
        hidden_units: units of the dense layer between the pooled features and the logits.
        downsample: "area", "strided" or "bilinear", as in `LowResNet`.

    Call arguments:
        image: `[batch, height, width, channels]`; an unsigned-integer image is scaled to [0, 1].

    Returns:
        `(features, logits)`, shaped `[batch, size / 4, size / 4, filters[-1]]` and `[batch, num_classes]`.

    Raises:
        ValueError: an image smaller than the thumbnail, a size that is no multiple of 4.

    Example:
    >>> features, logits = ConvLowResNet(num_classes=10)(ops.zeros((2, 256, 256, 1)))
    >>> features.shape, logits.shape
    (TensorShape([2, 16, 16, 64]), TensorShape([2, 10]))
    """

    def __init__(
        self,
        num_classes: int,
        size: int | Sequence[int] = 64,
        filters: Sequence[int] = (24, 32, 48, 64),
        hidden_units: int = 64,
        downsample: str = "area",
        **kwargs,
    ):
        super().__init__(**{"autocast": False, **kwargs})  # The thumbnail is averaged in float32.
        check_one_of(METHODS, downsample=downsample)
        check_integers(1, num_classes=num_classes, hidden_units=hidden_units)
        self.num_classes = num_classes
        self.size = integers("size", size, length=2)
        self.filters = integers("filters", filters)
        self.hidden_units = hidden_units
        self.downsample = downsample
        policy = self.dtype_policy
        self.convolutions = Convolutions(self.filters, dtype=policy)
        if any(side % self.convolutions.stride for side in self.size):
            raise ValueError(f"size must be a multiple of {self.convolutions.stride}; got {self.size}.")
        self.hidden_layer = keras.layers.Dense(hidden_units, "relu", dtype=policy)
        self.output_layer = keras.layers.Dense(num_classes, dtype=policy)

    def build(self, image_shape):
        check_image_shape(image_shape, {"The thumbnail (`size`)": self.size})
        self.convolutions.build((None, *self.size, image_shape[3]))
        self.hidden_layer.build((None, 2 * self.filters[-1]))
        self.output_layer.build((None, self.hidden_units))

    def call(self, image, training=False, runtime=ANY):
        check_image_shape(image.shape, {})
        features = self.convolutions(downsample(image, self.size, self.downsample, runtime), training=training)
        pooled = ops.concatenate([ops.max(features, axis=(1, 2)), ops.mean(features, axis=(1, 2))], axis=-1)
        return features, self.output_layer(self.hidden_layer(pooled))

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "size": self.size,
            "filters": self.filters,
            "hidden_units": self.hidden_units,
            "downsample": self.downsample,
        }
