"""Bad input, told before any work is lost: what was expected, and what came."""

import contextlib
import itertools
import numbers
import operator
import re
import warnings
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._compat import all_layers
from keras_glimpse.labels import are_shares

SHARES_SUM_TO_1 = 1e-2  # Soft labels in half precision are off by a thousandth.


def check_integers(minimum: int, **arguments) -> None:
    for name, value in arguments.items():
        try:
            good = not isinstance(value, bool) and operator.index(value) >= minimum
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name} must be an integer, at least {minimum}; got {value!r}.")
        if value >= 2**31:
            raise ValueError(f"{name} must be below 2**31; got {value}.")


def check_search_size(search_size) -> None:
    check_integers(1, search_size=search_size)
    if search_size % 2 == 0:
        raise ValueError(f"search_size must be odd, so that the prediction is a candidate; got {search_size}.")


def integers(name: str, value, length: int | None = None) -> tuple[int, ...]:
    """One positive integer or several as a tuple: of `length`, where it is given, and then one integer stands for all."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * (length or 1)
    if len(values) != (length or len(values)) or not values:
        raise ValueError(f"{name} must be an integer, or {length or 'at least one'} of them; got {value!r}.")
    for each in values:
        check_integers(1, **{name: each})
    return values


def check_numbers(above: float | None = None, **arguments) -> None:
    for name, value in arguments.items():
        if not isinstance(value, numbers.Real) or not 0 <= value < np.inf or value == above:
            raise ValueError(f"{name} must be finite and {'positive' if above == 0 else 'not negative'}; got {value!r}.")


def check_one_of(allowed, **arguments) -> None:
    for name, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"{name} must be one of {tuple(allowed)}; got {value!r}.")


def check_search_stride(search_stride) -> None:
    if not isinstance(search_stride, float):
        check_integers(1, search_stride=search_stride)
    elif not 0 < search_stride < 1:
        raise ValueError(f"search_stride must be pixels, an integer, or a share of a side in (0, 1); got {search_stride!r}.")


def check_threshold(threshold: float) -> None:
    if not isinstance(threshold, numbers.Real) or not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (0, 1]; got {threshold!r}.")


def check_looks(function: str, model) -> None:
    """Raises unless the model is a `GlimpseClassifier` that is built."""
    if not hasattr(model, "look_again"):
        raise TypeError(f"{function} needs a GlimpseClassifier; got {type(model).__name__}.")
    if not model.built:
        raise ValueError(f"{function} needs a model that is built: fit it, load it or call it on images first.")


def check_exportable(function: str, model, threshold: float | None, float32: bool = False, quantized=None) -> None:
    """Raises unless the model can be exported: built and, if `float32`, in that precision throughout.

    Where the modes that `quantized` layers may have are given, other modes are refused too.
    """
    if threshold is not None:
        check_threshold(threshold)
    check_looks(function, model)
    half = [layer for layer in all_layers(model) if layer.compute_dtype != "float32"]
    if float32 and half:
        raise ValueError(f"{function} needs a model of float32; {half[0].name!r} has {half[0].dtype_policy.name}.")
    modes = {layer.quantization_mode: layer for layer in all_layers(model) if layer.quantization_mode}
    for mode, layer in modes.items():
        if quantized is not None and mode not in quantized:
            raise ValueError(
                f"{function} cannot export layers of {mode}; {layer.name!r} has {layer.dtype_policy.name}. "
                'Export the model as it was before `quantize`; export_litert(quantize="int8") then makes 8-bit files.'
            )


def check_layer(**arguments) -> None:
    for name, value in arguments.items():
        if value is not None and not isinstance(value, keras.Layer):
            raise TypeError(f"{name} must be a Keras layer or model; got {value!r}.")


def check_images(images, image_shape=None, at_least: int = 0, where: str = "") -> None:
    """Raises unless these are images in one array or tensor, at least so many, and of this `image_shape`."""
    if isinstance(images, tf.RaggedTensor) or _holds_objects(images):
        kind = f"{_kind(images)}. Resize the images, or give one size at a time."
        raise TypeError(f"Expected one array of images of one size{where}; got {kind}")
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise TypeError(f"Expected one array of images{where}; got {_kind(images)}. Try numpy.stack(images).")
    check_spec(images.shape, _dtype(images), image_shape)
    if images.shape[0] is not None and images.shape[0] < at_least:
        raise ValueError("Expected at least one image; got none.")


def _kind(value):
    return "an array of objects" if _holds_objects(value) else f"a {type(value).__name__}"


def _holds_objects(value):
    return isinstance(value, np.ndarray) and value.dtype.kind == "O"


def check_spec(shape, dtype, image_shape=None) -> None:
    """Raises unless shape and dtype are those of images `[batch, height, width, channels]`, and of this `image_shape`."""
    if isinstance(shape, tf.TensorShape) and shape.rank is None:
        raise ValueError("The rank of the images is not known: give the dataset an output_signature.")
    if len(shape) != 4:
        raise ValueError(f"Expected batches of images [batch, height, width, channels]; got shape {tuple(shape)}.")
    known = zip(shape[1:], image_shape or shape[1:])
    if any(got is not None and want is not None and got != want for got, want in known):
        raise ValueError(f"The model was built for images {tuple(image_shape)}; got images {tuple(shape[1:])}.")
    dtype = tf.as_dtype(dtype)
    if not (dtype.is_floating or dtype in (tf.uint8, tf.uint16)):
        raise TypeError(f"Expected images of floats, uint8 or uint16; got {dtype.name}.")


def checked_input(x, y, sample_weight, num_classes: int, image_shape=None, name="the data", pixels=None, in_memory=False):
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
        name: what to call the data.
        pixels: a `PixelRange` that is shown all images; None to accept any pixels.
        in_memory: whether only arrays will do.

    Returns:
        `(x, y, spec)`: the data, and shape and dtype of an image; None where they cannot be known.

    Raises:
        ValueError, TypeError: the images' rank, size or values, the labels' type or values, or the sample weights, are not
            as expected.
    """
    check = _BatchCheck(num_classes, image_shape, name, pixels)
    if isinstance(x, tf.data.Dataset) and not in_memory:
        images, labels = _pair(x.element_spec)
        check.spec(images.shape, images.dtype, labels.shape, labels.dtype)
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
        check_images(x, where=f" in {name}")
        if y is None:
            raise ValueError(f"Expected labels y beside the array of images x in {name}; got None.")
        y = y if hasattr(y, "shape") else np.asarray(y)
        check.arrays("", x, y, sample_weight)
        return x, y, _image_spec(x)
    return x, y, None


