"""SavedModels answer as Keras does where there is no Keras: in a bare process, and by the C API that servers use."""

import importlib
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_glimpse

BARE = """
import sys
sys.modules["keras"] = sys.modules["keras_glimpse"] = None  # Whatever imports them fails.
import numpy as np, tensorflow as tf
folder = sys.argv[1]
signatures = tf.saved_model.load(folder + "/1").signatures
images = np.load(folder + "/images.npy")
batches = {"serving_default": images / np.float32(255), "uint8": images, "explain": images / np.float32(255)}
answers = {name: signatures[name](images=batch) for name, batch in batches.items()}
np.savez(folder + "/answers.npz", **{f"{name}/{key}": answers[name][key] for name in answers for key in answers[name]})
"""


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (60, 20, 24, 1), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [None, 0.8])
def test_bare_process_equals_keras(sharp_model, images, tmp_path, threshold):
    keras_glimpse.export_saved_model(sharp_model, tmp_path / "1", threshold)
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", BARE, str(tmp_path)], check=True, capture_output=True, timeout=120)
    answers = np.load(tmp_path / "answers.npz")
    seen = sharp_model.look(images)
    stages = tf.nn.softmax(seen["logits"]).numpy()
    stop, macs = np.full(60, 2), keras_glimpse.stage_macs(sharp_model)
    if threshold:
        _, stop, _ = keras_glimpse.cascade_predict(sharp_model, images, threshold)
        assert set(stop) == {0, 1, 2}
    for name in ("serving_default", "uint8"):
        np.testing.assert_allclose(answers[f"{name}/probabilities"], stages[np.arange(60), stop], atol=1e-4)
    np.testing.assert_allclose(answers["explain/stage_probabilities"], stages, atol=1e-4)
    np.testing.assert_allclose(answers["explain/locations"], seen["locations"], atol=1e-5)
    np.testing.assert_array_equal(answers["explain/exit_stage"], stop)
    np.testing.assert_array_equal(answers["explain/macs"], macs[stop])


@pytest.mark.slow
def test_networks_run_only_on_the_images_that_are_not_sure(sharp_model, images, tmp_path):
    _, stop, _ = keras_glimpse.cascade_predict(sharp_model, images, 0.8)
    sharp_model.glimpse_nets[1].set_weights([weights * np.nan for weights in sharp_model.glimpse_nets[1].get_weights()])
    keras_glimpse.export_saved_model(sharp_model, tmp_path / "1", 0.8)
    answer = tf.saved_model.load(str(tmp_path / "1")).signatures["uint8"](images=tf.constant(images))
    np.testing.assert_array_equal(np.isnan(answer["probabilities"]).all(axis=1), stop == 2)


@pytest.mark.slow
def test_convolutions_where_no_image_is_left(images, tmp_path):
    """TensorFlow's convolutions fail on no images, so that the glimpse networks must not be run at all."""
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.MaxPooling2D(2), keras.layers.Conv2D(5, 2)]
    net = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(3)])
    model = keras_glimpse.GlimpseClassifier(3, 2, low_res_size=5, patch_size=6, hidden_units=8, glimpse_net=net)
    model.build((None, 20, 24, 1))
    keras_glimpse.export_saved_model(model, tmp_path / "1", 0.01)
    serve = tf.saved_model.load(str(tmp_path / "1")).signatures["uint8"]
    expected = keras_glimpse.cascade_predict(model, images, 0.01)
    assert set(expected.exit_stage) == {0}
    np.testing.assert_allclose(serve(images=tf.constant(images))["probabilities"], expected.probabilities, atol=1e-5)


@pytest.mark.slow
def test_no_images_and_mixed_precision(tmp_path, images):
    model = keras_glimpse.GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8, dtype="mixed_bfloat16")
    model.build((None, 20, 24, 1))
    keras_glimpse.export_saved_model(model, tmp_path / "1", 0.9)
    serve = tf.saved_model.load(str(tmp_path / "1")).signatures["uint8"]
    assert serve(images=tf.constant(images[:0]))["probabilities"].shape == (0, 3)
    expected = keras_glimpse.cascade_predict(model, images, 0.9).probabilities
    np.testing.assert_allclose(serve(images=tf.constant(images))["probabilities"], expected, atol=2e-2)


