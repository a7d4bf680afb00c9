"""Exported files answer as Keras does, in another runtime."""

import numpy as np
import pytest
import tensorflow as tf

import keras_glimpse

litert = pytest.importorskip("ai_edge_litert.interpreter")


@pytest.fixture
def model(make_model):
    model = make_model(num_classes=4, num_glimpses=2)
    for net in (model.low_res_net, *model.glimpse_nets):  # Sharper, so that images differ in how sure the model is.
        net.set_weights([4 * weights for weights in net.get_weights()])
    return model


@pytest.mark.parametrize("threshold", [None, 0.8, 1.0])
def test_litert_equals_keras(model, rng, tmp_path, threshold):
    images = rng.random((60, 20, 24, 1), dtype=np.float32)
    keras_glimpse.export_litert(model, tmp_path / "model.tflite", threshold)
    run = litert.Interpreter(model_path=str(tmp_path / "model.tflite"), num_threads=1).get_signature_runner()
    found = [run(images=image[None]) for image in images]
    stages = np.array([int(each["exit_stage"][0]) for each in found])
    probabilities = np.concatenate([each["probabilities"] for each in found])
    if threshold is None:
        expected = tf.nn.softmax(model(images)).numpy()
        assert set(stages) == {2}
    else:
        expected, exit_stage, _ = keras_glimpse.cascade_predict(model, images, threshold)
        np.testing.assert_array_equal(stages, exit_stage)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)  # The logits are in the hundreds.
    if threshold == 0.8:
        assert set(stages) == {0, 1, 2}


def test_only_built_in_operations(model, tmp_path):
    keras_glimpse.export_litert(model, tmp_path / "model.tflite", 0.9)
    interpreter = litert.Interpreter(model_path=str(tmp_path / "model.tflite"))
    names = {operation["op_name"] for operation in interpreter._get_ops_details()}
    assert "IF" in names and not any("Flex" in name or "CUSTOM" in name for name in names)


def test_bad_exports(model, tmp_path):
    with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\]; got 1.5"):
        keras_glimpse.export_litert(model, tmp_path / "model.tflite", 1.5)
    with pytest.raises(ValueError, match="needs a model that is built"):
        keras_glimpse.export_litert(keras_glimpse.GlimpseClassifier(3), tmp_path / "model.tflite")
    with pytest.raises(FileNotFoundError, match="The folder to write to does not exist: .*missing"):
        keras_glimpse.export_litert(model, tmp_path / "missing" / "model.tflite")
    half = keras_glimpse.GlimpseClassifier(3, low_res_size=5, patch_size=6, dtype="mixed_bfloat16")
    half.build((None, 20, 24, 1))
    with pytest.raises(ValueError, match="needs a model of float32; got mixed_bfloat16"):
        keras_glimpse.export_litert(half, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
