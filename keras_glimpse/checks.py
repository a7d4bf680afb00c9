"""Bad input, told before any work is lost: what was expected, and what came."""

import contextlib
import re

import keras
import numpy as np
import tensorflow as tf


def check_positive(**arguments):
    for name, value in arguments.items():
        if isinstance(value, bool) or not value > 0:
            raise ValueError(f"{name} must be positive; got {value!r}.")


def check_one_of(allowed, **arguments):
    for name, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"{name} must be one of {tuple(allowed)}; got {value!r}.")


def check_threshold(threshold):
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (0, 1]; got {threshold!r}.")


def checked_input(x, y, num_classes: int, image_shape=None):
    """Checks the data of `fit`, and returns it ready for `fit`.

    Arrays are checked whole. A `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator is checked by its first
    dimension now and batch by batch as it is read, so that a broken batch is named and never trained on. Distributed
    datasets pass as they are.

    Args:
        x: images, or something that yields `(images, labels)` or `(images, labels, sample_weight)`.
        y: labels, or None.
        num_classes: labels must be integers in [0, num_classes).
        image_shape: `(height, width, channels)` of a model that is built already.

    Returns:
        `(x, y, images_shape)`; `images_shape` is None where it is not known before the first batch.

    Raises:
        ValueError, TypeError: the images' rank, size or values, or the labels' type or values, are not as expected.
    """
    if isinstance(x, tf.data.Dataset):
        images, labels = _spec_of(x)
        _check_spec(images.shape, images.dtype, labels.shape, labels.dtype, num_classes, image_shape)
        return _checked_dataset(x, num_classes, image_shape), y, images.shape
    if isinstance(x, keras.utils.PyDataset):
        return _CheckedPyDataset(x, num_classes, image_shape), y, None
    if hasattr(x, "__next__"):
        return (_checked_batch(i, batch, num_classes, image_shape) for i, batch in enumerate(x)), y, None
    if hasattr(x, "shape"):
        if y is None:
            raise ValueError("fit(x, y) needs labels y beside an array of images x; got None.")
        _check_batch("", x, y, num_classes, image_shape)
        return x, y, x.shape
    return x, y, None


@contextlib.contextmanager
def named_batches():
    """Turns the failure of a check inside a dataset into a ValueError that says the same in one line."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"Batch b?'?(\d+).*", error.message)
        if "of the dataset" not in error.message or not found:
            raise
        raise ValueError(found.group()) from error


def _spec_of(dataset):
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ValueError(f"Expected a dataset of (images, labels) or (images, labels, sample_weight); got {spec}.")
    return spec[:2]


def _check_spec(shape, dtype, label_shape, label_dtype, num_classes, image_shape):
    shape, label_shape = tuple(shape), tuple(label_shape)
    if len(shape) != 4:
        raise ValueError(f"Expected batches of images [batch, height, width, channels]; got shape {shape}.")
    known = zip(shape[1:], image_shape or shape[1:])
    if any(got is not None and want is not None and got != want for got, want in known):
        raise ValueError(f"The model was built for images {tuple(image_shape)}; got images {shape[1:]}.")
    if not (tf.as_dtype(dtype).is_floating or tf.as_dtype(dtype).is_unsigned):
        raise TypeError(f"Expected images of floats or of unsigned integers; got {tf.as_dtype(dtype).name}.")
    if not tf.as_dtype(label_dtype).is_integer:
        raise TypeError(f"Expected integer labels in [0, {num_classes}); got {tf.as_dtype(label_dtype).name}.")
    if len(label_shape) != 1 and label_shape[1:] != (1,):
        raise ValueError(f"Expected one label an image, [batch]; got shape {label_shape}. One-hot? Take its argmax.")


def _check_batch(where, images, labels, num_classes, image_shape):
    images, labels = (value if hasattr(value, "shape") else np.asarray(value) for value in (images, labels))
    _check_spec(images.shape, _dtype(images), labels.shape, _dtype(labels), num_classes, image_shape)
    if len(images) != len(labels):
        raise ValueError(f"{where}Expected as many labels as images; got {len(images)} images, {len(labels)} labels.")
    if len(images) == 0:
        raise ValueError(f"{where}Expected at least one image; got none.")
    labels = np.asarray(labels)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"{where}Labels must lie in [0, {num_classes}); got {labels.min()} to {labels.max()}.")
    if not tf.as_dtype(_dtype(images)).is_floating:
        return
    for start in range(0, len(images), 256):  # In pieces, so that checking does not double the memory that images take.
        finite = np.isfinite(images[start : start + 256]).reshape(len(images[start : start + 256]), -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"{where}Image {start + int(np.argmin(finite))} holds NaN or infinite pixels.")


def _dtype(array):
    return keras.backend.standardize_dtype(array.dtype)


def _checked_dataset(dataset, num_classes, image_shape):
    def check(index, batch):
        images, labels = batch[:2]
        message = ["Batch", index, "of the dataset"]
        in_range = tf.reduce_all((labels >= 0) & (tf.cast(labels, tf.int64) < num_classes))
        low, high = (reduce(labels) for reduce in (tf.reduce_min, tf.reduce_max))
        limits = [f"has labels outside [0, {num_classes}): from", low, "to", high]
        checks = [tf.debugging.Assert(in_range, [*message, *limits])]
        if images.dtype.is_floating:
            finite = tf.reduce_all(tf.math.is_finite(images))
            checks.append(tf.debugging.Assert(finite, [*message, "holds NaN or infinite pixels"]))
        with tf.control_dependencies(checks):
            return tf.nest.map_structure(tf.identity, batch)

    return dataset.enumerate().map(lambda index, batch: check(index, batch)).prefetch(tf.data.AUTOTUNE)


def _checked_batch(index, batch, num_classes, image_shape):
    _check_batch(f"Batch {index}: ", *batch[:2], num_classes, image_shape)
    return batch


class _CheckedPyDataset(keras.utils.PyDataset):
    """A PyDataset that checks what another one yields."""

    def __init__(self, dataset, num_classes, image_shape):
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self._dataset, self._expected = dataset, (num_classes, image_shape)

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        return _checked_batch(index, self._dataset[index], *self._expected)

    def on_epoch_begin(self):
        self._dataset.on_epoch_begin()

    def on_epoch_end(self):
        self._dataset.on_epoch_end()

    @property
    def num_batches(self):
        return self._dataset.num_batches
