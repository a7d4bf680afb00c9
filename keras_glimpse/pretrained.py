"""Pretrained models: those that are part of the package, and those on the Hugging Face Hub."""

from pathlib import Path

import keras

from keras_glimpse import hub
from keras_glimpse.export.integrity import check_file, config_of
from keras_glimpse.model import GlimpseClassifier


def pretrained_folder() -> Path:
    """Folder of the pretrained models, in the installed package or in the checkout.

    Each model has a folder with `model.keras`, a SavedModel, LiteRT files, and a model card `README.md`.

    Returns:
        A `pathlib.Path`.

    Example:
    >>> (pretrained_folder() / "jittered-mnist" / "README.md").is_file()
    True
    """
    installed = Path(__file__).parent / "saved_models"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "saved_models"


def pretrained_names() -> list[str]:
    """Names of the pretrained models of the package, which `load_pretrained` takes.

    Returns:
        List of strings, sorted.

    Example:
    >>> pretrained_names()
    ['deeppcb-defects', 'jittered-mnist', 'jittered-mnist-best', 'mnist']
    """
    return sorted(path.parent.name for path in pretrained_folder().glob("*/model.keras"))


def load_pretrained(name: str) -> keras.Model:
    """Loads a pretrained model of the package by name, or one from the Hugging Face Hub.

    The model card of a model of the package, `pretrained_folder() / name / "README.md"`, describes the training data, errors,
    costs and limits. The same folder contains the model for TensorFlow Serving and LiteRT.

    A repository of the Hub has what `model.save("hf://user/name")` wrote, or a file `model.keras`. It is downloaded once for
    each version; without a connection, the version downloaded last is loaded. It is checked by `check_file`, and no code in it
    is run (Keras's `safe_mode`). Requires `pip install keras-glimpse[hub]`.

    Args:
        name: String, one of `pretrained_names()`, or `"hf://user/name"`.

    Returns:
        A trained `GlimpseClassifier`; those of the package take uint8 images, or floats in [0, 1]. It is not compiled: call
        `compile` before `evaluate` or further training.

    Raises:
        ValueError: If there is no model of this name in the package, `name` is not of the form `hf://user/name`, or the file is
            corrupt, has code in it, or is not that of a `GlimpseClassifier`.
        FileNotFoundError: If there is no such repository, or it is private.
        OSError: If the repository cannot be downloaded.
        ImportError: If huggingface_hub is not installed and `name` starts with `hf://`.

    Example:
    >>> model = load_pretrained("jittered-mnist")
    >>> model.image_shape, model.num_glimpses
    ((48, 48, 1), 2)
    """
    if not hub.is_on_hub(name) and name not in pretrained_names():
        raise ValueError(f"name must be hf://user/name or one of {pretrained_names()}; got {name!r}.")
    path = hub.download(name) if hub.is_on_hub(name) else pretrained_folder() / name / "model.keras"
    check_file(path)
    config = config_of(path)
    loaded_class = keras.saving.get_registered_object(config.get("registered_name"))
    if not isinstance(loaded_class, type) or not issubclass(loaded_class, GlimpseClassifier):
        raise ValueError(f"{name} is not a GlimpseClassifier, but a {config.get('registered_name') or config['class_name']}.")
    return keras.models.load_model(path, compile=False)
