"""An encoded image as operations of a graph, which run where there is neither Python nor this package.

The thumbnail is decoded at an eighth of the size or so, as by `EncodedImage`, and of the image itself only what patches show,
at all scales. A PNG is not turned.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import tensorflow as tf

from keras_glimpse.ops.crop import crop_around
from keras_glimpse.ops.thumbnail import block_mean
from keras_glimpse.sources.encoded import MARGIN, ORIENTATION, RATIOS, TURNS

DCT = "INTEGER_ACCURATE"
EXIF = 4096  # Bytes from the beginning of a JPEG in which its orientation is looked for.
ENTRIES = 64  # Of EXIF's first directory, at the most.


class EncodedInGraph(NamedTuple):
    """One JPEG or PNG, in place of a batch of one image (see `Sources`).

    Attributes:
        contents: String tensor `[]`, the bytes.
        stored: Int32 tensor `[2]`, height and width as stored.
        turn: Bool tensor `[3]`, how the stored image becomes the upright one (see `encoded.Turn`).
        pixels: Tensor `[height, width, channels]`, all pixels of a PNG as stored, float32 in [0, 1]; `[0, 0, channels]` of a
            JPEG.
    """

    contents: tf.Tensor
    stored: tf.Tensor
    turn: tf.Tensor
    pixels: tf.Tensor

    @classmethod
    def of(cls, contents, channels: int, max_pixels: int) -> "EncodedInGraph":
        """The graph fails if `contents` are no JPEG or PNG, or have more pixels than `max_pixels`."""
        is_jpeg = tf.io.is_jpeg(contents)
        is_known = is_jpeg | (tf.strings.substr(contents, 0, 8) == b"\x89PNG\r\n\x1a\n")
        with tf.control_dependencies([tf.debugging.Assert(is_known, ["Expected a JPEG or PNG."])]):
            stored = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(contents)[:2], lambda: _png_size(contents))
        is_small = tf.cast(stored[0], tf.int64) * tf.cast(stored[1], tf.int64) <= max_pixels
        limit = tf.debugging.Assert(is_small, [f"Expected at most {max_pixels} pixels; got", stored])
        with tf.control_dependencies([limit]):
            turn = tf.cond(is_jpeg, lambda: _turn(contents), lambda: tf.zeros([3], tf.bool))
            nothing = lambda: tf.zeros([0, 0, channels])  # noqa: E731
            pixels = tf.cond(is_jpeg, nothing, lambda: _decoded_png(contents, channels))
        with tf.control_dependencies([pixels]):  # Before its size is used: a corrupt PNG, which may claim any, fails as such.
            stored = tf.identity(stored)
        return cls(contents, stored, turn, pixels)

    @property
    def shape(self):
        height, width = tf.unstack(tf.where(self.turn[0], self.stored[::-1], self.stored)[:, None])
        return 1, height, width, None

    @property
    def is_jpeg(self):
        return tf.size(self.pixels) == 0

    def thumbnails(self, size: tuple[int, int], channels: int) -> tf.Tensor:
        """`[1, rows, columns, channels]`."""
        target = tf.where(self.turn[0], size[::-1], size)
        fits = tf.reduce_all(self.stored >= target)
        with tf.control_dependencies([tf.debugging.Assert(fits, [f"A thumbnail of {size} does not fit in", self.stored])]):
            ratio, pixels = self._shrunk(tf.reduce_min(self.stored // target), channels)
        rows, columns = (_parts(self.stored[axis], tf.shape(pixels)[axis], ratio, target[axis]) for axis in (0, 1))
        return self._upright(tf.einsum("ry,yxd,cx->rcd", rows, pixels, columns), (*size, channels))[None]

    def patches(self, places, size: int, scales: Sequence[int], channels: int) -> tf.Tensor:
        """Patches at places `[1, n, 2]`, `[1, n, size, size, channels * len(scales)]`."""
        each = [self._patch(place, size, scales, channels) for place in tf.unstack(places[0])]
        return tf.stack(each)[None]

    def _patch(self, place, size, scales, channels):
        """Read at once for all scales, at the scale of the image."""
        place = tf.where(self.turn[1:], 1 - place, place)  # Of the upright image, in which rows and columns are not reversed.
        place = tf.where(self.turn[0], place[::-1], place)
        sides = tf.cast(self.stored, tf.float32)
        centre = place * (sides - 1)
        corner = tf.floor(centre - (max(scales) * size - 1) / 2)
        begin = tf.clip_by_value(corner - MARGIN, 0.0, sides - 1)
        end = tf.clip_by_value(corner + max(scales) * size + 1 + MARGIN, begin + 1, sides)
        box = tf.cast(tf.concat([begin, end - begin], axis=0), tf.int32)
        pixels = tf.cond(self.is_jpeg, lambda: self._cropped(box, channels), lambda: self._cut(box))
        patches = []
        for scale in scales:
            window = crop_around(pixels[None], (centre - begin)[None], scale * size)
            patches.append(block_mean(window, (scale, scale))[0])
        patches = [self._upright(patch, (size, size, channels)) for patch in patches]
        return tf.concat(patches, axis=-1)

    def _cropped(self, box, channels):
        """A box of a JPEG."""
        return _to_unit(tf.io.decode_and_crop_jpeg(self.contents, box, channels, dct_method=DCT))

    def _cut(self, box):
        """A box of what is decoded already."""
        top, left, height, width = tf.unstack(box)
        return self.pixels[top : top + height, left : left + width]

    def _shrunk(self, most, channels):
        """How many times smaller, at most `most`, and the pixels."""
        if_ratio = [lambda ratio=ratio: self._at(ratio, channels) for ratio in RATIOS]
        index = tf.reduce_sum(tf.cast(most >= RATIOS[1:], tf.int32))
        index = tf.where(self.is_jpeg, index, 0)
        pixels = tf.switch_case(index, if_ratio)
        return tf.gather(RATIOS, index), pixels

    def _at(self, ratio, channels):
        if ratio > 1:
            return _to_unit(tf.io.decode_jpeg(self.contents, channels, ratio, dct_method=DCT))
        whole = lambda: _to_unit(tf.io.decode_jpeg(self.contents, channels, dct_method=DCT))  # noqa: E731
        return tf.cond(self.is_jpeg, whole, lambda: self.pixels)

    def _upright(self, pixels, shape):
        pixels = tf.cond(self.turn[0], lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        axes = tf.boolean_mask([0, 1], self.turn[1:])
        return tf.ensure_shape(tf.reverse(pixels, axes), shape)


def _to_unit(pixels):
    return tf.cast(pixels, tf.float32) / 255.0


def _decoded_png(contents, channels):
    """Those of 16 bits are divided by 65535, as `EncodedImage` does."""
    decode = lambda dtype: tf.cast(tf.io.decode_png(contents, channels, dtype), tf.float32) / float(dtype.max)  # noqa: E731
    return tf.cond(_bytes(contents, 24, 1)[0] == 16, lambda: decode(tf.uint16), lambda: decode(tf.uint8))


def _bytes(contents, start, count):
    return tf.cast(tf.io.decode_raw(tf.strings.substr(contents, start, count), tf.uint8), tf.int32)


def _png_size(contents):
    """From its header, which is not decoded."""
    digits = tf.reshape(_bytes(contents, 16, 8), [2, 4])[:, 1:]
    with tf.control_dependencies(
        [tf.debugging.Assert(tf.reduce_all(_bytes(contents, 16, 8)[::4] == 0), ["A PNG is too large."])]
    ):
        return tf.reduce_sum(digits * [65536, 256, 1], axis=1)[::-1]  # The width comes first.


def _parts(side, level_side, ratio, count):
    """`[count, level_side]`: what share of each of `count` equal parts of a side each pixel of the shrunken image makes up."""
    side, count_of = tf.cast(side, tf.float32), tf.cast(count, tf.float32)
    edges = tf.cast(tf.range(count + 1), tf.float32) * side / count_of
    pixels = tf.minimum(tf.cast(tf.range(level_side + 1) * ratio, tf.float32), side)
    low, high = edges[:-1, None], edges[1:, None]
    return tf.nn.relu(tf.minimum(high, pixels[1:]) - tf.maximum(low, pixels[:-1])) * count_of / side


def _turn(contents):
    """How a JPEG is turned, by the orientation in its EXIF: bool `[3]`."""
    header = _bytes(contents, 0, EXIF)
    marks = [header[n : tf.size(header) - 5 + n] == byte for n, byte in enumerate(b"Exif\0\0")]
    found = tf.where(tf.reduce_all(marks, axis=0))[:, 0]
    exif = header[tf.cast(tf.concat([found, [0]], 0)[0], tf.int32) + 6 :]
    exif = tf.pad(exif, [[0, EXIF + 12 * ENTRIES + 32]])  # What is read as its directory is inside, whatever it says.
    number = partial(_number, exif, exif[0] == ord("I"))
    directory = tf.clip_by_value(number(4, 4), 0, EXIF)
    entries = directory + 2 + 12 * tf.range(tf.minimum(number(directory, 2), ENTRIES))
    entries = tf.boolean_mask(entries, entries < tf.size(exif) - 12)
    values = tf.boolean_mask(number(entries + 8, 2), number(entries, 2) == ORIENTATION)
    value = tf.concat([values, [1]], 0)[0]
    is_known = (tf.size(found) > 0) & (value >= 1) & (value <= len(TURNS))
    return tf.gather(tf.constant([*TURNS.values()]), tf.where(is_known, value - 1, 0))


def _number(values, is_little, at, count):
    """The unsigned integers of `count` bytes at places `[...]`."""
    digits = tf.gather(values, tf.convert_to_tensor(at)[..., None] + tf.range(count))
    weights = tf.constant([256**n for n in range(count)], tf.uint32)
    return tf.reduce_sum(digits * tf.cast(tf.where(is_little, weights, weights[::-1]), tf.int32), axis=-1)
