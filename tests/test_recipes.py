"""The recipes run, and the README says what their results are."""

import importlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import ndimage

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    """Imports a recipe and gives it a command line."""
    monkeypatch.syspath_prepend(RECIPES)

    def load(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_every_row_trains_and_is_tested(recipe, capsys, name):
    before = {path: path.stat().st_mtime for path in RECIPES.rglob("*.csv")}
    table = recipe(name, "--smoke")
    table.main(table.TABLE, table.__doc__)
    printed = capsys.readouterr().out
    assert len(table.TABLE.rows) > 5 and all(f"│ {row.name} " in printed for row in table.TABLE.rows)
    assert {path: path.stat().st_mtime for path in RECIPES.rglob("*.csv")} == before


def test_figures(recipe, capsys):
    recipe("figures", "--smoke").main()
    assert "cascade.png, figure2.png, figure3.png, figure4.png, figure5.png" in capsys.readouterr().out


def test_export(recipe, make_model, tmp_path):
    """Every format of a model of digits, without a training worth the name."""
    pytest.importorskip("ai_edge_litert")
    export = recipe("export")
    model = make_model(image_shape=(48, 48, 1), num_classes=10, num_glimpses=1)
    digits = importlib.import_module("row_data").smoke_digits()
    results = export.export_all(model, 0.95, digits, tmp_path)
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
        ("other", "needs a GlimpseClassifier"),
        ("none", "none.keras"),
    ):
        with pytest.raises((OSError, TypeError, ValueError), match=message):
            recipe("export").load(tmp_path / f"{name}.keras", 0.95)
    with pytest.raises(ValueError, match="threshold must lie in"):
        recipe("export").load(tmp_path / "model.keras", 1.5)


def test_on_device(recipe, capsys):
    pytest.importorskip("ai_edge_litert")
    recipe("on_device", "--smoke", "--rounds", "1").main()
    assert "cascade at 0.95" in capsys.readouterr().out


def test_the_readme_has_the_results(recipe):
    recipe("report", "--check").main()


@pytest.mark.parametrize("arguments", [["--row", "nothing"], ["--seeds", "0"], ["--sweeps", "-1"]])
def test_bad_arguments(recipe, capsys, arguments):
    table = recipe("table1", *arguments)
    with pytest.raises(SystemExit):
        table.main(table.TABLE, table.__doc__)
    assert "error: " in capsys.readouterr().err


class Killed(Exception):
    pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Keras's CSVLogger leaves its file open.
def test_an_interrupted_row_ends_as_if_it_were_not(recipe, tmp_path, monkeypatch):
    experiment, table1 = recipe("experiment"), recipe("table1")
    monkeypatch.setattr(experiment, "_digits", lambda smoke: experiment.smoke_digits())
    row = experiment.replace(table1.FIRST, sweeps=3, xla=False)
    whole = experiment.Run(row, 1, None, tmp_path / "whole").model().get_weights()

    class Killer(experiment.Stopwatch):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations > 2 * self.params["steps"]:
                raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(experiment, "Stopwatch", Killer)
        experiment.Run(row, 1, None, tmp_path / "killed").model()
    run = experiment.Run(row, 1, None, tmp_path / "killed")
    for one, other in zip(whole, run.model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len((run.folder / "log.csv").read_text().splitlines()) == 1 + 3
    assert sorted(path.name for path in run.folder.iterdir()) == ["log.csv", "model.keras", "protocol.json"]


def test_another_protocol_is_not_taken_for_the_same(recipe, tmp_path):
    experiment, table1 = recipe("experiment"), recipe("table1")
    run = experiment.Run(table1.FIRST, 0, None, tmp_path)
    commit = run._same_protocol()
    assert run._same_protocol() == commit
    changed = experiment.replace(run, row=experiment.replace(table1.FIRST, learning_rate=1.0))
    with pytest.raises(SystemExit, match="was begun with"):
        changed._same_protocol()


def test_distorted_digits(recipe, monkeypatch):
    distortion, digits = recipe("distortion"), importlib.import_module("row_data").smoke_digits()
    some = distortion.distorted(digits, copies=3, seed=1)
    assert some.train_images.shape == (300, *digits.train_images.shape[1:]) and some.train_images.dtype == np.uint8
    np.testing.assert_array_equal(some.train_labels, np.repeat(digits.train_labels, 3))
    np.testing.assert_array_equal(some.test_images, digits.test_images)
    np.testing.assert_array_equal(some.train_images, distortion.distorted(digits, copies=3, seed=1).train_images)
    assert len(np.unique(some.train_images[:3], axis=0)) == 3

    monkeypatch.setattr(distortion, "BEND", 0.0)
    maps = np.random.default_rng(0).uniform(-0.2, 0.2, (100, 2, 2)) + np.eye(2)
    monkeypatch.setattr(distortion, "_linear_maps", lambda count, generator: maps[:count].astype(np.float32))
    found = distortion.distorted(digits, copies=1).train_images[..., 0].astype(int)
    centre = (np.array(found.shape[1:]) - 1) / 2
    for image, each, result in zip(digits.train_images[..., 0], maps, found):
        expected = ndimage.affine_transform(image.astype(float), each.T, centre - each.T @ centre, order=1)
        np.testing.assert_allclose(result, expected, atol=0.51)


def test_a_row_does_not_train_on_what_it_holds_out(recipe):
    """Every training image is a digit of its own brightness here, at some place or distorted."""
    row_data, table1 = recipe("row_data"), recipe("table1")
    images = np.zeros((12, 28, 28, 1), np.uint8)
    images[:, 8:20, 8:20] = 20 * np.arange(1, 13)[:, None, None, None]
    digits = row_data.data.Digits(images, np.arange(12) % 10, images[:1], np.zeros(1, int))
    for row in (table1.BEST_1, table1.WIDE_1):
        train = row_data.training_data(digits, row, 0, row_data.data.Epoch())
        brightest = {int(image.max()) for batch, _ in train for image in batch.numpy()}
        assert sum(len(labels) for _, labels in train) == 110 and max(brightest) == 220
        held_out = row_data.evaluation_data(digits, row).validation
        assert {int(image.max()) for batch, _ in held_out for image in batch.numpy()} == {240}
