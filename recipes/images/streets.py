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
SHIFT = 0.02  # At most so much of a side: more would push signs at the border out of the image.


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
    """The images shifted, mirrored or not, and with other brightness and contrast, at random.

    A mirrored scene keeps its label: what makes a sign prohibitory is a red ring, which no other sign gets by mirroring. What
    is mirrored, its number or its truck, only tells which prohibition it is.
    """
    count, seeds, room = len(images), tf.unstack(tf.random.split(seed, 5)), [round(SHIFT * side) for side in size]
    down, right = (integers(seed, [count], most + 1, -most) for seed, most in zip(seeds, room))
    mirrored = integers(seeds[2], [count], 2)
    contrast = tf.random.stateless_uniform([count], seeds[3], 0.7, 1.3)
    brightness = tf.random.stateless_uniform([count], seeds[4], -30, 30)

    def vary(image, down, right, mirrored, contrast, brightness):
        ys, xs = (tf.clip_by_value(tf.range(side) + by, 0, side - 1) for side, by in zip(size, (down, right)))
        image = tf.gather(tf.gather(image, ys), tf.where(mirrored == 1, xs[::-1], xs), axis=1)
        return tf.saturate_cast((tf.cast(image, tf.float32) - 128) * contrast + 128 + brightness, tf.uint8)

    return with_rows(images, (down, right, mirrored, contrast, brightness), vary)


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
