"""The thumbnail: how a large image becomes the small one that the low-resolution network sees (section 2.1)."""

from math import gcd, prod

import numpy as np
import tensorflow as tf
from keras import ops

from keras_glimpse._compat import is_compiled_by_xla
from keras_glimpse.ops.geometry import arange, array, is_known, namespace
from keras_glimpse.ops.runtime import ANY, TENSORFLOW, is_portable

METHODS = ("area", "strided", "bilinear")
LONG_SUM = 1000  # A running sum of more float32 numbers than this loses a digit.
FEW_PARTS = 16  # A thumbnail of so few columns is computed sooner by a matrix, if that is small too: files contain it.
LARGE_IMAGE = 2**18  # Numbers in an image of which no float32 copy is made, if it is of another dtype.


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
    if image.shape[1:3] == size:
        thumbnail = tf.convert_to_tensor(image)
    elif method == "area":
        by_op = _is_averaged_by_op(image, runtime)
        thumbnail = tf.raw_ops.ResizeArea(images=image, size=size) if by_op else _average(image, size, runtime)
    else:
        rows, columns = (_centres(*sides) for sides in zip(ops.shape(image)[1:3], size))
        thumbnail = (_nearest if method == "strided" else _interpolate)(image, rows, columns)
    thumbnail.set_shape((image.shape[0], *size, image.shape[3]))  # Reshaping images of unknown sides loses the batch.
    return to_unit_range(thumbnail, image.dtype)


def _centres(side, parts):
    """Where the centres of `parts` equal parts of a `side` lie, in pixels."""
    return (np.arange(parts) + 0.5) * array(side, np.float64) / parts - 0.5


def block_mean(image: tf.Tensor, block: tuple[int, int], runtime: str = ANY) -> tf.Tensor:
    """The mean of each `block` of so many rows and columns of pixels, float32, in the units of the image.

    XLA is several times as fast at these sums as at average pooling, on a CPU; other runtimes pool faster.
    """
    _, height, width, channels = ops.shape(image)
    tall, wide = block
    if is_portable(runtime):
        pixels = tf.cast(image, tf.float32)
        few = is_known(height, width) and width // wide <= FEW_PARTS and tall * width <= LONG_SUM
        if runtime == ANY and channels == 1 and few:
            return _mean_by_matrix(pixels, height, width, tall, wide)
        for window in [(1, wide), (tall, 1)] if tall * wide > LONG_SUM else [(tall, wide)]:
            pixels = tf.nn.avg_pool2d(pixels, window, window, "VALID")
        return pixels
    rows = tf.reduce_sum(tf.reshape(tf.cast(image, tf.float32), [-1, height // tall, tall, width * channels]), axis=2)
    total = tf.reduce_sum(tf.reshape(rows, [-1, height // tall, width // wide, wide, channels]), axis=3)
    return total / (tall * wide)


def _mean_by_matrix(pixels, height, width, tall, wide):
    """`block_mean` of one channel: strips of `tall` rows, times a matrix. LiteRT pools single channels slowly."""
    in_part = np.repeat(np.eye(width // wide, dtype=np.float32), wide, axis=0) / (tall * wide)
    strips = tf.reshape(pixels, [-1, tall * width])
    return tf.reshape(tf.matmul(strips, np.tile(in_part, (tall, 1))), [-1, height // tall, width // wide, 1])


def _is_averaged_by_op(image, runtime):
    """Whether TensorFlow's own operation computes an area thumbnail: of any size of image, without a float32 copy.

    It has neither an XLA kernel nor a gradient; on several cores the others are faster.
    """
    if is_portable(runtime) or is_compiled_by_xla():
        return False
    if None in image.shape[1:3]:
        return True
    dtype = tf.as_dtype(image.dtype)
    is_copied = dtype != tf.float32 if runtime == TENSORFLOW else dtype.is_integer  # Others may ask for a gradient of floats.
    return is_copied and prod(image.shape[1:]) > LARGE_IMAGE


def _average(image, size, runtime):
    _, height, width, channels = ops.shape(image)
    known = is_known(height, width)
    if known and height % size[0] == 0 and width % size[1] == 0:
        return block_mean(image, (height // size[0], width // size[1]), runtime)
    # Where edges of thumbnail pixels meet edges of pixels, the sums fall into groups, and the matrix is as much smaller.
    groups = gcd(height, size[0]) if known else 1
    rows, columns = _overlap(height // groups, size[0] // groups), _overlap(width, size[1])
    strips = tf.reshape(tf.cast(image, tf.float32), [-1, height // groups, width * channels])
    strips = tf.reshape(tf.matmul(rows, strips), [-1, size[0], width, channels])
    strips = tf.transpose(strips, [0, 1, 3, 2])  # An einsum does the same, but not in LiteRT with a batch of any size.
    return tf.transpose(tf.tensordot(strips, columns, [[3], [1]]), [0, 1, 3, 2])


def _overlap(side, parts):
    """`[parts, side]`: what share of each of `parts` equal parts of a side each of its pixels makes up."""
    xp, end = namespace(side), array(side, np.float64)
    edges = xp.linspace(array(0, np.float64), end, parts + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = arange(side, np.float64)
    shared = xp.maximum(xp.minimum(high, pixel + 1) - xp.maximum(low, pixel), 0)
    return tf.convert_to_tensor(array(shared * parts / end))


def _nearest(image, rows, columns):
    xp = namespace(rows, columns)
    return _pixels(image, xp.floor(rows + 0.5), xp.floor(columns + 0.5))


def _interpolate(image, rows, columns):
    _, height, width, _ = ops.shape(image)
    xp = namespace(rows, columns)

    def blended(row):
        left = xp.floor(columns)
        right = xp.minimum(left + 1, array(width - 1, np.float64))
        share = array((columns - left)[None, None, :, None])
        return (
            tf.cast(_pixels(image, row, left), tf.float32) * (1 - share)
            + tf.cast(_pixels(image, row, right), tf.float32) * share
        )

    top = xp.floor(rows)
    bottom = xp.minimum(top + 1, array(height - 1, np.float64))
    share = array((rows - top)[None, :, None, None])
    return blended(top) * (1 - share) + blended(bottom) * share


def _pixels(image, rows, columns):
    """Those at given rows and columns, `[batch, rows, columns, channels]`. No others are read, or moved."""
    xp = namespace(rows, columns)
    rows, columns = xp.meshgrid(array(rows, np.int32), array(columns, np.int32), indexing="ij")
    _, height, width, channels = ops.shape(image)
    if image.shape[0] == 1:  # LiteRT copies the whole of an image that it reshapes.
        return tf.gather_nd(image, xp.stack([0 * rows, rows, columns], axis=-1)[None])
    pixels = tf.reshape(image, [-1, height * width, channels])
    pixels = tf.gather(pixels, xp.reshape(rows * width + columns, [-1]), axis=1)
    return tf.reshape(pixels, [-1, *rows.shape, channels])
