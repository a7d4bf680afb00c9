"""Nn for images: convolutions over a glimpse, of which all places of an image share one pass."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_glimpse._validation.arguments import check_integers, integers
from keras_glimpse.layers.convolutions import Convolutions


@keras.saving.register_keras_serializable(package="keras_glimpse")
class ConvGlimpseNet(keras.layers.Layer):
    """A convolutional glimpse network: for each scale convolutions, their maximum and mean over the patch; then logits.

    It takes the place of `GlimpseNet` (eqs. 4 and 7). Convolutions are "valid", so that what they give for a patch is a part of
    what they give for the whole image: `everywhere` has the logits of all places of a grid for one pass over the image.

    Args:
        num_classes: number of classes, C.
        num_scales: number of scales of the patches, as `MultiScaleCrop` stacks them. Each has convolutions of its own.
        filters: of the blocks of convolution 3x3, batch normalisation and ReLU.
        pooled: numbers of the blocks, from 0, that pooling 2x2 follows.
        hidden_units: units of the dense layer between the pooled features and the logits.

    Call arguments:
        patches: `[batch, size, size, channels * num_scales]`, as `MultiScaleCrop` gives them.

    Returns:
        `[batch, num_classes]`: o^{H_n}, the logits that this glimpse adds.

    Raises:
        ValueError: patches that the convolutions do not fit in, or whose channels are not those of so many scales.

    Example:
    >>> ConvGlimpseNet(num_classes=10)(ops.zeros((2, 32, 32, 2))).shape
    TensorShape([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        num_scales: int = 2,
        filters: Sequence[int] = (16, 32, 32, 64),
        pooled: Sequence[int] = (0, 1),
        hidden_units: int = 64,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_integers(1, num_classes=num_classes, num_scales=num_scales, hidden_units=hidden_units)
        self.num_classes = num_classes
        self.num_scales = num_scales
        self.filters = integers("filters", filters)
        self.pooled = tuple(pooled)
        self.hidden_units = hidden_units
        policy = self.dtype_policy
        self.towers = [Convolutions(self.filters, self.pooled, "valid", dtype=policy) for _ in range(num_scales)]
        self.hidden_layer = keras.layers.Dense(hidden_units, "relu", dtype=policy)
        self.output_layer = keras.layers.Dense(num_classes, dtype=policy)

    def build(self, patches_shape):
        side, channels = min(patches_shape[1:3]), patches_shape[3]
        if channels % self.num_scales:
            raise ValueError(f"Expected patches of {self.num_scales} scales; got {channels} channels.")
        if self.towers[0].output_side(side) < 1:
            raise ValueError(f"The convolutions do not fit in patches of {side} pixels.")
        for tower in self.towers:
            tower.build((*patches_shape[:3], channels // self.num_scales))
        self.hidden_layer.build((None, 2 * self.filters[-1] * self.num_scales))
        self.output_layer.build((None, self.hidden_units))

    def call(self, patches, training=False):
        parts = ops.split(patches, self.num_scales, axis=-1)
        features = [tower(part, training=training) for tower, part in zip(self.towers, parts)]
        pooled = [reduce(part, axis=(1, 2)) for part in features for reduce in (ops.max, ops.mean)]
        return self._logits(pooled)

    def everywhere(self, levels: Sequence[tf.Tensor], starts: Sequence[tuple], size: int, training=False) -> tf.Tensor:
        """The logits of patches at all places of a grid, `[batch, rows, columns, num_classes]`.

        Args:
            levels: for each scale the whole image, averaged, with as much of its surroundings as the patches see.
            starts: for each scale the first rows and the first columns of the patches in its level, in pixels: two arrays. Those
                between two outputs of the convolutions are rounded to the nearest.
            size: side of a patch.
            training: whether the layers are in training mode.
        """
        pooled = []
        for tower, level, (rows, columns) in zip(self.towers, levels, starts):
            features, window = tower(level, training=training), tower.output_side(size)
            where = [np.rint(np.asarray(each) / tower.stride).astype(int) for each in (rows, columns)]
            pooled += [_at(pool(features, window), *where) for pool in (_largest, _mean)]
        return self._logits(pooled)

    def _logits(self, pooled):
        return self.output_layer(self.hidden_layer(ops.concatenate(pooled, axis=-1)))

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "num_scales": self.num_scales,
            "filters": self.filters,
            "pooled": self.pooled,
            "hidden_units": self.hidden_units,
        }


def _largest(features, window):
    return tf.nn.max_pool2d(features, window, 1, "VALID")


def _mean(features, window):
    return tf.nn.avg_pool2d(features, window, 1, "VALID")


def _at(features, rows, columns):
    """Those at given rows and columns; by a strided slice where they are evenly spaced."""
    for axis, index in ((1, rows), (2, columns)):
        steps = {*np.diff(index)}
        if len(steps) <= 1:
            step = steps.pop() if steps else 1
            part = slice(index[0], index[-1] + 1, step)
            features = features[:, part] if axis == 1 else features[:, :, part]
        else:
            features = tf.gather(features, index, axis=axis)
    return features
