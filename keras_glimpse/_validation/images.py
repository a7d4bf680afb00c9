"""Checks of images: their shape and dtype, and whether pixels are scaled as the model expects."""

import warnings

import keras
import numpy as np
import tensorflow as tf


def check_images(images, image_shape=None, least_sides=(1, 1), at_least: int = 0, where: str = "") -> None:
    """Raises unless these are images in one array or tensor, at least so many, and as `check_spec` wants them."""
    if isinstance(images, tf.RaggedTensor) or _holds_objects(images):
        kind = f"{_kind(images)}. Resize the images, or give one size at a time."
        raise TypeError(f"Expected one array of images of one size{where}; got {kind}")
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise TypeError(f"Expected one array of images{where}; got {_kind(images)}. Try numpy.stack(images).")
    check_spec(images.shape, dtype_of(images), image_shape, least_sides)
    if images.shape[0] is not None and images.shape[0] < at_least:
        raise ValueError("Expected at least one image; got none.")


def check_spec(shape, dtype, image_shape=None, least_sides=(1, 1)) -> None:
    """Raises unless shape and dtype are those of images `[batch, height, width, channels]`.

    Args:
        shape, dtype: of the images; `None` is a size that is not known.
        image_shape: `(height, width, channels)` that they must have, if the model is built; a side of `None` may have any size,
        least_sides: but must be at least as large as this.
    """
    if isinstance(shape, tf.TensorShape) and shape.rank is None:
        raise ValueError("The rank of the images is not known: give the dataset an output_signature.")
    if dtype == tf.string:
        if len(shape) != 1:
            raise ValueError(f"Expected names of images [batch]; got shape {tuple(shape)}.")
        return
    if len(shape) != 4:
        raise ValueError(f"Expected batches of images [batch, height, width, channels]; got shape {tuple(shape)}.")
    known = zip(shape[1:], image_shape or shape[1:])
    if any(got is not None and want is not None and got != want for got, want in known):
        raise ValueError(f"The model was built for images {tuple(image_shape)}; got images {tuple(shape[1:])}.")
    if image_shape and any(got is not None and got < least for got, least in zip(shape[1:3], least_sides)):
        raise ValueError(f"{too_small(least_sides)}; got images {tuple(shape[1:])}.")
    dtype = tf.as_dtype(dtype)
    if not (dtype.is_floating or dtype in (tf.uint8, tf.uint16)):
        raise TypeError(f"Expected images of floats, uint8 or uint16; got {dtype.name}.")


def too_small(least_sides: tuple[int, int]) -> str:
    return f"Images must be at least {least_sides[0]}x{least_sides[1]} pixels, as large as the thumbnail and a patch"


def dtype_of(array) -> str:
    """The dtype by Keras's name; "string" for text and for Python objects."""
    try:
        return keras.backend.standardize_dtype(array.dtype)
    except ValueError:
        return "string"


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

    def see(self, images, count: int | None = None) -> None:
        """Looks at images, an array of floats or integers, or at the first `count` of them."""
        if not self.has_warned and not tf.as_dtype(dtype_of(images)).is_unsigned and np.size(images := images[:count]):
            self.see_largest(np.max(images))

    def see_largest(self, pixel) -> None:
        if self.has_warned or not pixel > self.limit:
            return
        self.has_warned = True
        warnings.warn(self._wrong(pixel), stacklevel=2)

    def check(self, images) -> None:
        """Raises ValueError for floats that `see` warns of, and for unsigned integers that were scaled to [0, 1] before."""
        largest = np.max(images)
        if tf.as_dtype(dtype_of(images)).is_unsigned:
            if largest <= 1:
                most = np.iinfo(images.dtype).max
                raise ValueError(f"Unsigned integers are scaled to [0, 1]: expected pixels up to {most}; got up to {largest}.")
        elif not largest <= self.limit:
            raise ValueError(self._wrong(largest))

    def _wrong(self, pixel):
        expected = "in [0, 1], as the bytes that the model was trained on are scaled" if self.largest else "around 1"
        return (
            f"Images of floats are used as they are: expected pixels {expected}; got up to {pixel:g}. Divide them by 255, or "
            "pass unsigned integers, which are scaled to [0, 1]."
        )


def _kind(value):
    return "an array of objects" if _holds_objects(value) else f"a {type(value).__name__}"


def _holds_objects(value):
    return isinstance(value, np.ndarray) and value.dtype.kind == "O"
