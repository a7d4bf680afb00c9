"""Street scenes: is there a prohibitory sign? The German Traffic Sign Detection Benchmark (Houben et al., 2013).

FullIJCNN2013.zip, linked from https://benchmark.ini.rub.de/gtsdb_dataset.html, has `gt.txt` and scenes of 1360x800 pixels as
`.ppm`; `.jpg` of any size are read as well. Scenes up to 599 are for training, of which a tenth is held out, the others for
testing. Boxes of the signs are for measuring only.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from images import stand_ins
from images.dataset import Images, Task, decoded, hold_out, integers, with_rows

PROHIBITORY = {*range(6), *range(7, 11), 15, 16}
SIZE = (800, 1360)  # Of the scenes that `gt.txt` has boxes for.
FIRST_TEST = 600
ZOOM = (0.74, 1.2)  # Most signs stay in a scene that is enlarged so much.


def streets(data_dir: str | os.PathLike | None = None, smoke: bool = False) -> Task:
    """The task.

    Args:
        data_dir: Folder with `gt.txt` and the scenes.
        smoke: Boolean, whether to take few scenes, and without `data_dir` small ones that are made up.
    """
    trainval, test = _scenes(Path(stand_ins.streets() if smoke and not data_dir else data_dir or ""))
    parts = (*hold_out(trainval[: 12 if smoke else None]), test[: 12 if smoke else None])
    train, validation, test = map(_images, parts)
    names = ("no prohibitory sign", "prohibitory sign")
    return Task("streets", names, partial(varied, train, size=test.shape[:2]), validation, test)


def varied(images: Images, seed: tf.Tensor, size: tuple[int, int]) -> Images:
    """The images zoomed in or out, mirrored or not, and with other brightness and contrast, at random.

    A mirrored scene keeps its label: what makes a sign prohibitory is a red ring, which no other sign gets by mirroring. What
    is mirrored, its number or its truck, only tells which prohibition it is.
    """
    count, seeds = len(images), tf.unstack(tf.random.split(seed, 6))
    zoom = tf.exp(tf.random.stateless_uniform([count], seeds[0], *np.log(ZOOM)))
    down, right = (tf.random.stateless_uniform([count], seed) for seed in seeds[1:3])
    mirrored = integers(seeds[3], [count], 2)
    contrast = tf.random.stateless_uniform([count], seeds[4], 0.7, 1.3)
    brightness = tf.random.stateless_uniform([count], seeds[5], -30, 30)

    def vary(image, zoom, down, right, mirrored, contrast, brightness):
        image = tf.cast(tf.where(mirrored == 1, image[:, ::-1], image), tf.float32)
        for axis, (side, place) in enumerate(zip(size, (down, right))):
            image = _zoomed(image, axis, side, zoom, place)
        return tf.saturate_cast((image - 128) * contrast + 128 + brightness, tf.uint8)

    return with_rows(images, (zoom, down, right, mirrored, contrast, brightness), vary)


def _zoomed(image, axis, side, zoom, place):
    """An image enlarged along an axis, of which a part is left, or shrunk, with its border repeated; `place` in [0, 1]."""
    at = tf.range(side, dtype=tf.float32) / zoom + place * (side - 1) * (1 - 1 / zoom)
    at = tf.clip_by_value(at, 0.0, float(side - 1))
    low = tf.floor(at)
    share = tf.reshape(at - low, [-1, 1, 1] if axis == 0 else [-1, 1])
    low = tf.cast(low, tf.int32)
    high = tf.minimum(low + 1, side - 1)
    return tf.gather(image, low, axis=axis) * (1 - share) + tf.gather(image, high, axis=axis) * share


def _images(scenes):
    """Of pairs of a file and the boxes of its prohibitory signs."""
    files, boxes = zip(*scenes)
    return Images(np.array([len(each) > 0 for each in boxes], np.int32), (np.array(files),), _reader(files[0]), boxes)


def _reader(file):
    """What reads scenes like this one. A `.ppm` ends with its pixels as they are."""
    if file.endswith(".jpg"):
        return partial(decoded, channels=3)
    count = 3 * SIZE[0] * SIZE[1]
    pixels = lambda path: tf.io.decode_raw(tf.strings.substr(tf.io.read_file(path), -count, count), tf.uint8)  # noqa: E731
    return lambda path: tf.reshape(pixels(path), [*SIZE, 3])


def _scenes(folder):
    """Those of training and of testing: files, and boxes of prohibitory signs."""
    files = sorted(str(path) for path in folder.glob("*") if path.suffix in (".jpg", ".ppm"))
    if not files or not (folder / "gt.txt").exists():
        raise FileNotFoundError(
            f"gt.txt and scenes were not found in {folder}: --data-dir must be the folder of FullIJCNN2013.zip, which is to be "
            "had from https://benchmark.ini.rub.de/gtsdb_dataset.html."
        )
    scale = np.divide(_reader(files[0])(files[0]).shape[:2], SIZE)
    signs = {}
    for line in (folder / "gt.txt").read_text().split():
        name, *box, category = line.split(";")
        if int(category) in PROHIBITORY:
            x1, y1, x2, y2 = map(int, box)
            signs.setdefault(Path(name).stem, []).append((y1, x1, y2 + 1, x2 + 1))
    scenes = [(file, np.reshape(signs.get(Path(file).stem, ()), (-1, 4)) * np.tile(scale, 2)) for file in files]
    first = sum(int(Path(file).stem) < FIRST_TEST for file in files)
    return scenes[:first], scenes[first:]
