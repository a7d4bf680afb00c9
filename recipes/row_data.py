"""What a row of the tables trains on and is tested on."""

from functools import partial

import tensorflow as tf
from distortion import distorted

from keras_glimpse import data


def training_data(digits: data.Digits, row, seed: int, epoch: data.Epoch, copies: int = 10) -> tf.data.Dataset:
    """The training images of a `Row`: `copies` of each digit that it does not hold out, if it is jittered or distorted."""
    options = {"seed": seed, "epoch": epoch} | row.data
    digits = first_digits(digits, options.pop("training_digits", None))
    held_out = round(options.pop("validation_split", 0.0) * len(digits.train_images))
    digits = first_digits(digits, len(digits.train_images) - held_out)
    shift = options.pop("shift", 0)
    if options.pop("distorted", False):
        digits, copies = distorted(digits, copies, seed), 1
    if row.jittered:
        return data.jittered(digits, copies=copies, **options).train
    return _shifted(digits, shift, options) if shift else data.plain(digits, **options).train


def evaluation_data(digits: data.Digits, row) -> data.Splits:
    """The images that a `Row` is tested on, and those it holds out: of digits as they are."""
    digits = first_digits(digits, row.data.get("training_digits"))
    make = partial(data.jittered, copies=1) if row.jittered else data.plain
    return make(digits, validation_split=row.data.get("validation_split", 0.0))


def first_digits(digits: data.Digits, count: int | None) -> data.Digits:
    """Of the training digits only the first `count`; None for all."""
    return digits._replace(train_images=digits.train_images[:count], train_labels=digits.train_labels[:count])


def smoke_digits() -> data.Digits:
    """A hundred digits to train on and fifty to test on, that need no download."""
    digits = data.embedded_digits()
    return data.Digits(digits.train_images[:100], digits.train_labels[:100], digits.test_images[:50], digits.test_labels[:50])


def _shifted(digits, shift, options):
    """Training digits at other places in every sweep: put on a larger canvas, of which the middle is kept."""
    canvas = digits.train_images.shape[1] + 2 * shift
    train = data.jittered(digits, canvas=canvas, copies=1, fresh_places=True, **options).train
    return train.map(lambda images, labels: (images[:, shift:-shift, shift:-shift], labels))
