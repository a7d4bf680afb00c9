"""Converters that people call themselves, on models in every state: files of built-in operations, with Keras's answers."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

import keras_glimpse
from keras_glimpse.ops import crop as crop_module
from keras_glimpse.ops.thumbnail import block_mean, downsample

litert = pytest.importorskip("ai_edge_litert.interpreter")
onnxruntime = pytest.importorskip("onnxruntime")
tf2onnx = pytest.importorskip("tf2onnx")
# Converters warn of their own internals, and take seconds each.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SHAPE = (20, 24, 1)
ANY_SIZE = tf.TensorSpec((None, None, None, 1), tf.float32)


def run_litert(content, images, signature=None):
    """Each image by itself; fails on an operation that is not built in."""
    codes = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytes(content), 0)).operatorCodes
    assert all(code.builtinCode != schema.BuiltinOperator.CUSTOM for code in codes)
    run = litert.Interpreter(model_content=bytes(content), num_threads=1).get_signature_runner(signature)
    (name,) = run.get_input_details()
    answers = [run(**{name: image[None]}) for image in images]
    return {key: np.concatenate([answer[key] for answer in answers]) for key in answers[0]}


def run_onnx(proto, images, batch=None):
    session = onnxruntime.InferenceSession(proto if isinstance(proto, str) else proto.SerializeToString())
    parts = np.split(images, len(images) // batch) if batch else [images]
    answers = [session.run(None, {session.get_inputs()[0].name: part}) for part in parts]
    return {output.name: np.concatenate(values) for output, values in zip(session.get_outputs(), zip(*answers))}


def only(answers):
    (answer,) = answers.values()
    return answer


@pytest.fixture
def images(rng):
    """Of different brightness, so that the models below look at different places."""
    return rng.random((12, *SHAPE), dtype=np.float32) * np.linspace(0.1, 1.9, 12, dtype=np.float32)[:, None, None, None]


@pytest.fixture
def make(make_model, images):
    def make_looking_around(**kwargs):
        model = make_model(**kwargs)
        for head in model.location_heads:
            head.set_weights([4 * weights for weights in head.get_weights()])
        assert np.ptp(model.look(images)["locations"], axis=0).min() > 0.15
        return model

    return make_looking_around


@pytest.fixture
def in_state(make, batch, tmp_path):
    def model_in(state):
        model = make()
        if state == "fitted":
            model.compile()
            model.fit(*batch, verbose=0)
            model.predict(batch[0], verbose=0)
        if state == "loaded":
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
        return model

    return model_in


@pytest.mark.parametrize("state", ["built", "fitted", "loaded"])
def test_the_model_itself(in_state, images, state):
    model = in_state(state)
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    proto, _ = tf2onnx.convert.from_keras(model)
    for found in (run_litert(content, images), run_onnx(proto, images)):
        np.testing.assert_allclose(only(found), model(images), atol=2e-5)


def test_onnx_of_a_signature(make, images):
    model = make()
    for signature, batch in ((ANY_SIZE, None), (tf.TensorSpec((3, *SHAPE), tf.float32), 3)):
        proto, _ = tf2onnx.convert.from_keras(model, input_signature=[signature])
        np.testing.assert_allclose(only(run_onnx(proto, images, batch)), model(images), atol=2e-5)


@pytest.mark.parametrize("dtype, size", [("float32", None), ("float32", 1), ("uint8", None)])
def test_a_function_of_ones_own(make, images, tmp_path, dtype, size):
    model, own = make(), tf.Module()
    own.model = model
    images = (images * 130).astype(dtype) if dtype == "uint8" else images
    function = tf.function(lambda x: 2.0 * model(x), input_signature=[tf.TensorSpec((size, *SHAPE), dtype)])
    tf.saved_model.save(own, tmp_path, function.get_concrete_function())
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    np.testing.assert_allclose(only(run_litert(content, images)), 2.0 * model(images), atol=2e-5)


def test_a_model_that_ours_is_a_part_of(make, images, tmp_path):
    model = make()
    whole = keras.Sequential([keras.Input(SHAPE), keras.layers.Rescaling(0.5), model, keras.layers.Softmax()])
    content = tf.lite.TFLiteConverter.from_keras_model(whole).convert()
    np.testing.assert_allclose(only(run_litert(content, images)), tf.nn.softmax(model(images / 2)), atol=2e-5)
    archive = keras.export.ExportArchive()
    archive.track(whole)
    archive.add_endpoint("serve", whole.call, [tf.TensorSpec((None, *SHAPE), tf.float32)])
    archive.write_out(tmp_path / "archive", verbose=False)
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "archive")).convert()
    np.testing.assert_allclose(only(run_litert(content, images)), tf.nn.softmax(model(images / 2)), atol=2e-5)


def test_export_by_keras(make, images, tmp_path):
    model = make()
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    model.export(str(tmp_path / "model.onnx"), format="onnx", verbose=False)
    answers = [served.serve(images), only(run_litert((tmp_path / "model.tflite").read_bytes(), images))]
    for found in [*answers, only(run_onnx(str(tmp_path / "model.onnx"), images))]:
        np.testing.assert_allclose(found, model(images), atol=2e-5)


def test_exported_images_keep_their_precision(images, tmp_path):
    model = keras_glimpse.GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8, dtype="mixed_bfloat16")
    model.build((None, *SHAPE))
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(served.serve(images), model(images), atol=2e-2)  # Raises where float32 is not what it takes.


@pytest.mark.parametrize("threshold", [None, 0.45])
def test_our_saved_model(make, images, tmp_path, monkeypatch, threshold):
    model = make()
    keras_glimpse.export_saved_model(model, tmp_path / "1", threshold)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "1"), signature_keys=["portable"])
    in_litert = run_litert(converter.convert(), images, "portable")
    arguments = {"--saved-model": tmp_path / "1", "--signature_def": "portable", "--output": tmp_path / "1.onnx"}
    monkeypatch.setattr("sys.argv", ["tf2onnx", *(str(word) for pair in arguments.items() for word in pair)])
    tf2onnx.convert.main()
    in_onnx = run_onnx(str(tmp_path / "1.onnx"), images, batch=threshold and 1)
    if threshold is None:
        expected = {"probabilities": tf.nn.softmax(model(images))}
    else:
        probabilities, stages, _ = keras_glimpse.cascade_predict(model, images, threshold)
        assert len(set(stages)) > 1
        expected = {"probabilities": probabilities, "exit_stage": stages}
    for found in (in_litert, in_onnx):
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=2e-5)


def test_only_our_own_graphs_have_operations_of_tensorflow(make, batch, tmp_path, monkeypatch):
    """Those of `fit` and the like keep the fastest crop; those that others trace may go anywhere."""
    crops, model = collections.Counter(), make()
    model.compile(jit_compile=False)

    def count(owner, name):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: crops.update([name]) or original(*args))

    count(tf.image, "crop_and_resize")
    for name in ("_crop_by_gather", "crop_around"):
        count(crop_module, name)

    def made_by(use):
        crops.clear()
        use()
        return set(crops)

    images, labels = batch
    monkeypatch.setattr(
        "keras_glimpse.cascade.predict.known_stage_macs", lambda model: None
    )  # Counted in graphs that nothing runs.
    ours = {
        "fit": lambda: model.fit(images, labels, verbose=0),
        "evaluate": lambda: model.evaluate(images, labels, verbose=0),
        "predict": lambda: model.predict(images, verbose=0),
        "look": lambda: model.look(images),
        "cascade": lambda: keras_glimpse.cascade_predict(model, images, 1.0),
        "eager": lambda: model(images),
    }
    assert {name: made_by(use) for name, use in ours.items()} == dict.fromkeys(ours, {"crop_and_resize"})
    others = {
        "call": lambda: tf.function(lambda x: model(x))(images),
        "look": lambda: tf.function(lambda x: model.look(x))(images),
        "layer": lambda: tf.function(lambda x: model.crop(x, tf.zeros((64, 2))))(images),
        "whole": lambda: keras.Sequential([model]).predict(images, verbose=0),
    }
    assert {name: made_by(use) for name, use in others.items()} == dict.fromkeys(others, {"crop_around"})
    assert made_by(lambda: tf.function(lambda x: model(x), jit_compile=True)(images)) == {"_crop_by_gather"}
    keras_glimpse.export_saved_model(model, tmp_path / "1")
    served = tf.saved_model.load(tmp_path / "1")
    crop = {name: "CropAndResize" in str(each.graph.as_graph_def()) for name, each in served.signatures.items()}
    ours = dict.fromkeys(["serving_default", "uint8", "classify", "explain"], True)
    assert crop == ours | {"portable": False, "encoded": False}


def test_images_of_unknown_size(make, images):
    """A model that is built for one size knows it; one that is not, and layers, take any."""
    model = make()
    for call in (model, lambda x: model.look(x)["logits"][:, -1]):
        np.testing.assert_allclose(tf.function(call, input_signature=[ANY_SIZE])(images), model(images), atol=2e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[12,22,24,1\] is not compatible .* \[\?,20,24,1\]"):
        tf.function(model, input_signature=[ANY_SIZE])(np.zeros((12, 22, 24, 1), np.float32))
    fresh = keras_glimpse.GlimpseClassifier(3, low_res_size=5, patch_size=6)
    crop, thumbnail = keras_glimpse.MultiScaleCrop(6), keras_glimpse.LowResNet(3, 5)
    for call in (lambda x: crop(x, tf.fill((12, 2), 0.4)), lambda x: thumbnail(x)[1]):
        np.testing.assert_allclose(call(images), tf.function(call, input_signature=[ANY_SIZE])(images), atol=1e-5)
    for convert in (
        lambda: tf.lite.TFLiteConverter.from_keras_model(fresh).convert(),
        lambda: tf2onnx.convert.from_keras(fresh),
    ):
        with pytest.raises(ValueError, match="call `model.build"):
            convert()


def test_means_of_many_pixels(rng):
    """A running sum of 4096 numbers in float32 would be wrong by 1e-6 and more."""
    image = rng.random((1, 256, 256, 1), dtype=np.float32)
    exact = image.astype(np.float64).reshape(1, 4, 64, 4, 64, 1).mean(axis=(2, 4))
    portable = tf.function(lambda x: block_mean(x, (64, 64)))
    np.testing.assert_allclose(portable(image), exact, atol=3e-7, rtol=0)


def test_a_thumbnail_does_not_make_files_large():
    """Of a large image, a matrix for the thumbnail would be megabytes."""
    signature = tf.TensorSpec((1, 2048, 2048, 1))
    graph = tf.function(lambda x: downsample(x, (16, 16)), input_signature=[signature]).get_concrete_function().graph
    assert graph.as_graph_def().ByteSize() < 20_000


@pytest.mark.parametrize("threshold", [None, 0.45])
def test_our_saved_model_of_eight_bits(make, images, tmp_path, threshold):
    model = make()
    model.quantize("int8")
    keras_glimpse.export_saved_model(model, tmp_path / "1", threshold)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "1"), signature_keys=["portable"])
    found = run_litert(converter.convert(), images, "portable")["probabilities"]
    expected = keras_glimpse.cascade_predict(model, images, threshold or 1.0).probabilities
    np.testing.assert_allclose(found, expected, atol=2e-5)
