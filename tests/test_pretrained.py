"""The models that come with the package: they load, say what their cards say, and answer alike in every runtime."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pretrained
import pytest
import tensorflow as tf
from images import tasks
from tiers import one_fast

import keras_glimpse
from keras_glimpse import data

ROOT = Path(__file__).parent.parent
NAMES = keras_glimpse.pretrained_names()


BOARDS = "deeppcb-defects"
DIGITS = [name for name in NAMES if name != BOARDS]


@pytest.mark.parametrize("name", one_fast([*DIGITS, BOARDS]))
def test_every_runtime_gives_the_same_answers(name):
    """On images that need no download. Of the C API, see the tests of export and soak."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    folder = keras_glimpse.pretrained_folder() / name
    model, threshold = keras_glimpse.load_pretrained(name), card_of(name)["files"][0]["threshold"]
    images = made_up_boards() if name == BOARDS else digits_for(model)
    expected = keras_glimpse.cascade_predict(model, images, threshold)
    assert len({*expected.exit_stage}) > 1
    serve = tf.saved_model.load(str(folder / "saved_model" / "1")).signatures["serving_default"]
    run = litert.Interpreter(model_path=str(folder / "cascade.tflite"), num_threads=1).get_signature_runner()
    answers = [run(images=image[None]) for image in images]
    for found in (
        serve(images=tf.constant(images))["probabilities"].numpy(),
        np.concatenate([answer["probabilities"] for answer in answers]),
    ):
        assert np.abs(found - expected.probabilities).max() < 5e-5  # float32: Keras with and without XLA differ by 1e-5.
        np.testing.assert_array_equal(found.argmax(axis=-1), expected.probabilities.argmax(axis=-1))
    np.testing.assert_array_equal([int(answer["exit_stage"][0]) for answer in answers], expected.exit_stage)


def card_of(name):
    return json.loads((keras_glimpse.pretrained_folder() / name / "card.json").read_text())


def digits_for(model):
    """1,000 real digits."""
    digits = data.embedded_digits()
    splits = data.jittered(digits, test_copies=3) if model.image_shape[0] == 48 else data.plain(digits)
    images = np.concatenate([images for images, _ in splits.test.as_numpy_iterator()])[:1000]
    return images.astype(np.float32) / 255


def made_up_boards():
    """Each of the recipe's boards in each quarter of an image, from black to clear, so that they stop at several stages."""
    boards = tasks.load("board", smoke=True).test
    images = np.tile(np.stack([boards[n] for n in range(len(boards))]), (1, 2, 2, 1)).astype(np.float32) / 255
    return images * np.linspace(0, 1, len(images), dtype=np.float32)[:, None, None, None]


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_was_measured(name):
    """What `card.json` has, also of the files as they are here."""
    folder, card = keras_glimpse.pretrained_folder() / name, card_of(name)
    said = " ".join((folder / "README.md").read_text().split())
    errors = [f"{error:.2f} % after {n}" for n, error in enumerate(card["row"]["details"]["errors"])]
    assert ", ".join(errors) in said
    assert f"{card['cascade']['error']:.2f} %, {card['cascade']['macs']:,} multiply-accumulates on average" in said
    files = [file for file in card["files"] if (folder / file["file"]).exists()]
    for file in files:
        path = folder / file["file"]
        assert file["bytes"] == sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())
        assert f"`{file['file']}` | {file['bytes'] / 1e6:.2f} MB | {file['error_percent']:.2f} %" in said
    assert {file["file"] for file in files} == {"saved_model/1", "cascade.tflite", "cascade-int8.tflite"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_the_error(name, request):
    """On the whole test set, to the image; and the cascade's cost."""
    model, card = keras_glimpse.load_pretrained(name), card_of(name)
    test = boards_to_test() if name == BOARDS else digits_to_test(model, request.getfixturevalue("mnist"))
    curve = keras_glimpse.cascade_curve(model, test, thresholds=[card["files"][0]["threshold"]])
    assert 100 * curve.full_error == pytest.approx(card["row"]["details"]["errors"][model.active_glimpses], abs=2e-2)
    assert 100 * curve.errors[0] == pytest.approx(card["cascade"]["error"], abs=2e-2)
    assert curve.macs[0] == pytest.approx(card["cascade"]["macs"], rel=1e-3)


def digits_to_test(model, mnist):
    return (data.jittered if model.image_shape[0] == 48 else data.plain)(mnist).test


def boards_to_test():
    if "DEEPPCB_DIR" not in os.environ:
        pytest.skip("DEEPPCB_DIR does not say where a clone of github.com/tangsanli5201/DeepPCB is.")
    return tasks.load("board", os.environ["DEEPPCB_DIR"]).test.dataset(32)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"name must be hf://user/name or one of \[.*'mnist'\]; got 'imagenet'"):
        keras_glimpse.load_pretrained("imagenet")


