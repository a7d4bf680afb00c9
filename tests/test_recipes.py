"""The recipes run, and the README says what their results are."""

import dataclasses
import importlib
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from keras_glimpse import CascadePrediction, stage_macs
from keras_glimpse.data.pipelines import Digits, Epoch

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
    assert "Wrote figure2.png, figure3.png, figure4.png, figure5.png, cascade.png" in capsys.readouterr().out


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Keras's CSVLogger leaves its file open.
@pytest.mark.parametrize("name", ["DENSE", "SECOND"])
def test_an_interrupted_row_ends_as_if_it_were_not(recipe, tmp_path, monkeypatch, name):
    row_run, table1 = recipe("row_run"), recipe("table1")
    monkeypatch.setattr(row_run, "digits_of", lambda smoke: row_run.smoke_digits())
    first = dataclasses.replace(table1.FIRST, sweeps=1, xla=False)
    row = dataclasses.replace(getattr(table1, name), sweeps=3, xla=False, after=first if name == "SECOND" else None)
    whole = row_run.Run(row, 1, None, tmp_path / "whole").model().get_weights()

    class Killer(row_run.Stopwatch):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations > 2 * self.params["steps"]:
                raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(row_run, "Stopwatch", Killer)
        row_run.Run(row, 1, None, tmp_path / "killed").model()
    run = row_run.Run(row, 1, None, tmp_path / "killed")
    for one, other in zip(whole, run.model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len((run.folder / "log.csv").read_text().splitlines()) == 1 + 3
    assert sorted(path.name for path in run.folder.iterdir()) == ["log.csv", "model.keras", "protocol.json"]


def test_another_protocol_is_not_taken_for_the_same(recipe, tmp_path):
    row_run, table1 = recipe("row_run"), recipe("table1")
    run = row_run.Run(table1.TUNED, 0, None, tmp_path)
    done = run.folder / "table1.json"
    commit = run._same_protocol()
    assert run._same_protocol() == commit
    done.write_text('{"error": 1.0}')
    assert run.result(table1.TABLE, tmp_path) == {"error": 1.0}
    first = dataclasses.replace(table1.FIRST, learning_rate=1.0)
    changes = [{"after": dataclasses.replace(table1.SECOND, after=first)}, {"jittered": False}, {"sweeps": 3}]
    changes += [{"build": partial(table1.GlimpseClassifier, 10, 3, location_weight=10.0)}]
    for change in changes:
        changed = dataclasses.replace(run, row=dataclasses.replace(table1.TUNED, **change))
        changed.folder.mkdir(parents=True, exist_ok=True)
        (changed.folder / "protocol.json").write_text((run.folder / "protocol.json").read_text())
        with pytest.raises(SystemExit, match="was begun with"):
            changed.result(table1.TABLE, tmp_path)
        assert changed.protocol_hash != run.protocol_hash


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


def bright_digits(count):
    """Squares, each of a brightness of its own, by which it is known wherever it is."""
    images = np.zeros((count, 28, 28, 1), np.uint8)
    images[:, 8:20, 8:20] = (10 + np.arange(count))[:, None, None, None]
    return Digits(images, np.arange(count) % 10, images[:1], np.zeros(1, int))


@pytest.mark.parametrize("name", ["table1", "table3", "tuning"])
def test_rows_do_not_train_on_what_they_hold_out(recipe, name):
    row_data, digits = recipe("row_data"), bright_digits(24)
    rows = [row for row in recipe(name).TABLE.rows if "validation_split" in row.data and row.sweeps]
    assert rows
    for data, row in {(str(row.data), row.jittered): row for row in rows}.items():
        train = row_data.training_data(digits, row, seed=0, epoch=Epoch(), copies=2)
        images, labels = (np.concatenate(parts) for parts in zip(*train.as_numpy_iterator()))
        held_out = np.concatenate([batch for batch, _ in row_data.evaluation_data(digits, row).validation.as_numpy_iterator()])
        count = 24 - round(24 * row.data["validation_split"])
        assert set(held_out.max(axis=(1, 2, 3))) == set(range(10 + count, 34))
        assert set(images.max(axis=(1, 2, 3))) == set(range(10, 10 + count)), data
        np.testing.assert_array_equal(labels, (images.max(axis=(1, 2, 3)) - 10) % 10)
        assert len(images) == count * (2 if row.jittered or "distorted" in row.data else 1)


def test_digits_are_moved_by_at_most_two_pixels(recipe):
    row_data, table3 = recipe("row_data"), recipe("table3")
    moved = dataclasses.replace(table3.DISTORTED_1, data={"shift": table3.DISTORTED_1.data["shift"]})
    train = row_data.training_data(bright_digits(200), moved, seed=0, epoch=Epoch())
    corners = {tuple(np.argwhere(image[..., 0])[0]) for batch, _ in train for image in batch.numpy()}
    assert {y for y, _ in corners} == {x for _, x in corners} == {6, 7, 8, 9, 10}


def test_the_best_rows_cost_no_more_than_they_may(recipe):
    rows = [row for name in ("table1", "table3") for row in recipe(name).TABLE.rows if row.best and row.budget]
    for row in [row for row in rows if not row.threshold]:
        model = row.build()
        model.build((None, 48, 48, 1) if row.jittered else (None, 28, 28, 1))
        assert stage_macs(model)[-1] <= row.budget
    assert len(rows) >= 6


def test_figures_of_a_cascade(recipe, make_model, monkeypatch):
    """Against those counted by hand, of four images of which one is never sure and one is sure of a wrong class."""
    row_test = recipe("row_test")
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
    looked = CascadePrediction(probabilities, np.array([0, 1, 1, 1]), np.array([10.0, 30.0, 30.0, 30.0]))
    monkeypatch.setattr(row_test.keras_glimpse, "cascade_predict", lambda model, images, threshold: looked)
    test = tf.data.Dataset.from_tensor_slices((np.zeros((4, 24, 24, 1)), [0, 1, 1, 0])).batch(3)
    found = row_test.measure(make_model(num_glimpses=1, num_classes=2), test, threshold=0.7)
    assert (found["error"], found["macs"]) == (25.0, 25)
    assert found["details"] == {
        "threshold": 0.7,
        "exit_fractions": [25.0, 50.0],
        "exit_errors": [0.0, 50.0],
        "rejected": [75.0, 25.0],
    }


def test_results_of_another_protocol_are_not_shown(recipe, tmp_path, monkeypatch):
    report, table1 = recipe("report"), recipe("table1")
    results = report.read()
    lines = [line for line in results if line["row"] == "1-glimpse"]
    errors = [float(line["error"]) for line in lines if line["protocol"] == lines[-1]["protocol"]]
    shown = f"| {np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f} |"
    assert len(errors) == 3 and shown in report.markdown(table1.TABLE, results)
    changed = dataclasses.replace(table1.TABLE, rows=(dataclasses.replace(table1.FIRST, learning_rate=1.0),))
    assert "not run yet" in report.markdown(changed, results)
    monkeypatch.setattr(report, "PAGE", tmp_path / "tables.md")
    before_error = "| `1-glimpse` | this method, 1 glimpse | 2.3 | "
    page = (RECIPES.parent / "docs/paper/tables.md").read_text()
    assert before_error in page
    report.PAGE.write_text(page.replace(before_error, before_error + "9"))
    with pytest.raises(SystemExit, match="tables.md does not say"):
        recipe("report", "--check").main()


def test_effects_compare_the_same_seeds(recipe):
    report, table2 = recipe("report"), recipe("table2")
    first, second = (report.runs_of(row, report.read())[0] for row in (table2.FIRST, table2.SECOND))
    errors = [(first, "0", 1.0), (first, "1", 2.0), (first, "2", 9.0), (second, "1", 1.7), (second, "0", 0.9)]
    results = [run | {"seed": seed, "error": str(error)} for run, seed, error in errors]
    shown = report.markdown(table2.TABLE, results).splitlines()
    assert "| `2-glimpses` | `1-glimpse` | -0.70 | -0.20 ± 0.14 | -0.10, -0.30 |" in shown
    assert "| `weight-sharing` | `2-glimpses` | +0.10 | not run yet |  |" in shown


def test_the_most_disputed_images(recipe):
    """Images 0 to 2 are of one digit, 3 to 5 of the next, and so on."""
    figures = recipe("figures")
    sure = np.eye(3)
    beliefs = [(0, 1, 2), (0, 1, 1), (0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0), (2, 2, 2), (0, 1, 0)]
    chosen = figures.most_disputed(np.array([[sure[believed] for believed in image] for image in beliefs]), count=2)
    assert sorted(chosen) == [0, 7]
