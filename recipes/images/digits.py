"""The digits that the images of `clutter` and `megapixel` are composed of."""

import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tables.digits import mnist_digits

from images.dataset import hold_out
from keras_glimpse import data

SIDE = 28


class Digits(NamedTuple):
    """Uint8 `[n, 28, 28]`, int32 `[n]`, and the boxes `[n, 4]` that the ink of each just fits in: y1, x1, y2, x2."""

    images: tf.Tensor
    labels: np.ndarray
    boxes: np.ndarray


def digit_sets(data_dir: str | os.PathLike | None = None, smoke: bool = False) -> list[Digits]:
    """Digits for images of training, validation and testing: those of MNIST, or those that need no download."""
    digits = data.embedded_digits() if smoke else mnist_digits(data_dir)
    train, held_out = hold_out(range(len(digits.train_labels)))
    parts = [(digits.train_images[which], digits.train_labels[which]) for which in (train, held_out)]
    return [_with_boxes(images[..., 0], labels) for images, labels in [*parts, digits[2:]]]


def _with_boxes(images, labels):
    sides = [images.any(axis=axis) for axis in (2, 1)]  # Rows with ink, columns with ink.
    first = [ink.argmax(axis=1) for ink in sides]
    end = [SIDE - ink[:, ::-1].argmax(axis=1) for ink in sides]
    return Digits(tf.constant(images), labels, np.stack([*first, *end], axis=1))
