"""MNIST, jittered MNIST (section 4.1), and a small substitute that needs no download, as `tf.data` pipelines."""

from math import prod
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_integers, check_numbers, integers
from keras_glimpse.data.digits import Digits, check_digits, mnist_digits

CHUNK, CHUNK_BYTES = 1600, 2**23  # images that are read at once, in whole batches, and at most so many bytes


class Splits(NamedTuple):
    """Batched datasets of `(images, labels)`: uint8 `[batch, height, width, 1]` and int32 `[batch]`.

    Attributes:
        train: `tf.data.Dataset`, shuffled anew every epoch, without the validation images.
        validation: `tf.data.Dataset`, or `None` if `validation_split` is 0.
        test: `tf.data.Dataset`.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset | None
    test: tf.data.Dataset


class Epoch(keras.callbacks.Callback):
    """Callback that holds the number of the epoch, for a dataset whose order and placement depend on it.

    Passed to the dataset and to `keras.Model.fit`, it makes interrupted training resume with the same batches as uninterrupted
    training. `GlimpseClassifier.fit` with `checkpoint` does not need it.

    Attributes:
        number: Int64 `tf.Variable`, the current epoch, from 0.

    Example:
    >>> from keras_glimpse import data
    >>> epoch = data.Epoch()
    >>> train, _, _ = data.plain(data.embedded_digits(), epoch=epoch)
    >>> callbacks = [epoch, keras.callbacks.BackupAndRestore("backup")]  # ... keras_model.fit(train, callbacks=callbacks)
    """

    def __init__(self):
        super().__init__()
        self.number = tf.Variable(0, dtype=tf.int64)

    def on_epoch_begin(self, epoch, logs=None):
        self.number.assign(epoch)


def plain(
    digits: Digits,
    batch_size: int = 50,
    *,
    validation_split: float = 0.0,
    seed: int = 0,
    epoch: Epoch | None = None,
) -> Splits:
    """Datasets of unmodified digits; the training set is shuffled anew every epoch.

    Args:
        digits: A `Digits`, such as the result of `mnist_digits` or `embedded_digits`.
        batch_size: Positive integer, images per batch; the last batch of an epoch may be smaller. Defaults to `50`.
        validation_split: Float in [0, 1), the fraction of the training digits, from the end, held out as `validation`. Defaults
            to `0.0`.
        seed: Non-negative integer, the seed of the shuffling. Defaults to `0`.
        epoch: Optional `Epoch` callback that is also passed to `fit`. Defaults to `None`: epochs are counted by iterations over
            the dataset.

    Returns:
        A `Splits` of `train`, `validation` and `test`.

    Raises:
        ValueError: If an argument is out of range, or the digits have the wrong shape or dtype.

    Example:
    >>> from keras_glimpse import data
    >>> train, validation, test = data.plain(data.embedded_digits(), validation_split=0.1)
    >>> images, labels = next(iter(train))
    >>> images.shape, labels.shape
    (TensorShape([50, 28, 28, 1]), TensorShape([50]))
    """
    return _splits(digits, batch_size, validation_split, seed, epoch, lambda images, is_train, seed: _as_they_are(images))


def jittered(
    digits: Digits,
    batch_size: int = 50,
    *,
    canvas: int | tuple[int, int] = 48,
    copies: int = 10,
    test_copies: int = 3,
    fresh_places: bool = False,
    validation_split: float = 0.0,
    seed: int = 0,
    epoch: Epoch | None = None,
) -> Splits:
    """Datasets of digits at random positions on a black canvas, as jittered MNIST in section 4.1.

    Only the positions are held in memory; images are composed as batches are read.

    Args:
        digits: A `Digits`, such as the result of `mnist_digits` or `embedded_digits`.
        batch_size: Positive integer, images per batch; the last batch of an epoch may be smaller. Defaults to `50`.
        canvas: Positive integer, the side of the images in pixels, or a tuple `(height, width)`. Defaults to `48`.
        copies: Positive integer, images per training digit: 10 make 600,000 of MNIST's 60,000. Defaults to `10`.
        test_copies: Positive integer, images per test and validation digit: 3 make 30,000 of MNIST's 10,000. Defaults to `3`.
        fresh_places: Boolean, whether training digits get new positions every epoch; the paper keeps them. Defaults to `False`.
        validation_split: Float in [0, 1), the fraction of the training digits, from the end, held out with all their copies as
            `validation`. Defaults to `0.0`.
        seed: Non-negative integer, the seed of the shuffling and of the training positions; those of test and validation images
            are fixed. Defaults to `0`.
        epoch: Optional `Epoch` callback, as in `plain`. Defaults to `None`.

    Returns:
        A `Splits` of `train`, `validation` and `test`.

    Raises:
        ValueError: If the canvas is smaller than the digits, another argument is out of range, or the digits have the wrong
            shape or dtype.

    Example:
    >>> from keras_glimpse import data
    >>> train, _, test = data.jittered(data.embedded_digits(), copies=2)
    >>> images, labels = next(iter(train))
    >>> images.shape, labels.shape
    (TensorShape([50, 48, 48, 1]), TensorShape([50]))

    Reference: Ranzato, "On Learning Where To Look", 2014, section 4.1.
    """
    digits, canvas = check_digits(digits), integers("canvas", canvas, length=2)
    side = digits.train_images.shape[1:3]
    if canvas[0] < side[0] or canvas[1] < side[1]:
        raise ValueError(f"canvas must be at least as large as the digits, {side}; got {canvas}.")
    check_integers(1, copies=copies, test_copies=test_copies)

    def place(images, is_train, seed):
        return _placed(images, canvas, copies if is_train else test_copies, is_train and fresh_places, seed)

    return _splits(digits, batch_size, validation_split, seed, epoch, place)


def mnist(batch_size: int = 50, *, data_dir=None, download: bool = False, **kwargs) -> Splits:
    """MNIST as datasets of 28x28 images: `plain(mnist_digits(data_dir, download), ...)`.

    Args:
        batch_size: Positive integer, images per batch. Defaults to `50`.
        data_dir: Optional string or path, as in `mnist_digits`. Defaults to `None`.
        download: Boolean, as in `mnist_digits`. Defaults to `False`.
        **kwargs: Further arguments of `plain`: `validation_split`, `seed`, `epoch`.

    Returns:
        A `Splits` of `train`, `validation` and `test`.

    Raises:
        FileNotFoundError: If MNIST is not found and `download` is `False`; other errors as `mnist_digits` and `plain`.

    Example:
    >>> train, validation, test = mnist(validation_split=0.1, download=True)  # doctest: +SKIP
    """
    return plain(mnist_digits(data_dir, download), batch_size, **kwargs)


def jittered_mnist(batch_size: int = 50, *, data_dir=None, download: bool = False, **kwargs) -> Splits:
    """Jittered MNIST, 600,000 and 30,000 images of 48x48: `jittered(mnist_digits(data_dir, download), ...)`.

    Args:
        batch_size: Positive integer, images per batch. Defaults to `50`.
        data_dir: Optional string or path, as in `mnist_digits`. Defaults to `None`.
        download: Boolean, as in `mnist_digits`. Defaults to `False`.
        **kwargs: Further arguments of `jittered`: `canvas`, `copies`, `validation_split`, `seed`, ...

    Returns:
        A `Splits` of `train`, `validation` and `test`.

    Raises:
        FileNotFoundError: If MNIST is not found and `download` is `False`; other errors as `mnist_digits` and `jittered`.

    Example:
    >>> train, _, test = jittered_mnist(fresh_places=True, download=True)  # doctest: +SKIP

    Reference: Ranzato, "On Learning Where To Look", 2014, section 4.1.
    """
    return jittered(mnist_digits(data_dir, download), batch_size, **kwargs)


def _splits(digits, batch_size, validation_split, seed, epoch, images_of):
    check_integers(1, batch_size=batch_size)
    check_integers(0, seed=seed)
    check_numbers(validation_split=validation_split)
    if validation_split >= 1.0:
        raise ValueError(f"validation_split must be below 1; got {validation_split}.")
    digits = check_digits(digits)
    first = len(digits.train_images) - round(validation_split * len(digits.train_images))
    options = tf.data.Options()
    options.autotune.enabled = False  # There is nothing to tune here, and tuning takes time from training.

    def dataset(images, labels, part):
        count, copies, read = images_of(images, part == 0, seed if part == 0 else part)
        image_bytes = prod(read(tf.range(0), tf.zeros([2], tf.int64)).shape[1:])
        labels, chunk = tf.constant(labels), max(1, min(CHUNK, CHUNK_BYTES // image_bytes) // batch_size)
        size = chunk * batch_size
        indices = _shuffled(count, size, seed, epoch) if part == 0 else _in_order(count, size)
        chunks = indices.map(lambda index, seed: (read(index, seed), tf.gather(labels, index // copies)))
        return _batches_of(chunks, batch_size, -(-count // batch_size)).prefetch(chunk).with_options(options)

    train = dataset(digits.train_images[:first], digits.train_labels[:first], 0)
    held_out = digits.train_images[first:], digits.train_labels[first:]
    validation = dataset(*held_out, 1) if len(held_out[0]) else None
    return Splits(train, validation, dataset(digits.test_images, digits.test_labels, 2))


def _batches_of(chunks, batch_size, count):
    """The `count` batches that chunks of many batches consist of.

    A chunk is read at once: the fixed cost of each operation would otherwise be most of what a batch costs.
    """

    def batches(*chunk):
        full = tf.shape(chunk[0])[0] // batch_size
        stacks = [tf.reshape(part[: full * batch_size], [full, batch_size, *part.shape[1:]]) for part in chunk]
        rest = tuple(part[full * batch_size :] for part in chunk)
        last = tf.data.Dataset.from_tensors(rest).take(tf.cast(len(rest[0]) > 0, tf.int64))
        return tf.data.Dataset.from_tensor_slices(tuple(stacks)).concatenate(last)

    return chunks.flat_map(batches).apply(tf.data.experimental.assert_cardinality(count))


def _in_order(count, size):
    """Chunks of indices 0, 1, ..., each with a seed that nothing uses."""
    slices = tf.data.Dataset.range(0, count, size)
    return slices.map(lambda start: (tf.range(start, tf.minimum(start + size, count)), tf.zeros([2], tf.int64)))


def _shuffled(count, size, seed, epoch):
    """Chunks of a new permutation of 0 ... count - 1 every epoch, each with a seed of its own.

    The permutation is drawn at once: it takes a sixth of the time that shuffling and batching single indices take.
    """

    def chunks(epoch_seed):
        seeds = tf.stack([epoch_seed, tf.constant(seed, tf.int64)])
        order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), seeds)
        slices = tf.data.Dataset.range(0, count, size)
        return slices.map(lambda start: (order[start : start + size], tf.stack([epoch_seed, start])))

    if epoch is None:
        epoch_seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)
    else:  # A step that is a large prime keeps the seeds of neighbouring runs apart.
        epoch_seeds = tf.data.Dataset.from_tensors(0).map(lambda _: epoch.number + 1_000_003 * seed)
    return epoch_seeds.flat_map(chunks)


def _as_they_are(images):
    images = tf.constant(images)
    return len(images), 1, lambda index, seed: tf.gather(images, index)


def _placed(images, canvas, copies, fresh, seed):
    """Number of images, copies of each digit, and a function from indices to digits on canvases."""
    count, (height, width), room = len(images) * copies, images.shape[1:3], np.subtract(canvas, images.shape[1:3]) + 1
    fixed = tf.constant(np.random.default_rng(seed).integers(0, room, (count, 2)), tf.int32)
    # A canvas, row by row, is zeros, the rows of the digit as wide as the canvas, and zeros again: three strings of bytes,
    # which are joined several times faster than pixels are gathered or images are padded one by one.
    length = (height - 1) * canvas[1] + width
    wide = np.pad(images[..., 0], ((0, 0), (0, 0), (0, canvas[1] - width))).reshape(len(images), height * canvas[1])[:, :length]
    digits = tf.constant([digit.tobytes() for digit in wide])
    blank, total = tf.constant(bytes(canvas[0] * canvas[1])), canvas[0] * canvas[1]

    def read(index, batch_seed):
        place = tf.gather(fixed, index)
        if fresh:
            place = tf.cast(tf.random.stateless_uniform(tf.shape(place), batch_seed) * tf.constant(room, tf.float32), tf.int32)
        before = place[:, 0] * canvas[1] + place[:, 1]
        blanks, start = tf.fill(tf.shape(before), blank), tf.zeros_like(before)
        parts = [tf.strings.substr(blanks, start, before), tf.gather(digits, index // copies)]
        parts.append(tf.strings.substr(blanks, start, total - length - before))
        return tf.reshape(tf.io.decode_raw(tf.strings.join(parts), tf.uint8), [-1, *canvas, 1])

    return count, copies, read
