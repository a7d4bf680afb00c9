"""Networks of integers: nothing in their files is a float, and with what lies between them they answer as Keras does."""

import os
import subprocess
import sys
from pathlib import Path

import cases
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

import keras_glimpse
from keras_glimpse import data

pytest.importorskip("ai_edge_litert")
RECIPE = Path(__file__).parent.parent / "recipes" / "deploy" / "accelerator.py"
INTEGERS = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT32}  # The last: biases and shapes.


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 20, 24, 1), np.uint8)


@pytest.fixture(scope="module")
def exported(make_model, images, tmp_path_factory):
    """A model, the threshold at which half of the images stop early, and the folder."""
    keras.utils.set_random_seed(0)
    model = make_model(num_classes=4, num_glimpses=1, class_names=("a", "b", "c", "d"))
    model.temperatures = (1.25, 0.8)
    threshold = float(np.median(first_look(model, images)))
    keras_glimpse.export_accelerator(model, folder := tmp_path_factory.mktemp("of") / "files", threshold, calibration=images)
    return model, threshold, folder


def first_look(model, images):
    """How sure the model is before any glimpse."""
    return tf.nn.softmax(model.look(images)["logits"][:, 0]).numpy().max(axis=-1)


def check_integers(folder, integers, networks):
    """One subgraph a file, without a float in it; the borders are of the given type."""
    found = {path.name: path for path in folder.glob("*.tflite")}
    assert found.keys() == {"cpu.tflite", *networks}
    for name in networks:
        (graph,) = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(found[name].read_bytes(), 0)).subgraphs
        assert {each.type for each in graph.tensors} <= INTEGERS, name
        wanted = getattr(schema.TensorType, integers.upper())
        assert {graph.tensors[index].type for index in (*graph.inputs, *graph.outputs)} == {wanted}
    for path in (folder, *found.values()):
        keras_glimpse.check_file(path)


def test_everything_is_an_integer(exported):
    check_integers(exported[2], "int8", ("first_look.tflite", "glimpse_1.tflite"))


def test_a_process_without_keras(exported, images, tmp_path):
    """The recipe, as a program: which images stop early, and what it says of them."""
    model, threshold, folder = exported
    np.save(tmp_path / "images.npy", images)
    code = f"import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path({str(RECIPE)!r}, run_name='__main__')\n"
    code += "assert not {'tensorflow', 'keras', 'keras_glimpse'} & {*sys.modules}, 'imported'"
    command = [sys.executable, "-c", code, "accelerator", folder, tmp_path / "images.npy"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    names, probabilities, glimpses = zip(*(line.split() for line in done.stdout.splitlines()))
    expected = keras_glimpse.cascade_predict(model, images, threshold)
    clear = np.abs(first_look(model, images) - threshold) > 0.01
    assert {*expected.exit_stage[clear]} == {0, 1}
    np.testing.assert_array_equal(np.array(glimpses, int)[clear], expected.exit_stage[clear])
    np.testing.assert_allclose(np.array(probabilities, float)[clear], expected.probabilities.max(axis=-1)[clear], atol=0.02)
    top_two = np.sort(expected.probabilities)[:, -2:]
    plain = clear & (top_two[:, 1] - top_two[:, 0] > 0.02)
    assert [names[n] for n in np.flatnonzero(plain)] == ["abcd"[n] for n in expected.probabilities.argmax(axis=-1)[plain]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in cases.MODELS if name != "model"])
def test_every_kind_of_model(name, tmp_path):
    """Gated, shared, maps, other averages: all glimpses, beside Keras."""
    model, shapes = cases.as_model(name)
    (images,) = cases.inputs(shapes, batch=30)
    keras_glimpse.export_accelerator(model, tmp_path / "files", calibration=images)
    found = np.stack([cascade(tmp_path / "files")(image)[0] for image in images])
    np.testing.assert_allclose(found, tf.nn.softmax(model(images)), atol=0.02)


