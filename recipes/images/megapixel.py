"""Megapixel MNIST: which digit is there three times? By the rules of https://github.com/idiap/attention-sampling.

Five digits lie on 1500x1500 black pixels without overlap: three of the class that is the label, and two of other classes. Then
50 strokes are put anywhere, each one of 50 patterns of the set: a square of 28x28 with two straight lines, that covers what was
there. There are 5,000 images to train on, of which a tenth is held out, and 1,000 to test on; a set has patterns of its own.
In every epoch each training image is rolled over its borders by other numbers of pixels, so that no thumbnail is seen twice.
"""

import os

import numpy as np
import tensorflow as tf

from images.dataset import HELD_OUT, Images, Task, integers, squares, with_rows
from images.digits import SIDE, Digits, digit_sets

SAME, OTHERS = 3, 2
PATTERNS = 50


def megapixel(data_dir: str | os.PathLike | None = None, smoke: bool = False) -> Task:
    """The task. Boxes are those of the five digits, of which the first three are of the class.

    Args:
        data_dir: Folder where TFDS keeps MNIST; `None` as in `keras_glimpse.data.mnist_digits`.
        smoke: Boolean, whether to compose few small images of digits that need no download.
    """
    counts = (8, 4, 4) if smoke else (5000 - 5000 // HELD_OUT, 5000 // HELD_OUT, 1000)
    side, strokes = (300, 5) if smoke else (1500, 50)
    parts = enumerate(zip(digit_sets(data_dir, smoke), counts))
    train, *fixed = [composed(digits, count, side, strokes, np.random.default_rng(n)) for n, (digits, count) in parts]

    def rolled(seed):
        by = integers(seed, (len(train), 2), side)
        return with_rows(train, (by,), lambda image, by: tf.roll(image, by, (0, 1)))

    return Task("megapixel", tuple("0123456789"), rolled, *fixed)


def composed(digits: Digits, count: int, side: int, strokes: int, rng: np.random.Generator) -> Images:
    """`count` images of `side` pixels, each with five digits and so many strokes."""
    labels = rng.integers(10, size=count, dtype=np.int32)
    numbers = np.stack([_three_and_two(digits.labels, label, rng) for label in labels])
    places = _apart(rng, count, side - SIDE)
    patterns = tf.constant(stroke_patterns(rng))
    which = rng.integers(PATTERNS, size=(count, strokes))
    there = rng.integers(SIDE, side - SIDE, size=(count, strokes, 2), dtype=np.int32)

    def make(numbers, places, which, there):
        parts = tf.cast(tf.concat([tf.gather(digits.images, numbers), tf.gather(patterns, which)], axis=0), tf.int16)
        order = tf.cast(tf.range(SAME + OTHERS + strokes), tf.int16)[:, None, None]
        where = squares(tf.concat([places, there], axis=0), SIDE)
        # Of several values for one pixel, the last in order is the largest of order and value in one number.
        last = tf.tensor_scatter_nd_max(tf.zeros([side, side], tf.int16), where, order * 256 + parts)
        return tf.cast(tf.bitwise.bitwise_and(last, tf.constant(255, tf.int16)), tf.uint8)[..., None]

    boxes = [digits.boxes[five] + np.tile(place, 2) for five, place in zip(numbers, places)]
    return Images(labels, (numbers, places, which, there), make, boxes)


def _three_and_two(labels, label, rng):
    parts = ((labels == label, SAME), (labels != label, OTHERS))
    return np.concatenate([rng.choice(np.flatnonzero(among), count) for among, count in parts])


def _apart(rng, count, room):
    """Corners `[count, 5, 2]` of squares that do not overlap within an image: those that do are drawn again."""
    draw = lambda count: rng.integers(room + 1, size=(count, SAME + OTHERS, 2), dtype=np.int32)  # noqa: E731
    places = draw(count)
    while len(again := np.flatnonzero(_overlap(places))):
        places[again] = draw(len(again))
    return places


def _overlap(places):
    near = (abs(places[:, :, None] - places[:, None]) < SIDE).all(axis=-1)
    return near.sum(axis=(1, 2)) > places.shape[1]  # Each is near itself.


def stroke_patterns(rng: np.random.Generator) -> np.ndarray:
    """Uint8 `[50, 28, 28]`: a line from the corner at 0 to 72 degrees with another such line, mirrored or not, in each."""
    angles = rng.uniform(0, 0.4 * np.pi, PATTERNS)
    towards = np.stack([np.cos(angles), np.sin(angles)])
    ends = 27.49 * towards / towards.max(axis=0)  # Where the line leaves the square.
    rows, columns = np.rint(np.linspace(0, ends, 2 * SIDE)).astype(int).transpose(1, 2, 0)
    first = np.zeros((PATTERNS, SIDE, SIDE), bool)
    first[np.arange(PATTERNS)[:, None], rows, columns] = True
    second = rng.permutation(first)
    for axis in (1, 2):
        mirrored = rng.random(PATTERNS) < 0.33
        second[mirrored] = np.flip(second[mirrored], axis)
    return ((first | second) * rng.uniform(0.8, 1.0, first.shape) * 255).astype(np.uint8)
