"""N0 for images in which what matters is small: convolutions over a thumbnail, that keep where things are."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_glimpse._validation.arguments import check_integers, check_one_of, integers
from keras_glimpse.attributes import Fixed
from keras_glimpse.layers.backbone import Backbone, with_backbone, with_layer
from keras_glimpse.layers.convolutions import Convolutions
from keras_glimpse.layers.inner import KeepsInner
from keras_glimpse.ops.geometry import check_image, check_image_shape
from keras_glimpse.ops.runtime import ANY
from keras_glimpse.ops.thumbnail import METHODS, downsample


@keras.saving.register_keras_serializable(package="keras_glimpse")
class ConvLowResNet(KeepsInner, keras.layers.Layer):
    """A convolutional low-resolution network: a thumbnail, convolutions, and logits from their maximum and mean.

    It takes the place of `LowResNet` (eq. 1). Its features keep their places, which `LocationMap` needs.

    Args:
        num_classes: Positive integer, the number of classes C.
        size: Positive integer, the side of the thumbnail in pixels, or a tuple `(rows, columns)`; multiples of 4, with the
            default pooling. Defaults to `64`.
        filters: Sequence of positive integers, the filters of the blocks of convolution 3x3, batch normalisation and ReLU.
            Defaults to `(16, 32, 48, 64)`.
        pooled: Sequence of integers, the indices (from 0) of the blocks that pooling 2x2 follows. Each doubles the cells of the
            features, and so of a `LocationMap`. Defaults to `(0, 1)`.
        hidden_units: Positive integer, the units of the dense layer between the pooled features and the logits. Defaults to
            `64`.
        downsample: `"area"`, `"strided"` or `"bilinear"`, how the thumbnail is computed (see `LowResNet`). Defaults to
            `"area"`.
        backbone: Optional `Backbone` in place of the convolutions. Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        image: Tensor `[batch, height, width, channels]` of floats (used unchanged) or unsigned integers (scaled to [0, 1]).
        training: Boolean, whether batch normalisation is in training mode. Defaults to `False`.
        runtime: String, the runtime of the traced graph, as of `LowResNet`. Defaults to `"any"`.

    Returns:
        Tuple `(features, logits)` of tensors: `[batch, rows, columns, units]`, with the default convolutions
        `[batch, size / 4, size / 4, filters[-1]]`; and `[batch, num_classes]`.

    Raises:
        ValueError: If an argument is out of range, or the image is smaller than the thumbnail.

    Example:
    >>> features, logits = ConvLowResNet(num_classes=10)(ops.zeros((2, 256, 256, 1)))
    >>> features.shape, logits.shape
    (TensorShape([2, 16, 16, 64]), TensorShape([2, 10]))
    """

    inner = ("features", "hidden_layer", "output_layer")
    num_classes, size, filters, pooled, hidden_units, downsample = Fixed(), Fixed(), Fixed(), Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        num_classes: int,
        size: int | Sequence[int] = 64,
        filters: Sequence[int] = (16, 32, 48, 64),
        pooled: Sequence[int] = (0, 1),
        hidden_units: int = 64,
        downsample: str = "area",
        backbone: Backbone | None = None,
        **kwargs,
    ):
        super().__init__(**{"autocast": False, **kwargs})  # The thumbnail is averaged in float32.
        check_one_of(METHODS, downsample=downsample)
        check_integers(1, num_classes=num_classes, hidden_units=hidden_units)
        self.num_classes = num_classes
        self.size = integers("size", size, length=2)
        self.filters = integers("filters", filters)
        self.pooled = tuple(pooled)
        self.hidden_units = hidden_units
        self.downsample = downsample
        policy = self.dtype_policy
        self.features = Convolutions(self.filters, self.pooled, dtype=policy) if backbone is None else backbone
        if backbone is None and any(side % self.features.stride for side in self.size):
            raise ValueError(f"size must be a multiple of {self.features.stride}, as pooling halves it; got {self.size}.")
        self.hidden_layer = keras.layers.Dense(self.hidden_units, "relu", dtype=policy)
        self.output_layer = keras.layers.Dense(self.num_classes, dtype=policy)

    def build(self, image_shape):
        check_image_shape(image_shape, "The thumbnail (`size`)", self.size)
        features = self.features(keras.KerasTensor((None, *self.size, image_shape[3]), "float32"))
        if not all(features.shape[1:3]):
            raise ValueError(f"The convolutions leave nothing of a thumbnail (`size`) of {self.size} pixels.")
        self.hidden_layer.build((None, 2 * features.shape[3]))
        self.output_layer.build((None, self.hidden_units))

    def call(self, image, training=False, runtime=ANY):
        check_image(image, "The thumbnail (`size`)", self.size, runtime)
        features = self.features(downsample(image, self.size, self.downsample, runtime), training=training)
        pooled = ops.concatenate([ops.max(features, axis=(1, 2)), ops.mean(features, axis=(1, 2))], axis=-1)
        return features, self.output_layer(self.hidden_layer(pooled))

    @property
    def scales_integers(self) -> bool:
        """Whether `call` takes unsigned integers, which it scales after averaging; that of a subclass may expect floats."""
        return type(self).call is ConvLowResNet.call

    def get_config(self):
        names = ("num_classes", "size", "filters", "pooled", "hidden_units", "downsample")
        config = super().get_config() | {name: getattr(self, name) for name in names}
        return config | with_backbone(self.features)

    @classmethod
    def from_config(cls, config):
        return super().from_config(with_layer(config))
