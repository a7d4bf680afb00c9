"""Pretrained models, which are part of the package."""

from pathlib import Path

import keras

from keras_glimpse.export.integrity import check_file


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


def load_pretrained(name: str) -> keras.Model:
    """Loads a pretrained model by name.

    Its model card, `pretrained_folder() / name / "README.md"`, describes the training data, errors, costs and limits. The same
    folder contains the model for TensorFlow Serving and LiteRT.

    Args:
        name: String, the name of a folder in `pretrained_folder()`: `"jittered-mnist"`, `"jittered-mnist-best"`, `"mnist"` or
            `"deeppcb-defects"`.

    Returns:
        A trained `GlimpseClassifier` for uint8 images, or floats in [0, 1]. It is not compiled: call `compile` before
        `evaluate` or further training.

    Raises:
        ValueError: If there is no such model, or its file is corrupt.

    Example:
    >>> model = load_pretrained("jittered-mnist")
    >>> model.image_shape, model.num_glimpses
    ((48, 48, 1), 2)
    """
    found = sorted(path.parent.name for path in pretrained_folder().glob("*/model.keras"))
    if name not in found:
        raise ValueError(f"name must be one of {found}; got {name!r}.")
    path = pretrained_folder() / name / "model.keras"
    check_file(path)
    return keras.models.load_model(path)
