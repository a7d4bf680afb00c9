"""Files that earlier versions wrote load, and give the answers that they gave then.

Every case of `cases.py` has a file: `golden/write.py` wrote it when the case was new. `v0_1_small.keras` (all extensions, and
a compiled stage) and `v0_1_mnist.keras` (own networks, as in `saved_models`) are of version 0.1, and `v0_1.npz` has what its
`look` said of the images in it.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import EVERYTHING, LAYERS, call, flat
from tiers import one_fast

import keras_glimpse
from keras_glimpse import cascade_predict, check_file, stage_macs

FOLDER = Path(__file__).parent / "golden"
IMAGES = {"small": "images", "mnist": "digits"}


@pytest.mark.parametrize("name", EVERYTHING)
def test_files_of_every_case(name):
    with np.load(FOLDER / f"{name}.npz") as golden:
        values = [golden[key] for key in golden if key.startswith("input")]
        expected = [golden[key] for key in golden if key.startswith("output")]
    model = keras.models.load_model(FOLDER / f"{name}.keras")
    for answer, before in zip(flat(call(model, values)), expected, strict=True):
        np.testing.assert_allclose(answer, before, atol=1e-5)


def test_no_public_layer_is_without_a_file():
    public = {kind for kind in vars(keras_glimpse).values() if isinstance(kind, type) and issubclass(kind, keras.Layer)}
    assert {type(layer) for layer, _ in LAYERS.values()} | {keras_glimpse.GlimpseClassifier} == public
    assert {path.stem for path in FOLDER.glob("*.keras")} == {*EVERYTHING, *(f"v0_1_{name}" for name in IMAGES)}


@pytest.mark.parametrize("name", one_fast([*IMAGES][::-1]))
def test_files_of_version_0_1(name):
    check_file(FOLDER / f"v0_1_{name}.keras")
    model = keras.models.load_model(FOLDER / f"v0_1_{name}.keras")
    with np.load(FOLDER / "v0_1.npz") as golden:
        images, expected = golden[IMAGES[name]], {key: golden[key] for key in golden if key.startswith(name)}
    probabilities = tf.nn.softmax(expected[f"{name}_logits"]).numpy()
    answers = model.look(images)
    np.testing.assert_allclose(tf.nn.softmax(answers["logits"]), probabilities, atol=1e-6)
    for key in ("locations", "patches"):
        np.testing.assert_allclose(answers[key], expected[f"{name}_{key}"], atol=1e-5)  # Pixels of noise, at places to 1e-6.
    np.testing.assert_allclose(tf.nn.softmax(model.predict(images, verbose=0)), probabilities[:, -1], atol=1e-6)
    np.testing.assert_allclose(cascade_predict(model, images, 1.0).probabilities, probabilities[:, -1], atol=1e-6)
    assert model.active_glimpses == model.num_glimpses == len(stage_macs(model)) - 1


@pytest.mark.slow
def test_training_of_a_file_of_version_0_1_goes_on():
    """Stage, optimizer and settings are those that it was saved with; the stride is still in pixels."""
    model = keras.models.load_model(FOLDER / "v0_1_small.keras")
    assert model.stage.glimpse == 2 and not model.stage.searches and model.search_stride == 2 and model.group_size == 2
    with np.load(FOLDER / "v0_1.npz") as golden:
        images = golden["images"]
    before = int(model.optimizer.iterations)
    model.fit(images, np.arange(8) % 4, batch_size=4, verbose=0)
    assert before == 40 and int(model.optimizer.iterations) == 42
