"""Checks of arguments: a clear error that names what was expected and what came, before any work is lost."""

import contextlib
import numbers
import operator
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set

import keras
import numpy as np

from keras_glimpse._compat import all_layers

TEMPERATURES = 0.01, 100.0  # The lowest and the highest.
REFUSED = {"Cc", "Cs", "Zl", "Zp"}  # In names: what ends lines or strings in some file, and surrogates, which UTF-8 lacks.


def check_integers(minimum: int, **arguments) -> None:
    """Raises unless the arguments, by name, are integers of at least `minimum`."""
    for name, value in arguments.items():
        try:
            good = not isinstance(value, bool) and operator.index(value) >= minimum
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name} must be an integer, at least {minimum}; got {value!r}.")
        if value >= 2**31:
            raise ValueError(f"{name} must be below 2**31; got {value}.")


def integers(name: str, value, length: int | None = None) -> tuple[int, ...]:
    """One positive integer or several as a tuple: of `length`, where it is given, and then one integer stands for all."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * (length or 1)
    if len(values) != (length or len(values)) or not values:
        raise ValueError(f"{name} must be an integer, or {length or 'at least one'} of them; got {value!r}.")
    for each in values:
        check_integers(1, **{name: each})
    return tuple(map(int, values))


def check_numbers(above: float | None = None, **arguments) -> None:
    """Raises unless the arguments are finite and not negative; nor equal to `above`, if it is given."""
    for name, value in arguments.items():
        if not isinstance(value, numbers.Real) or not 0 <= value < np.inf or value == above:
            raise ValueError(f"{name} must be finite and {'positive' if above == 0 else 'not negative'}; got {value!r}.")


def check_one_of(allowed, **arguments) -> None:
    """Raises unless the arguments, by name, are among the `allowed` values."""
    for name, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"{name} must be one of {tuple(allowed)}; got {value!r}.")


def check_layers(**arguments) -> None:
    """Raises unless the arguments are None or Keras layers."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, keras.Layer):
            raise TypeError(f"{name} must be a Keras layer or model; got {value!r}.")


def check_search_size(search_size) -> None:
    """Raises unless `search_size` is a positive odd integer or "image"."""
    if isinstance(search_size, str):
        if search_size != "image":
            raise ValueError(f'search_size must be an odd integer or "image"; got {search_size!r}.')
        return
    check_integers(1, search_size=search_size)
    if search_size % 2 == 0:
        raise ValueError(f"search_size must be odd, so that the prediction is a candidate; got {search_size}.")


def check_assignment(assignment) -> None:
    """Raises unless `assignment` is "hard" or "soft"."""
    check_one_of(("hard", "soft"), assignment=assignment)


def check_search_samples(search_samples) -> None:
    """Raises unless `search_samples` is a positive integer or None."""
    if search_samples is not None:
        check_integers(1, search_samples=search_samples)


def check_search_stride(search_stride) -> None:
    """Raises unless `search_stride` is a positive integer (pixels) or a float in (0, 1) (a fraction of a side)."""
    if not isinstance(search_stride, float):
        check_integers(1, search_stride=search_stride)
    elif not 0 < search_stride < 1:
        raise ValueError(f"search_stride must be pixels, an integer, or a share of a side in (0, 1); got {search_stride!r}.")


def check_threshold(threshold: float) -> None:
    """Raises unless `threshold` is a number in (0, 1]."""
    if not isinstance(threshold, numbers.Real) or not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (0, 1]; got {threshold!r}.")


def class_names_of(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    """The names of classes as a tuple; raises unless they are None, or a different string for each class."""
    if names is None:
        return None
    names = (names,) if isinstance(names, str | Set | Mapping) or not np.iterable(names) else tuple(names)
    for name in names:
        if not isinstance(name, str) or not name.strip() or not REFUSED.isdisjoint(map(unicodedata.category, name)):
            raise ValueError(f"class_names must be strings of one line, not empty, without control characters; got {name!r}.")
    if len(names) != num_classes or len({*names}) != num_classes:
        raise ValueError(f"class_names must be {num_classes} different names, one for each class; got {names!r}.")
    return tuple(map(str, names))


def temperatures_of(temperatures: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """The temperatures of so many stages as a tuple, 1 for None; raises unless each is a number between the limits."""
    if temperatures is None:
        return (1.0,) * count
    found = tuple(temperatures) if isinstance(temperatures, Sequence | np.ndarray) else ()
    low, high = TEMPERATURES
    if len(found) != count or not all(isinstance(each, numbers.Real) and low <= each <= high for each in found):
        raise ValueError(
            f"temperatures must be {count} numbers from {low} to {high}, after 0, 1, ... glimpses; got {temperatures!r}."
        )
    return tuple(map(float, found))


def check_built_classifier(function: str, model) -> None:
    """Raises unless the model, an argument of `function`, is a `GlimpseClassifier` that is built."""
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
    check_built_classifier(function, model)
    half = [layer for layer in all_layers(model) if layer.compute_dtype != "float32"]
    if float32 and half:
        raise ValueError(f"{function} needs a model of float32; {half[0].name!r} has {half[0].dtype_policy.name}.")
    modes = {layer.quantization_mode: layer for layer in all_layers(model) if layer.quantization_mode}
    for mode, layer in modes.items():
        if quantized is not None and mode not in quantized:
            raise ValueError(
                f"{function} cannot export layers of {mode}; {layer.name!r} has {layer.dtype_policy.name}. "
                'Export the model as it was before `quantize`; quantize="int8" of export_litert makes 8-bit files then.'
            )


@contextlib.contextmanager
def clear_config_errors(what: str) -> Iterator[None]:
    """Turns whatever a broken configuration makes Keras or NumPy raise into a ValueError that says what was broken."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"The {what} of the model cannot be used: {type(error).__name__}: {error}") from error