@pytest.mark.slow
def test_only_its_own_folders_are_replaced(sharp_model, images, tmp_path, monkeypatch):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not all of it was written by keras_glimpse: .*thesis"):
        keras_glimpse.export_saved_model(sharp_model, foreign)
    with pytest.raises(FileExistsError, match="not all of it was written by keras_glimpse: .*chapter.txt"):
        keras_glimpse.export_saved_model(sharp_model, foreign / "chapter.txt")
    with pytest.raises(FileNotFoundError, match="does not exist: .*missing"):
        keras_glimpse.export_saved_model(sharp_model, tmp_path / "missing" / "1")
    path = tmp_path / "1"
    path.mkdir()  # Empty: nothing is lost.
    keras_glimpse.export_saved_model(sharp_model, path)
    keras_glimpse.export_saved_model(sharp_model, path, 0.5)
    about = json.loads((path / "assets.extra" / "keras_glimpse.json").read_text())
    assert about["threshold"] == 0.5 and about["image_shape"] == [20, 24, 1] and "saved_model.pb" in about["files"]

    def full_disk(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        keras_glimpse.export_saved_model(sharp_model, path, 0.9)
    assert json.loads((path / "assets.extra" / "keras_glimpse.json").read_text())["threshold"] == 0.5
    assert sorted(each.name for each in tmp_path.iterdir()) == ["1", "thesis"]
    (path / "assets.extra" / "tf_serving_warmup_requests").write_text("made by hand")
    with pytest.raises(FileExistsError, match="not all of it was written by keras_glimpse"):
        keras_glimpse.export_saved_model(sharp_model, path)


@pytest.mark.slow
def test_interrupted_between_two_renames(sharp_model, tmp_path, monkeypatch):
    keras_glimpse.export_saved_model(sharp_model, tmp_path / "1")
    rename, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        keras_glimpse.export_saved_model(sharp_model, tmp_path / "1", 0.9)
    monkeypatch.undo()
    assert json.loads((tmp_path / "1" / "assets.extra" / "keras_glimpse.json").read_text())["threshold"] is None
    assert [each.name for each in tmp_path.iterdir()] == ["1"]


@pytest.mark.slow
def test_networks_that_cannot_be_counted(tmp_path):
    """Those with loops have no `macs`; all else is there."""
    net = keras.Sequential([keras.layers.Reshape((6, 12)), keras.layers.LSTM(4), keras.layers.Dense(3)])
    model = keras_glimpse.GlimpseClassifier(3, 1, low_res_size=5, patch_size=6, hidden_units=8, glimpse_net=net)
    model.build((None, 20, 24, 1))
    keras_glimpse.export_saved_model(model, tmp_path / "1")
    answer = tf.saved_model.load(str(tmp_path / "1")).signatures["explain"](images=tf.zeros((2, 20, 24, 1)))
    assert sorted(answer) == ["exit_stage", "locations", "stage_probabilities"]


def test_bad_models(tmp_path, sharp_model):
    with pytest.raises(ValueError, match="export_saved_model needs a model that is built"):
        keras_glimpse.export_saved_model(keras_glimpse.GlimpseClassifier(3), tmp_path / "1")
    for bad in (0, 1.5, float("nan"), "0.9"):
        with pytest.raises(ValueError, match=rf"threshold must lie in \(0, 1\]; got {bad!r}"):
            keras_glimpse.export_saved_model(sharp_model, tmp_path / "1", bad)
    with pytest.raises(TypeError, match="export_saved_model needs a GlimpseClassifier; got Sequential"):
        keras_glimpse.export_saved_model(keras.Sequential(), tmp_path / "1")


@pytest.mark.slow
def test_c_program_equals_keras(sharp_model, images, tmp_path):
    """TensorFlow's C API, as a server uses it: no Python, and no code of ours but the graph."""
    server = importlib.import_module("serve")
    if not server.compiler():
        pytest.skip("No C compiler was found (cc or gcc).")
    program = server.build(tmp_path)
    keras_glimpse.export_saved_model(sharp_model, tmp_path / "1", 0.8)
    expected = keras_glimpse.cascade_predict(sharp_model, images, 0.8).probabilities
    for batch in (images.astype(np.float32) / 255, images):  # serving_default, uint8
        served = server.serve(program, [tmp_path / "1"], batch, [(0, 60)])
        np.testing.assert_allclose(served.answers, expected, atol=1e-4)
