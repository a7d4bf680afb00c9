"""Checks of what `fit`, `evaluate` and their like are given: arrays now, datasets batch by batch as they are read."""

import contextlib
import itertools
import os
import re

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._validation.images import check_images, check_spec, dtype_of, too_small
from keras_glimpse._validation.labels import check_label_spec, check_label_values, label_assertions
from keras_glimpse.sources.batches import are_sources, has_paths, images_of


def checked_input(
    x, y, sample_weight, num_classes: int, image_shape=None, least_sides=(1, 1), name="the data", pixels=None, in_memory=False
):
    """Checks the data of `fit` or `evaluate`, and returns it ready for them.

    Arrays are checked whole. A `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator is checked by its first batch
    or its signature now and batch by batch as it is read, so that a broken batch is named and never trained on. What Keras
    knows and we do not (distributed datasets) passes as it is.

    Args:
        x: images, or something that yields `(images, labels)` or `(images, labels, sample_weight)`.
        y: labels, or None: class numbers or shares of classes (see `label_shares`).
        sample_weight: `[n]` or `[n, 1]` numbers, or None.
        num_classes: class numbers must be integers in [0, num_classes).
        image_shape: `(height, width, channels)` of a model that is built already.
        least_sides: `(height, width)` of the smallest images.
        name: what to call the data.
        pixels: a `PixelRange` that is shown all images; None to accept any pixels.
        in_memory: whether only arrays will do.

    Returns:
        `(x, y, spec)`: the data, and shape and dtype of an image; None where they cannot be known.

    Raises:
        ValueError, TypeError: the images' rank, size or values, the labels' type or values, or the sample weights, are not
            as expected.
    """
    check = _BatchCheck(num_classes, image_shape, least_sides, name, pixels)
    if isinstance(x, tf.data.Dataset) and not in_memory:
        images, labels, *weights = _parts(x.element_spec)
        check.spec(images.shape, images.dtype, labels.shape, labels.dtype)
        if weights and weights[0].shape.rank is not None and weights[0].shape[1:].num_elements() not in (None, 1):
            raise ValueError(f"Expected one sample weight an image, [batch]; got shape {tuple(weights[0].shape)}.")
        if x.cardinality() == 0:
            raise ValueError(f"Expected at least one batch in {name}; got none.")
        return check.dataset(x), y, tf.TensorSpec(images.shape[1:], images.dtype)
    if isinstance(x, keras.utils.PyDataset) and not in_memory:
        return _CheckedPyDataset(x, check), y, _image_spec(check(0, x[0])[0])
    if hasattr(x, "__next__") and not in_memory:
        first = next(x, None)
        if first is None:
            raise ValueError(f"Expected at least one batch in {name}; got none.")
        spec = _image_spec(check(0, first)[0])
        return (check(i, batch) for i, batch in enumerate(itertools.chain([first], x))), y, spec
    if in_memory or isinstance(x, list | tuple | dict | None) or hasattr(x, "shape"):
        if not are_sources(x):
            check_images(x, where=f" in {name}")
        if y is None:
            raise ValueError(f"Expected labels y beside the array of images x in {name}; got None.")
        y = y if hasattr(y, "shape") else np.asarray(y)
        check.arrays("", x, y, sample_weight)
        return x, y, _image_spec(x)
    return x, y, None


def yields_names(images) -> bool:
    """Whether what `predict` is given yields batches of paths."""
    if isinstance(images, tf.data.Dataset):
        return has_paths(images)
    return isinstance(images, keras.utils.PyDataset) and are_sources(images_of(images[0]))


def checked_names(images):
    """It, with batches of paths as Keras takes them."""
    if isinstance(images, tf.data.Dataset):
        return images
    return _CheckedPyDataset(images, lambda index, batch: (_names(images_of(batch), f"Batch {index}"),))


def _names(images, where) -> tf.Tensor:
    """Paths as a tensor: of those who yield batches, Keras takes no other strings."""
    if tf.is_tensor(images):
        return images
    if not all(isinstance(image, str | os.PathLike) for image in images):
        raise TypeError(f"{where}: expected paths; other images that are read in parts must be in a list, not in batches.")
    return tf.constant([os.fsencode(image) for image in images])


def _image_spec(images):
    return tf.TensorSpec(images.shape[1:], dtype_of(images))


@contextlib.contextmanager
def named_batches():
    """Turns the failure of a check inside a dataset into a ValueError that says the same in one line."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"\[(Batch\] \[\d+\] \[of .*)\]", error.message)
        if not found:
            raise
        raise ValueError(found.group(1).replace("] [", " ")) from error


def _parts(spec):
    """The parts of a dataset's batches; of sample weights that are absent, as a generator may say, none."""
    if not isinstance(spec, tuple) or len(spec) not in (2, 3) or not all(isinstance(part, tf.TensorSpec) for part in spec[:2]):
        raise ValueError(f"Expected a dataset of (images, labels) or (images, labels, sample_weight); got {spec}.")
    return [*spec[:2], *(part for part in spec[2:] if isinstance(part, tf.TensorSpec))]