@pytest.mark.slow
def test_they_come_with_the_wheel(tmp_path):
    """In a wheel they lie inside the package; a process that sees nothing but its content loads one."""
    pytest.importorskip("setuptools")
    for name in ("keras_glimpse", "saved_models"):  # Built elsewhere: what an earlier build left here is not to help.
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(tmp_path / "source")], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "content")
    program = "import keras_glimpse, sys; print(keras_glimpse.__file__, keras_glimpse.load_pretrained(sys.argv[1]).image_shape)"
    command = [sys.executable, "-c", program, "jittered-mnist"]
    done = subprocess.run(command, cwd=tmp_path / "content", capture_output=True, text=True, check=True, timeout=120)
    assert str(tmp_path / "content") in done.stdout and "(48, 48, 1)" in done.stdout


def test_they_are_small():
    assert {"jittered-mnist", "mnist", BOARDS} <= {*NAMES}
    for name, limit in ((".", 20e6), (BOARDS, 5e6)):
        files = [path for path in (keras_glimpse.pretrained_folder() / name).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < limit


def test_a_file_that_has_code_in_it_is_refused(make_model, tmp_path, monkeypatch):
    (tmp_path / "evil").mkdir()
    make_model(preprocess=keras.layers.Lambda(lambda images: images + 1)).save(tmp_path / "evil" / "model.keras")
    monkeypatch.setattr("keras_glimpse.pretrained.pretrained_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match="[Ll]ambda"):
        keras_glimpse.load_pretrained("evil")


@pytest.mark.parametrize("name", NAMES)
def test_they_know_their_classes(name):
    with zipfile.ZipFile(keras_glimpse.pretrained_folder() / name / "model.keras") as file:
        names = json.loads(file.read("config.json"))["config"]["class_names"]
    assert names == card_of(name)["class_names"] == (["clean", "defective"] if name == BOARDS else list("0123456789"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_cards_are_those_that_the_recipe_writes(name):
    card = pretrained.card(keras_glimpse.load_pretrained(name), card_of(name))
    assert card == (keras_glimpse.pretrained_folder() / name / "README.md").read_text()


@pytest.mark.slow
def test_a_refreshed_model_is_the_same(tmp_path, monkeypatch):
    """Made of what is in its folder alone; of that, only `model.keras` is another file."""
    shutil.copytree(keras_glimpse.pretrained_folder() / "mnist", tmp_path / "mnist")
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    before = keras_glimpse.load_pretrained("mnist").get_weights()
    for module in ("keras_glimpse.pretrained", "pretrained"):
        monkeypatch.setattr(f"{module}.pretrained_folder", lambda: tmp_path)
    monkeypatch.setattr(pretrained, "one_thread", lambda: None)  # TensorFlow has started.
    monkeypatch.setattr(sys, "argv", ["pretrained.py", "--refresh", "--model", "mnist"])
    pretrained.main()
    for old, new in zip(before, keras_glimpse.load_pretrained("mnist").get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert [path.name for path, content in written.items() if path.read_bytes() != content] == ["model.keras"]
