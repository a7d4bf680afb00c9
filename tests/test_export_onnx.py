"""ONNX files answer as Keras does, in onnxruntime."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_glimpse

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")


def test_onnx_equals_keras(sharp_model, rng, tmp_path):
    images = rng.random((60, 20, 24, 1), dtype=np.float32)
    keras_glimpse.export_onnx(sharp_model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(found, tf.nn.softmax(sharp_model(images)), atol=1e-4)


def test_the_global_precision_does_not_matter(sharp_model, rng, tmp_path):
    images = rng.random((20, 20, 24, 1), dtype=np.float32)
    expected = tf.nn.softmax(sharp_model(images))
    keras.config.set_dtype_policy("mixed_float16")
    try:
        keras_glimpse.export_onnx(sharp_model, tmp_path / "model.onnx")
    finally:
        keras.config.set_dtype_policy("float32")
    (found,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["probabilities"], {"images": images})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_cascade_runs_inside(sharp_model, rng, tmp_path):
    images = rng.random((60, 20, 24, 1), dtype=np.float32)
    keras_glimpse.export_onnx(sharp_model, tmp_path / "model.onnx", 0.8)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    answers = [session.run(["probabilities", "exit_stage"], {"images": image[None]}) for image in images]
    probabilities, stages = (np.concatenate(parts) for parts in zip(*answers))
    expected = keras_glimpse.cascade_predict(sharp_model, images, 0.8)
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-4)
    np.testing.assert_array_equal(stages, expected.exit_stage)
    assert set(stages) == {0, 1, 2}


def test_what_is_known_of_a_file(make_model, tmp_path):
    model = make_model(num_glimpses=1, class_names=["clean", "Käfer", "虫"])
    keras_glimpse.export_onnx(model, tmp_path / "model.onnx", 0.8)
    told = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    told = {name: json.loads(value) for name, value in told.items()}
    assert told["class_names"] == ["clean", "Käfer", "虫"] and told["keras_glimpse"] == keras_glimpse.__version__
    assert told["image_shape"] == [20, 24, 1] and told["num_classes"] == 3 and told["threshold"] == 0.8


def test_bad_exports(sharp_model, tmp_path):
    with pytest.raises(ValueError, match="export_onnx needs a model that is built"):
        keras_glimpse.export_onnx(keras_glimpse.GlimpseClassifier(3), tmp_path / "model.onnx")
    with pytest.raises(IsADirectoryError, match="this is a folder"):
        keras_glimpse.export_onnx(sharp_model, tmp_path)
    assert not list(tmp_path.iterdir())
