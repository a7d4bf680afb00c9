"""An image of which parts are read: its size, a thumbnail of it, and patches at places, wherever its pixels lie."""

import abc
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_glimpse.sources.counting import bytes_asked_for

STRIP = 2**22  # Numbers that are converted to float32 at a time: 16 MiB.
FAR = 1e6  # As a location
SAME = 1e-3  # Pixels between places that are taken for one.
SMALL = 2**15  # Numbers in a matrix that is multiplied by as it is, although most of it is 0.


class UnreadableImage(ValueError):
    """An image, or a part of it, cannot be read. The message begins with the name of the image."""


class ImageSource(abc.ABC):
    """An image of which parts are read, in the units and with the border rule of `MultiScaleCrop`.

    `open_image` makes one of a path, of encoded bytes or of an array. For another kind of file, make a subclass that passes the
    arguments below to `super().__init__` and defines `read_level`. All methods may be called by several threads at a time.

    An image may have several levels: itself at level 0, then copies of it that are averaged more and more, as slides, maps and
    JPEG files have. A thumbnail or a patch is computed from the coarsest level that is at least as fine as it is. If the pixels
    of a level are exact averages, then so is a thumbnail of which they are parts, and so are patches whose edges are theirs;
    elsewhere they are interpolated.

    Args:
        name: String, what errors and results call the image: its path, say.
        levels: Sequence of `(height, width)`, the sizes of the levels in pixels, from the image itself to the coarsest.
        channels: Positive integer, the number of channels.
        dtype: The dtype of the pixels: uint8 or uint16, which are scaled to [0, 1], or a float, used unchanged.
        factors: Optional sequence with, for each level, how many pixels of the image one of its pixels is wide. Defaults to
            `None`, the ratio of the sizes, for each axis.
        origins: Optional sequence with, for each level, the `(y, x)` in pixels of the image at which its first pixel begins.
            Defaults to `None`, `(0, 0)`.

    Attributes:
        shape: Tuple `(height, width, channels)`.
        pixels_read: Integer, how many pixels of all levels have been read so far.
        bytes_read: Integer, how many bytes were asked of the operating system for them; of arrays, their bytes. `None` where
            the operating system does not count them (all but Linux).
        max_pixels: Integer, the most pixels of a level that a thumbnail is computed from; `None` for any number, the default.
            May be set.

    Example:
    >>> class Stripes(ImageSource):
    ...     def read_level(self, level, top, left, height, width):
    ...         stripes = np.arange(left, left + width, dtype="uint8")[:, None] % 2 * 255
    ...         return np.broadcast_to(stripes, (height, width, 1))
    >>> stripes = Stripes("stripes", levels=[(10**6, 10**6)], channels=1, dtype="uint8")
    >>> stripes.patches([[0.0, 0.0]], size=4).shape, stripes.pixels_read
    ((1, 4, 4, 1), 9)
    """

    reads_parts = True  # Whether a part costs less than the whole.

    def __init__(
        self,
        name: str,
        levels: Sequence[tuple[int, int]],
        channels: int,
        dtype,
        factors: Sequence[float] | None = None,
        origins: Sequence[tuple[float, float]] | None = None,
    ):
        self.name = str(name)
        self.levels = tuple((int(height), int(width)) for height, width in levels)
        self.channels = int(channels)
        self.dtype = np.dtype(dtype)
        if min(map(min, self.levels), default=0) < 1 or self.channels < 1:
            raise UnreadableImage(f"{self.name}: expected levels of at least a pixel; got {self.levels}, {channels} channels.")
        if self.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
            raise UnreadableImage(f"{self.name}: expected pixels of floats, uint8 or uint16; got {self.dtype}.")
        self._check_levels()
        ratios = [tuple(np.divide(self.levels[0], sides)) for sides in self.levels]
        pairs = ratios if factors is None else [(factor, factor) for factor in factors]
        origins = [(0, 0)] * len(self.levels) if origins is None else origins
        self._axes = [[*map(Axis, self.levels[0], *each)] for each in zip(self.levels, pairs, origins)]
        self.pixels_read, self.bytes_read = 0, 0
        self.max_pixels = None
        self._counting = threading.Lock()

    def _check_levels(self):
        """Each must have about the shape of the image: a damaged file may claim any size."""
        for level, sides in enumerate(self.levels):
            factor = max(full / side for full, side in zip(self.levels[0], sides))
            if factor < 1 or any(side > 2 * full / factor + 1 for full, side in zip(self.levels[0], sides)):
                raise UnreadableImage(f"{self.name}: level {level} of {sides} pixels is not of an image of {self.levels[0]}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.levels[0], self.channels)

    @abc.abstractmethod
    def read_level(self, level: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Reads a box of pixels of a level, which lies inside of it.

        Args:
            level: Integer, the index of the level in `levels`.
            top, left: Integers, its first row and column, in pixels of the level.
            height, width: Positive integers, its size.

        Returns:
            Array `[height, width, channels]` of `dtype`.
        """

    def read(self, level: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """`read_level`, counted, with every failure an `UnreadableImage` that names the image."""
        with bytes_asked_for() as asked:
            try:
                pixels = np.asarray(self.read_level(level, top, left, height, width))
            except UnreadableImage:
                raise
            except Exception as error:  # Whatever the library raises that reads this kind of file.
                where = f"{height}x{width} pixels at row {top}, column {left} of level {level}"
                raise UnreadableImage(f"{self.name}: cannot read {where}: {first_line(error)}") from error
        if pixels.shape != (height, width, self.channels):
            raise UnreadableImage(f"{self.name}: expected {(height, width, self.channels)} pixels; got {pixels.shape}.")
        self.count(height * width, self.bytes_of(pixels, asked.bytes))
        return pixels

    def bytes_of(self, pixels: np.ndarray, asked: int | None) -> int | None:
        """How many bytes count as read for `pixels`, if the operating system was asked for so many."""
        return asked

    def count(self, pixels: int, bytes: int | None) -> None:
        """Adds to `pixels_read` and `bytes_read`."""
        with self._counting:
            self.pixels_read += int(pixels)
            self.bytes_read = None if bytes is None or self.bytes_read is None else self.bytes_read + bytes

    def thumbnail(self, size: tuple[int, int]) -> np.ndarray:
        """Averages the image to a size, sharing the pixels on an edge by overlap, as `LowResNet` does.

        Args:
            size: Tuple `(rows, columns)`.

        Returns:
            Float32 array `[rows, columns, channels]`; of unsigned integers, scaled to [0, 1].

        Raises:
            UnreadableImage: If the image is smaller, or cannot be read.
        """
        if any(side < target for side, target in zip(self.shape, size)):
            height, width, _ = self.shape
            raise UnreadableImage(
                f"{self.name}: the thumbnail is {size[0]}x{size[1]} pixels; got an image of {height}x{width}."
            )
        level = self._level(min(side / target for side, target in zip(self.shape, size)))
        if self.max_pixels is not None and np.prod(self.levels[level]) > self.max_pixels:
            raise UnreadableImage(
                f"{self.name}: a thumbnail needs all {height}x{width} pixels, for there is no smaller level; max_pixels is "
                f"{self.max_pixels}."
            )
        rows, columns = (axis.parts(target) for axis, target in zip(self._axes[level], size))
        return self._in_unit_range(self._combined(Window(level, rows, columns)))

    def patches(self, locations, size: int, scales: Sequence[int] = (1,)) -> np.ndarray:
        """Crops a patch around each location at each scale, as `MultiScaleCrop` does.

        Where windows overlap, what they cover together is read at once.

        Args:
            locations: Array `[n, 2]`, `(y, x)` in [0, 1].
            size: Positive integer, the side of a patch in pixels.
            scales: Sequence of positive integers, how many pixels of the image a pixel of each patch averages along each axis.
                Defaults to `(1,)`.

        Returns:
            Float32 array `[n, size, size, channels * len(scales)]`; of unsigned integers, scaled to [0, 1].

        Raises:
            UnreadableImage: If a window cannot be read.
        """
        locations = np.asarray(locations, np.float64)
        if len(locations) and all(self._level(scale) == 0 for scale in scales):
            patches = self._at_once(locations, size, scales)
            if patches is not None:
                return self._in_unit_range(patches)
        windows = [[self._window(location, size, scale) for scale in scales] for location in locations]
        read = iter(self._read_windows([window for each in windows for window in each]))
        patches = [np.concatenate([next(read) for _ in each], axis=-1) for each in windows]
        if not patches:
            return np.zeros((0, size, size, self.channels * len(scales)), np.float32)
        return self._in_unit_range(np.stack(patches))

    def _at_once(self, locations, size, scales):
        """Patches of the image itself, by one operation a scale on what all windows cover together; `None` if that is more.

        It does what `_read_windows` does, in less time for many windows.
        """
        sides, widest = np.array(self.levels[0]), size * max(scales)
        middles = np.where(np.isfinite(locations), locations, -FAR) * (sides - 1)
        first = np.clip(np.floor(middles - (widest - 1) / 2), 0, sides - 1).astype(int)
        stop = np.clip(np.ceil(middles + (widest - 1) / 2) + 1, first + 1, sides).astype(int)
        corner, end = first.min(axis=0), stop.max(axis=0)
        most = min((stop - first).prod(axis=1).sum(), STRIP) if self.reads_parts else STRIP
        if min(end - corner) < 2 or (end - corner).prod() > most:
            return None
        box = self.read(0, *corner, *(end - corner))
        with tf.device("CPU"):
            return np.concatenate([_windows(box, middles - corner, size, scale) for scale in scales], axis=-1)

    def pixels(self) -> np.ndarray:
        """All pixels, float32 `[height, width, channels]`; of unsigned integers, scaled to [0, 1]."""
        return self._in_unit_range(self.read(0, 0, 0, *self.levels[0]).astype(np.float32))

    def _level(self, factor):
        """The coarsest level of which a pixel is at most `factor` pixels of the image wide; OpenSlide's rule."""
        coarseness = [max(axis.factor for axis in axes) for axes in self._axes]
        fine = [n for n, each in enumerate(coarseness) if each <= factor * 1.001]
        return max(fine, default=0, key=coarseness.__getitem__)

    def _window(self, location, size, scale):
        level = self._level(scale)
        return Window(level, *(axis.taps(place, size, scale) for axis, place in zip(self._axes[level], location)))

    def _read_windows(self, windows):
        """What each window shows, of what all windows of a level cover together, if that is less than the windows are."""
        unions = {
            level: _union([each for each in windows if each.level == level]) for level in {each.level for each in windows}
        }
        boxes = {level: self.read(level, *union) for level, union in unions.items() if union}
        for window in windows:
            if unions[window.level] is None:
                yield self._combined(window)
            else:
                top, left, _, _ = unions[window.level]
                yield window.of(boxes[window.level], top, left)

    def _combined(self, window):
        """What a window shows, read in strips of rows, so that memory is bounded however wide it is."""
        rows, columns = window.rows, window.columns
        total = np.zeros((rows.size, columns.length, self.channels), np.float32)
        most = max(1, STRIP // max(1, columns.length * self.channels))
        for first in range(rows.first, rows.stop, most) if columns.length else ():
            count = min(most, rows.stop - first)
            total += rows.of(self.read(window.level, first, columns.first, count, columns.length), first)
        return window.across(total)

    def _in_unit_range(self, values):
        if not np.isfinite(values).all():
            raise UnreadableImage(f"{self.name}: pixels are NaN or infinite.")
        return values / np.float32(np.iinfo(self.dtype).max) if self.dtype.kind == "u" else values


def _windows(box, middles, size, scale):
    """Windows of a box around places in its pixels, averaged; so many at a time that memory is bounded."""
    width, parts = size * scale, []
    most = max(1, STRIP // (width**2 * box.shape[2]))
    begins = np.clip(middles - (width - 1) / 2, -width, box.shape[:2])  # Farther outside there is nothing but 0 either.
    apart = np.rint(begins - begins.min(axis=0)).astype(int)
    whole_pixels = np.abs(begins - begins.min(axis=0) - apart).max() < SAME
    region = _crop(box, begins.min(axis=0)[None], apart.max(axis=0) + width)[0] if whole_pixels else None
    for first in range(0, len(middles), most):
        part = slice(first, first + most)
        if whole_pixels:  # As those of a search are: slices of one crop.
            windows = np.stack([region[y : y + width, x : x + width] for y, x in apart[part]])
        else:
            windows = _crop(box, begins[part], (width, width))
        parts.append(_mean(windows, scale))
    return np.concatenate(parts)


def _crop(box, begins, sides):
    """Windows of a box of pixels, from places `[n, 2]` on, in its pixels: bilinear, and 0 outside."""
    places = np.concatenate([begins, begins + np.subtract(sides, 1)], axis=1) / np.tile(np.subtract(box.shape[:2], 1), 2)
    return tf.image.crop_and_resize(box[None], places, np.zeros(len(places), np.int32), sides).numpy()


def _mean(windows, scale):
    """`[n, height, width, channels]`, averaged `scale` by `scale`. A pooling operation takes ten times as long to be called."""
    if scale == 1:
        return windows
    rows = sum(windows[:, first::scale] for first in range(scale))
    return sum(rows[:, :, first::scale] for first in range(scale)) / np.float32(scale**2)


class Taps(NamedTuple):
    """Which pixels along an axis of a level make up which outputs: a matrix of few numbers, all others being 0.

    Attributes:
        size: Integer, how many outputs there are.
        output: Integer array `[taps]`, ascending: the output that a tap is part of.
        pixel: Integer array `[taps]`, ascending: the pixel that it reads. Those of an output follow one another.
        weight: Float32 array `[taps]`, the share of the pixel in the output.
    """

    size: int
    output: np.ndarray
    pixel: np.ndarray
    weight: np.ndarray

    @property
    def first(self):
        return int(self.pixel[0]) if len(self.pixel) else 0

    @property
    def stop(self):
        return int(self.pixel[-1]) + 1 if len(self.pixel) else 0

    @property
    def length(self):
        return self.stop - self.first

    def of(self, pixels: np.ndarray, first: int) -> np.ndarray:
        """The outputs `[size, ...]`, or their parts, of `pixels` `[n, ...]`, those from `first` on."""
        part = slice(*np.searchsorted(self.pixel, (first, first + len(pixels))))
        output, pixel, weight = self.output[part], self.pixel[part] - first, self.weight[part]
        pixels = pixels.astype(np.float32, copy=False)
        if self.size * len(pixels) <= SMALL:
            matrix = np.zeros((self.size, len(pixels)), np.float32)
            matrix[output, pixel] = weight
            return np.tensordot(matrix, pixels, axes=1)
        total = np.zeros((self.size, *pixels.shape[1:]), np.float32)
        begins = np.flatnonzero(np.diff(output, prepend=-1)).tolist()
        for begin, end in zip(begins, [*begins[1:], len(output)]):
            under = pixels[pixel[begin] : pixel[end - 1] + 1]
            np.einsum("p,p...->...", weight[begin:end], under, out=total[output[begin]])
        return total


class Axis(NamedTuple):
    """Rows or columns of a level.

    Attributes:
        image: Integer, how many the image has.
        side: Integer, how many the level has.
        factor: Float, how many of the image each of them is wide.
        origin: Float, where the first one begins, in pixels of the image.
    """

    image: int
    side: int
    factor: float
    origin: float

    def taps(self, place: float, size: int, scale: int) -> Taps:
        """Those of a patch: `scale` samples of each of its pixels, or as many as the level has, each between two pixels."""
        count = max(1, round(scale / self.factor))
        start = place * (self.image - 1) - (scale * size - 1) / 2
        samples = start - 0.5 + (np.arange(size * count) + 0.5) * (scale / count)  # In pixels of the image
        inside = self._inside(start, size * count, scale, count)
        used = np.flatnonzero(inside)
        at = np.clip((samples[used] + 0.5 - self.origin) / self.factor - 0.5, 0, self.side - 1)  # In pixels of the level
        low = np.floor(at).astype(int)
        weights = np.stack([1 - (at - low), at - low], axis=-1) * inside[used, None] / count
        pixels = np.stack([low, np.minimum(low + 1, self.side - 1)], axis=-1)
        return _taps(size, np.repeat(used // count, 2), pixels.ravel(), weights.ravel())

    def _inside(self, start, samples, scale, count):
        """What share of each sample, `scale / count` pixels of the image, lies inside: elsewhere the image reads 0."""
        pixels = np.arange(samples * scale // count)
        inside = (start + pixels >= 0) & (start + pixels <= self.image - 1)  # NaN compares false.
        sample = pixels * count // scale
        return np.bincount(sample, inside, samples) / np.bincount(sample, minlength=samples)

    @lru_cache(64)  # noqa: B019  An axis is a value.
    def parts(self, count: int) -> Taps:
        """Those of `count` equal parts of the image: pixels that lie in two are shared by overlap."""
        edges = np.clip(self.origin + self.factor * np.arange(self.side + 1), 0, self.image)
        edges[[0, -1]] = 0, self.image  # The outermost pixels reach the border.
        cuts = np.unique(np.concatenate([edges, np.linspace(0, self.image, count + 1)]))
        middles, lengths = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
        output = np.minimum((middles * count / self.image).astype(int), count - 1)
        pixel = np.searchsorted(edges, middles, "right") - 1
        return _taps(count, output, pixel, lengths * count / self.image)


def _taps(size, output, pixel, weight):
    """Sorted, with one tap for each pixel of an output."""
    order = np.lexsort((pixel, output))
    output, pixel, weight = output[order], pixel[order], weight[order]
    first = np.flatnonzero(np.diff(output, prepend=-1) | np.diff(pixel, prepend=-1))
    weight = np.add.reduceat(weight, first) if len(first) else weight
    return Taps(size, output[first], pixel[first], weight.astype(np.float32))


class Window(NamedTuple):
    """What a thumbnail or a patch is computed from: its level, and pixels along both axes."""

    level: int
    rows: Taps
    columns: Taps

    @property
    def area(self):
        return self.rows.length * self.columns.length

    def of(self, box, top, left):
        """What it shows, of a box that covers it."""
        rows = self.rows.of(box[self.rows.first - top : self.rows.stop - top], self.rows.first)
        return self.across(rows[:, self.columns.first - left : self.columns.stop - left])

    def across(self, rows):
        """`[rows, columns, channels]` of `[rows, width, channels]`, all pixels of the columns."""
        return self.columns.of(rows.swapaxes(0, 1), self.columns.first).swapaxes(0, 1)


def _union(windows):
    """`(top, left, height, width)` of all windows, `None` if that is more than to read them one by one, or too large."""
    windows = [window for window in windows if window.area]
    if not windows:
        return None
    top, bottom = min(each.rows.first for each in windows), max(each.rows.stop for each in windows)
    left, right = min(each.columns.first for each in windows), max(each.columns.stop for each in windows)
    area = (bottom - top) * (right - left)
    return (top, left, bottom - top, right - left) if area <= min(sum(each.area for each in windows), STRIP) else None


def first_line(error):
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0][:300]