def _image_spec(images):
    return tf.TensorSpec(images.shape[1:], _dtype(images))


class PixelRange:
    """Warns, once a model, of floats that are not scaled as it expects: they are used as they are.

    Args:
        largest: the largest pixel that is as expected; None for the largest that is plausible at all.
    """

    PLAUSIBLE = 100.0  # Of images in [0, 1], in [-1, 1] or standardized. Bytes as floats reach 255.

    def __init__(self, largest: float | None = None):
        self.largest, self.has_warned = largest, False

    @property
    def limit(self) -> float:
        return self.PLAUSIBLE if self.largest is None else 1.001 * self.largest

    def see(self, images) -> None:
        """Looks at images, an array of floats or integers."""
        if not self.has_warned and np.size(images) and not tf.as_dtype(_dtype(images)).is_unsigned:
            self.see_largest(np.max(images))

    def see_largest(self, pixel) -> None:
        if self.has_warned or not pixel > self.limit:
            return
        self.has_warned = True
        expected = "in [0, 1], as the bytes that the model was trained on are scaled" if self.largest else "around 1"
        warnings.warn(
            f"Images of floats are used as they are: expected pixels {expected}; got up to {pixel:g}. Divide them by 255, or "
            "pass unsigned integers, which are scaled to [0, 1].",
            stacklevel=2,
        )


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


