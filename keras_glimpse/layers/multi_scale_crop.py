"""Multi-scale patches of the full-resolution image."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_glimpse._validation.arguments import check_integers, integers
from keras_glimpse.attributes import Fixed
from keras_glimpse.ops.crop import crop_window
from keras_glimpse.ops.geometry import (
    array,
    candidate_locations,
    check_image,
    check_image_shape,
    is_known,
    namespace,
    search_grid,
)
from keras_glimpse.ops.runtime import ANY
from keras_glimpse.ops.thumbnail import block_mean, to_unit_range


@keras.saving.register_keras_serializable(package="keras_glimpse")
class MultiScaleCrop(keras.layers.Layer):
    """Crops a patch around a location at each of several scales (sections 2.1 and 2.2.3).

    The patch at scale s covers a window of `s * size` image pixels, averaged s by s. At scale 1 it equals
    `tf.image.crop_and_resize` on the box of the window: bilinear, and 0 outside the image. All patches have the same size and
    centre and are concatenated along the channel axis, in the order of `scales`.

    Args:
        size: Positive integer, the side w of a patch in pixels. Defaults to `12`.
        scales: Sequence of positive integers, the number of image pixels that a patch pixel averages along each axis, for each
            patch. Defaults to `(1, 2)`.
        **kwargs: Base layer keyword arguments, such as `name`.

    Call arguments:
        image: Tensor `[batch, height, width, channels]` of floats (used unchanged) or unsigned integers (scaled to [0, 1]).
        location: Tensor `[batch, 2]`, `(y, x)` in [0, 1]; the centre in pixels is `location * (side - 1)`. No gradient flows to
            it: the paper does not differentiate cropping.
        runtime: String, the runtime of the traced graph: `"any"` uses portable operations only, `"tensorflow"` also faster ones
            that only TensorFlow has. Defaults to `"any"`.

    Returns:
        Float32 tensor `[batch, size, size, channels * len(scales)]`.

    Raises:
        ValueError: If an argument is not positive integers, or a patch is larger than the image.

    Example:
    >>> MultiScaleCrop(12, scales=(1, 2))(ops.zeros((5, 48, 48, 3)), 0.5 * ops.ones((5, 2))).shape
    TensorShape([5, 12, 12, 6])

    Reference: Ranzato, "On Learning Where To Look", 2014, sections 2.1, 2.2.3 and 4.1.
    """

    size, scales = Fixed(), Fixed()

    def __init__(self, size: int = 12, scales: Sequence[int] = (1, 2), **kwargs):
        super().__init__(**{"autocast": False, **kwargs})  # Geometry stays float32 under mixed precision.
        check_integers(1, size=size)
        self.size = size
        self.scales = integers("scales", scales)

    def build(self, image_shape, location_shape=None):
        check_image_shape(image_shape, *self._patch)

    @property
    def _patch(self):
        """What must fit in the images."""
        return "A patch (`size`)", (self.size, self.size)

    def call(self, image, location, runtime=ANY):
        regions = self._regions(image, location, 0, runtime)
        patches = [_average(region, scale, runtime) for region, scale in zip(regions, self.scales)]
        return to_unit_range(ops.concatenate(patches, axis=-1), image.dtype)

    def candidates(self, image, location, search_size: int, stride: int, runtime: str = ANY) -> tf.Tensor:
        """Patches at every point of the search grid around a location (eq. 12), row by row.

        If the windows are known to overlap, all are slices of one crop, `stride * (search_size - 1)` pixels wider than the
        widest window, which makes the search cheap.

        Args:
            image: Tensor `[batch, height, width, channels]`, as in `call`.
            location: Tensor `[batch, 2]`, the centre of the grid, `(y, x)` in [0, 1].
            search_size: Positive odd integer, the side of the grid.
            stride: Positive integer, pixels between neighbouring points; or a scalar tensor, which depends on the image's size.
            runtime: String, as in `call`. Defaults to `"any"`.

        Returns:
            Float32 tensor `[batch, search_size ** 2, size, size, channels * len(scales)]`.

        Example:
        >>> crop = MultiScaleCrop(12)
        >>> crop.candidates(ops.zeros((5, 48, 48, 1)), 0.5 * ops.ones((5, 2)), search_size=3, stride=2).shape
        TensorShape([5, 9, 12, 12, 2])
        """
        if not is_known(stride) or stride > self.size * max(self.scales):
            places = candidate_locations(location, search_grid(search_size, stride), ops.shape(image))
            return ops.stack([self(image, place, runtime=runtime) for place in ops.unstack(places, axis=1)], axis=1)
        regions = self._regions(image, location, stride * (search_size - 1), runtime)
        patches = [self._slide(region, scale, search_size, stride, runtime) for region, scale in zip(regions, self.scales)]
        return to_unit_range(ops.concatenate(patches, axis=-1), image.dtype)

    def levels(self, image, rows, columns, runtime: str = ANY) -> tuple[list, list]:
        """The whole image at each scale, for a network that looks at all places of a grid in one pass.

        Args:
            image: `[batch, height, width, channels]`.
            rows, columns: the y and the x of the locations of the grid.
            runtime: see `call`.

        Returns:
            `(levels, starts)`, a list of each with one entry a scale: the image averaged s by s, with zeros around it as far as
            patches reach; and the first rows and the first columns of the patches in it, in its pixels.
        """
        _, height, width, _ = ops.shape(image)
        levels, starts = [], []
        for scale in self.scales:
            whole = tf.pad(tf.cast(image, tf.float32), [[0, 0], [0, -height % scale], [0, -width % scale], [0, 0]])
            level = to_unit_range(_average(whole, scale, runtime), image.dtype)
            first_row, above_below = self._reach(rows, height, scale)
            first_column, left_right = self._reach(columns, width, scale)
            levels.append(tf.pad(level, [[0, 0], above_below, left_right, [0, 0]]))
            starts.append((first_row, first_column))
        return levels, starts

    def _reach(self, places, side, scale):
        """Where patches begin along a side of a padded level, for `places` in order; and the pixels padded before and after."""
        xp = namespace(places, side)
        first = (places * array(side - 1) - (scale * self.size - 1) / 2) / scale
        before = xp.maximum(0.0, -xp.floor(first[0]))
        after = xp.maximum(0.0, self.size - xp.floor(-first[-1]) - array(-(-side // scale)))
        return first + before, array([before, after], np.int32)

    def _regions(self, image, location, margin, runtime):
        """For each scale, the window at the location with `margin` more pixels in total along each axis.

        All are slices of one crop for each parity of the width: windows of odd and of even width are half a pixel apart.
        """
        check_image(image, *self._patch, runtime)
        widths = [scale * self.size for scale in self.scales]
        widest = {width % 2: max(w for w in widths if w % 2 == width % 2) for width in widths}
        unions = {parity: crop_window(image, location, width + margin, runtime) for parity, width in widest.items()}
        edges = [(widest[width % 2] - width) // 2 for width in widths]
        parts = [slice(edge, edge + width + margin) for edge, width in zip(edges, widths)]
        return [unions[width % 2][:, part, part] if part.start else unions[width % 2] for width, part in zip(widths, parts)]

    def _slide(self, region, scale, search_size, stride, runtime):
        """The `search_size ** 2` windows of a region, each averaged `scale` by `scale`."""
        if stride % scale == 0:  # All windows share their blocks: average once, then slice.
            return _windows(_average(region, scale, runtime), self.size, search_size, stride // scale)
        windows = _windows(region, scale * self.size, search_size, stride)
        averaged = _average(ops.reshape(windows, (-1, *windows.shape[2:])), scale, runtime)
        return ops.reshape(averaged, (-1, *windows.shape[1:2], *averaged.shape[1:]))

    def get_config(self):
        return super().get_config() | {"size": self.size, "scales": self.scales}


def _average(image, factor, runtime):
    return image if factor == 1 else block_mean(image, (factor, factor), runtime)


def _windows(image, size, count, step):
    corners = [(step * i, step * j) for i in range(count) for j in range(count)]
    return ops.stack([image[:, y : y + size, x : x + size] for y, x in corners], axis=1)
