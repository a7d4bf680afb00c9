"""Bad input on every way in: one clear error before any weight has changed, or one warning."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

from keras_glimpse import GlimpseClassifier, cascade_curve, cascade_predict, fit_greedy, paper_sgd

SIZES = {"low_res_size": 5, "patch_size": 6, "hidden_units": 8}


@pytest.fixture
def compiled(make_model):
    model = make_model()
    model.compile(paper_sgd(), jit_compile=False)
    return model


def with_nan(values):
    values = np.array(values, np.float32)
    values.flat[7] = np.nan
    return values


BATCHES = {
    "label out of range": (lambda x, y: (x, y + 1), r"Labels must lie in \[0, 3\); got 1 to 3"),
    "two-hot": (lambda x, y: (x, np.ones((64, 3))), "sum to 1"),
    "NaN image": (lambda x, y: (with_nan(x), y), "Image 0 holds NaN"),
    "NaN weight": (lambda x, y: (x, y, with_nan(np.ones(64))), "Sample weight 7 is NaN"),
    "infinite weight": (lambda x, y: (x, y, np.full(64, np.inf)), "Sample weight 0 is NaN or infinite"),
    "weights of another number": (lambda x, y: (x, y, np.ones(5)), r"one sample weight an image, \[64\]; got shape \(5,\)"),
    "no labels": (lambda x, y: (x, None), "Expected labels"),
    "size": (lambda x, y: (x[:, :19], y), r"built for images \(20, 24, 1\)"),
    "ragged": (lambda x, y: (tf.ragged.stack([x[0], x[1][:9]]), y[:2]), "images of one size.*; got a RaggedTensor"),
    "objects": (lambda x, y: (np.array([x[0], x[1][:9]], object), y[:2]), "images of one size.*; got an array of objects"),
    "list": (lambda x, y: (list(x), y), "got a list"),
    "text": (lambda x, y: (np.full((64, 20, 24, 1), "a"), y), "floats, uint8 or uint16"),
}
WAYS = {
    "fit": lambda model, x, y, w=None: model.fit(x, y, sample_weight=w, verbose=0),
    "validation": lambda model, x, y, w=None: model.fit(*GOOD, validation_data=(x, y, w), verbose=0),
    "train_on_batch": lambda model, x, y, w=None: model.train_on_batch(x, y, w),
    "test_on_batch": lambda model, x, y, w=None: model.test_on_batch(x, y, w),
    "evaluate": lambda model, x, y, w=None: model.evaluate(x, y, sample_weight=w, verbose=0),
}
GOOD = np.zeros((4, 20, 24, 1), np.float32), np.zeros(4, int)


@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("way", one_fast(WAYS))
def test_bad_batches(compiled, batch, case, way):
    spoil, message = BATCHES[case]
    before = compiled.get_weights()
    with pytest.raises((ValueError, TypeError), match=message):
        WAYS[way](compiled, *spoil(*batch))
    assert all(np.array_equal(a, b) for a, b in zip(before, compiled.get_weights()))


@pytest.mark.parametrize("case", ["ragged", "objects", "list", "size", "text"])
def test_bad_images_where_there_are_no_labels(compiled, batch, case):
    spoil, message = BATCHES[case]
    images = spoil(*batch)[0]
    for look in (compiled.predict, compiled.predict_on_batch, compiled.look, lambda x: cascade_predict(compiled, x)):
        with pytest.raises((ValueError, TypeError), match=message):
            look(images)


def test_nan_weights_of_a_dataset(compiled, batch):
    dataset = tf.data.Dataset.from_tensor_slices((*batch, with_nan(np.ones(64)))).batch(16)
    before = compiled.get_weights()
    with pytest.raises(ValueError, match="Batch 0 of the training data has sample weights that are NaN"):
        compiled.fit(dataset, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, compiled.get_weights()))


def test_a_model_that_is_not_built_learns_its_size_from_a_batch(batch):
    for method in ("train_on_batch", "test_on_batch"):
        model = GlimpseClassifier(3, **SIZES)
        model.compile(paper_sgd(), jit_compile=False)
        assert np.isfinite(getattr(model, method)(*batch)[0])
        assert model.image_shape == (20, 24, 1)


def test_what_is_not_compiled(make_model, batch):
    model = make_model()
    for method in ("fit", "evaluate", "train_on_batch", "test_on_batch"):
        with pytest.raises(ValueError, match=f"{method} needs a compiled model: call compile"):
            getattr(model, method)(*batch)


def test_everything_frozen(make_model, batch):
    model = make_model()
    model.low_res_net.trainable = model.location_heads[0].trainable = model.glimpse_nets[0].trainable = False
    model.compile(paper_sgd(), stage=1)
    for train in (lambda: model.fit(*batch, verbose=0), lambda: model.train_on_batch(*batch)):
        with pytest.raises(ValueError, match="nothing to train in stage 1: all its layers are frozen"):
            train()


def test_layers_frozen_after_compile(make_model, batch):
    model = make_model()
    model.compile(paper_sgd(), run_eagerly=True)
    model.fit(*batch, verbose=0)
    model.low_res_net.trainable = False
    with pytest.raises(ValueError, match="compile with a fresh optimizer"):
        model.fit(*batch, verbose=0)
    model.compile(paper_sgd(), run_eagerly=True)
    model.fit(*batch, verbose=0)


@pytest.mark.parametrize("path", ["model.h5", "model.hdf5"])
def test_h5_files(compiled, tmp_path, path):
    with pytest.raises(ValueError, match="ends in .keras"):
        compiled.save(tmp_path / path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", keras.optimizers.Adam(0.01)])
def test_optimizers_by_name_or_by_example(make_model, batch, optimizer):
    model = make_model()
    fit_greedy(model, *batch, optimizer=optimizer, verbose=0, compile_args={"jit_compile": False})
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    with pytest.raises(TypeError, match="optimizer must be a name, a Keras optimizer, or a function"):
        fit_greedy(model, *batch, optimizer=3, verbose=0)
    with pytest.raises(TypeError, match="optimizer must be a name, a Keras optimizer, or a function"):
        fit_greedy(model, *batch, optimizer=keras.optimizers.Adam, verbose=0)


def test_a_loss_is_refused_however_it_comes(make_model):
    for arguments in ({"loss": "mse"}, {"loss_weights": [1.0]}):
        with pytest.raises(ValueError, match="brings its own loss"):
            make_model().compile("sgd", **arguments)
    with pytest.raises(ValueError, match="brings its own loss.*got loss='mse'"):
        make_model().compile("sgd", "mse")


@pytest.mark.parametrize("stage", [np.int64(2), np.int32(2), 2])
def test_stages_that_are_integers_of_numpy(make_model, batch, stage, tmp_path):
    model = make_model()
    model.compile(paper_sgd(), stage=stage, jit_compile=False)
    model.fit(*batch, verbose=0)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").stage.glimpse == 1
    for wrong in (2.0, True, 3, "2", None):
        with pytest.raises(ValueError, match="stage must be one of"):
            model.compile("sgd", stage=wrong)


def test_curves_want_labels(compiled, batch):
    with pytest.raises(ValueError, match="Expected batches of .images, labels.; got images alone"):
        cascade_curve(compiled, tf.data.Dataset.from_tensor_slices(batch[0]).batch(8))
    with pytest.raises(ValueError, match="as many labels"):
        cascade_curve(compiled, batch[0])


def test_images_whose_size_is_not_known_in_a_graph(compiled, batch):
    @tf.function(input_signature=[tf.TensorSpec((None, None, None, None))])
    def call(images):
        return compiled(images), compiled.look(images)["logits"]

    logits, looked = call(batch[0])
    np.testing.assert_allclose(logits, compiled(batch[0]), atol=1e-5)
    np.testing.assert_allclose(looked[:, -1], logits, atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[\?,20,24,1\]"):
        call(batch[0][:, :19])
    fresh = GlimpseClassifier(3, **SIZES)
    with pytest.raises(ValueError, match="The channels of images must be known statically"):
        tf.function(fresh.look).get_concrete_function(tf.TensorSpec((None, 20, 24, None)))


# ---- Pixels that are not scaled as the model expects ----


def told(action):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        action()
    return [str(warning.message) for warning in found if "used as they are" in str(warning.message)]


def sources(images, labels):
    batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    return {
        "array": (images, labels),
        "dataset": (tf.data.Dataset.from_tensor_slices((images, labels)).batch(16),),
        "generator": (iter(batches),),
    }


@pytest.mark.parametrize("source", ["array", "dataset", "generator"])
def test_floats_to_255_are_told_once(compiled, batch, source):
    images, labels = 255 * batch[0], batch[1]
    messages = told(lambda: compiled.fit(*sources(images, labels)[source], verbose=0))
    assert (
        len(messages) == 1 and "expected pixels around 1; got up to 25" in messages[0] and "Divide them by 255" in messages[0]
    )
    assert not told(lambda: compiled.predict(images, verbose=0))


@pytest.mark.parametrize("ask", one_fast(["predict", "look", "cascade", "curve", "evaluate", "on_batch"]))
def test_floats_beyond_1_after_training_on_bytes(compiled, batch, ask, tmp_path):
    images, labels = (255 * batch[0]).astype(np.uint8), batch[1]
    assert not told(lambda: compiled.fit(images, labels, verbose=0))
    compiled.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    calls = {
        "predict": lambda x: loaded.predict(x, verbose=0),
        "look": loaded.look,
        "cascade": lambda x: cascade_predict(loaded, x),
        "curve": lambda x: cascade_curve(loaded, x, labels),
        "evaluate": lambda x: loaded.evaluate(x, labels, verbose=0),
        "on_batch": loaded.predict_on_batch,
    }
    assert not told(lambda: calls[ask](images)) and not told(lambda: calls[ask](images.astype(np.float32) / 255))
    messages = told(lambda: calls[ask](images.astype(np.float32)))
    assert len(messages) == 1 and "in [0, 1], as the bytes" in messages[0]


def test_standardised_floats_are_not_told(compiled, batch):
    images = (batch[0] - 0.5) * 12
    assert not told(lambda: compiled.fit(images, batch[1], verbose=0)) and not told(lambda: compiled.look(images))