@contextlib.contextmanager
def usable(what: str):
    """Turns whatever a broken configuration makes Keras or NumPy raise into a ValueError that says what was broken."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"The {what} of the model cannot be used: {type(error).__name__}: {error}") from error


def _pair(spec):
    if not isinstance(spec, tuple) or len(spec) not in (2, 3) or not all(isinstance(part, tf.TensorSpec) for part in spec[:2]):
        raise ValueError(f"Expected a dataset of (images, labels) or (images, labels, sample_weight); got {spec}.")
    return spec[:2]


def check_labels(labels, num_classes: int) -> None:
    """Raises unless these are class numbers or shares of classes (see `label_shares`)."""
    _check_label_spec(tuple(labels.shape), labels.dtype, num_classes)
    _check_label_values("", np.asarray(labels), num_classes)


def _check_label_spec(shape, dtype, num_classes):
    dtype = tf.as_dtype(dtype)
    if not (dtype.is_integer or dtype.is_floating or dtype.is_bool):
        raise TypeError(f"Expected labels that are numbers; got {dtype.name}.")
    if len(shape) != 1 and shape[1:] != (1,) and not are_shares(shape, num_classes):
        raise ValueError(
            f"Expected class numbers [batch] or [batch, 1], or one-hot or soft labels [batch, {num_classes}]; "
            f"got labels of shape {shape}."
        )


def _check_label_values(where, labels, num_classes):
    if are_shares(labels.shape, num_classes):
        labels = np.asarray(labels, np.float64)
        bad = ~((labels >= 0).all(axis=1) & (np.abs(labels.sum(axis=1) - 1) <= SHARES_SUM_TO_1))
        if bad.any():
            first = int(np.argmax(bad))
            raise ValueError(
                f"{where}One-hot or soft labels must not be negative and sum to 1; got {labels[first]} for image {first}."
            )
        return
    low, high = np.min(labels), np.max(labels)
    if not low >= 0 or not high < num_classes:
        raise ValueError(f"{where}Labels must lie in [0, {num_classes}); got {low} to {high}.")
    if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        wrong = labels[labels != np.floor(labels)][0]
        raise ValueError(f"{where}Expected labels that are class numbers, 0, 1, ...; got {wrong}.")


class _BatchCheck:
    """What every batch of images, labels and sample weights must be."""

    def __init__(self, num_classes, image_shape, name, pixels):
        self.num_classes, self.image_shape, self.name, self.pixels = num_classes, image_shape, name, pixels

    def __call__(self, index, batch):
        self.arrays(f"Batch {index} of {self.name}: ", *batch[:3])
        return batch

    def spec(self, shape, dtype, label_shape, label_dtype):
        check_spec(shape, dtype, self.image_shape)
        _check_label_spec(tuple(label_shape), label_dtype, self.num_classes)

    def arrays(self, where, images, labels, weights=None):
        self.spec(images.shape, _dtype(images), labels.shape, _dtype(labels))
        if len(images) != len(labels):
            raise ValueError(f"{where}Expected as many labels as images; got {len(images)} images, {len(labels)} labels.")
        if len(images) == 0:
            raise ValueError(f"{where}Expected at least one image; got none.")
        _check_label_values(where, np.asarray(labels), self.num_classes)
        if weights is not None:
            weights = np.asarray(weights)
            if weights.shape[:1] != (len(images),) or weights.size != len(images):
                raise ValueError(f"{where}Expected one sample weight an image, [{len(images)}]; got shape {weights.shape}.")
            if not np.isfinite(weights).all():
                raise ValueError(f"{where}Sample weight {int(np.argmin(np.isfinite(weights.ravel())))} is NaN or infinite.")
        if not tf.as_dtype(_dtype(images)).is_floating:
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
        checks = self._label_checks(message, labels)
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
            images = tf.ensure_shape(images, (None, *(self.image_shape or images.shape[1:])))
            return (tf.identity(images), *batch[1:])

    def _see_in_graph(self, images):
        largest = tf.cast(tf.reduce_max(images), tf.float32)
        see = lambda: tf.numpy_function(self.pixels.see_largest, [largest], [])  # noqa: E731
        return tf.cond(largest > self.pixels.limit, lambda: tf.group(see()), tf.no_op)

    def _label_checks(self, message, labels):
        if are_shares(labels.shape, self.num_classes):
            shares = tf.cast(labels, tf.float32)
            good = tf.reduce_all(shares >= 0) & tf.reduce_all(tf.abs(tf.reduce_sum(shares, axis=1) - 1) <= SHARES_SUM_TO_1)
            return [tf.debugging.Assert(good, [*message, "has one-hot or soft labels that are negative or do not sum to 1"])]
        labels = tf.cast(labels, tf.int32) if labels.dtype == tf.bool else labels
        low, high = tf.reduce_min(labels), tf.reduce_max(labels)
        in_range = (low >= 0) & (tf.cast(high, tf.float64) < self.num_classes)
        limits = [f"has labels outside [0, {self.num_classes}): from", low, "to", high]
        checks = [tf.debugging.Assert(in_range, [*message, *limits])]
        if labels.dtype.is_floating:
            whole = tf.reduce_all(labels == tf.floor(labels))
            checks.append(tf.debugging.Assert(whole, [*message, "has labels that are not class numbers"]))
        return checks


def _dtype(array):
    try:
        return keras.backend.standardize_dtype(array.dtype)
    except ValueError:  # text, or Python objects
        return "string"


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
