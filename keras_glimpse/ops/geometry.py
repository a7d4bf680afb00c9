"""Places in an image: what a location means in pixels, and the grid searched around one.

A *location* is `(y, x)` in [0, 1]. The centre it names lies at pixel `location * (side - 1)` on each axis, so that
(0, 0) is the centre of the first pixel and (1, 1) the centre of the last. All of it is float32, whatever the precision
of the networks: half a pixel in 2048 is below what float16 can tell apart.
"""

import numpy as np
import tensorflow as tf


def extent(image_shape) -> np.ndarray:
    """Pixels between location 0 and location 1, as `(y, x)`, of images shaped `[batch, height, width, channels]`."""
    return np.asarray([image_shape[1] - 1, image_shape[2] - 1], np.float32)


def search_grid(search_size: int, stride: int) -> np.ndarray:
    """Offsets in pixels, `[search_size ** 2, 2]`, of the grid of eq. 12: row by row, the prediction itself in the middle."""
    steps = stride * (np.arange(search_size, dtype=np.float32) - (search_size - 1) / 2)
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)


def candidate_locations(location: tf.Tensor, offsets: np.ndarray, image_shape) -> tf.Tensor:
    """N(l) of eq. 12, `[batch, candidates, 2]`: the locations `offsets` pixels away from `location`, not clipped."""
    return location[:, None, :] + tf.constant(offsets / extent(image_shape))


def relative_sides(image_shape) -> np.ndarray:
    """The sides `(y, x)` of images shaped `[batch, height, width, channels]`, in units of the longer one."""
    sides = extent(image_shape)
    return sides / sides.max()


def stride_in_pixels(stride: int | float, image_shape) -> int:
    """Pixels between candidates: an integer says how many; a float, what share of the longer side, but at least 2.

    Example:
    >>> [stride_in_pixels(1 / 24, (None, side, side, 1)) for side in (28, 48, 96, 4096)]
    [2, 2, 4, 171]
    """
    return max(2, round(stride * max(image_shape[1:3]))) if isinstance(stride, float) else stride


def grid(counts) -> tuple[np.ndarray, np.ndarray]:
    """The y and the x of the centres of `(rows, columns)` equal cells of an image."""
    return tuple(((np.arange(count) + 0.5) / count).astype(np.float32) for count in counts)


def places_of(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """All locations with these y and these x, row by row: `[rows * columns, 2]`."""
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


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


def check_image_shape(image_shape, at_least: dict[str, tuple[int, int]]) -> None:
    """Raises ValueError unless images are `[batch, height, width, channels]` and at least as large as each `(h, w)`."""
    if len(image_shape) != 4:
        raise ValueError(f"Expected images shaped [batch, height, width, channels]; got shape {tuple(image_shape)}.")
    height, width, channels = image_shape[1:]
    if None in (height, width, channels):
        raise ValueError(f"The height, width and channels of images must be known statically; got shape {tuple(image_shape)}.")
    for what, (rows, columns) in at_least.items():
        if height < max(rows, 2) or width < max(columns, 2):
            raise ValueError(f"{what} is {rows}x{columns} pixels, which does not fit in images of {height}x{width}.")
