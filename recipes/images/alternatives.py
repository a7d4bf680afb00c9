"""What one would train on large images if there were no glimpses. Both take pixels from 0 to 255 and give logits."""

from bisect import bisect
from collections.abc import Sequence
from functools import cache

import keras

import keras_glimpse


def whole(
    image_shape: Sequence[int],
    num_classes: int,
    filters: Sequence[int] = (16, 32, 64, 64),
    pooled: Sequence[int] = (0, 1, 2),
    hidden_units: int = 64,
) -> keras.Model:
    """The glimpse network over the whole image at full resolution: its convolutions, their maximum and mean, dense layers."""
    images = keras.Input(image_shape)
    net = keras_glimpse.ConvGlimpseNet(num_classes, 1, filters, pooled, hidden_units)
    return keras.Model(images, net(keras.layers.Rescaling(1 / 255)(images)), name="whole")


def mobilenet(image_shape: Sequence[int], num_classes: int, budget: int) -> keras.Model:
    """MobileNetV3Small on the image shrunk to the largest size, in steps of 8 pixels, at which it has at most `budget` MACs.

    It takes no less than 32x32 pixels: that size is the one for any budget below its 1.5 million.
    """
    longest = max(image_shape[:2])

    @cache
    def model(step):  # The longer side is 8 * step, the other in proportion.
        size = [max(32, 8 * round(step * side / longest)) for side in image_shape[:2]]
        return _mobilenet(image_shape, num_classes, size)

    steps = range(4, longest // 8 + 1)
    within = bisect(steps, budget, key=lambda step: keras_glimpse.count_macs(model(step)))
    return model(steps[max(within - 1, 0)])


def _mobilenet(image_shape, num_classes, size):
    images = keras.Input(image_shape)
    # Averaged by a whole factor, then interpolated by one below 2, so that no pixel is skipped. LiteRT has no anti-aliasing.
    factors = [max(1, side // target) for side, target in zip(image_shape, size)]
    small = keras.layers.Resizing(*size)(keras.layers.AveragePooling2D(factors, padding="same")(images))
    options = {"weights": None, "include_top": False, "pooling": "avg"}
    backbone = keras.applications.MobileNetV3Small((*size, image_shape[2]), **options)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # As in our networks. With 0.999, inference is like training after thousands of steps only.
    return keras.Model(images, keras.layers.Dense(num_classes)(backbone(small)), name="mobilenet")
