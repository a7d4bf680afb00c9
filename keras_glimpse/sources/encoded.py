"""JPEG and PNG, in files or in bytes: the header is read at once, pixels when they are looked at."""

import io
import os
import threading
from collections import OrderedDict
from typing import NamedTuple

import tensorflow as tf

from keras_glimpse.sources.files import check_unchanged, stamp
from keras_glimpse.sources.image import ImageSource, UnreadableImage

MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
RATIOS = (1, 2, 4, 8)  # What libjpeg can divide the sides of an image by while decoding it.
MARGIN = 2  # Pixels around a box that are decoded too: colours stored at half the size are interpolated from neighbours.
ORIENTATION = 0x0112  # The tag in EXIF.
SMALL = 2**20  # Pixels of a JPEG that is decoded whole: that takes 3 ms, and parts of it no less.
KEPT = 2**28  # Bytes of images that were decoded whole.


class EncodedImage(ImageSource):
    """A JPEG or PNG, as a file or as bytes. The orientation in EXIF is respected: everything is in terms of the upright image.

    Of a baseline JPEG, only the pixels that are looked at are computed. They equal those of
    `tf.io.decode_jpeg(..., dct_method="INTEGER_ACCURATE")`, with the same `ratio` for levels 1/2, 1/4 and 1/8, which libjpeg
    computes faster than the image itself. Levels are close to averages, of colours only where these are smooth: 4:2:0 and
    4:2:2 JPEGs store few of them, and levels of 4:2:2 have half as many from left to right.

    A progressive JPEG, a JPEG of several scans and a PNG cannot be read in parts, and a JPEG of at most a megapixel is not:
    they are decoded whole, and the pixels of those that were looked at last are kept, 256 MiB in all. Alpha is dropped. 16-bit
    PNGs are read as uint16. The orientation of a PNG is found only if it is stored before the pixels.

    Of a file, nothing but facts from the header is kept. It is opened anew for each read, and must not change.

    Args:
        contents: Path of the file (string or `os.PathLike`), or bytes, its contents. The format is told from the contents.
        channels: Optional integer, 1 or 3, what to convert the image to. TensorFlow cannot convert CMYK to 1. Defaults to
            `None`, 1 for grey images and 3 for others.
        name: Optional string, what errors call the image. Defaults to `None`, the path or `"bytes"`.
        max_pixels: Positive integer, the most pixels of an image that is decoded whole. Defaults to `2**27`.

    Attributes:
        reads_parts: Boolean, whether parts are read without decoding the whole.

    Raises:
        UnreadableImage: If the file cannot be opened, is neither a JPEG nor a PNG, or has a damaged header; if the image has
            more than `max_pixels` and cannot be read in parts; or if `channels` is not 1, 3 or `None`.
        ImportError: If Pillow is not installed (`pip install keras-glimpse[files]`).

    Example:
    >>> image = EncodedImage(tf.io.encode_jpeg(tf.zeros((960, 1280, 3), "uint8")).numpy())
    >>> image.levels
    ((960, 1280), (480, 640), (240, 320), (120, 160))
    >>> image.thumbnail((48, 64)).shape, image.pixels_read
    ((48, 64, 3), 19200)
    """

    def __init__(self, contents, channels: int | None = None, name: str | None = None, max_pixels: int = 2**27):
        self._file = None if isinstance(contents, bytes) else os.fspath(contents)
        name = str(name or self._file or "bytes")
        if channels not in (None, 1, 3):
            raise UnreadableImage(f"{name}: a JPEG or PNG is read with 1 or 3 channels; expected {channels!r}.")
        try:
            with io.BytesIO(contents) if self._file is None else open(self._file, "rb") as file:
                self._opened = stamp(file.fileno()) if self._file is not None else None
                header = _read_header(file, name)
        except OSError as error:
            raise UnreadableImage(f"{name}: cannot open the file: {error.strerror or error}.") from error
        height, width = header.size
        self._kind, self._turn = header.kind, header.turn
        self.reads_parts = header.reads_parts and height * width > SMALL
        if not self.reads_parts and height * width > max_pixels:
            raise UnreadableImage(
                f"{name}: the image has to be decoded whole, and has {height}x{width} = {height * width} pixels; "
                f"max_pixels is {max_pixels}."
            )
        self._ratios = RATIOS if self.reads_parts else (1,)
        sizes = [self._turn.size(-(-height // ratio), -(-width // ratio)) for ratio in self._ratios]
        # What the last pixels of a level reach beyond the stored image, the first ones do where it is reversed.
        over = [self._turn.size(*(-(-side % ratio) for side in (height, width))) for ratio in self._ratios]
        origins = [(y * self._turn.rows, x * self._turn.columns) for y, x in over]
        super().__init__(name, sizes, channels or (1 if header.is_grey else 3), header.dtype, self._ratios, origins)
        self._decoding = threading.Lock()
        if self._file is None:  # Converted once: 2 ms a MB.
            with tf.init_scope():
                self._bytes, self._length = tf.constant(contents), len(contents)

    def read_level(self, level, top, left, height, width):
        if not self.reads_parts:
            return self._whole()[top : top + height, left : left + width]
        rows, columns = self._turn.size(*self.levels[level])  # The same both ways.
        top, left, height, width = self._turn.stored_box(self.levels[level], top, left, height, width)
        first_row, first_column = max(0, top - MARGIN), max(0, left - MARGIN)
        last_row, last_column = min(rows, top + height + MARGIN), min(columns, left + width + MARGIN)
        # Of a truncated file this succeeds if the box ends above what is missing.
        pixels = self._decoded(
            tf.io.decode_and_crop_jpeg,
            crop_window=[first_row, first_column, last_row - first_row, last_column - first_column],
            ratio=self._ratios[level],
            dct_method="INTEGER_ACCURATE",
        )
        top, left = top - first_row, left - first_column
        return self._turn.upright(pixels[top : top + height, left : left + width])

    def bytes_of(self, pixels, asked):
        return 0 if self._file is None else asked  # `_contents` counts those in memory when they are decoded.

    def _whole(self):
        key = (self._file, self._opened, self.channels) if self._file else self
        with self._decoding:
            pixels = decoded.get(key)
            if pixels is None:
                if self._kind == "JPEG":
                    pixels = self._decoded(tf.io.decode_jpeg, dct_method="INTEGER_ACCURATE")
                else:
                    pixels = self._decoded(tf.io.decode_png, dtype=self.dtype)
                pixels = self._turn.upright(pixels)
                decoded.keep(key, pixels)
            return pixels

    def _decoded(self, decode, **arguments):
        contents = self._contents()
        try:
            return decode(contents, channels=self.channels, **arguments).numpy()
        except tf.errors.InvalidArgumentError as error:
            what = f"this {self._kind} to {self.channels} channel{'s' if self.channels > 1 else ''}"
            why = "damaged or truncated" + ", or in CMYK, which has to be read with 3" * (self.channels == 1)
            raise UnreadableImage(f"{self.name}: TensorFlow cannot decode {what}; it may be {why}.") from error

    def _contents(self):
        """As TensorFlow reads them, which takes a tenth of converting what Python has read."""
        if self._file is None:
            self.count(0, self._length)
            return self._bytes
        contents = tf.io.read_file(os.fsencode(self._file))
        check_unchanged(self.name, self._file, self._opened)
        return contents


class Decoded:
    """The pixels of images that were decoded whole: those that were used last, in at most so many bytes, or one image."""

    def __init__(self, limit: int):
        self._limit, self._size, self._images, self._using = limit, 0, OrderedDict(), threading.Lock()

    def get(self, key):
        with self._using:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def keep(self, key, pixels):
        with self._using:
            before = self._images.pop(key, None)
            self._images[key] = pixels
            self._size += pixels.nbytes - (0 if before is None else before.nbytes)
            while self._size > self._limit and len(self._images) > 1:
                self._size -= self._images.popitem(last=False)[1].nbytes


decoded = Decoded(KEPT)


class Turn(NamedTuple):
    """How the stored image becomes the upright one: it is transposed, then rows and columns are reversed, each or not."""

    transposed: bool = False
    rows: bool = False
    columns: bool = False

    def size(self, height, width):
        return (width, height) if self.transposed else (height, width)

    def upright(self, pixels):
        pixels = pixels.swapaxes(0, 1) if self.transposed else pixels
        return pixels[:: -1 if self.rows else 1, :: -1 if self.columns else 1]

    def stored_box(self, size, top, left, height, width):
        """Where a box of the upright image, which has this size, lies in the stored one."""
        top = size[0] - top - height if self.rows else top
        left = size[1] - left - width if self.columns else left
        return (left, top, width, height) if self.transposed else (top, left, height, width)


TURNS = {  # By the orientation in EXIF.
    1: Turn(),
    2: Turn(columns=True),
    3: Turn(rows=True, columns=True),
    4: Turn(rows=True),
    5: Turn(transposed=True),
    6: Turn(transposed=True, columns=True),
    7: Turn(transposed=True, rows=True, columns=True),
    8: Turn(transposed=True, rows=True),
}


class Header(NamedTuple):
    """What the beginning of a file says. The size is that of the stored image, before it is turned."""

    kind: str
    size: tuple[int, int]
    is_grey: bool
    dtype: str
    turn: Turn
    reads_parts: bool


def _read_header(file, name):
    try:
        from PIL import Image, JpegImagePlugin, PngImagePlugin
    except ImportError as error:
        raise ImportError("Reading JPEG and PNG needs Pillow: pip install 'keras-glimpse[files]'.") from error
    start = file.read(26)
    kind = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)
    if kind is None:
        found = f"begins with {start[:6]!r}" if start else "is empty"
        raise UnreadableImage(f"{name}: expected a JPEG or PNG; the file {found}.")
    file.seek(0)
    try:
        # Not by `Image.open`, which warns of many pixels although none are decoded, at a limit that the whole process shares.
        image = JpegImagePlugin.JpegImageFile(file) if kind == "JPEG" else PngImagePlugin.PngImageFile(file)
        reads_parts = kind == "JPEG" and _is_baseline(image, file)
        exif = Image.Image.getexif(image)  # That of the class of PNGs may decode the image.
    except Exception as error:  # Pillow raises SyntaxError, OSError, ValueError and others.
        raise UnreadableImage(f"{name}: cannot read the header of the {kind}: {error}.") from error
    if kind == "PNG":  # Pillow's mode tells less of 16 bits and of grey with alpha.
        dtype, is_grey = "uint16" if start[24] == 16 else "uint8", start[25] in (0, 4)
    else:
        dtype, is_grey = "uint8", image.mode == "L"
    return Header(kind, image.size[::-1], is_grey, dtype, TURNS.get(exif.get(ORIENTATION), Turn()), reads_parts)


def _is_baseline(image, file):
    """Whether all of a JPEG is in one scan. Otherwise libjpeg keeps the whole in memory, whatever is cropped.

    Pillow leaves the file behind the header of the first scan, whose length follows from the number of components in it.
    """
    length = 6 + 2 * image.layers
    file.seek(-length - 2, os.SEEK_CUR)
    return file.read(4) == b"\xff\xda" + length.to_bytes(2, "big") and not image.info.get("progressive")
