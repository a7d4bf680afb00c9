"""Images of any size that nobody stores: a box of pixels is composed when it is asked for, at any level.

A scene is a mosaic of a few dark textures on which one bright digit lies anywhere, enlarged 8 times, among strokes that are
enlarged as much and are no digit. Its label is the digit. Light adds up and is never clipped, so that the mean of many pixels
is the mean of the textures and of the ink, which are known: every level is the mean of the image, rounded.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from images.digits import SIDE, Digits
from images.megapixel import stroke_patterns

from keras_glimpse import ImageSource

ENLARGED = 8
BLOCK, TEXTURES = 640, 8  # Pixels a side, and how many there are.
FACTORS = (1, 2, 4, 8, 16, 32, 64, 128)  # Pixels of the image along a side of one of each level: they divide a block.
DARK, BRIGHT = 60, 190  # The most light of a texture and of ink; of both it is less than 256.
DIMMER = 0.5, 1.0  # How bright strokes are beside a digit.


class Ink(NamedTuple):
    """Uint8 light `[28, 28]` that is enlarged and added at a place, in units of `ENLARGED` pixels."""

    light: np.ndarray
    y: int
    x: int

    def at(self, factor: int) -> tuple[int, int, np.ndarray]:
        """Where it begins in a level, and its light there."""
        if factor <= ENLARGED:
            times = ENLARGED // factor
            return self.y * times, self.x * times, self.light.repeat(times, axis=0).repeat(times, axis=1)
        parts = factor // ENLARGED
        light = np.pad(self.light, [(place % parts, -(place + SIDE) % parts) for place in (self.y, self.x)])
        rows, columns = np.array(light.shape) // parts
        return self.y // parts, self.x // parts, light.reshape(rows, parts, columns, parts).mean(axis=(1, 3))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Pixels of the image: y1, x1, y2, x2."""
        return tuple(ENLARGED * each for each in (self.y, self.x, self.y + SIDE, self.x + SIDE))


class Textures:
    """`TEXTURES` blocks of noise in colour, coarse, middling and fine: `levels` has their means `[n, side, side, 3]`."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        light = rng.uniform(0.3, 0.7, (TEXTURES, 1, 1, 3))
        for grain in (1, ENLARGED, 8 * ENLARGED):
            noise = rng.uniform(-0.1, 0.1, (TEXTURES, BLOCK // grain, BLOCK // grain, 3))
            light = light + noise.repeat(grain, axis=1).repeat(grain, axis=2)
        whole = np.rint(DARK * light).astype(np.uint8)
        self.levels = [whole, *(_means(whole, factor).astype(np.float32) for factor in FACTORS[1:])]


class Scene(ImageSource):
    """One image.

    Args:
        name: What errors call it.
        side: Height and width in pixels, at least `BLOCK`.
        textures: `Textures`.
        mosaic: Integer array `[rows, columns]`, which texture each block has; the last blocks may reach over the border.
        inks: Sequence of `Ink`, the digit first.
    """

    def __init__(self, name: str, side: int, textures: Textures, mosaic: np.ndarray, inks: Sequence[Ink]):
        super().__init__(name, [(side // factor,) * 2 for factor in FACTORS], 3, np.uint8, FACTORS)
        self.textures, self.mosaic, self.inks = textures, mosaic, inks

    def read_level(self, level, top, left, height, width):
        side = BLOCK // FACTORS[level]
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        which = self.mosaic[np.ix_(rows // side, columns // side)]
        light = self.textures.levels[level][which, rows[:, None] % side, columns % side].astype(np.float32)
        for ink in self.inks:
            y, x, added = ink.at(FACTORS[level])
            y1, x1 = max(y, top), max(x, left)
            y2, x2 = min(y + len(added), top + height), min(x + added.shape[1], left + width)
            if y1 < y2 and x1 < x2:
                light[y1 - top : y2 - top, x1 - left : x2 - left] += added[y1 - y : y2 - y, x1 - x : x2 - x, None]
        return np.rint(light).astype(np.uint8)

    def block(self, row: int, column: int) -> np.ndarray:
        """All pixels of a block of the mosaic; of blocks without ink, the array of their texture."""
        top, left = row * BLOCK, column * BLOCK
        if any(top < y2 and y1 < top + BLOCK and left < x2 and x1 < left + BLOCK for y1, x1, y2, x2 in self.boxes):
            return self.read_level(0, top, left, BLOCK, BLOCK)
        return self.textures.levels[0][self.mosaic[row, column]]

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Of the digit and the strokes."""
        return [ink.box for ink in self.inks]


class Scenes(NamedTuple):
    """Images and what they show."""

    images: list[Scene]
    labels: np.ndarray


def scenes(digits: Digits, count: int, side: int, seed: int, strokes: int = 4) -> Scenes:
    """Scenes of `side` pixels with so many strokes, and with digits of a set in turn; all else at random."""
    rng, textures = np.random.default_rng(seed), Textures()
    which = np.resize(rng.permutation(len(digits.labels)), count)
    light = (digits.images.numpy()[which] * (BRIGHT / 255)).astype(np.uint8)
    patterns = stroke_patterns(rng) * (BRIGHT / 255)
    blocks = -(-side // BLOCK)

    def scene(number):
        others = patterns[rng.integers(len(patterns), size=strokes)] * rng.uniform(*DIMMER, (strokes, 1, 1))
        mosaic = rng.integers(TEXTURES, size=(blocks, blocks), dtype=np.uint8)
        places = _apart(rng, 1 + strokes, side // ENLARGED - SIDE)
        inks = [Ink(*each) for each in zip([light[number], *others.astype(np.uint8)], *places.T.tolist())]
        return Scene(f"scene {number} of seed {seed}", side, textures, mosaic, inks)

    return Scenes([scene(number) for number in range(count)], digits.labels[which])


def _apart(rng, count, room):
    """Corners `[count, 2]` of squares of ink that do not overlap, from 0 to `room`."""
    while True:
        places = rng.integers(room + 1, size=(count, 2))
        if (abs(places[:, None] - places).max(axis=-1) < SIDE).sum() == count:  # Each is near itself.
            return places


def _means(blocks, factor):
    side = BLOCK // factor
    return blocks.reshape(TEXTURES, side, factor, side, factor, 3).mean(axis=(2, 4))
