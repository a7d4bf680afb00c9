"""What a task on large images consists of: sets of images that are decoded, cut or composed one by one as batches are made."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorflow as tf

from keras_glimpse import data

HELD_OUT = 10  # One in so many of what there is to train on is held out.


@dataclass(frozen=True)
class Images:
    """A set of images with labels.

    Attributes:
        labels: Int32 array `[count]`.
        rows: Arrays or tensors `[count, ...]` of what is known of each image: its file, where to cut it, how to turn it.
        make: A function of one row of each, in TensorFlow operations, that returns an image: uint8 `[height, width, channels]`.
        boxes: For each image, where the objects are that decide its label: `[objects, 4]`, pixels from y1, x1 up to and without
            y2, x2. For measuring only: no dataset has them, and training images have none.
    """

    labels: np.ndarray
    rows: tuple
    make: Callable[..., tf.Tensor]
    boxes: Sequence[np.ndarray] | None = None

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, n) -> np.ndarray:
        return self.make(*(tf.convert_to_tensor(row[n]) for row in self.rows)).numpy()

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        return self[0].shape

    def dataset(self, batch_size: int = 50) -> tf.data.Dataset:
        """Batches of `(images, labels)` in order."""
        return self._batches(tf.range(len(self)), self.shape, batch_size).prefetch(tf.data.AUTOTUNE)

    def _batches(self, order, shape, batch_size):
        rows = tf.nest.map_structure(lambda row: tf.gather(row, order), (self.rows, self.labels))
        make = lambda row, label: (tf.ensure_shape(self.make(*row), shape), label)  # noqa: E731
        return tf.data.Dataset.from_tensor_slices(rows).map(make, tf.data.AUTOTUNE).batch(batch_size)


@dataclass(frozen=True)
class Task:
    """Images to train on, to choose thresholds on, and to test on.

    Attributes:
        name: What the task is called in the results.
        class_names: Of labels 0, 1, ...
        train: Of the seed of an epoch, int64 `[2]`, its training images, with the same labels in every epoch.
        validation: What is held out of training.
        test: The test set, the same for every seed.
    """

    name: str
    class_names: tuple[str, ...]
    train: Callable[[tf.Tensor], Images]
    validation: Images
    test: Images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.test.shape

    def training_data(self, batch_size: int, seed: int, epoch: data.Epoch) -> tf.data.Dataset:
        """Batches of `(images, labels)` in a new order every epoch.

        All that is random in an epoch depends on the seed and on the number that `epoch` holds when it begins: training that
        resumes reads the batches that it would have read.
        """
        shape, count = self.image_shape, len(self.train(tf.zeros([2], tf.int64)))

        def batches(number):
            seeds = tf.random.split(tf.stack([tf.constant(seed, tf.int64), number]))
            order = tf.random.experimental.stateless_shuffle(tf.range(count), seeds[0])
            return self.train(seeds[1])._batches(order, shape, batch_size)

        number = tf.data.Dataset.from_tensors(0).map(lambda _: epoch.number)
        cardinality = tf.data.experimental.assert_cardinality(-(-count // batch_size))
        return number.flat_map(batches).apply(cardinality).prefetch(tf.data.AUTOTUNE)


def with_rows(images: Images, rows: tuple, change: Callable[..., tf.Tensor]) -> Images:
    """Training images that `change(image, *row)` makes of others, with a row for each."""
    count = len(images.rows)
    return Images(images.labels, (*images.rows, *rows), lambda *row: change(images.make(*row[:count]), *row[count:]))


def hold_out(items: Sequence) -> tuple[list, list]:
    """What is left to train on, and what is held out: items at regular distances, for neighbours are often alike."""
    return [item for n, item in enumerate(items) if n % HELD_OUT], list(items[::HELD_OUT])


def integers(seed: tf.Tensor, shape: Sequence[int], end: int, start: int = 0) -> tf.Tensor:
    """Random int32 from `start` up to and without `end`."""
    return tf.random.stateless_uniform(shape, seed, start, end, tf.int32)


def squares(corners: tf.Tensor, side: int) -> tf.Tensor:
    """Places `[..., side, side, 2]` of the pixels of squares whose first are `[..., 2]`, as `tf.gather_nd` takes them."""
    return corners[..., None, None, :] + tf.stack(tf.meshgrid(tf.range(side), tf.range(side), indexing="ij"), axis=-1)


def decoded(path: tf.Tensor, channels: int) -> tf.Tensor:
    """The pixels of a JPEG file, exact wherever it is decoded; of a number, those that `already_decoded` has."""
    if tf.convert_to_tensor(path).dtype.is_integer:
        return tf.gather(_PIXELS[-1], path)
    return tf.io.decode_jpeg(tf.io.read_file(path), channels=channels, dct_method="INTEGER_ACCURATE")


_PIXELS = []


@contextmanager
def already_decoded(pixels: tf.Tensor | None):
    """Lets `decoded` take numbers in place of files: of images in `[count, height, width, channels]`."""
    _PIXELS.append(pixels)
    try:
        yield
    finally:
        _PIXELS.pop()
