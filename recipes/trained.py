"""Trained models, by name or file, for the recipes that take one."""

from pathlib import Path

import keras

import keras_glimpse

HELP = "name of a model in saved_models/, or a .keras file of a GlimpseClassifier"


def load(model: str | Path) -> keras_glimpse.GlimpseClassifier:
    """The pretrained model of this name, or that of a file; FileNotFoundError, TypeError or ValueError if it is none."""
    names = keras_glimpse.pretrained_names()
    if str(model) in names:
        return keras_glimpse.load_pretrained(str(model))
    if not Path(model).is_file():
        train = "`python recipes/quickstart.py` trains one in about a minute"
        raise FileNotFoundError(f"Expected a .keras file or one of {names}; {model} does not exist. {train}.")
    if Path(model).suffix != ".keras":
        raise ValueError(f"Expected a .keras file or one of {names}; got {model}.")
    loaded = keras.models.load_model(model)
    if not isinstance(loaded, keras_glimpse.GlimpseClassifier):
        raise TypeError(f"Expected a GlimpseClassifier in {model}; got a {type(loaded).__name__}.")
    if not loaded.built:
        raise ValueError(f"Expected a trained GlimpseClassifier in {model}; got one that was never built.")
    return loaded


def load_of_digits(model: str | Path) -> keras_glimpse.GlimpseClassifier:
    """The same; ValueError if its images are not those of `tables.digits.splits_for`."""
    loaded = load(model)
    check_shape(loaded.image_shape)
    return loaded


def check_shape(image_shape: tuple) -> None:
    if image_shape not in ((48, 48, 1), (28, 28, 1)):
        raise ValueError(f"Expected a model of digits, 48x48x1 or 28x28x1; got {image_shape}.")
