"""What Keras users put around a model: layers in front, models outside, methods that Keras calls, float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tiers import one_fast

import keras_glimpse
from keras_glimpse import (
    GlimpseClassifier,
    cascade_curve,
    cascade_predict,
    draw_glimpses,
    export_litert,
    export_onnx,
    export_saved_model,
    fit_greedy,
    paper_sgd,
    stage_macs,
)

SIZES = {"low_res_size": 5, "patch_size": 6, "hidden_units": 8}
QUIET = {"verbose": 0, "compile_args": {"jit_compile": False}}


@pytest.fixture
def bytes_(batch):
    """Images of bytes, and labels."""
    return (255 * batch[0]).astype(np.uint8), batch[1]


def in_front():
    return keras.Sequential([keras.layers.Rescaling(1 / 255), keras.layers.RandomFlip(seed=3), keras.layers.CenterCrop(18, 20)])


def make(preprocess=None, **kwargs):
    return GlimpseClassifier(3, preprocess=preprocess or in_front(), **SIZES, **kwargs)


# ---- Layers in front ----


@pytest.mark.parametrize("run_eagerly", one_fast([True, False]))
def test_layers_in_front_train_as_if_the_images_were_prepared_before(bytes_, run_eagerly):
    """Without randomness: the same weights as on images that were scaled and cropped by hand."""
    images, labels = bytes_
    scaling = keras.Sequential([keras.layers.Rescaling(1 / 255), keras.layers.CenterCrop(18, 20)])
    model, twin = make(scaling), GlimpseClassifier(3, **SIZES)
    twin.build((None, 18, 20, 1))
    model.build((None, 20, 24, 1))
    twin.set_weights(model.get_weights())
    by_hand = images[:, 1:19, 2:22].astype(np.float32) / 255
    how = {"batch_size": 64, "compile_args": {"jit_compile": False, "run_eagerly": run_eagerly}, "verbose": 0}
    fit_greedy(model, images, labels, **how)
    fit_greedy(twin, by_hand, labels, **how)
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-5)
    looked, expected = model.look(images), twin.look(by_hand)
    for name in expected:
        np.testing.assert_allclose(looked[name], expected[name], atol=1e-4)


def test_augmentation_is_on_in_training_and_off_in_inference(bytes_):
    images, labels = bytes_
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, x, training=False):
            seen.append(training)
            return x / 255.0

    model = make(Spy())
    model.compile(paper_sgd(), run_eagerly=True)
    model.fit(images, labels, batch_size=64, verbose=0)
    assert set(seen) == {True, False}  # `False`: when the model was built.
    seen.clear()
    model.evaluate(images, labels, batch_size=64, verbose=0)
    model.predict(images, batch_size=64, verbose=0)
    model.look(images)
    cascade_predict(model, images)
    assert set(seen) == {False}


@pytest.mark.slow
def test_flips_change_what_is_trained_on(bytes_):
    """A random flip gives other weights than none, and the location heads learn all the same."""
    images, labels = bytes_
    weights = []
    for layers in ([], [keras.layers.RandomFlip(seed=3)]):
        keras.utils.set_random_seed(0)
        model = make(keras.Sequential([keras.layers.Rescaling(1 / 255), *layers]))
        model.build((None, *images.shape[1:]))
        before = model.location_heads[0].get_weights()
        model.compile(paper_sgd())
        model.fit(images, labels, batch_size=16, shuffle=False, verbose=0)
        assert not np.array_equal(before[0], model.location_heads[0].get_weights()[0])
        weights.append(model.low_res_net.get_weights()[0])
    assert np.abs(weights[0] - weights[1]).max() > 1e-4


@pytest.mark.slow
def test_layers_in_front_are_saved_and_exported(bytes_, tmp_path):
    images, labels = bytes_
    model = make()
    fit_greedy(model, images, labels, **QUIET)
    expected = tf.nn.softmax(model.predict(images, verbose=0)).numpy()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(tf.nn.softmax(loaded.predict(images, verbose=0)), expected, atol=1e-5)
    np.testing.assert_allclose(cascade_predict(model, images, 1.0).probabilities, expected, atol=1e-5)
    assert cascade_curve(model, images, labels).full_error == pytest.approx(np.mean(expected.argmax(-1) != labels))
    assert len(stage_macs(model)) == 3
    export_saved_model(model, tmp_path / "1", threshold=1.0)
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    floats = images.astype(np.float32)
    for name, values in (("serving_default", floats), ("uint8", images)):
        np.testing.assert_allclose(signatures[name](images=tf.constant(values))["probabilities"], expected, atol=1e-5)
    for threshold in (None, 1.0):
        export_litert(model, tmp_path / "model.tflite", threshold)
        run = Interpreter(str(tmp_path / "model.tflite")).get_signature_runner()
        np.testing.assert_allclose(run(images=floats[:1])["probabilities"], expected[:1], atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(model, tmp_path / "model.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["probabilities"], {"images": floats})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert draw_glimpses(model, images[:2], labels[:2])


def test_bytes_that_the_layers_in_front_do_not_scale_are_told(bytes_):
    model = make(keras.layers.RandomFlip())
    model.compile(paper_sgd(), jit_compile=False)
    with pytest.warns(UserWarning, match="given bytes as floats from 0 to 255.*add Rescaling"):
        model.fit(*bytes_, verbose=0)
    with pytest.raises(TypeError, match="preprocess must be a Keras layer"):
        GlimpseClassifier(3, preprocess=lambda x: x / 255)


# ---- The model as a part of another ----


def test_a_model_around_ours_does_not_train_it_in_silence(make_model, batch):
    ours = make_model()
    around = keras.Sequential([keras.layers.Rescaling(1.0), ours])
    around.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="cannot be trained as a part of 'sequential.*Pass layers.* as `preprocess`"):
        around.fit(*batch, verbose=0)
    ours.compile(paper_sgd(), jit_compile=False)
    ours.fit(*batch, verbose=0)
    np.testing.assert_allclose(around.predict(batch[0], verbose=0), ours.predict(batch[0], verbose=0), atol=1e-5)


def test_a_frozen_model_in_another_is_a_feature_extractor(make_model, batch):
    ours = make_model()
    ours.trainable = False
    around = keras.Sequential([ours, keras.layers.Dense(3)])
    around.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = ours.get_weights()
    around.fit(*batch, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, ours.get_weights()))


def test_dropout_by_hand_is_no_training_of_another_model(make_model, batch):
    net = keras.Sequential([keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    model = make_model(glimpse_net=net)
    assert not np.allclose(model(batch[0], training=True), model(batch[0]))


def test_functional_and_time_distributed(make_model, batch):
    ours = make_model()
    assert ours.compute_output_shape((None, 20, 24, 1)) == (None, 3)
    image = keras.Input((20, 24, 1))
    model = keras.Model(image, keras.layers.Softmax()(ours(image)))
    np.testing.assert_allclose(model(batch[0]), tf.nn.softmax(ours(batch[0])), atol=1e-5)
    video = keras.Input((4, 20, 24, 1))
    frames = keras.Model(video, keras.layers.TimeDistributed(ours)(video))
    assert frames.output_shape == (None, 4, 3)
    videos = batch[0].reshape(16, 4, 20, 24, 1)
    np.testing.assert_allclose(frames.predict(videos, verbose=0).reshape(64, 3), ours(batch[0]), atol=1e-5)


# ---- Methods that Keras calls ----


@pytest.mark.parametrize("name", ["compute_loss", "compute_metrics", "call"])
def test_methods_that_training_would_not_call_are_refused(name):
    kind = type("Mine", (GlimpseClassifier,), {name: lambda self, *args, **kwargs: 0.0})
    with pytest.raises(ValueError, match=f"Mine.{name} would not be called in training: "):
        kind(3, **SIZES).compile("sgd")


def test_losses_added_to_the_model_are_refused(make_model, batch):
    model = make_model()
    with pytest.raises(ValueError, match="add_loss.*on a layer of one of its networks"):
        model.add_loss(1.0)


def test_hooks_that_are_honoured(batch):
    class Mine(GlimpseClassifier):
        calls = 0

        def train_step(self, data):
            type(self).calls += 1
            return super().train_step(data)

        def first_look(self, images, training=False):
            return super().first_look(1.0 - images, training)

        def locate(self, evidence):
            return super().locate(evidence)

        def look_again(self, images, evidence):
            return super().look_again(images, evidence)

    model, plain = Mine(3, **SIZES), GlimpseClassifier(3, **SIZES)
    model.compile(paper_sgd(), jit_compile=False)
    history = model.fit(*batch, batch_size=16, verbose=0).history
    assert Mine.calls > 0 and int(model.optimizer.iterations) == 4 and np.isfinite(history["loss"]).all()
    plain.build((None, 20, 24, 1))
    plain.set_weights(model.get_weights())
    plain.active_glimpses = 1
    assert not np.allclose(model(batch[0]), plain(batch[0]), atol=1e-3)
    cascaded = cascade_predict(model, batch[0], 1.0).probabilities
    np.testing.assert_allclose(cascaded, tf.nn.softmax(model(batch[0])), atol=1e-5)


def test_a_subclass_of_the_thumbnail_network_is_given_floats(batch):
    class Centred(keras_glimpse.LowResNet):
        def call(self, image, runtime=0.5):  # A parameter of its own that happens to have the name of ours.
            return super().call(2.0 * image - 2.0 * runtime)

    images = (255 * batch[0]).astype(np.uint8)
    model = GlimpseClassifier(3, low_res_net=Centred(3, 5, 8), patch_size=6)
    model.compile(paper_sgd(), jit_compile=False)
    model.fit(images, batch[1], verbose=0)
    np.testing.assert_allclose(model(images), model(images / np.float32(255)), atol=1e-5)


@pytest.mark.slow
def test_float64(batch):
    keras.config.set_floatx("float64")
    try:
        model = GlimpseClassifier(3, **SIZES)
        histories = fit_greedy(model, batch[0].astype(np.float64), batch[1], **QUIET)
        assert all(np.isfinite(history.history["loss"]).all() for history in histories.values())
        assert model.low_res_net.weights[0].dtype == "float64"
        looked = model.look(batch[0].astype(np.float64))
        np.testing.assert_allclose(model.predict(batch[0], verbose=0), looked["logits"][:, -1], atol=1e-5)
    finally:
        keras.config.set_floatx("float32")


# ---- XLA where it works and is fastest ----


def test_xla_for_dense_networks_and_not_for_convolutions(make_model, caplog):
    conv = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(3)])
    chosen = {}
    for name, options in (("dense", {}), ("conv", {"glimpse_net": conv})):
        with caplog.at_level("INFO", logger="keras_glimpse"):
            model = make_model(**options)
            model.compile(paper_sgd())
            chosen[name] = model.jit_compile
    on_cpu = not tf.config.list_physical_devices("GPU")
    assert chosen == {"dense": True, "conv": not on_cpu}
    assert [record.message.split(":")[0] for record in caplog.records] == ["XLA compiles the model.", "XLA is off"][
        : 1 + on_cpu
    ]


def thumbnail(kind):
    image = keras.Input((20, 24, 1))
    shrunk = {
        "bicubic": lambda: keras.layers.Resizing(5, 6, interpolation="bicubic")(image),
        "area": lambda: keras.layers.Resizing(5, 6, interpolation="area")(image),
        "antialias": lambda: keras.layers.Lambda(lambda x: keras.ops.image.resize(x, (5, 6), antialias=True))(image),
        "numpy": lambda: keras.layers.Lambda(in_numpy, output_shape=(5, 6, 1))(image),
    }[kind]()
    hidden = keras.layers.Dense(8, "relu")(keras.layers.Flatten()(shrunk))
    return keras.Model(image, (hidden, keras.layers.Dense(3)(hidden)))


def in_numpy(x):
    if isinstance(x, keras.KerasTensor):
        return keras.KerasTensor((None, 5, 6, 1))
    shrunk = tf.numpy_function(lambda values: values[:, ::4, ::4], [x], tf.float32)
    return tf.ensure_shape(shrunk, (None, 5, 6, 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bicubic", "area", "antialias", "numpy"])
def test_networks_that_xla_cannot_compile(batch, kind, caplog):
    model = GlimpseClassifier(3, patch_size=6, hidden_units=8, low_res_net=thumbnail(kind))
    with caplog.at_level("INFO", logger="keras_glimpse"):
        model.compile(paper_sgd())
        model.fit(*batch, verbose=0)
    assert any("XLA is off: it cannot compile" in record.message for record in caplog.records)
    assert np.isfinite(model.evaluate(*batch, verbose=0)[0])
    probabilities = tf.nn.softmax(model.predict(batch[0], verbose=0)).numpy()
    np.testing.assert_allclose(tf.nn.softmax(model.look(batch[0])["logits"][:, -1]), probabilities, atol=1e-5)
    np.testing.assert_allclose(cascade_predict(model, batch[0], 1.0).probabilities, probabilities, atol=1e-5)
    assert cascade_curve(model, *batch).full_error <= 1
