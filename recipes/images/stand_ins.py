"""Small made-up pictures, in files as `boards` and `streets` read them, to try a recipe without its data."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import tensorflow as tf


@cache
def boards() -> Path:
    """A folder with boards of 320x320: stripes, and three inverted squares whose size tells the kind."""
    rng, folder = np.random.default_rng(0), _folder()
    corners = np.array([[40, 40], [150, 160], [280, 270]])  # x, y: far enough apart for windows that see one.
    for name, count in (("trainval", 12), ("test", 4)):
        for n in range(count):
            stripes = 255 * np.repeat(rng.random(32) < 0.5, 10).astype(np.uint8)
            clean, kinds = np.tile(stripes, (320, 1))[..., None], rng.integers(6, size=3)
            defective, ends = clean.copy(), corners + 8 + 2 * kinds[:, None]
            for (x1, y1), (x2, y2) in zip(corners, ends):
                defective[y1:y2, x1:x2] ^= 255
            _write(folder / f"PCBData/{name}{n}_test.jpg", defective)
            _write(folder / f"PCBData/{name}{n}_temp.jpg", clean)
            np.savetxt(folder / f"PCBData/{name}{n}.txt", np.hstack([corners, ends - 1, kinds[:, None] + 1]), "%d")
        lines = [f"{name}{n}.jpg {name}{n}.txt\n" for n in range(count)]
        (folder / f"PCBData/{name}.txt").write_text("".join(lines))
    return folder


@cache
def streets() -> Path:
    """A folder with scenes of 240x408: noise, and a red square, which is a prohibitory sign, in every other one."""
    rng, folder = np.random.default_rng(0), _folder()
    for n in (*range(12), *range(600, 604)):
        scene, (x, y) = rng.integers(100, 200, (240, 408, 3), dtype=np.uint8), rng.integers(220, size=2)
        if n % 2:
            scene[y : y + 15, x : x + 15] = (255, 0, 0)
            with (folder / "gt.txt").open("a") as file:  # As if the scene had 1360x800 pixels.
                file.write(";".join(map(str, [f"{n:05}.ppm", *(np.array([x, y, x + 14, y + 14]) * 10 // 3), 1])) + "\n")
        _write(folder / f"{n:05}.jpg", scene)
    return folder


def _folder():
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write(path, image):
    path.parent.mkdir(exist_ok=True)
    tf.io.write_file(str(path), tf.io.encode_jpeg(image))
