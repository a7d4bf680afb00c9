"""Nn for images: convolutions over a glimpse, of which all places of an image share one pass."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_glimpse._validation.arguments import check_integers, integers
from keras_glimpse.attributes import Fixed
from keras_glimpse.layers.backbone import Backbone, with_backbone, with_layer
from keras_glimpse.layers.convolutions import Convolutions
from keras_glimpse.layers.inner import KeepsInner
from keras_glimpse.ops.geometry import array, is_known, namespace

DEPTHS = (  # `filters` and `pooled` from deep to shallow.
    ((16, 32, 64, 64), (0, 1, 2)),
    ((16, 32, 64, 64), (0, 1)),
    ((16, 32, 64), (0, 1)),
    ((16, 32), (0,)),
)


def deepest_for(patch_size: int) -> dict:
    """The `filters` and `pooled` of the deepest network that fits in patches of this size."""
    fitting = [each for each in DEPTHS if smallest_side(*each) <= patch_size]
    return dict(zip(("filters", "pooled"), fitting[0] if fitting else DEPTHS[-1]))


def smallest_side(filters: Sequence[int], pooled: Sequence[int]) -> int:
    """The smallest patch that "valid" convolutions leave something of."""
    side = 1
    for block in reversed(range(len(filters))):
        side = side * (2 if block in pooled else 1) + 2
    return side


@keras.saving.register_keras_serializable(package="keras_glimpse")
class ConvGlimpseNet(KeepsInner, keras.layers.Layer):
    """A convolutional glimpse network: for each scale convolutions, their maximum and mean over the patch; then logits.

    It takes the place of `GlimpseNet` (eqs. 4 and 7). Its convolutions are "valid", so that what they give for a patch is a
    part of what they give for the whole image: `everywhere` computes the logits of all places of a grid in one pass.

    Args:
        num_classes: Positive integer, the number of classes C.
        num_scales: Positive integer, the number of scales that `MultiScaleCrop` stacks. Each has convolutions of its own.
            Defaults to `2`.
        filters: Sequence of positive integers, the filters of the blocks of convolution 3x3, batch normalisation and ReLU.
            Defaults to `(16, 32, 64, 64)`.
        pooled: Sequence of integers, the indices (from 0) of the blocks that pooling 2x2 follows. Defaults to `(0, 1, 2)`.
        hidden_units: Positive integer, the units of the dense layer between the pooled features and the logits. Defaults to
            `64`.
        backbone: Optional `Backbone` in place of the convolutions, shared by the scales. Each place of a search is then
            cropped and computed by itself. Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        patches: Tensor `[batch, size, size, channels * num_scales]`, the output of `MultiScaleCrop`.
        training: Boolean, whether batch normalisation is in training mode. Defaults to `False`.

    Returns:
        Tensor `[batch, num_classes]`: o^{H_n}, the logits of this glimpse.

    Raises:
        ValueError: If an argument is out of range, the convolutions do not fit in the patches, or their channels are not those
            of so many scales.

    Example:
    >>> ConvGlimpseNet(num_classes=10)(ops.zeros((2, 48, 48, 2))).shape
    TensorShape([2, 10])
    """

    inner = ("towers", "hidden_layer", "output_layer")
    num_classes, num_scales, filters, pooled, hidden_units = Fixed(), Fixed(), Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        num_classes: int,
        num_scales: int = 2,
        filters: Sequence[int] = (16, 32, 64, 64),
        pooled: Sequence[int] = (0, 1, 2),
        hidden_units: int = 64,
        backbone: Backbone | None = None,
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
        self.backbone = backbone
        convolutions = lambda: Convolutions(self.filters, self.pooled, "valid", dtype=policy)  # noqa: E731
        self.towers = [convolutions() for _ in range(num_scales)] if backbone is None else []
        self.hidden_layer = keras.layers.Dense(self.hidden_units, "relu", dtype=policy)
        self.output_layer = keras.layers.Dense(self.num_classes, dtype=policy)

    def build(self, patches_shape):
        *sides, channels = patches_shape[1:]
        if channels % self.num_scales:
            raise ValueError(f"Expected patches of {self.num_scales} scales; got {channels} channels.")
        pixels = keras.KerasTensor((None, *sides, channels // self.num_scales), "float32")
        if not self.backbone and min(sides) < smallest_side(self.filters, self.pooled):
            raise ValueError(
                f"Patches must have {smallest_side(self.filters, self.pooled)} pixels a side for filters={self.filters} and "
                f"pooled={self.pooled}; got {sides[0]}x{sides[1]}. Fewer of either fit in smaller patches."
            )
        units = sum(tower(pixels).shape[3] for tower in self._for_each_scale())
        self.hidden_layer.build((None, 2 * units))
        self.output_layer.build((None, self.hidden_units))

    def call(self, patches, training=False):
        parts = ops.split(patches, self.num_scales, axis=-1)
        features = [tower(part, training=training) for tower, part in zip(self._for_each_scale(), parts, strict=True)]
        pooled = [reduce(part, axis=(1, 2)) for part in features for reduce in (ops.max, ops.mean)]
        return self._logits(pooled)

    @property
    def shares_pass(self) -> bool:
        """Whether `everywhere` can be called: not with a backbone, whose output for a patch depends on the patch's borders."""
        return self.backbone is None

    def everywhere(self, levels: Sequence[tf.Tensor], starts: Sequence[tuple], size: int) -> tf.Tensor:
        """Computes the logits of the patches at all places of a grid, in inference.

        Args:
            levels: Sequence of tensors, for each scale the whole image, averaged, with as much of its surroundings as the
                patches see (see `MultiScaleCrop.levels`).
            starts: Sequence of tuples, for each scale the first rows and the first columns of the patches in its level, in
                pixels: two arrays. Those between two outputs of the convolutions are rounded to the nearest.
            size: Positive integer, the side of a patch.

        Returns:
            Tensor `[batch, rows, columns, num_classes]`.
        """
        pooled = []
        for tower, level, firsts in zip(self.towers, levels, starts, strict=True):
            features, window = tower(level, training=False), tower.output_side(size)
            index = [namespace(first).round(first / tower.stride) for first in firsts]
            pooled += [_at(pool(features, window, 1, "VALID"), *index) for pool in (tf.nn.max_pool2d, tf.nn.avg_pool2d)]
        return self._logits(pooled)

    def _for_each_scale(self):
        return [self.backbone] * self.num_scales if self.backbone else self.towers

    def _logits(self, pooled):
        return self.output_layer(self.hidden_layer(ops.concatenate(pooled, axis=-1)))

    def get_config(self):
        names = ("num_classes", "num_scales", "filters", "pooled", "hidden_units")
        config = super().get_config() | {name: getattr(self, name) for name in names}
        return config | with_backbone(self.backbone)

    @classmethod
    def from_config(cls, config):
        return super().from_config(with_layer(config))


def _at(features, rows, columns):
    """Those at given rows and columns, or at the last ones; by a strided slice where they are known to be evenly spaced."""
    for axis, index in ((1, rows), (2, columns)):
        last = ops.shape(features)[axis] - 1
        index = array(namespace(index, last).minimum(index, array(last)), np.int32)
        steps = {*np.diff(index)} or {1} if is_known(index) else ()
        if len(steps) == 1 and min(steps) > 0:
            part = slice(index[0], index[-1] + 1, steps.pop())
            features = features[:, part] if axis == 1 else features[:, :, part]
        else:
            features = tf.gather(features, index, axis=axis)
    return features