class _BatchCheck:
    """What every batch of images, labels and sample weights must be."""

    def __init__(self, num_classes, image_shape, least_sides, name, pixels):
        self.num_classes, self.image_shape, self.least_sides = num_classes, image_shape, least_sides
        self.name, self.pixels = name, pixels

    def __call__(self, index, batch):
        where = f"Batch {index} of {self.name}"
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            kind = f"{len(batch)} of them" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
            raise ValueError(f"{where}: Expected (images, labels) or (images, labels, sample_weight); got {kind}.")
        images, labels, *weights = batch
        images = _names(images, where) if are_sources(images) else images
        labels = labels if hasattr(labels, "shape") else np.asarray(labels)
        self.arrays(f"{where}: ", images, labels, *weights)
        return (images, labels, *weights)

    def spec(self, shape, dtype, label_shape, label_dtype):
        check_spec(shape, dtype, self.image_shape, self.least_sides)
        if isinstance(label_shape, tf.TensorShape) and label_shape.rank is None:
            raise ValueError("The rank of the labels is not known: give the dataset an output_signature, or use set_shape.")
        check_label_spec(tuple(label_shape), label_dtype, self.num_classes)

    def arrays(self, where, images, labels, weights=None):
        self.spec(images.shape, dtype_of(images), labels.shape, dtype_of(labels))
        if len(images) != len(labels):
            raise ValueError(f"{where}Expected as many labels as images; got {len(images)} images, {len(labels)} labels.")
        if len(images) == 0:
            raise ValueError(f"{where}Expected at least one image; got none.")
        check_label_values(where, np.asarray(labels), self.num_classes)
        if weights is not None:
            weights = np.asarray(weights)
            if weights.shape[:1] != (len(images),) or weights.size != len(images):
                raise ValueError(f"{where}Expected one sample weight an image, [{len(images)}]; got shape {weights.shape}.")
            if not np.isfinite(weights).all():
                raise ValueError(f"{where}Sample weight {int(np.argmin(np.isfinite(weights.ravel())))} is NaN or infinite.")
        if not tf.as_dtype(dtype_of(images)).is_floating:
            return
        for start in range(0, len(images), 256):  # In pieces, so that checking does not double the memory images take.
            piece = np.asarray(images[start : start + 256])
            finite = np.isfinite(piece).reshape(len(piece), -1).all(axis=1)
            if not finite.all():
                raise ValueError(f"{where}Image {start + int(np.argmin(finite))} holds NaN or infinite pixels.")
            if self.pixels:
                self.pixels.see(piece)

    def dataset(self, dataset):
        return dataset.enumerate().map(lambda index, batch: self._in_graph(index, batch)).prefetch(tf.data.AUTOTUNE)

    def _in_graph(self, index, batch):
        images, labels = batch[:2]
        message = ["Batch", index, f"of {self.name}"]
        checks = label_assertions(message, labels, self.num_classes)
        if images.dtype != tf.string and None in images.shape[1:3]:
            sides = tf.shape(images)[1:3]
            large = tf.reduce_all(sides >= self.least_sides)
            checks.append(
                tf.debugging.Assert(large, [*message, f"has too small ones. {too_small(self.least_sides)}; got", sides])
            )
        if len(batch) > 2:
            finite = tf.reduce_all(tf.math.is_finite(tf.cast(batch[2], tf.float32)))
            checks.append(tf.debugging.Assert(finite, [*message, "has sample weights that are NaN or infinite"]))
        if images.dtype.is_floating:
            finite = tf.reduce_all(tf.math.is_finite(images))
            checks.append(tf.debugging.Assert(finite, [*message, "holds NaN or infinite pixels"]))
            if self.pixels:
                with tf.control_dependencies(checks):
                    checks.append(self._see_in_graph(images))
        with tf.control_dependencies(checks):
            if images.dtype != tf.string:
                images = tf.ensure_shape(images, (None, *(self.image_shape or images.shape[1:])))
            return (tf.identity(images), *batch[1:])

    def _see_in_graph(self, images):
        largest = tf.cast(tf.reduce_max(images), tf.float32)
        see = lambda: tf.numpy_function(self.pixels.see_largest, [largest], [])  # noqa: E731
        return tf.cond(largest > self.pixels.limit, lambda: tf.group(see()), tf.no_op)


class _CheckedPyDataset(keras.utils.PyDataset):
    """A PyDataset that checks what another one yields."""

    def __init__(self, dataset, check):
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self._dataset, self._check = dataset, check

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        return self._check(index, self._dataset[index])

    def on_epoch_begin(self):
        self._dataset.on_epoch_begin()

    def on_epoch_end(self):
        self._dataset.on_epoch_end()

    @property
    def num_batches(self):
        return self._dataset.num_batches