def cascade(folder):
    import accelerator

    return accelerator.Cascade(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name, integers", [("jittered-mnist", "uint8"), ("jittered-mnist-best", "int8")])
def test_shipped_models(name, integers, tmp_path):
    """On 1,000 real digits that need no download, and are not MNIST's; of MNIST's, see recipes/results/integers.csv."""
    model, digits, folder = keras_glimpse.load_pretrained(name), data.embedded_digits(), tmp_path / "files"
    splits = data.jittered(digits, test_copies=3) if model.image_shape[0] == 48 else data.plain(digits)
    train, test = (np.concatenate([batch for batch, _ in split.as_numpy_iterator()]) for split in (splits.train, splits.test))
    keras_glimpse.export_accelerator(model, folder, 0.95, calibration=train[:300], integers=integers)
    check_integers(folder, integers, ("first_look.tflite", "glimpse_1.tflite", "glimpse_2.tflite"))
    run, images = cascade(folder), test[:1000]
    labels, stages = map(np.array, zip(*((answer.argmax(), stage) for answer, stage in map(run, images / np.float32(255)))))
    expected = keras_glimpse.cascade_predict(model, images, 0.95)
    assert np.mean(labels != expected.probabilities.argmax(axis=-1)) <= 0.03
    assert {*stages} == {0, 1, 2} and np.mean(stages != expected.exit_stage) < 0.1


@pytest.mark.slow
def test_logits_have_no_bias(tmp_path):
    """Over the calibration images, to an eighth of a step of the logits; in a layer of which every unit rounds up."""
    low_res_net = keras_glimpse.LowResNet(3, 4, 100)
    model = keras_glimpse.GlimpseClassifier(3, 1, low_res_net=low_res_net, patch_size=4, hidden_units=4)
    images = np.random.default_rng(0).random((200, 20, 24, 1), np.float32)
    model.build(images.shape)
    keras_glimpse.export_accelerator(model, tmp_path / "files", calibration=images)
    net = cascade(tmp_path / "files").first_look
    thumbnails = tf.nn.avg_pool2d(images, (5, 6), (5, 6), "VALID").numpy()
    found = np.concatenate([net({"thumbnail": each[None]})["logits"] for each in thumbnails])
    step, _ = net.outputs["logits"]["quantization"]
    assert np.abs(np.mean(found - low_res_net(images)[1], axis=0)).max() < step / 8


@pytest.mark.slow
def test_an_operation_without_integer_form(images, tmp_path):
    layers = keras.layers.Flatten(), keras.layers.Activation(keras.ops.floor), keras.layers.Dense(3)
    model = keras_glimpse.GlimpseClassifier(3, 1, glimpse_net=keras.Sequential(layers), low_res_size=4, patch_size=4)
    model.build((None, 20, 24, 1))
    with pytest.raises(ValueError, match="operations that have an integer form; floats are left in .*Floor"):
        keras_glimpse.export_accelerator(model, tmp_path / "files", calibration=images)
    assert not list(tmp_path.iterdir())


def test_bad_exports(make_model, images, tmp_path):
    model, path = make_model(num_glimpses=1), tmp_path / "files"

    def export(model=model, path=path, **arguments):
        keras_glimpse.export_accelerator(model, path, **{"calibration": images} | arguments)

    for message, arguments in {
        "integers must be one of": {"integers": "int16"},
        r"threshold must lie in \(0, 1\]; got 2": {"threshold": 2},
        "needs a GlimpseClassifier; got Dense": {"model": keras.layers.Dense(3)},
        "expected pixels around 1; got up to 255": {"calibration": images.astype(np.float32)},
        "expected pixels up to 255; got up to 1": {"calibration": images // 200},
        "at least one calibration image": {"calibration": images[:0]},
        "of finite numbers": {"calibration": np.full((2, 20, 24, 1), np.nan, np.float32)},
        r"built for images \(20, 24, 1\)": {"calibration": images[:, :10]},
        "needs a model without `preprocess`": {"model": make_model(preprocess=keras.layers.Rescaling(2.0))},
        "does not exist: .*missing": {"path": tmp_path / "missing" / "files"},
    }.items():
        with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
            export(**arguments)
    assert not list(tmp_path.iterdir())
    quantized = make_model(num_glimpses=1)
    quantized.quantize("int8")
    with pytest.raises(ValueError, match="cannot export layers of int8"):
        export(model=quantized)
    path.mkdir()
    (path / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match="Not overwritten"):
        export()
    assert [each.name for each in tmp_path.rglob("*")] == ["files", "mine.txt"]
