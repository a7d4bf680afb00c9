"""The program `keras-glimpse`: what it prints, writes and returns, and that it goes on where it was interrupted."""

import csv
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_glimpse
from keras_glimpse.command import folders, main, options

SIZES = {"low-res-size": 16, "patch-size": 12, "batch-size": 8, "search-samples": 4, "epochs": 12, "fine-tune-epochs": 1}
SMALL = [f"--{name}={value}" for name, value in SIZES.items()]


@pytest.fixture
def model(tmp_path, make_model):
    """The path of one for images of any size, which stops after different stages."""
    model = make_model((None, None, 1), num_classes=2)
    for net in (model.low_res_net, *model.glimpse_nets):
        net.set_weights([4 * weights for weights in net.get_weights()])
    folder = tmp_path / "model"
    folder.mkdir()
    model.class_names = ["dark", "bright"]
    model.save(folder / "model.keras")
    return str(folder / "model.keras")


@pytest.fixture
def images(tmp_path, rng):
    """A folder of two classes of 12 images each, of different sizes: dark ones and bright ones."""
    for name, level in (("dark", 50), ("bright", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for n in range(12):
            height, width = rng.integers(30, 50, 2)
            pixels = np.clip(rng.normal(level, 20, (height, width, 1)), 0, 255).astype("uint8")
            np.save(tmp_path / "images" / name / f"{n:02}.npy", pixels)
    return tmp_path / "images"


def break_file(path):
    path.write_bytes(path.read_bytes()[:100])
    return path


def results(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---- look ----


def test_look(model, images, capsys):
    files = [*sorted((images / "dark").iterdir()), images / "bright" / "03.npy"]
    loaded = keras.models.load_model(model)
    threshold = float(np.median(tf.nn.softmax(loaded.look(files)["logits"])[:, 0].numpy().max(axis=-1)))
    found = keras_glimpse.cascade_predict(loaded, files, threshold)
    assert len({*found.exit_stage}) > 1
    assert main(["look", model, str(images / "dark"), str(files[-1]), f"--threshold={threshold}"]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    for n, (line, file, stage) in enumerate(zip(lines, files, found.exit_stage, strict=True)):
        name = ["dark", "bright"][found.probabilities[n].argmax()]
        assert line.startswith(f"{file}: {name} ({found.probabilities[n].max():.4f}); ")
        assert f"{stage} glimpse" in line if stage else "thumbnail alone" in line
        assert line.endswith(f"{found.macs[n]:,} MACs; {found.bytes_read[n]:,} bytes read")
    mean, most = found.macs.mean(), keras_glimpse.stage_macs(loaded)[-1]
    cost = f"{mean:,.0f} MACs, {mean / most:.1%} of the cost of 2 glimpses"
    assert summary == f"13 images; 0 unreadable; on average {found.exit_stage.mean():.2f} glimpses and {cost}"


def test_files_that_cannot_be_read_are_reported_and_skipped(model, images, tmp_path, capsys):
    broken = break_file(images / "dark" / "05.npy")
    (images / "dark" / ".DS_Store").write_text("hidden")
    arguments = ["look", model, str(images / "dark"), str(tmp_path / "none.png")]
    for more in ([], ["--csv", str(tmp_path / "results.csv")]):
        assert main(arguments + more) == 1
        written = capsys.readouterr()
        assert len(written.out.splitlines()) == 12 and "\n11 images; 2 unreadable; on average" in written.out
        one, other = written.err.splitlines()
        assert one.startswith(f"keras-glimpse: {broken}: ") and "none.png: No such file" in other
    assert main(["look", model, str(broken)]) == 1
    assert capsys.readouterr().out == "0 images; 1 unreadable\n"


def test_csv_goes_on_after_an_interruption(model, images, tmp_path, capsys, monkeypatch):
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    look = ["look", model, str(images), "--batch-size", "4", "--csv"]
    assert main([*look, str(whole)]) == 0
    expected = capsys.readouterr().out
    opened = []

    def open_some(image, channels):
        opened.append(image)
        if len(opened) == 13:
            raise KeyboardInterrupt
        return keras_glimpse.open_image(image, channels)

    monkeypatch.setattr("keras_glimpse.cascade.sources.open_image", open_some)
    assert main([*look, str(part)]) == 130
    written = capsys.readouterr()
    assert expected.startswith(written.out) and written.err == (
        "keras-glimpse: interrupted: with --csv, the same command goes on where this one stopped\n"
    )
    before = results(part)
    assert len(before) == len(written.out.splitlines())
    assert 0 < len(before) < 24
    opened[:] = [None] * 13
    assert main([*look, str(part)]) == 0
    assert len(opened) - 13 == 24 - len(before)
    assert capsys.readouterr().out == expected and results(part) == results(whole)


def test_csv_is_of_one_model_and_threshold(model, images, tmp_path, capsys):
    look = ["look", model, str(images / "dark"), "--csv", str(tmp_path / "results.csv")]
    assert main(look) == 0
    capsys.readouterr()
    assert "has results of threshold 0.95, not of 0.3" in failure(capsys, *look, "--threshold", "0.3")
    assert capsys.readouterr().out == ""


def test_own_results_are_no_images(model, images, capsys):
    shutil.rmtree(images / "dark")
    for path in sorted((images / "bright").iterdir())[2:]:
        path.unlink()
    look = ["look", model, str(images), "--csv", str(images / "results.csv"), "--draw", str(images / "pictures")]
    for _ in range(2):
        assert main(look) == 0
        assert "\n2 images; 0 unreadable; " in capsys.readouterr().out
    assert "no images beside the results" in failure(capsys, *look[:2], str(images / "results.csv"), *look[3:])


def test_names_that_stdout_cannot_show(model, images, capsys, monkeypatch):
    odd = images / "dark" / os.fsdecode(b"\xff.npy")
    (images / "dark" / "00.npy").rename(odd)
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["look", model, str(odd)]) == 0
    stdout.seek(0)
    assert stdout.read().split(": ")[0].endswith("\\udcff.npy")


def test_pictures_of_images_of_one_name(model, images, tmp_path, capsys):
    files = [str(images / name / "00.npy") for name in ("dark", "bright")]
    assert main(["look", model, *files, "--draw", str(tmp_path / "pictures")]) == 0
    found = sorted(path.relative_to(tmp_path / "pictures").as_posix() for path in (tmp_path / "pictures").rglob("*.png"))
    assert found == ["bright/00.npy.png", "dark/00.npy.png"]
    one, other = ((tmp_path / "pictures" / name).read_bytes() for name in found)
    assert one != other


def test_jpeg_and_png(model, images, tmp_path, capsys):
    pixels = np.load(images / "dark" / "00.npy")
    files = [tmp_path / "image.jpg", tmp_path / "image.png"]
    files[0].write_bytes(tf.io.encode_jpeg(pixels).numpy())
    files[1].write_bytes(tf.io.encode_png(np.repeat(pixels, 3, axis=-1)).numpy())  # In colour; the model is for grey.
    assert main(["look", model, *map(str, files)]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[:2]] == [*map(str, files)]


def test_a_model_of_the_package(tmp_path, rng, capsys):
    np.save(tmp_path / "digit.npy", rng.integers(0, 256, (28, 28), "uint8"))
    assert main(["look", "mnist", str(tmp_path / "digit.npy")]) == 0
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.slow
def test_in_a_process_of_its_own(model, images):
    command = [sys.executable, "-m", "keras_glimpse", "look", model, str(images / "dark")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(ran.stdout.splitlines()) == 13


# ---- What is wrong, in one line ----


def failure(capsys, *arguments):
    """The one line that says what is wrong."""
    assert main([*map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("keras-glimpse: error: ")
    return line


def test_errors_of_look(model, images, tmp_path, capsys):
    image = images / "dark" / "00.npy"
    assert "none.keras" in failure(capsys, "look", tmp_path / "none.keras", image)
    assert "jittered-mnist" in failure(capsys, "look", "no-such-model", image)
    (tmp_path / "empty").mkdir()
    assert "no files in" in failure(capsys, "look", model, tmp_path / "empty")
    break_file(image.parent.parent.parent / "model" / "model.keras")
    assert "is corrupt" in failure(capsys, "look", model, image)
    with pytest.raises(ValueError, match="is corrupt"):
        main(["look", model, str(image), "--debug"])


def test_errors_of_train(images, tmp_path, capsys):
    assert "No such file" in failure(capsys, "train", tmp_path / "none")
    assert "at least 2 classes; it has 0" in failure(capsys, "train", images / "dark")
    assert "at least 64x64 pixels" in failure(capsys, "train", images)
    assert "must not be in the folder" in failure(capsys, "train", images, "--output", images / "model")
    assert "is not empty" in failure(capsys, "train", images, "--output", images.parent)
    assert "--export-size must be" in failure(capsys, "train", images, *SMALL, "--export-size", 8, 8)
    assert "expected 3 channels" in failure_of_all(capsys, "train", images, *SMALL, "--channels", 3)
    for path in (images / "dark").iterdir():
        break_file(path)
    assert "in dark (0)" in failure_of_all(capsys, "train", images, *SMALL)
    np.save(images / "bright" / "transparent.npy", np.zeros((40, 40, 4), "uint8"))
    assert "[1, 4] channels: --channels 1 or 3 leaves out" in failure_of_all(capsys, "train", images, *SMALL)
    for path in (images / "dark").iterdir():
        path.unlink()
    assert "in dark (0)" in failure(capsys, "train", images)
    assert not (tmp_path / "images-model").exists()


def failure_of_all(capsys, *arguments):
    """All lines, where files are reported too."""
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "mnist"],
        ["export", "mnist", "--litert", "a", "--onnx", "b"],
        ["export", "mnist", "--litert", "a", "--threshold", "1.5"],
        ["train", "images", "--epochs", "0"],
        ["train", "images", "--validation-split", "1"],
        ["look", "mnist"],
        [],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: keras-glimpse" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["look", "train", "export"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"examples:\n  keras-glimpse {command} " in capsys.readouterr().out


# ---- train ----


def test_what_is_held_out(images):
    found = folders.images_of(images)
    assert found.classes == ["bright", "dark"] and [*np.bincount(found.labels)] == [12, 12]
    training, validation = folders.split(found, 0.25, seed=0)
    assert [*np.bincount(training.labels)] == [9, 9] and [*np.bincount(validation.labels)] == [3, 3]
    assert {*training.paths} | {*validation.paths} == {*found.paths} and not {*training.paths} & {*validation.paths}
    assert folders.split(found, 0.25, seed=0)[1].paths == validation.paths
    assert folders.split(found, 0.25, seed=1)[1].paths != validation.paths
    assert [*np.bincount(folders.split(found, 0.01, seed=0)[1].labels)] == [1, 1]
    assert [*np.bincount(folders.split(found, 0.99, seed=0)[0].labels)] == [1, 1]
    assert [*np.bincount(folders.evenly(found, 6).labels)] == [3, 3]


def weights(folder):
    return keras.models.load_model(folder / "model.keras", compile=False).get_weights()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Keras closes the file of a CSVLogger at the end of training only.
def test_train_resumes_to_the_same_weights(images, tmp_path, capsys, monkeypatch):
    broken = break_file(images / "dark" / "11.npy")
    train = ["train", str(images), "--validation-split", "0.25", *SMALL, "--export-size", "40", "40"]
    assert main([*train, "--output", str(tmp_path / "whole")]) == 1
    written = capsys.readouterr()
    assert f"keras-glimpse: left out: {broken}: " in written.err and "| 1 glimpse | 0.00% |" in written.out

    stopped = tmp_path / "images-model"
    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks.CSVLogger, "on_epoch_begin", interrupt_at(1))
        assert main(train) == 130
    gc.collect()
    assert "the same command resumes" in capsys.readouterr().err and not (stopped / "model.keras").exists()
    assert main(train) == 1
    for one, other in zip(weights(tmp_path / "whole"), weights(stopped), strict=True):
        np.testing.assert_array_equal(one, other)
    names = "checkpoints log-1.csv log-fine_tune.csv model.keras model.tflite report saved_model training.json"
    assert sorted(path.name for path in stopped.iterdir()) == names.split()
    assert sorted(path.name for path in (stopped / "report").iterdir()) == [
        *("confusion.png", "curve.png", "glimpses.png", "report.md")
    ]
    assert "| dark | 0 | 3 |" in (stopped / "report" / "report.md").read_text()
    assert [row["epoch"] for row in results(stopped / "log-1.csv")] == [str(n) for n in range(12)]
    served = tf.saved_model.load(str(stopped / "saved_model" / "1")).signatures["serving_default"]
    assert served(images=tf.zeros((1, 33, 44, 1)))["probabilities"].shape == (1, 2)
    keras_glimpse.check_file(stopped / "model.tflite")

    capsys.readouterr()
    assert main(["look", str(stopped / "model.keras"), str(images / "bright")]) == 0
    assert capsys.readouterr().out.count(": bright (") == 12
    assert "with other seed, training, validation: remove it" in failure_of_all(capsys, *train, "--seed", "1")


@pytest.mark.slow
def test_images_of_one_size_are_searched_everywhere(images, tmp_path, rng):
    for path in images.rglob("*.npy"):
        np.save(path, rng.integers(0, 256, (40, 48), "uint8"))
    sizes = {**SIZES, "epochs": 1, "fine-tune-epochs": 0, "glimpses": 2}
    options = [f"--{name}={value}" for name, value in sizes.items() if name != "search-samples"]
    assert main(["train", str(images), *options, "--output", str(tmp_path / "trained")]) == 0
    model = keras.models.load_model(tmp_path / "trained" / "model.keras")
    assert model.search_samples is None and model.trained_glimpses == (1, 2)
    with zipfile.ZipFile(tmp_path / "trained" / "model.tflite") as about:
        assert json.loads(about.read("keras_glimpse.json"))["image_shape"] == [40, 48, 1]


def interrupt_at(epoch):
    """What raises as Ctrl-C does, at the begin of this epoch."""

    def on_epoch_begin(self, number, logs=None):
        if number == epoch:
            raise KeyboardInterrupt

    return on_epoch_begin


# ---- export ----


@pytest.mark.slow
def test_export(model, images, tmp_path, capsys):
    assert main(["export", model, "--litert", str(tmp_path / "model.tflite"), "--size", "20", "24", "--threshold", "0.8"]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path}/model.tflite\n"
    keras_glimpse.check_file(tmp_path / "model.tflite")
    assert main(["export", model, "--saved-model", str(tmp_path / "saved")]) == 0
    keras_glimpse.check_file(tmp_path / "saved")


@pytest.mark.slow
def test_export_quantized_and_onnx(model, images, tmp_path, capsys):
    size = ["--size", "20", "24"]
    int8 = ["--quantize", "int8", "--images", str(images)]
    (images / "README.txt").write_text("Two classes.")
    assert main(["export", model, "--litert", str(tmp_path / "int8.tflite"), *size, *int8]) == 0
    assert "left out: " in capsys.readouterr().err
    keras_glimpse.check_file(tmp_path / "int8.tflite")
    pytest.importorskip("tf2onnx")
    assert main(["export", model, "--onnx", str(tmp_path / "model.onnx"), *size]) == 0
    assert (tmp_path / "model.onnx").stat().st_size


@pytest.mark.slow
def test_export_for_mediapipe(model, images, tmp_path, capsys):
    pytest.importorskip("mediapipe")
    size = ["--size", "20", "24"]
    for quantize in ([], ["--quantize", "int8", "--images", str(images)]):
        assert main(["export", model, "--mediapipe", str(tmp_path / "model.tflite"), *size, *quantize]) == 0
        assert capsys.readouterr().out == f"Wrote {tmp_path}/model.tflite\n"
        keras_glimpse.check_file(tmp_path / "model.tflite")


@pytest.mark.slow
def test_export_with_warm_up_requests(tmp_path, capsys):
    pytest.importorskip("tensorflow_serving")
    (tmp_path / "digits").mkdir()
    for n, digit in enumerate(keras_glimpse.data.embedded_digits().test_images[:30]):
        np.save(tmp_path / "digits" / f"{n}.npy", digit)
    served = tmp_path / "served" / "1"
    how = ["--threshold", "1.0", "--images", str(tmp_path / "digits")]
    assert main(["export", "mnist", "--saved-model", str(served), *how]) == 0
    keras_glimpse.check_file(served)
    assert (served / "assets.extra" / "tf_serving_warmup_requests").stat().st_size


def test_errors_of_export(model, images, tmp_path, capsys):
    litert = ["export", model, "--litert", tmp_path / "model.tflite"]
    assert "--size says" in failure(capsys, *litert)
    assert "--images is needed" in failure(capsys, *litert, "--quantize", "int8")
    assert "--size says" in failure(capsys, *litert, "--quantize", "int8", "--images", images)
    assert "else only for --saved-model" in failure(capsys, *litert, "--images", images)
    assert "of one size" in failure(capsys, "export", model, "--saved-model", tmp_path / "a", "--images", images)
    assert "is for --litert" in failure(capsys, "export", model, "--onnx", tmp_path / "a.onnx", "--quantize", "float16")
    assert "--threshold is not for" in failure(capsys, "export", model, "--mediapipe", tmp_path / "a", "--threshold", 0.9)
    assert "--size is for" in failure(capsys, "export", model, "--saved-model", tmp_path / "a", "--size", 20, 24)
    assert "No such file" in failure(capsys, "export", model, "--saved-model", tmp_path / "none" / "none" / "1")


def test_files_are_found_once_and_hidden_ones_are_not(images):
    (images / ".cache").mkdir()
    (images / ".cache" / "file").write_text("")
    found = options.files_of([str(images / "dark" / "01.npy"), str(images)])
    assert len(found) == 24 and found[0].endswith("dark/01.npy") and found[1].endswith("bright/00.npy")
