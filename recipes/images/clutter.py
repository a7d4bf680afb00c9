"""Translated and cluttered MNIST, by the rules of https://github.com/google-deepmind/mnist-cluttered.

A digit lies anywhere on a black canvas, among pieces of 8x8 pixels that are cut anywhere from random digits of the same set and
put anywhere. Where they meet, values add up to white at most. An epoch has every training digit once, at a new place among new
pieces. As in "Recurrent Models of Visual Attention" (Mnih et al., 2014), there are 4 pieces on 60x60 pixels and 8 on 100x100.
"""

import os
from dataclasses import replace
from functools import partial

import numpy as np
import tensorflow as tf

from images.dataset import Images, Task, integers, squares
from images.digits import SIDE, Digits, digit_sets

PIECE = 8


def clutter(side: int, pieces: int, data_dir: str | os.PathLike | None = None, smoke: bool = False) -> Task:
    """The task on canvases of `side` pixels; without pieces, it is translated MNIST.

    Args:
        side: Integer, of the canvas.
        pieces: Integer, pieces of other digits on each canvas.
        data_dir: Folder where TFDS keeps MNIST; `None` as in `keras_glimpse.data.mnist_digits`.
        smoke: Boolean, whether to compose few images of digits that need no download.
    """
    train, *fixed = (Digits(*(part[: 40 if smoke else None] for part in digits)) for digits in digit_sets(data_dir, smoke))
    fixed = [_with_boxes(composed(digits, side, pieces, tf.constant([n, 0])), digits) for n, digits in enumerate(fixed)]
    name = f"{'clutter' if pieces else 'translated'}-{side}"
    return Task(name, tuple("0123456789"), partial(composed, train, side, pieces), *fixed)


def composed(digits: Digits, side: int, pieces: int, seed: tf.Tensor) -> Images:
    """An image of each digit, at a random place among random pieces."""
    count, seeds = len(digits.labels), tf.random.split(seed, 4)
    places = integers(seeds[0], [count, 2], side - SIDE + 1)
    sources = integers(seeds[1], [count, pieces], count)
    cuts = integers(seeds[2], [count, pieces, 2], SIDE - PIECE + 1)
    targets = integers(seeds[3], [count, pieces, 2], side - PIECE + 1)

    def make(number, place, sources, cuts, targets):
        pieces = tf.gather_nd(tf.gather(digits.images, sources), squares(cuts, PIECE), batch_dims=1)
        canvas = _on_black(tf.gather(digits.images, [number]), place[None], side) + _on_black(pieces, targets, side)
        return tf.cast(tf.minimum(canvas, 255), tf.uint8)[..., None]

    return Images(digits.labels, (tf.range(count), places, sources, cuts, targets), make)


def _on_black(parts, places, side):
    """The sum of squares `[k, size, size]` that lie at `places` on black `[side, side]`."""
    size = parts.shape[1]
    here = tf.range(side) - places[..., None]  # Of each part, each row's number in it, and each column's.
    inside = tf.cast((here >= 0) & (here < size), tf.int32)
    here = tf.clip_by_value(here, 0, size - 1)
    rows = tf.gather(tf.cast(parts, tf.int32), here[:, 0], axis=1, batch_dims=1)
    spread = tf.gather(rows, here[:, 1], axis=2, batch_dims=1)
    return tf.reduce_sum(spread * inside[:, 0, :, None] * inside[:, 1, None], axis=0)


def _with_boxes(images, digits):
    return replace(images, boxes=(digits.boxes + np.tile(images.rows[1], 2))[:, None])
