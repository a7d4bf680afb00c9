"""Models that were trained by the recipes and come with the package."""

from pathlib import Path

import keras

from keras_glimpse.export.integrity import check_file


def pretrained_folder() -> Path:
    """Where they are: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "saved_models"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "saved_models"


def load_pretrained(name: str) -> keras.Model:
    """Loads a trained model by name.

    What it was trained on, its errors, costs and limits stand in `README.md` of its folder, `pretrained_folder() / name`,
    beside the same model for TensorFlow Serving and LiteRT.

    Args:
        name: of a folder in `pretrained_folder()`: "jittered-mnist" (48x48, two glimpses), ...

    Returns:
        A trained `GlimpseClassifier`, not compiled: before `evaluate` or more training, `compile` it with a stage. It takes
        images of unsigned bytes, or floats in [0, 1].

    Raises:
        ValueError: there is no such model; the message names those there are. Or its file is corrupt.
    """
    found = sorted(path.parent.name for path in pretrained_folder().glob("*/model.keras"))
    if name not in found:
        raise ValueError(f"name must be one of {found}; got {name!r}.")
    path = pretrained_folder() / name / "model.keras"
    check_file(path)
    return keras.models.load_model(path)
