"""What kind of image something is, by its content: `open_image`."""

import os
from importlib.util import find_spec
from threading import Lock

import numpy as np
import tensorflow as tf

from keras_glimpse.sources.arrays import ArrayImage
from keras_glimpse.sources.encoded import EncodedImage
from keras_glimpse.sources.image import ImageSource, UnreadableImage, first_line
from keras_glimpse.sources.maps import MapImage
from keras_glimpse.sources.slides import SlideImage, vendor

parsing = Lock()  # Python 3.11 fails if two threads parse at a time, as `numpy.load` does and TensorFlow when it traces.
MAX_PIXELS = 2**28  # Of an image that must be decoded whole: 768 MiB of colour.


def open_image(image, channels: int | None = None, max_pixels: int = MAX_PIXELS) -> ImageSource:
    """Opens an image of which only what is looked at is read.

    Files are recognised by their content, not by their suffix: JPEG, PNG, slides that OpenSlide knows, TIFF with and without
    overviews, GeoTIFF, and arrays in `.npy` files. No file is run, and no pickle is read.

    Args:
        image: String or path of a file; bytes of a JPEG or PNG file; an array `[height, width, channels]` or `[height, width]`,
            or anything that is sliced like one (memory maps, zarr, HDF5, TensorStore); or an `ImageSource`, returned as it is.
        channels: Optional integer, `1` or `3`, the channels to convert JPEG, PNG and slides to. Defaults to `None`, those that
            they have.
        max_pixels: Positive integer, the most pixels of a file that has to be decoded as a whole (PNG, progressive JPEG), or of
            the level that a thumbnail is computed from: a guard against decompression bombs. Defaults to `2**28`.

    Returns:
        An `ImageSource`.

    Raises:
        UnreadableImage: If the file does not exist, is damaged, is of another kind, or has too many pixels.
        TypeError: If `image` is none of the above.
        ImportError: If the library is not installed that reads such files: `pip install keras-glimpse[files]` (JPEG, PNG),
            `keras-glimpse[slides]` or `keras-glimpse[maps]`.

    Example:
    >>> image = open_image(np.zeros((4000, 6000, 3), "uint8"))
    >>> image.shape, image.patches([[0.5, 0.5]], size=48).shape
    ((4000, 6000, 3), (1, 48, 48, 3))
    """
    if isinstance(image, ImageSource):
        return image
    if isinstance(image, bytes):
        return EncodedImage(image, channels, max_pixels=max_pixels)
    if isinstance(image, str | os.PathLike):
        opened = _open_file(os.fspath(image), channels, max_pixels)
        opened.max_pixels = max_pixels
        return opened
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        return ArrayImage(image.numpy() if tf.is_tensor(image) else image)
    kind = type(image).__name__
    raise TypeError(f"Expected a path, the bytes of a JPEG or PNG file, an array or an ImageSource; got a {kind}.")


def _open_file(path, channels, max_pixels):
    try:
        with open(path, "rb") as file:
            begins = file.read(8)
    except (OSError, ValueError) as error:  # ValueError: no file has such a name.
        raise UnreadableImage(f"{path}: {getattr(error, 'strerror', error)}.") from error
    if begins.startswith((b"\xff\xd8", b"\x89PNG")):
        return EncodedImage(path, channels, max_pixels=max_pixels)
    if begins.startswith(b"\x93NUMPY"):
        return _array(path)
    kind = vendor(path)
    if kind == "generic-tiff" or begins.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")) and kind is None:
        # GDAL reads any dtype and number of bands, OpenSlide 8-bit colour.
        return SlideImage(path, channels or 3) if kind and not find_spec("rasterio") else MapImage(path)
    if kind is not None:
        return SlideImage(path, channels or 3)
    raise UnreadableImage(f"{path}: expected a JPEG, PNG, TIFF, slide or .npy file; it begins with {begins!r}.")


def _array(path):
    try:
        with parsing:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        return ArrayImage(array, name=path)
    except UnreadableImage:
        raise
    except Exception as error:  # Of a damaged header, NumPy raises whatever parsing Python raises. It is not run.
        raise UnreadableImage(f"{path}: cannot be mapped as an array: {first_line(error)}") from error
