"""The thumbnail: how a large image becomes the small one that the low-resolution network sees (section 2.1)."""

from math import gcd

import numpy as np
import tensorflow as tf

from keras_glimpse.ops.runtime import ANY, is_portable

METHODS = ("area", "strided", "bilinear")
LONG_SUM = 1000  # A running sum of more float32 numbers than this loses a digit.


def to_unit_range(values: tf.Tensor, image_dtype) -> tf.Tensor:
    """float32 pixels in [0, 1]: those of an unsigned-integer image divided by the largest value, others as they are."""
    values = tf.cast(values, tf.float32)
    dtype = tf.as_dtype(image_dtype)
    return values / float(dtype.max) if dtype.is_unsigned else values


def downsample(image: tf.Tensor, size: tuple[int, int], method: str = "area", runtime: str = ANY) -> tf.Tensor:
    """Shrinks images to `size`.

    Args:
        image: `[batch, height, width, channels]`; an unsigned-integer image counts as scaled to [0, 1].
        size: `(rows, columns)` of the thumbnail.
        method: "area" averages all the pixels under each thumbnail pixel, sharing those on an edge by overlap;
            "strided" takes the pixel at its centre; "bilinear" interpolates at its centre. The last two read a number
            of pixels that does not grow with the image, and alias.
        runtime: what will run the operations (see `ops.runtime`).

    Returns:
        `[batch, rows, columns, channels]`, float32.

    Example:
    >>> downsample(tf.reshape(tf.range(16.0), [1, 4, 4, 1]), (2, 2))[0, :, :, 0].numpy()
    array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """
    height, width = image.shape[1:3]
    if method == "area":
        return to_unit_range(_average(image, size, runtime), image.dtype)
    rows, columns = (_centres(*sides) for sides in zip((height, width), size))
    if method == "strided":
        return to_unit_range(_pixels(image, np.floor(rows + 0.5), np.floor(columns + 0.5)), image.dtype)
    return to_unit_range(_interpolate(image, rows, columns), image.dtype)


def _centres(side, parts):
    """Where the centres of `parts` equal parts of a `side` lie, in pixels."""
    return (np.arange(parts) + 0.5) * side / parts - 0.5


def block_mean(image: tf.Tensor, size: tuple[int, int], runtime: str = ANY) -> tf.Tensor:
    """The mean of each of `size` equal blocks of pixels, float32, in the units of the image.

    XLA is several times as fast at these sums as at average pooling, on a CPU; other runtimes pool faster.
    """
    height, width, channels = image.shape[1:]
    tall, wide = height // size[0], width // size[1]
    if is_portable(runtime):
        pixels = tf.cast(image, tf.float32)
        for window in [(1, wide), (tall, 1)] if tall * wide > LONG_SUM else [(tall, wide)]:
            pixels = tf.nn.avg_pool2d(pixels, window, window, "VALID")
        return pixels
    rows = tf.reduce_sum(tf.reshape(tf.cast(image, tf.float32), [-1, size[0], tall, width * channels]), axis=2)
    total = tf.reduce_sum(tf.reshape(rows, [-1, *size, wide, channels]), axis=3)
    return total / (tall * wide)


def _average(image, size, runtime):
    height, width = image.shape[1:3]
    if height % size[0] == 0 and width % size[1] == 0:
        return block_mean(image, size, runtime)
    # Where edges of thumbnail pixels meet edges of pixels, the sums fall into groups, and the matrix is as much smaller.
    groups = gcd(height, size[0])
    rows, columns = _overlap(height // groups, size[0] // groups), _overlap(width, size[1])
    strips = tf.reshape(tf.cast(image, tf.float32), [-1, height // groups, width * image.shape[3]])
    strips = tf.reshape(tf.matmul(rows, strips), [-1, size[0], width, image.shape[3]])
    strips = tf.transpose(strips, [0, 1, 3, 2])  # An einsum does the same, but not in LiteRT with a batch of any size.
    return tf.transpose(tf.tensordot(strips, columns, [[3], [1]]), [0, 1, 3, 2])


def _overlap(side, parts):
    """`[parts, side]`: what share of each of `parts` equal parts of a side each of its pixels makes up."""
    edges = np.linspace(0, side, parts + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(side)
    shared = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return tf.constant(shared * parts / side, tf.float32)


def _interpolate(image, rows, columns):
    def blended(row):
        left = np.floor(columns)
        right = np.minimum(left + 1, image.shape[2] - 1)
        share = tf.constant((columns - left)[None, None, :, None], tf.float32)
        return (
            tf.cast(_pixels(image, row, left), tf.float32) * (1 - share)
            + tf.cast(_pixels(image, row, right), tf.float32) * share
        )

    top = np.floor(rows)
    share = tf.constant((rows - top)[None, :, None, None], tf.float32)
    return blended(top) * (1 - share) + blended(np.minimum(top + 1, image.shape[1] - 1)) * share


def _pixels(image, rows, columns):
    """Those at given rows and columns, `[batch, rows, columns, channels]`. No others are read, or moved."""
    rows, columns = rows.astype(np.int32)[:, None], columns.astype(np.int32)[None, :]
    if image.shape[0] == 1:  # LiteRT copies the whole of an image that it reshapes.
        places = np.stack(np.broadcast_arrays(0, rows, columns), axis=-1)[None]
        return tf.gather_nd(image, tf.constant(places, tf.int32))
    pixels = tf.reshape(image, [-1, image.shape[1] * image.shape[2], image.shape[3]])
    pixels = tf.gather(pixels, (rows * image.shape[2] + columns).ravel(), axis=1)
    return tf.reshape(pixels, [-1, rows.size, columns.size, image.shape[3]])
