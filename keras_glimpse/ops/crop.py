"""Square windows of an image at native pixel spacing: one meaning, three implementations.

`tf.image.crop_and_resize` is the fastest on a CPU outside XLA, but has neither an XLA kernel nor a LiteRT built-in op.
Under XLA, gathered rows and columns give the same values; of a small image, gathered rows and a matrix for the columns. In
graphs that may go anywhere, matrices for both: LiteRT does all of that in one go, where every gathered number costs a call.
"""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_glimpse._compat import is_compiled_by_xla
from keras_glimpse.ops.geometry import arange, array, extent, namespace
from keras_glimpse.ops.runtime import ANY, is_portable

FEW_COLUMNS = 4  # An image of at most so many times the columns of a window is cropped sooner by a matrix than by gathering.
FAR = 1e9  # Pixels


def crop_window(image: tf.Tensor, location: tf.Tensor, size: int, runtime: str = ANY) -> tf.Tensor:
    """The `size` x `size` window centred at each location, bilinearly interpolated, 0 outside the image.

    Args:
        image: `[batch, height, width, channels]`, any real dtype, in whatever units.
        location: `[batch, 2]`, float32, `(y, x)` in [0, 1].
        size: side of the window in pixels.
        runtime: what will run the operations (see `ops.runtime`).

    Returns:
        `[batch, size, size, channels]`, float32, in the units of `image`. No gradient reaches `location`. A window at a place
        that is not finite is zeros, or in portable graphs not finite either; there is no error, and others are unaffected.

    Example:
    >>> image = tf.reshape(tf.range(25.0), [1, 5, 5, 1])
    >>> crop_window(image, tf.constant([[0.5, 0.5]]), 3)[0, :, :, 0].numpy()
    array([[ 6.,  7.,  8.],
           [11., 12., 13.],
           [16., 17., 18.]], dtype=float32)
    """
    location = tf.stop_gradient(tf.cast(location, tf.float32))
    centre = location * extent(ops.shape(image))
    portable = is_portable(runtime)
    by_op = not portable and not is_compiled_by_xla()
    small = all(_are_few(side, size) for side in image.shape[1:3])
    if not by_op and not small and image.shape[0] == 1:
        image, centre = _surroundings(image, centre, size)
        small = True
    if portable and small:
        return crop_around(image, centre, size)
    start = centre - (size - 1) / 2
    start = tf.where(tf.abs(start) < FAR, start, FAR)  # NaN compares false: nothing is read there.
    return (_crop_by_op if by_op else _crop_by_gather)(image, start, size)


def _are_few(pixels, size):
    """Whether so many rows or columns, or None, an unknown number of them, are few for a window of a size."""
    return pixels is not None and pixels <= FEW_COLUMNS * size


def _crop_by_op(image, start, size):
    if image.dtype == tf.bfloat16:
        image = tf.cast(image, tf.float32)
    boxes = tf.concat([start, start + (size - 1)], axis=1) / tf.tile(extent(ops.shape(image)), [2])
    return tf.image.crop_and_resize(image, boxes, tf.range(tf.shape(image)[0]), [size, size])


def _surroundings(image, centre, size):
    """Of one image, the `size + 1` rows and columns that a window there can read, and where its centre is in them.

    The image is not touched elsewhere, so what follows costs the same however large it is.
    """
    _, height, width, channels = ops.shape(image)
    rows, columns = (namespace(side).minimum(size + 1, side) for side in (height, width))
    most = array([height - rows, width - columns])
    corner = tf.floor(tf.clip_by_value(centre - (size - 1) / 2, 0.0, most))
    begin = tf.cast(tf.reshape(tf.pad(corner, [[0, 0], [1, 1]]), [4]), tf.int32)
    last = array([0, height - rows, width - columns, 0], np.int32)
    begin = tf.clip_by_value(begin, 0, last)  # Casting NaN is undefined: stay in bounds.
    return tf.slice(image, begin, [1, rows, columns, channels]), centre - corner


def crop_around(image, centre, size):
    """`crop_window` around given pixels `[batch, 2]`, by matrices."""
    # In as few operations as can be: before LiteRT runs a branch it prepares each one, which takes longer than to run it.
    # And so that no transposition of a matrix is left: the converter would take it into the product, and the kernel of
    # TensorFlow's own runtime, with which files are calibrated, then gives wrong answers.
    _, height, width, _ = ops.shape(image)
    place = tf.reshape(centre, [-1, 2, 1]) + (np.arange(size, dtype=np.float32) - (size - 1) / 2)
    from_end = _moved_away(array([[height - 1], [width - 1]]) - _moved_away(place))
    rows, columns = tf.split(from_end, 2, axis=1)
    rows = _tent(tf.reshape(rows, [-1, 1, size, 1]) - arange(height)[::-1])
    columns = _tent(tf.reshape(columns, [-1, 1, 1, size]) - arange(width)[::-1, None])
    pixels = tf.transpose(tf.cast(image, tf.float32), [0, 3, 1, 2])
    return tf.transpose(tf.matmul(rows, tf.matmul(pixels, columns)), [0, 2, 3, 1])


def _tent(distance):
    """The share of a pixel in what is interpolated at a distance from it."""
    return tf.nn.relu(1.0 - tf.abs(distance))


def _moved_away(place):
    """The places, those before the first pixel so far away that no pixel has a share in them."""
    return tf.nn.leaky_relu(place, FAR)


def _crop_by_gather(image, start, size):
    # At native spacing every pixel of a window has the same fractional offset, so a window is a blend of shifted copies
    # of the (size + 1)^2 pixels under it. Those are gathered first, and only they are converted to float32.
    corner = tf.floor(start)
    step = tf.range(size + 1, dtype=tf.float32)
    last = extent(ops.shape(image))[:, None]
    index = tf.cast(tf.clip_by_value(corner[:, :, None] + step, 0.0, last), tf.int32)
    position = start[:, :, None] + step[:-1]
    inside = tf.cast((position >= 0.0) & (position <= last), tf.float32)
    y, x = tf.split((start - corner)[:, :, None, None], 2, axis=1)
    _, height, width, channels = ops.shape(image)
    rows = tf.gather(tf.reshape(image, [-1, height, width * channels]), index[:, 0], axis=1, batch_dims=1)
    if not _are_few(image.shape[2], size):
        rows = tf.reshape(rows, [-1, size + 1, width, channels])
        pixels = tf.cast(tf.gather(rows, index[:, 1], axis=2, batch_dims=1), tf.float32)
        pixels = pixels[:, :-1] * (1.0 - y) + pixels[:, 1:] * y
        pixels = pixels[:, :, :-1] * (1.0 - x) + pixels[:, :, 1:] * x
        return pixels * inside[:, 0, :, None, None] * inside[:, 1, None, :, None]
    rows = tf.cast(rows, tf.float32)
    rows = (rows[:, :-1] * (1.0 - y[..., 0]) + rows[:, 1:] * y[..., 0]) * inside[:, 0, :, None]
    rows = tf.transpose(tf.reshape(rows, [-1, size, width, channels]), [0, 3, 1, 2])
    tents = _tent(position[:, 1, :, None] - tf.range(width, dtype=tf.float32)) * inside[:, 1, :, None]
    return tf.transpose(tf.matmul(rows, tents[:, None], transpose_b=True), [0, 2, 3, 1])
