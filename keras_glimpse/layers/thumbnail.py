"""What a low-resolution network of the user's own begins with."""

from collections.abc import Sequence

import keras

from keras_glimpse._validation.arguments import check_one_of, integers
from keras_glimpse.attributes import Fixed
from keras_glimpse.ops.geometry import check_image, check_image_shape
from keras_glimpse.ops.runtime import ANY, of_user_network
from keras_glimpse.ops.thumbnail import METHODS, downsample


@keras.saving.register_keras_serializable(package="keras_glimpse")
class Thumbnail(keras.layers.Layer):
    """Shrinks images to a thumbnail, as `LowResNet` does: for a network that is passed as `low_res_net`.

    Any size of image will do, where pooling needs a multiple. In exported files a small thumbnail of one channel is one matrix
    product, which LiteRT computes in less than half the time of `AveragePooling2D`, but which is slower than that on
    microcontrollers. Files in int8 average in float32.

    Args:
        size: Positive integer, the side of the thumbnail in pixels, or a tuple `(rows, columns)`. Defaults to `12`.
        downsample: `"area"`, `"strided"` or `"bilinear"`, how it is computed (see `LowResNet`). Defaults to `"area"`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        image: Tensor `[batch, height, width, channels]` of floats (used unchanged) or unsigned integers (scaled to [0, 1]).

    Returns:
        Tensor `[batch, rows, columns, channels]`, computed in float32, of the layer's dtype.

    Raises:
        ValueError: If an argument is out of range, or the image is known to be smaller than the thumbnail.

    Example:
    >>> images = keras.Input((48, 48, 1))
    >>> features = keras.layers.Flatten()(keras.layers.Conv2D(12, 3, activation="relu")(Thumbnail(12)(images)))
    >>> hidden = keras.layers.Dense(100, "relu")(features)
    >>> low_res_net = keras.Model(images, (hidden, keras.layers.Dense(10)(hidden)))

    Reference: Ranzato, "On Learning Where To Look", 2014, section 2.1.
    """

    size, downsample = Fixed(), Fixed()

    def __init__(self, size: int | Sequence[int] = 12, downsample: str = "area", **kwargs):
        super().__init__(**{"autocast": False, **kwargs})  # The thumbnail is averaged in float32.
        check_one_of(METHODS, downsample=downsample)
        self.size = integers("size", size, length=2)
        self.downsample = downsample

    def build(self, image_shape):
        check_image_shape(image_shape, "The thumbnail (`size`)", self.size)

    def call(self, image):
        check_image(image, "The thumbnail (`size`)", self.size, ANY)
        return keras.ops.cast(downsample(image, self.size, self.downsample, of_user_network()), self.compute_dtype)

    def compute_output_shape(self, image_shape):
        check_image_shape(image_shape, "The thumbnail (`size`)", self.size)
        return (image_shape[0], *self.size, image_shape[3])

    def get_config(self):
        return super().get_config() | {"size": self.size, "downsample": self.downsample}
