"""Damaged files are found before anything loads them."""

import json
import shutil
import zipfile

import numpy as np
import pytest

import keras_glimpse
from keras_glimpse import check_file


@pytest.fixture(scope="module")
def written(make_model, tmp_path_factory):
    """A model in the three formats that are checked."""
    model, folder = make_model(num_glimpses=1, class_names=["clean", "Käfer", "虫"]), tmp_path_factory.mktemp("written")
    model.save(folder / "model.keras")
    keras_glimpse.export_litert(model, folder / "model.tflite", 0.9)
    keras_glimpse.export_saved_model(model, folder / "1", 0.9)
    return folder


@pytest.fixture
def files(written, tmp_path):
    """Copies, to be damaged."""
    return shutil.copytree(written, tmp_path, dirs_exist_ok=True)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_whole_files_pass(files):
    for name in ("model.keras", "model.tflite", "1"):
        check_file(files / name)
        check_file(str(files / name))
    for path in keras_glimpse.pretrained_folder().glob("*/*"):
        if path.suffix in (".keras", ".tflite"):
            check_file(path)
        elif path.is_dir():
            check_file(path / "1")


def test_one_bit_is_found(files, rng):
    """Anywhere in the weights, the graph or a LiteRT file."""
    whole = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    with zipfile.ZipFile(files / "model.keras") as file:
        weights = file.getinfo("model.weights.h5")
    mark = json.loads(zipfile.ZipFile(files / "model.tflite").read("keras_glimpse.json"))
    ranges = {
        "model.keras": (weights.header_offset + 100, weights.header_offset + weights.file_size),
        "model.tflite": (0, mark["bytes"]),
        "1/saved_model.pb": (0, len(whole[files / "1" / "saved_model.pb"])),
        "1/variables/variables.data-00000-of-00001": (0, len(whole[files / "1/variables/variables.data-00000-of-00001"])),
    }
    for name, limits in ranges.items():
        for position in rng.integers(*limits, 10):
            flip(files / name, position)
            with pytest.raises(ValueError, match="is corrupt: .*checksum"):
                check_file(files / "1" if name.startswith("1/") else files / name)
            (files / name).write_bytes(whole[files / name])


def rewrite(path, change):
    """The same zip archive with other parts: `change` makes new ones of a dict of the old."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in change(parts).items():
            file.writestr(name, content)


def with_config(change):
    """Changes the configuration in place."""

    def changed(parts):
        config = json.loads(parts["config.json"])
        return parts | {"config.json": json.dumps(change(config) or config)}

    return changed


REWRITTEN = {
    "a part missing": (lambda parts: {"config.json": parts["config.json"]}, "expected metadata.json, .* got config.json"),
    "a part outside": (lambda parts: parts | {"../../x": b""}, "got .*x"),
    "no model": (with_config(lambda config: [config]), "not that of a Keras model"),
    "a name that is none": (
        with_config(lambda config: config.update(module=3)),
        "module in config.json must be a name; got '3'",
    ),
    "too many units": (
        with_config(lambda config: config["config"].update(hidden_units=10**9)),
        r"hidden_units 1e\+09, where all weights together are [\d,]+ numbers",
    ),
    "weights that are none": (lambda parts: parts | {"model.weights.h5": b"weights"}, "file signature not found"),
    "a bomb": (lambda parts: parts | {"model.weights.h5": bytes(50_000_000)}, "far larger than it is"),
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_parts_that_do_not_fit(files, case):
    """With right checksums."""
    change, message = REWRITTEN[case]
    rewrite(files / "model.keras", change)
    with pytest.raises(ValueError, match=message):
        check_file(files / "model.keras")


def test_saved_models_of_others(files):
    mark, data = files / "1" / "assets.extra" / "keras_glimpse.json", files / "1" / "variables" / "variables.index"
    (mark.parent / "tf_serving_warmup_requests").write_text("of the user's")
    check_file(files / "1")
    (files / "1" / "more.txt").write_text("x")
    with pytest.raises(ValueError, match="more.txt was not written by export_saved_model"):
        check_file(files / "1")
    data.unlink()
    with pytest.raises(ValueError, match="variables/variables.index is missing"):
        check_file(files / "1")
    mark.write_text(json.dumps({"files": ["saved_model.pb"]}))
    with pytest.raises(ValueError, match="no checksums: it is of an older version"):
        check_file(files / "1")
    mark.unlink()
    with pytest.raises(ValueError, match="has no assets.extra/keras_glimpse.json"):
        check_file(files / "1")


def test_other_files(files):
    with zipfile.ZipFile(files / "model.tflite") as file:
        content = (files / "model.tflite").read_bytes()[: json.loads(file.read("keras_glimpse.json"))["bytes"]]
    (files / "foreign.tflite").write_bytes(content)
    with pytest.raises(ValueError, match="does not end with the keras_glimpse.json that export_litert puts there"):
        check_file(files / "foreign.tflite")
    with pytest.raises(FileNotFoundError, match="no such file: .*none.keras"):
        check_file(files / "none.keras")
    (files / "model.onnx").write_bytes(b"")
    with pytest.raises(
        ValueError, match="Expected a .keras file, a .tflite file or the folder of a SavedModel; got .*model.onnx"
    ):
        check_file(files / "model.onnx")


def test_what_is_known_of_a_file(files):
    with zipfile.ZipFile(files / "model.tflite") as file:
        litert = json.loads(file.read("keras_glimpse.json"))
    saved_model = json.loads((files / "1" / "assets.extra" / "keras_glimpse.json").read_text())
    for about in (litert, saved_model):
        assert about["threshold"] == 0.9 and about["image_shape"] == [20, 24, 1] and about["num_classes"] == 3
        assert about["class_names"] == ["clean", "Käfer", "虫"]
    assert litert["quantize"] is None


def test_damaged_pretrained_models(tmp_path, monkeypatch):
    shutil.copytree(keras_glimpse.pretrained_folder() / "mnist", tmp_path / "mnist")
    monkeypatch.setattr("keras_glimpse.pretrained.pretrained_folder", lambda: tmp_path)
    before = keras_glimpse.load_pretrained("mnist").get_weights()
    path = tmp_path / "mnist" / "model.keras"
    flip(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="mnist/model.keras is corrupt: the checksum of model.weights.h5 is wrong"):
        keras_glimpse.load_pretrained("mnist")
    assert all(np.isfinite(each).all() for each in before)
