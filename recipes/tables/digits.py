"""Digits for the recipes, and what a row of the tables trains on and is tested on."""

import os
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse import data
from tables.distortion import distorted


def training_data(
    digits: data.Digits, row, seed: int, epoch: data.Epoch, copies: int = 10, teacher: keras.Model | None = None
) -> tf.data.Dataset:
    """The training images of a `Row`: `copies` of each digit that it does not hold out, if it is jittered or distorted.

    Labels are class numbers; or shares of classes, if it smooths them or has a teacher, a network from digits to logits.
    """
    options = {"seed": seed, "epoch": epoch} | row.data
    digits = first_digits(digits, options.pop("training_digits", None))
    held_out = round(options.pop("validation_split", 0.0) * len(digits.train_images))
    digits = first_digits(digits, len(digits.train_images) - held_out)
    shift = options.pop("shift", 0)
    if options.pop("distorted", False):
        digits, copies = distorted(digits, copies, seed), 1
    shares = _shares(digits, row, teacher)
    if shares is not None:
        digits = digits._replace(train_labels=np.arange(len(shares)))
    if row.jittered:
        train = data.jittered(digits, copies=copies, **options).train
    else:
        train = _shifted(digits, shift, options) if shift else data.plain(digits, **options).train
    return train if shares is None else train.map(lambda images, digit: (images, tf.gather(shares, digit)))


def _shares(digits, row, teacher):
    """`[digits, 10]`, what is taught of each training digit in place of its label; `None` for the label."""
    if teacher:
        return tf.nn.softmax(teacher.predict(digits.train_images, 1000, verbose=0) / row.temperature)
    if row.label_smoothing:
        return tf.one_hot(digits.train_labels, 10) * (1 - row.label_smoothing) + row.label_smoothing / 10
    return None


def evaluation_data(digits: data.Digits, row) -> data.Splits:
    """The images that a `Row` is tested on, and those it holds out: of digits as they are."""
    digits = first_digits(digits, row.data.get("training_digits"))
    make = partial(data.jittered, copies=1) if row.jittered else data.plain
    return make(digits, validation_split=row.data.get("validation_split", 0.0))


def first_digits(digits: data.Digits, count: int | None) -> data.Digits:
    """Of the training digits only the first `count`; None for all."""
    return digits._replace(train_images=digits.train_images[:count], train_labels=digits.train_labels[:count])


def mnist_digits(data_dir: str | os.PathLike | None = None, download: bool = False) -> data.Digits:
    """As `keras_glimpse.data` has it; where it is missing, the error names the command that fetches it."""
    try:
        return data.mnist_digits(data_dir, download)
    except FileNotFoundError as error:
        fetch = "`python recipes/quickstart.py --data mnist --download` fetches it"
        raise FileNotFoundError(f"{error} ({fetch}.)") from error


def splits_for(image_shape: tuple, digits: data.Digits, test_copies: int = 3) -> data.Splits:
    """Digits as a model of such images knows them: jittered, 48x48, or as they are, 28x28."""
    return data.jittered(digits, test_copies=test_copies) if image_shape[0] == 48 else data.plain(digits)


def smoke_digits() -> data.Digits:
    """A hundred digits to train on and fifty to test on, that need no download."""
    digits = data.embedded_digits()
    return data.Digits(digits.train_images[:100], digits.train_labels[:100], digits.test_images[:50], digits.test_labels[:50])


def _shifted(digits, shift, options):
    """Training digits at other places in every sweep: put on a larger canvas, of which the middle is kept."""
    canvas = digits.train_images.shape[1] + 2 * shift
    train = data.jittered(digits, canvas=canvas, copies=1, fresh_places=True, **options).train
    return train.map(lambda images, labels: (images[:, shift:-shift, shift:-shift], labels))
