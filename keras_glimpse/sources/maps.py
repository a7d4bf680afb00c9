"""Maps and satellite images, as GeoTIFF and Cloud Optimized GeoTIFF, through GDAL."""

import os
import threading
import warnings
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np

from keras_glimpse.sources.files import check_unchanged, stamp
from keras_glimpse.sources.image import ImageSource, UnreadableImage

DRIVERS = ("GTiff", "PNG", "JP2OpenJPEG")  # Not VRT and the like, which may name other files, or hold programs.

_opening = threading.Lock()  # Filters of warnings are those of all threads.


class MapImage(ImageSource):
    """A GeoTIFF, whose levels are its overviews; or a JPEG 2000 or PNG image that GDAL reads.

    It needs the extra `maps`. Pixels without data, or that a mask in the file or its alpha band leaves out, read 0. Colour
    tables, scales and offsets are not applied. The file must stay as it was when it was opened. A path that is no local file,
    such as `"/vsicurl/https://..."`, is left to GDAL: whether it changes, and how many bytes are read, is not noticed.

    If the sides of an overview are not those of the image divided by an integer, what is read from it lies beside its place by
    less than one of its pixels.

    Threads take turns at a level: a GDAL handle serves one at a time, and one handle a level bounds the open files and shares
    what is decoded, however many threads there are. GDAL keeps decoded blocks of all files in one cache, 5% of the memory
    unless the environment variable `GDAL_CACHEMAX` says otherwise.

    Args:
        path: String or path, the file.
        bands: Sequence of integers from 1 on, the bands to be the channels. Defaults to `None`, for all of them. If all are
            uint8 or all are uint16, then so are the pixels; otherwise they are float32, with their values unchanged.

    Raises:
        ImportError: If rasterio is not installed.
        UnreadableImage: If GDAL cannot open the file as one of these formats, or it lacks a band, or a band is complex.

    Example:
    >>> scene = MapImage("scene.tif", bands=[4, 3, 2])  # doctest: +SKIP
    >>> scene.thumbnail((128, 128)).shape, scene.patches([[0.5, 0.5]], size=96).shape  # doctest: +SKIP
    ((128, 128, 3), (1, 96, 96, 3))
    """

    def __init__(self, path: str | os.PathLike, bands: Sequence[int] | None = None):
        self._file, self._stamp = path, stamp(path)
        with _gdal(path):
            image = _open(path)
            overviews = [_open(path, overview_level=number) for number in range(len(image.overviews(1)))]
        self._levels = [(dataset, threading.Lock()) for dataset in (image, *overviews)]
        self._bands = list(image.indexes if bands is None else bands)
        if not self._bands or not set(self._bands) <= set(image.indexes):
            raise UnreadableImage(f"{path}: expected bands from 1 to {image.count}; got {self._bands}.")
        dtypes = {image.dtypes[band - 1] for band in self._bands}
        if any("complex" in each for each in dtypes):
            raise UnreadableImage(f"{path}: expected bands of integers or floats; got {', '.join(sorted(dtypes))}.")
        dtype = dtypes.pop() if dtypes in ({"uint8"}, {"uint16"}) else "float32"
        super().__init__(path, [dataset.shape for dataset in (image, *overviews)], len(self._bands), dtype)

    def read_level(self, level, top, left, height, width):
        check_unchanged(self.name, self._file, self._stamp)
        dataset, lock = self._levels[level]
        with lock, _gdal(self.name):
            window = (top, top + height), (left, left + width)
            pixels = dataset.read(self._bands, window=window, masked=True, out_dtype=self.dtype)
        return np.moveaxis(pixels.filled(0), 0, -1)


@contextmanager
def _gdal(name):
    """GDAL, running no program that a file holds; its errors are `UnreadableImage`."""
    try:
        import rasterio
    except ImportError as error:
        raise ImportError("Maps need rasterio: pip install keras-glimpse[maps]") from error
    with rasterio.Env(GDAL_VRT_ENABLE_PYTHON="NO"):
        try:
            yield
        except rasterio.errors.RasterioError as error:
            raise UnreadableImage(f"{name}: GDAL cannot read it: {error.__cause__ or error}") from error


def _open(path, **options):
    """A dataset; `rasterio.open` takes only one driver."""
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import DatasetReader

    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return DatasetReader(os.fspath(path), driver=list(DRIVERS), **options)
