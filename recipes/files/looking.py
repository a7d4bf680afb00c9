"""What it takes to look at an image in a file, or to read all of it: each job runs in a process of its own.

Of each job: the milliseconds of the first look, and medians of others: `opened`, at a file that was just opened, and `warm`, at
one that is open, of which GDAL may have decoded parts before. The file is in the page cache. `MB open` is what opening it asks
of the operating system, most of it lists of tiles; `MB read` and `Mpx` are of the first look itself. `MB peak` is the memory
above that of a process that has imported all.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import keras
import numpy as np
import tensorflow as tf

import keras_glimpse
from keras_glimpse import ImageSource, open_image

ROUNDS = 25
CACHE = "64"  # MB that GDAL may keep of what it has decoded, in every job.


def measured(job: Callable, *arguments) -> dict:
    """What a job of this module tells, run in a new process, and its peak of memory."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_with_peak, [job, *arguments])


def _with_peak(job, *arguments):
    os.environ["GDAL_CACHEMAX"] = CACHE
    import rasterio  # noqa: F401  Else the first look would.

    imported = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak of importing.
    result = job(*arguments)
    return result | {"MB peak": _resident("VmHWM") - imported}


# ---- Jobs ----


def two_windows(path: Path) -> dict:
    """Reads a thumbnail and two windows of 96 pixels, each time at other places, without networks."""
    rng = np.random.default_rng(0)

    def look(source):
        source.thumbnail((128, 128))
        source.patches(rng.random((2, 2)), 96)

    return _timed(look, path)


def ours(path: Path, model: Path, label: int) -> dict:
    """Thumbnail and glimpses, all of them, and what is read for them."""
    model = keras.models.load_model(model, compile=False)
    look = lambda source: keras_glimpse.cascade_predict(model, [source], threshold=1.0)  # noqa: E731
    look(open_image(np.zeros((1024, 1024, 3), np.uint8)))  # Traces the graphs.
    timed = _timed(look, path)
    answer = look(open_image(path)).probabilities.argmax()
    return {"says": _said(answer, label)} | timed


def all_of_it(path: Path) -> dict:
    """Reads every pixel for the thumbnail, a few rows at a time."""
    return _once(lambda source: _Finest(source).thumbnail((256, 256)), path)


def tile_by_tile(path: Path, model: Path, label: int) -> dict:
    """Classifies each patch of the level at the glimpses' scale, half a patch apart; the most confident one decides."""
    model = keras.models.load_model(model, compile=False)
    size, (scale,) = model.crop.size, model.crop.scales
    net = tf.function(partial(model.glimpse_nets[0], training=False))
    sure, answer = -1.0, None

    def look(source):
        nonlocal sure, answer
        for patches in _strips(source, scale, size):
            probabilities = tf.nn.softmax(net(patches)).numpy()
            if probabilities.max() > sure:
                sure, answer = probabilities.max(), probabilities.max(axis=0).argmax()

    net(tf.zeros((1, size, size, 3)))
    timed = _once(look, path)
    return {"says": _said(answer, label)} | timed


def _strips(source, scale, size):
    """Patches `[n, size, size, channels]` of a strip of rows after another, of the level at a scale."""
    level = [round(source.shape[0] / height) for height, _ in source.levels].index(scale)
    height, width = source.levels[level]
    for top in range(0, height - size + 1, size // 2):
        strip = source.read(level, top, 0, size, width).astype(np.float32) / 255
        windows = np.lib.stride_tricks.sliding_window_view(strip, size, axis=1)[:, :: size // 2]  # [size, n, channels, size]
        yield tf.constant(windows.transpose(1, 0, 3, 2))


class _Finest(ImageSource):
    """An image without its coarser levels."""

    def __init__(self, source):
        super().__init__(source.name, source.levels[:1], source.channels, source.dtype)
        self._source = source

    def read_level(self, *box):
        return self._source.read(*box)


# ---- Time, bytes and memory ----


def _timed(look, path):
    first = _once(look, path)
    opened = [_seconds(look, path)[0] for _ in range(ROUNDS)]
    source = open_image(path)
    look(source)
    warm = [_seconds(look, source)[0] for _ in range(ROUNDS)]
    return first | {"opened ms": 1000 * median(opened), "warm ms": 1000 * median(warm)}


def _once(look, path):
    seconds, source = _seconds(look, path)
    read = {"Mpx": source.pixels_read / 1e6, "MB read": source.bytes_read / 1e6, "MB open": _to_open(path)}
    return {"first ms": 1000 * seconds} | read


def _seconds(look, image):
    start = time.perf_counter()
    look(source := open_image(image))
    return time.perf_counter() - start, source


def _said(answer, label):
    return "right" if answer == label else "wrong"


def _to_open(path):
    before = _proc("io", "rchar")
    open_image(path)
    return (_proc("io", "rchar") - before) / 1e6


def _resident(name):
    """MB, now or at the peak. What `resource` tells of a process includes the peak of the one that started it."""
    return _proc("status", name) * 1024 / 1e6


def _proc(file, name):
    """A number that Linux tells of this process."""
    lines = Path("/proc/self", file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
