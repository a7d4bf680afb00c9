"""The public names, which all stay; recipes import no others, and nothing in the package imports recipes."""

import ast
from pathlib import Path

import pytest

import keras_glimpse
from keras_glimpse import data

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
PUBLIC = {
    *("GlimpseClassifier", "LowResNet", "LocationHead", "MultiScaleCrop", "GlimpseNet"),
    *("ConvLowResNet", "LocationMap", "ConvGlimpseNet", "Backbone", "Thumbnail"),
    *("fit_greedy", "paper_sgd", "SearchSchedule", "Checkpoints"),
    *("cascade_predict", "CascadePrediction", "cascade_curve", "CascadeCurve", "count_macs", "stage_macs"),
    "fit_temperatures",
    *("export_saved_model", "export_litert", "export_mediapipe", "export_onnx", "export_accelerator", "check_file"),
    *("open_image", "ImageSource", "UnreadableImage", "SourcePrediction", "predict_to_csv"),
    *("ArrayImage", "EncodedImage", "MapImage", "SlideImage"),
    *("draw_glimpses", "draw_map", "load_pretrained", "pretrained_folder", "pretrained_names", "model_card", "data"),
}
OF_DATA = {"Digits", "Epoch", "Splits", "embedded_digits", "jittered", "jittered_mnist", "mnist", "mnist_digits", "plain"}
MODULES = {"cascade", "evidence", "export", "layers", "model", "networks", "ops", "attributes", "tracing", "training"}
MODULES |= {"card", "command", "hub", "sources", "pictures", "pretrained", "quantization", "version"}


def imports(source: str):
    """Every module that is imported, and every name from one, with dots between."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def private_imports(source: str) -> list[str]:
    ours = [name.split(".")[1:] for name in imports(source) if name.split(".")[0] == "keras_glimpse"]
    public = PUBLIC | {"__version__"}
    return [".".join(names) for names in ours if names and names[0] not in public or len(names) > 1 and names[0] != "data"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_import_public_names_only(path):
    assert private_imports(path.read_text()) == []


def test_what_is_private():
    source = """
import keras_glimpse
import keras_glimpse.data
from keras_glimpse import GlimpseClassifier, data
from keras_glimpse.data import Epoch
import keras_glimpse.model
from keras_glimpse import cascade, _compat
from keras_glimpse.export.litert import convert
"""
    assert private_imports(source) == ["model", "cascade", "_compat", "export.litert.convert"]


def test_the_package_imports_no_recipe():
    recipes = {path.stem for path in RECIPES} | {"recipes"}
    for path in (ROOT / "keras_glimpse").rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path.read_text())}
        assert not found & recipes, path


def names_of(module):
    return {name for name in vars(module) if not name.startswith("_")}


def test_names_of_the_package():
    assert names_of(keras_glimpse) - MODULES == PUBLIC
    assert names_of(data) - {"digits", "pipelines"} == OF_DATA


def test_each_name_has_a_docstring_of_its_own():
    for module, names in ((keras_glimpse, PUBLIC - {"data"}), (data, OF_DATA)):
        for name in names:
            found = getattr(module, name)
            assert found.__doc__ and not found.__doc__.startswith(f"{name}("), name  # What NamedTuple writes by itself.
    for method in ("compile", "fit", "evaluate", "predict", "look", "quantize", "export", "save", "train_on_batch"):
        assert getattr(keras_glimpse.GlimpseClassifier, method).__doc__, method
