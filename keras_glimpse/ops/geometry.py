"""Places in an image: what a location means in pixels, and the grid searched around one.

A *location* is `(y, x)` in [0, 1]. The centre it names lies at pixel `location * (side - 1)` on each axis, so that
(0, 0) is the centre of the first pixel and (1, 1) the centre of the last. All of it is float32, whatever the precision
of the networks: half a pixel in 2048 is below what float16 can tell apart.

Images are given by their shape, `[batch, height, width, channels]`, as `keras.ops.shape` returns it: a side is an integer if it
is known when a graph is traced, and all that follows from it a constant of the graph; else it is a scalar tensor, or, where
the images of a batch differ in size, a tensor `[batch]` (see `sources`).
"""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_glimpse.ops.runtime import ANY, is_portable
from keras_glimpse.sources.batches import is_read_in_parts


def is_known(*values) -> bool:
    """Whether none of the values is a tensor: they are known when the graph is traced."""
    return not any(map(tf.is_tensor, values))


def array(values, dtype=np.float32) -> np.ndarray | tf.Tensor:
    """A value, or a list of them, as an array of NumPy if they are known, else as a tensor."""
    known = is_known(*tf.nest.flatten(values))
    return np.asarray(values, dtype) if known else tf.cast(tf.convert_to_tensor(values), dtype)


def arange(stop, dtype=np.float32) -> np.ndarray | tf.Tensor:
    """0, 1, ..., stop - 1."""
    return np.arange(stop, dtype=dtype) if is_known(stop) else tf.range(stop, dtype=dtype)


def namespace(*values):
    """`numpy` if the values are known, else `tensorflow`: what has one name in both need not be written twice."""
    return np if is_known(*values) else tf


def shape_of(images) -> tuple:
    """The shape of a batch of images, which functions here take; of those read in parts, a height and a width for each."""
    return images.shape if is_read_in_parts(images) else ops.shape(images)


def extent(image_shape) -> np.ndarray | tf.Tensor:
    """Pixels between location 0 and location 1, as `(y, x)`: `[2]`, or `[batch, 2]`."""
    sides = array([image_shape[1] - 1, image_shape[2] - 1])
    return tf.transpose(sides) if len(sides.shape) == 2 else sides


def search_grid(search_size: int, stride) -> np.ndarray | tf.Tensor:
    """Offsets in pixels of the grid of eq. 12: row by row, the prediction itself in the middle.

    They are `[search_size ** 2, 2]`, or for strides `[batch]`, `[batch, search_size ** 2, 2]`.
    """
    steps = np.arange(search_size, dtype=np.float32) - (search_size - 1) / 2
    return places_of(steps, steps) * array(stride)[..., None, None]


def candidate_locations(location: tf.Tensor, offsets, image_shape) -> tf.Tensor:
    """N(l) of eq. 12, `[batch, candidates, 2]`: the locations `offsets` pixels away from `location`, not clipped."""
    return location[:, None, :] + tf.convert_to_tensor(offsets / _beside_places(extent(image_shape)))


def relative_sides(image_shape) -> np.ndarray | tf.Tensor:
    """The sides `(y, x)`, in units of the longer one: `[2]`, or `[batch, 1, 2]` for places `[batch, n, 2]`."""
    sides = _beside_places(extent(image_shape))
    return sides / namespace(sides).maximum(sides[..., :1], sides[..., 1:])


def _beside_places(sides):
    """Sides `[2]` or `[batch, 2]` in a shape that broadcasts with places `[batch, n, 2]`."""
    return sides if len(sides.shape) == 1 else sides[:, None]


def stride_in_pixels(stride: int | float, image_shape) -> int | tf.Tensor:
    """Pixels between candidates: an integer says how many; a float, what share of the longer side, but at least 2.

    Example:
    >>> [stride_in_pixels(1 / 24, (None, side, side, 1)) for side in (28, 48, 96, 4096)]
    [2, 2, 4, 171]
    """
    if not isinstance(stride, float):
        return stride
    height, width = image_shape[1:3]
    if is_known(height, width):
        return max(2, round(stride * max(height, width)))
    longer = tf.cast(tf.maximum(height, width), tf.float64)
    return tf.maximum(2, tf.cast(tf.round(stride * longer), tf.int32))


def grid(counts) -> tuple:
    """The y and the x of the centres of `(rows, columns)` equal cells of an image."""
    return tuple(array((arange(count, np.float64) + 0.5) / array(count, np.float64)) for count in counts)


def places_of(rows, columns) -> np.ndarray | tf.Tensor:
    """All locations with these y and these x, row by row: `[rows * columns, 2]`."""
    xp = namespace(rows, columns)
    return xp.reshape(xp.stack(xp.meshgrid(rows, columns, indexing="ij"), axis=-1), (-1, 2))


def interpolate(cells: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Values `[batch, n]` at places `[batch or 1, n, 2]` between the centres of `cells` `[batch, rows, columns]`, bilinear."""
    counts = np.asarray(cells.shape[1:3], np.float32)
    position = tf.clip_by_value(places * counts - 0.5, 0.0, counts - 1.0)
    rows, columns = (tf.nn.relu(1.0 - tf.abs(position[..., axis : axis + 1] - tf.range(counts[axis]))) for axis in (0, 1))
    return tf.reduce_sum(tf.matmul(rows, cells) * columns, axis=-1)


def is_inside(location: tf.Tensor) -> tf.Tensor:
    """Whether locations `[..., 2]` lie in the image: in [0, 1], where a location head can point."""
    return tf.reduce_all((location >= 0.0) & (location <= 1.0), axis=-1)


def border_distance(location: tf.Tensor, image_shape) -> tf.Tensor:
    """Pixels from each location to the nearest border of its image; 0 where a location head has saturated."""
    return tf.reduce_min(tf.minimum(location, 1.0 - location) * extent(image_shape), axis=-1)


def check_image_shape(image_shape, what: str = "", size: tuple[int, int] = (2, 2)) -> None:
    """Raises ValueError unless images are `[batch, height, width, channels]` and `what`, of `size`, fits in them.

    Sides that are `None` are not known, and pass.
    """
    if len(image_shape) != 4:
        raise ValueError(f"Expected images shaped [batch, height, width, channels]; got shape {tuple(image_shape)}.")
    *sides, channels = image_shape[1:]
    if channels is None:
        raise ValueError(f"The channels of images must be known statically; got shape {tuple(image_shape)}.")
    if any(side is not None and side < max(least, 2) for side, least in zip(sides, size)):
        raise ValueError(f"{_does_not_fit(what, size)} of {sides[0]}x{sides[1]}.")


def check_image(image, what: str, size: tuple[int, int], runtime: str = ANY) -> None:
    """`check_image_shape` of an image; unless the graph is portable, it checks sides that it knows only when it runs."""
    check_image_shape(image.shape, what, size)
    sides = ops.shape(image)[1:3]
    if not is_known(*sides) and not is_portable(runtime):
        tf.debugging.assert_greater_equal(sides, [max(least, 2) for least in size], f"{_does_not_fit(what, size)}.")


def _does_not_fit(what, size):
    return f"{what} is {size[0]}x{size[1]} pixels, which does not fit in images"
