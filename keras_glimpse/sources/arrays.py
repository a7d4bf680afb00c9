"""Arrays: in memory, in files that are mapped, or in stores that are sliced."""

from collections.abc import Sequence

import numpy as np

from keras_glimpse.sources.files import check_unchanged, stamp
from keras_glimpse.sources.image import ImageSource, UnreadableImage


class ArrayImage(ImageSource):
    """An image in an array, or in anything that is sliced like one: NumPy, memory maps, zarr, HDF5, TensorStore.

    Only what is looked at is read. A thumbnail needs all pixels, unless there are averaged copies of the image (`pyramid`).

    Args:
        array: Array `[height, width, channels]` or `[height, width]` of uint8, uint16 or floats, with a `shape` and a `dtype`,
            that can be sliced.
        pyramid: Sequence of such arrays, the image averaged by 2, 4, ... or other factors. Defaults to `()`.
        name: String, what errors call the image. Defaults to `"array"`.

    Raises:
        UnreadableImage: If the arrays are not images of one dtype and number of channels, from the largest to the smallest.

    Example:
    >>> image = np.zeros((4000, 6000, 3), "uint8")
    >>> ArrayImage(image, pyramid=[image[::4, ::4]]).thumbnail((64, 96)).shape
    (64, 96, 3)
    """

    def __init__(self, array, pyramid: Sequence = (), name: str = "array"):
        self._arrays = [array, *pyramid]
        shapes = [tuple(map(int, each.shape)) for each in self._arrays]
        if any(len(shape) not in (2, 3) for shape in shapes):
            raise UnreadableImage(f"{name}: expected arrays [height, width, channels] or [height, width]; got {shapes}.")
        dtypes = {_dtype(each) for each in self._arrays}
        if len({shape[2:] for shape in shapes}) > 1 or len(dtypes) > 1 or shapes != sorted(shapes, reverse=True):
            raise UnreadableImage(
                f"{name}: expected levels of one dtype and number of channels, the largest first; got {shapes}, "
                f"{', '.join(sorted(map(str, dtypes)))}."
            )
        super().__init__(name, [shape[:2] for shape in shapes], (*shapes[0], 1)[2], dtypes.pop())
        self._opened = {path: stamp(path) for path in map(_file_of, self._arrays) if path}

    def read_level(self, level, top, left, height, width):
        array = self._arrays[level]
        if path := _file_of(array):  # To read what was cut off would end the process.
            check_unchanged(self.name, path, self._opened[path])
        pixels = np.asarray(array[top : top + height, left : left + width])
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def bytes_of(self, pixels, asked):
        return pixels.nbytes


def _file_of(array):
    """The file of an array that is mapped from it to be read only."""
    return array.filename if isinstance(array, np.memmap) and array.mode == "r" else None


def _dtype(array):
    """Of TensorStore, what its type is in NumPy."""
    return np.dtype(getattr(array.dtype, "numpy_dtype", array.dtype))
