"""The recipes that export and time models."""

import importlib
import sys
from pathlib import Path

import keras
import pytest

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    """Imports a recipe and gives it a command line."""
    monkeypatch.syspath_prepend(RECIPES)

    def load(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        return importlib.import_module(name)

    return load


@pytest.mark.slow
def test_export(recipe, make_model, tmp_path):
    """Every format of a model of digits, without a training worth the name."""
    pytest.importorskip("ai_edge_litert")
    export = recipe("export")
    model = make_model(image_shape=(48, 48, 1), num_classes=10, num_glimpses=1)
    digits = importlib.import_module("tables.digits").smoke_digits()
    results = export.export_all(model, 0.95, *export.images_of(model, digits), tmp_path)
    assert {each["file"] for each in results} == {
        "saved_model/1",
        *(f"{name}{kind}.tflite" for name in ("full", "cascade") for kind in ("", "-float16", "-dynamic", "-int8")),
        *("full.onnx", "cascade.onnx"),
    }
    assert all(each["largest_difference"] < 0.02 and each["bytes"] > 1000 and each["median_us"] > 0 for each in results)


def test_export_refuses(recipe, make_model, tmp_path):
    make_model().save(tmp_path / "model.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    for name, message in (
        ("model", "Expected a model of digits"),
        ("other", "Expected a GlimpseClassifier"),
        ("none", "none.keras"),
    ):
        with pytest.raises((OSError, TypeError, ValueError), match=message):
            recipe("trained").load_of_digits(tmp_path / f"{name}.keras")


@pytest.mark.slow
def test_on_device(recipe, capsys):
    pytest.importorskip("ai_edge_litert")
    recipe("on_device", "--smoke", "--rounds", "1").main()
    assert "cascade at 0.95" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name, column", [("compiled_model", "CompiledModel"), ("integers", "points")])
def test_other_tables_of_files(recipe, capsys, name, column):
    pytest.importorskip("ai_edge_litert")
    recipe(name, "--smoke").main()
    assert column in capsys.readouterr().out


@pytest.mark.slow
def test_milliseconds_of_large_images(recipe, capsys):
    pytest.importorskip("ai_edge_litert")
    recipe("milliseconds", "--smoke", "--rounds", "1").main()
    said = capsys.readouterr().out
    assert "nan" not in said and all(name in said for name in ("ours", "whole", "mobilenet"))


@pytest.mark.slow
def test_boards_on_device(recipe, capsys):
    """The cascade is faster than the same convolutions over the whole image, if by less than its MACs say."""
    pytest.importorskip("ai_edge_litert")
    recipe("boards_on_device", "--smoke", "--rounds", "1").main()
    said = capsys.readouterr().out
    assert "2 boards" in said and "whole image" in said and "1.183e+09" in said
