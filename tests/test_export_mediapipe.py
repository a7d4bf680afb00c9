"""Files for MediaPipe answer as Keras does, in MediaPipe's own image classifier."""

import json
import sys
import types
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_glimpse
from keras_glimpse import data

mediapipe = pytest.importorskip("mediapipe")
NAMES = ["Käfer und Öl", "虫", "-,;|'\" \\"]


def answers(path, images):
    """Probabilities `[n, num_classes]` of images `[n, height, width, 3]`, and the labels of the classes."""
    with mediapipe.tasks.vision.ImageClassifier.create_from_model_path(str(path)) as classifier:
        seen = [classifier.classify(mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(each))) for each in images]
    classes = [sorted(each.classifications[0].categories, key=lambda one: one.index) for each in seen]
    return np.array([[one.score for one in each] for each in classes]), [one.category_name for one in classes[0]]


def to_rgb(images):
    return np.repeat(images, 3 // images.shape[-1], axis=-1)


def random_bytes(rng, *shape):
    return rng.integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def colour_model(make_model):
    return make_model((None, None, 3), num_glimpses=1, class_names=NAMES)


@pytest.fixture(scope="module")
def written(colour_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "model.tflite"
    keras_glimpse.export_mediapipe(colour_model, path, image_shape=(20, 30))
    return path


def test_grey_model_without_names(make_model, rng, tmp_path):
    model = make_model(num_glimpses=1)
    images = random_bytes(rng, 20, 20, 24, 1)
    keras_glimpse.export_mediapipe(model, tmp_path / "model.tflite")
    found, labels = answers(tmp_path / "model.tflite", to_rgb(images))
    np.testing.assert_allclose(found, tf.nn.softmax(model(images)), atol=1e-5)
    assert labels == ["0", "1", "2"] and np.ptp(found, axis=0).max() > 0.01


def test_colour_model_with_names(colour_model, written, rng):
    images = random_bytes(rng, 20, 20, 30, 3)
    found, labels = answers(written, images)
    np.testing.assert_allclose(found, tf.nn.softmax(colour_model(images)), atol=1e-5)
    assert labels == NAMES and np.ptp(found, axis=0).max() > 0.01


@pytest.mark.parametrize("rows, columns", [(2, 2), (2, 4), (4, 2)])
def test_images_of_other_sizes(written, rng, rows, columns):
    """MediaPipe stretches them to the size of the file: where each pixel is repeated, to the image as it was."""
    images = random_bytes(rng, 20, 20, 30, 3)
    found, _ = answers(written, images.repeat(rows, axis=1).repeat(columns, axis=2))
    np.testing.assert_allclose(found, answers(written, images)[0], atol=1e-5)


@pytest.mark.slow
def test_grey_is_that_of_pillow(make_model, rng, tmp_path):
    model = make_model()
    images = random_bytes(rng, 20, 20, 24, 3)
    grey = np.stack([Image.fromarray(each).convert("L") for each in images])[..., None]
    keras_glimpse.export_mediapipe(model, tmp_path / "model.tflite")
    found, _ = answers(tmp_path / "model.tflite", images)
    expected, other = (tf.nn.softmax(model(each)) for each in (grey, np.rint(images.mean(-1, keepdims=True)).astype("uint8")))
    np.testing.assert_allclose(found, expected, atol=1e-4)  # A pixel in a thousand is another integer than Pillow's.
    assert np.abs(found - other).max() > 1e-3


@pytest.mark.slow
def test_preprocess_gets_bytes(make_model, rng, tmp_path):
    """As it does in `model(images)`: they are not scaled before it."""
    model = make_model((20, 24, 3), preprocess=tf.keras.layers.Rescaling(1 / 127.5, -1.0))
    images = random_bytes(rng, 5, 20, 24, 3)
    keras_glimpse.export_mediapipe(model, tmp_path / "model.tflite")
    np.testing.assert_allclose(answers(tmp_path / "model.tflite", images)[0], tf.nn.softmax(model(images)), atol=1e-5)
    keras_glimpse.export_mediapipe(model, tmp_path / "small.tflite", "int8", calibration=images)
    np.testing.assert_allclose(answers(tmp_path / "small.tflite", images)[0], tf.nn.softmax(model(images)), atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("quantize, largest_share", [("int8", 0.6), ("dynamic", 0.6), ("float16", 0.7)])
def test_quantized(make_model, rng, tmp_path, quantize, largest_share):
    """Smaller files, and nearly the same answers."""
    model = make_model(num_glimpses=1, hidden_units=200)
    images = random_bytes(rng, 20, 20, 24, 1)
    calibration = images if quantize == "int8" else None
    keras_glimpse.export_mediapipe(model, tmp_path / "small.tflite", quantize, calibration=calibration)
    weights = sum(4 * weight.size for weight in model.get_weights())
    assert (tmp_path / "small.tflite").stat().st_size < largest_share * weights
    error = np.abs(answers(tmp_path / "small.tflite", to_rgb(images))[0] - tf.nn.softmax(model(images))).max()
    assert 0 < error < 0.02


@pytest.fixture(scope="module")
def embedded():
    return data.embedded_digits()


@pytest.mark.slow
@pytest.mark.parametrize("name, digits", [("jittered-mnist", "mnist"), ("jittered-mnist-best", "embedded")])
def test_digits(name, digits, tmp_path, request):
    model = keras_glimpse.load_pretrained(name)
    few = data.Digits(*(part[:400] for part in request.getfixturevalue(digits)))
    _, _, test = data.jittered(few, test_copies=1)
    images = np.concatenate([images for images, _ in test.as_numpy_iterator()])
    expected = tf.nn.softmax(model(images)).numpy()
    keras_glimpse.export_mediapipe(model, tmp_path / "model.tflite")
    found, labels = answers(tmp_path / "model.tflite", to_rgb(images))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))
    assert labels == [str(digit) for digit in range(10)]
    keras_glimpse.export_mediapipe(model, tmp_path / "int8.tflite", "int8", calibration=images[:100])
    found, _ = answers(tmp_path / "int8.tflite", to_rgb(images))
    assert np.mean(found.argmax(-1) == expected.argmax(-1)) > 0.97


def test_one_archive_of_labels_and_mark(written, tmp_path):
    keras_glimpse.check_file(written)
    with zipfile.ZipFile(written) as file:
        assert file.namelist() == ["labels.txt", "keras_glimpse.json"]
        about, at = json.loads(file.read("keras_glimpse.json")), file.getinfo("labels.txt").header_offset
    assert about["class_names"] == NAMES and about["image_shape"] == [20, 30, 3] and about["bytes"] == at
    content = written.read_bytes()
    for position, message in ((content.index(b"fer und"), "checksum of labels.txt"), (at // 2, "its recorded checksum")):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (tmp_path / "damaged.tflite").write_bytes(damaged)
        with pytest.raises(ValueError, match=f"damaged.tflite is corrupt: .*{message}"):
            keras_glimpse.check_file(tmp_path / "damaged.tflite")


def test_metadata_is_that_of_mediapipes_writer(written, monkeypatch):
    """Which works once it is given the module that it lacks; but for the names."""
    package = "mediapipe.tasks.cc.metadata.python"
    version = types.SimpleNamespace(GetMinimumMetadataParserVersion=lambda buffer: "1.0.0")
    for name in ("mediapipe.tasks.cc", "mediapipe.tasks.cc.metadata", package):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules[package], "_pywrap_metadata_version", version, raising=False)
    from mediapipe.tasks.python.metadata.metadata import MetadataDisplayer
    from mediapipe.tasks.python.metadata.metadata_writers import image_classifier, metadata_writer

    with zipfile.ZipFile(written) as file:
        content = written.read_bytes()[: json.loads(file.read("keras_glimpse.json"))["bytes"]]
    labels = metadata_writer.Labels().add(NAMES)
    theirs, _ = image_classifier.MetadataWriter.create(bytearray(content), [0.0], [1.0], labels).populate()

    def told(file):
        model = json.loads(MetadataDisplayer.with_model_buffer(file).get_metadata_json())
        (graph,) = model.pop("subgraph_metadata")
        tensors = graph["input_tensor_metadata"] + graph["output_tensor_metadata"]
        return [{key: value for key, value in part.items() if key not in ("name", "description")} for part in (model, *tensors)]

    assert told(written.read_bytes()) == told(theirs)
    assert MetadataDisplayer.with_model_buffer(theirs).get_associated_file_buffer("labels.txt") == "\n".join(NAMES).encode()


def test_bad_exports(make_model, colour_model, tmp_path, monkeypatch):
    model, path = make_model((20, 24, 3), num_glimpses=1), tmp_path / "model.tflite"
    export = keras_glimpse.export_mediapipe
    with pytest.raises(TypeError, match="export_mediapipe needs a GlimpseClassifier; got Dense"):
        export(tf.keras.layers.Dense(3), path)
    with pytest.raises(ValueError, match="export_mediapipe needs a model that is built"):
        export(keras_glimpse.GlimpseClassifier(3), path)
    with pytest.raises(ValueError, match="quantize must be one of"):
        export(model, path, "int4")
    for channels in (2, 4):
        with pytest.raises(ValueError, match=rf"a model of one or three channels; this one is for \(20, 24, {channels}\)"):
            export(make_model((20, 24, channels), num_glimpses=1), path)
    with pytest.raises(ValueError, match="got quantize='int8' without calibration images"):
        export(model, path, "int8")
    with pytest.raises(ValueError, match=r"built for images \(20, 24, 3\); got images \(20, 24, 1\)"):
        export(model, path, "int8", calibration=np.zeros((2, 20, 24, 1), np.uint8))
    for low, high, message in ((0, 255, "pixels around 1; got up to 255"), (-1, 1, r"in \[0, 1\]; got floats from -1 to 1")):
        images = np.linspace(low, high, 2 * 20 * 24 * 3, dtype="float32").reshape(2, 20, 24, 3)
        with pytest.raises(ValueError, match=message):
            export(model, path, "int8", calibration=images)
    with pytest.raises(ValueError, match="image_shape is for models of images that differ in size"):
        export(model, path, image_shape=(20, 24))
    with pytest.raises(ValueError, match=r"pass image_shape=\(height, width\)"):
        export(colour_model, path)
    with pytest.raises(FileNotFoundError, match="The folder to write to does not exist: .*missing"):
        export(model, tmp_path / "missing" / "model.tflite")
    monkeypatch.setitem(sys.modules, "mediapipe.tasks.metadata.schema_py_generated", None)
    with pytest.raises(ImportError, match=r"export_mediapipe needs MediaPipe: pip install 'keras-glimpse\[mediapipe\]'"):
        export(model, path)
    assert not list(tmp_path.iterdir())
