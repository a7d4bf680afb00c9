"""Whole-slide images, as scanners of microscopy write them, through OpenSlide."""

import os
from functools import cache

import numpy as np

from keras_glimpse.sources.files import check_unchanged, stamp
from keras_glimpse.sources.image import ImageSource, UnreadableImage

CACHE = 2**26  # Bytes of decoded tiles, of all slides together: a row of 256x256 tiles across 65,536 pixels.
TILE = 2**26  # Pixels, 256 MiB. OpenSlide ends the program where memory for a tile cannot be had, of whatever size a file says.
MODES = {1: "L", 3: "RGB"}


class SlideImage(ImageSource):
    """A whole-slide image: Aperio SVS, Hamamatsu, MIRAX, Philips, DICOM, tiled TIFF, and what else OpenSlide reads.

    It needs the extra `slides`. Threads read the same slide at a time. Decoded tiles of all slides share a cache of 64 MiB. The
    file must stay as it was when it was opened; of a slide of several files, only the one at `path` is watched.

    OpenSlide takes places in pixels of level 0, and interpolates. A level whose downsampling is an integer is read exactly;
    others up to half a pixel of level 0 beside their own pixels, and up to one at the right and the lower border.

    After a part could not be read, OpenSlide reads no other part of the slide: open it again.

    Args:
        path: String or path, the file.
        channels: Integer, 3 for RGB or 1 for luminance (ITU-R 601). Defaults to `3`. What is transparent has the slide's
            background colour, or white.

    Raises:
        ImportError: If OpenSlide is not installed.
        ValueError: If `channels` is another number.
        UnreadableImage: If there is no such file, or OpenSlide cannot open it.

    Example:
    >>> slide = SlideImage("tumor.svs")  # doctest: +SKIP
    >>> slide.thumbnail((128, 128)).shape, slide.patches([[0.5, 0.5]], size=96).shape  # doctest: +SKIP
    ((128, 128, 3), (1, 96, 96, 3))
    """

    def __init__(self, path: str | os.PathLike, channels: int = 3):
        openslide = _openslide()
        if channels not in MODES:
            raise ValueError(f"channels must be 1 or 3; got {channels}.")
        self._file, self._stamp = path, stamp(path)
        if self._stamp is None:
            raise UnreadableImage(f"{path}: no such file.")
        try:
            self._slide = openslide.OpenSlide(path)
            self._slide.set_cache(_cache())
            self._downsamples = self._slide.level_downsamples
            self._background = "#" + self._slide.properties.get("openslide.background-color", "FFFFFF")
            sizes = self._slide.level_dimensions
            _check_tiles(path, self._slide.properties, len(sizes))
        except openslide.OpenSlideUnsupportedFormatError:
            raise UnreadableImage(f"{path}: OpenSlide does not know this format.") from None
        except openslide.OpenSlideError as error:
            raise UnreadableImage(f"{path}: OpenSlide cannot open it: {error}") from error
        super().__init__(path, [(height, width) for width, height in sizes], channels, np.uint8)

    def read_level(self, level, top, left, height, width):
        from PIL import Image  # OpenSlide brings it.

        check_unchanged(self.name, self._file, self._stamp)
        rows, columns = self.levels[level]
        start = [
            _location(*each, self._downsamples[level]) for each in ((left, left + width, columns), (top, top + height, rows))
        ]
        region = self._slide.read_region(tuple(start), level, (width, height))
        canvas = Image.new("RGB", region.size, self._background)
        canvas.paste(region, mask=region)
        return np.asarray(canvas.convert(MODES[self.channels])).reshape(height, width, self.channels)


def vendor(path: str | os.PathLike) -> str | None:
    """What OpenSlide takes a file for, such as "aperio" or "generic-tiff"; `None` if for nothing, or if it is not installed."""
    try:
        return _openslide().OpenSlide.detect_format(path)
    except ImportError:
        return None


def _check_tiles(path, properties, levels):
    for level in range(levels):
        height, width = (int(properties.get(f"openslide.level[{level}].tile-{side}", 0)) for side in ("height", "width"))
        if height * width > TILE:
            raise UnreadableImage(f"{path}: a tile of level {level} has {height}x{width} pixels.")


def _location(first, stop, side, downsample):
    """Where a box along an axis of a level begins in level 0: at the nearest pixel from which it does not leave the level."""
    return min(round(first * downsample), int((side - (stop - first)) * downsample))


def _openslide():
    try:
        import openslide
    except ImportError as error:
        raise ImportError("Slides need OpenSlide: pip install keras-glimpse[slides]") from error
    return openslide


@cache
def _cache():
    return _openslide().OpenSlideCache(CACHE)
