"""The signature of a SavedModel that takes encoded images: it gives what files give in Python."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiers import slow

import keras_glimpse
from keras_glimpse import open_image
from keras_glimpse.export.encoded import DCT, EncodedInGraph

SURE = 0.9
TOLERANCE = 0.01  # Files in Python read scale 2 from a level of the JPEG, graphs from the image itself.


def picture(rng, height, width):
    coarse = rng.random((1, height // 20 + 2, width // 20 + 2, 3), dtype=np.float32)
    return np.asarray(255 * tf.image.resize(coarse, (height, width), "bicubic")[0]).clip(0, 255).astype(np.uint8)


def encoded(pixels, kind="JPEG", orientation=None, **options):
    image, file, exif = Image.fromarray(pixels), io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(file, kind, exif=exif, **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def small_images_in_parts(monkeypatch):
    """As large ones, so that tests are quick."""
    monkeypatch.setattr("keras_glimpse.sources.encoded.SMALL", 0)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(4)
    model = keras_glimpse.GlimpseClassifier(3, 2, low_res_size=(6, 9), patch_size=8, hidden_units=16)
    model.build((None, None, None, 3))
    for net in (model.low_res_net, *model.glimpse_nets):
        net.set_weights([3 * weights for weights in net.get_weights()])
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "1"
    keras_glimpse.export_saved_model(model, folder, threshold=SURE, max_pixels=200_000)
    return folder


@pytest.fixture(scope="module")
def serve(folder):
    return tf.saved_model.load(str(folder)).signatures["encoded"]


def assert_same(serve, model, files):
    got = serve(encoded=tf.constant(files))
    want = keras_glimpse.cascade_predict(model, files, SURE)
    np.testing.assert_allclose(got["probabilities"], want.probabilities, atol=TOLERANCE)
    assert got["exit_stage"].numpy().tolist() == want.exit_stage.tolist()
    return want


def test_images_of_any_size_and_kind(rng, serve, model):
    pixels = [picture(rng, height, width) for height, width in [(200, 300), (123, 77), (400, 333), (60, 90), (9, 9)]]
    files = [
        *map(encoded, pixels),
        encoded(pixels[0], subsampling=0),
        encoded(pixels[1], progressive=True),
        encoded(pixels[1][..., 0]),
        encoded(pixels[0], "PNG"),
        encoded(pixels[0][..., 0], "PNG"),
        encoded(pixels[0][..., 0].astype(np.uint16) * 256, "PNG"),
    ]
    stages = assert_same(serve, model, files).exit_stage
    assert len({*stages}) > 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 48), (121, 203)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pixels(rng, channels, size, kind):
    """Thumbnails are those of `EncodedImage`, patches those of all pixels."""
    file = encoded(picture(rng, *size), kind)
    image = EncodedInGraph.of(tf.constant(file), channels, 10**6)
    pixels = tf.io.decode_jpeg(file, channels, dct_method=DCT) if kind == "JPEG" else tf.io.decode_png(file, channels)
    np.testing.assert_allclose(image.thumbnails((6, 7), channels)[0], open_image(file, channels).thumbnail((6, 7)), atol=1e-6)
    places = np.float32([[0.3, 0.4], [0, 0], [1, 0.5], [0.9, 1]])
    want = keras_glimpse.MultiScaleCrop(7, (1, 2, 3))(tf.repeat(pixels[None], len(places), axis=0), places)
    np.testing.assert_allclose(image.patches(tf.constant([places]), 7, (1, 2, 3), channels)[0], want, atol=1e-5)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(121, 203), slow(((250, 160),))])
def test_orientation(rng, serve, model, orientation, size):
    assert_same(serve, model, [encoded(picture(rng, *size), orientation=orientation)])


@pytest.mark.parametrize("size", [(60, 90), (100, 120)])
def test_small_files_without_exif(rng, serve, model, size):
    """Shorter than where a directory of EXIF might be; PIL always writes one."""
    file = tf.io.encode_jpeg(picture(rng, *size), quality=60).numpy()
    assert b"Exif" not in file and len(file) < 4000
    assert_same(serve, model, [file])


def test_what_is_no_image_fails_by_itself(rng, serve):
    good = encoded(picture(rng, 100, 120))
    bad = {
        b"": "Expected a JPEG or PNG",
        b"GIF89a" + bytes(50): "Expected a JPEG or PNG",
        good[: len(good) // 2]: "Invalid JPEG data",
        b"\x89PNG\r\n\x1a\n" + bytes(30): "Invalid PNG",
        encoded(picture(rng, 500, 500)): "Expected at most 200000 pixels",
        encoded(np.zeros((4000, 4000), np.uint8), "PNG"): "Expected at most 200000 pixels",
        encoded(picture(rng, 5, 30)): "does not fit",
    }
    for contents, message in 10 * [*bad.items()]:  # Operations that run side by side could fail in another order.
        with pytest.raises(tf.errors.OpError, match=message):
            serve(encoded=tf.constant([contents]))
    assert np.isfinite(serve(encoded=tf.constant([good]))["probabilities"]).all()


def test_a_model_of_one_size(rng, tmp_path):
    model = keras_glimpse.GlimpseClassifier(3, 1, low_res_size=6, patch_size=8, hidden_units=16)
    model.build((None, 40, 48, 1))
    keras_glimpse.export_saved_model(model, tmp_path / "1")
    serve = tf.saved_model.load(str(tmp_path / "1")).signatures["encoded"]
    file = encoded(picture(rng, 40, 48))
    want = tf.nn.softmax(model.predict([file], verbose=0))
    np.testing.assert_allclose(serve(encoded=tf.constant([file]))["probabilities"], want, atol=TOLERANCE)
    bad = {
        encoded(picture(rng, 48, 40)): r"Expected images of \(40, 48\) pixels",
        b"\x89PNG\r\n\x1a\n" + bytes(30): "Invalid PNG",
    }
    for contents, message in 10 * [*bad.items()]:
        with pytest.raises(tf.errors.OpError, match=message):
            serve(encoded=tf.constant([contents]))


def test_models_that_cannot(tmp_path):
    model = keras_glimpse.GlimpseClassifier(3, 1, low_res_size=6, patch_size=8, preprocess=keras.layers.Rescaling(1 / 255))
    model.build((None, 40, 48, 1))
    keras_glimpse.export_saved_model(model, tmp_path / "1")
    assert "encoded" not in tf.saved_model.load(str(tmp_path / "1")).signatures
