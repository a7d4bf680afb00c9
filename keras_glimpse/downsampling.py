"""The thumbnail: how a large image becomes the small one that the low-resolution network sees (section 2.1)."""

from math import gcd

import numpy as np
import tensorflow as tf

METHODS = ("area", "strided", "bilinear")


def to_unit_range(values: tf.Tensor, image_dtype) -> tf.Tensor:
    """float32 pixels in [0, 1]: those of an unsigned-integer image divided by the largest value, others as they are."""
    values = tf.cast(values, tf.float32)
    dtype = tf.as_dtype(image_dtype)
    return values / float(dtype.max) if dtype.is_unsigned else values


def downsample(image: tf.Tensor, size: tuple[int, int], method: str = "area") -> tf.Tensor:
    """Shrinks images to `size`.

    Args:
        image: `[batch, height, width, channels]`; an unsigned-integer image counts as scaled to [0, 1].
        size: `(rows, columns)` of the thumbnail.
        method: "area" averages all the pixels under each thumbnail pixel, sharing those on an edge by overlap;
            "strided" takes the pixel at its centre; "bilinear" interpolates at its centre. The last two read a number
            of pixels that does not grow with the image, and alias.

    Returns:
        `[batch, rows, columns, channels]`, float32.

    Example:
    >>> downsample(tf.reshape(tf.range(16.0), [1, 4, 4, 1]), (2, 2))[0, :, :, 0].numpy()
    array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """
    height, width = image.shape[1:3]
    if method == "area":
        return to_unit_range(_average(image, size), image.dtype)
    if method == "strided":
        rows, columns = (np.floor(_centres(*sides) + 0.5).astype(np.int32) for sides in zip((height, width), size))
        pixels = tf.reshape(image, [-1, height * width, image.shape[3]])
        pixels = tf.gather(pixels, (rows[:, None] * width + columns).ravel(), axis=1)
        return to_unit_range(tf.reshape(pixels, [-1, *size, image.shape[3]]), image.dtype)
    thumbnail = _interpolate(_interpolate(image, _centres(height, size[0]), 1), _centres(width, size[1]), 2)
    return to_unit_range(thumbnail, image.dtype)


def _centres(side, parts):
    """Where the centres of `parts` equal parts of a `side` lie, in pixels."""
    return (np.arange(parts) + 0.5) * side / parts - 0.5


def block_mean(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """The mean of each of `size` equal blocks of pixels, float32, in the units of the image.

    It is several times as fast as average pooling, which XLA does badly on a CPU.
    """
    height, width, channels = image.shape[1:]
    tall, wide = height // size[0], width // size[1]
    rows = tf.reduce_sum(tf.reshape(tf.cast(image, tf.float32), [-1, size[0], tall, width * channels]), axis=2)
    total = tf.reduce_sum(tf.reshape(rows, [-1, *size, wide, channels]), axis=3)
    return total / (tall * wide)


def _average(image, size):
    height, width = image.shape[1:3]
    if height % size[0] == 0 and width % size[1] == 0:
        return block_mean(image, size)
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


def _interpolate(image, position, axis):
    low = np.floor(position).astype(np.int32)
    high = np.minimum(low + 1, image.shape[axis] - 1)
    share = np.reshape(position - low, [-1 if i == axis else 1 for i in range(4)]).astype(np.float32)
    first, second = (tf.cast(tf.gather(image, index, axis=axis), tf.float32) for index in (low, high))
    return first * (1 - share) + second * share
