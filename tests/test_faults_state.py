"""Faults of 0.2: what a model shares, keeps and holds after it was compiled, loaded or set."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

from keras_glimpse import GlimpseClassifier, GlimpseNet, LocationHead
from keras_glimpse.layers.backbone import Backbone
from keras_glimpse.training import execution
from keras_glimpse.training.stages import Stage


def train(model, batch, stage):
    model.compile("sgd", stage=stage, run_eagerly=True)
    model.fit(*batch, verbose=0)


def own_net(*inner):
    inputs = keras.Input((6, 6, 2))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.Sequential([keras.layers.Flatten(), *inner])(inputs)))


class Head(keras.layers.Layer):
    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, hidden, logits):
        return keras.ops.sigmoid(self.inner(hidden))


@pytest.mark.parametrize(
    ("networks", "names"),
    [
        (lambda layer: {"glimpse_net": [own_net(layer), own_net(layer)]}, "two entries of glimpse_net"),
        (lambda layer: {"glimpse_net": [GlimpseNet(3)] * 2}, "two entries of glimpse_net"),
        (lambda layer: {"location_head": [LocationHead()] * 2}, "two entries of location_head"),
        (lambda layer: {"location_head": [Head(layer), Head(layer)]}, "two entries of location_head"),
        (lambda layer: {"location_head": [Head(layer), Head(layer)], "share_weights": True}, "two entries of location_head"),
        (
            lambda layer: {"glimpse_net": own_net(layer), "location_head": Head(layer), "num_glimpses": 1},
            "glimpse_net and location_head",
        ),
    ],
)
def test_layers_that_networks_share(make_model, networks, names):
    """Every stage would train them, and no file could be loaded."""
    with pytest.raises(ValueError, match=f"{names} share the layer .*: give each one of its own"):
        make_model(**networks(keras.layers.Dense(2)))


def test_models_that_share_their_input_share_no_layer(make_model, batch, tmp_path):
    inputs = keras.Input((6, 6, 2))
    nets = [keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs))) for _ in range(2)]
    model = make_model(glimpse_net=nets)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(batch[0], verbose=0), model.predict(batch[0], verbose=0))


def test_fine_tuning_goes_on_with_the_glimpse_that_was_trained_last(make_model, batch, tmp_path):
    model = make_model(num_glimpses=3, share_weights=True)
    for stage in (1, "fine_tune"):
        train(model, batch, stage)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    new = make_model(num_glimpses=3, share_weights=True)
    new.compile("sgd", stage="fine_tune", run_eagerly=True)
    assert new.stage == Stage(2, searches=False)
    new.load_weights(tmp_path / "model.weights.h5")
    for each in (loaded, new):
        assert each.stage == Stage(0, searches=False)
        each.fit(*batch, verbose=0)
        assert (each.active_glimpses, each.trained_glimpses) == (1, (1,))


def test_weights_of_a_model_with_more_glimpses(make_model, batch, tmp_path):
    model = make_model(num_glimpses=3)
    for stage in (1, 3):
        train(model, batch, stage)
    model.save_weights(tmp_path / "model.weights.h5")
    fewer = make_model(num_glimpses=2)
    fewer.load_weights(tmp_path / "model.weights.h5")
    assert (fewer.active_glimpses, fewer.trained_glimpses) == (2, (1,))
    model.active_glimpses = 2
    np.testing.assert_allclose(fewer(batch[0]), model(batch[0]), atol=1e-6)


@pytest.mark.parametrize("steps", one_fast([3, 4]))
def test_steps_per_execution_that_are_set_after_compile(make_model, batch, steps):
    """No batch is skipped: the answers are those of one step a call."""
    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(8)

    def trained(steps):
        keras.utils.set_random_seed(0)
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        model.steps_per_execution = steps
        model.fit(dataset, verbose=0)
        return model.optimizer.iterations.numpy(), model.evaluate(dataset, verbose=0), model.predict(dataset, verbose=0)

    (count, losses, logits), (one_count, one_losses, one_logits) = trained(steps), trained(1)
    assert count == one_count == 8
    np.testing.assert_allclose(losses, one_losses, atol=1e-5)
    np.testing.assert_allclose(logits, one_logits, atol=1e-5)


def test_a_compile_that_fails_changes_nothing(make_model, batch):
    model = make_model()
    model.compile("sgd", stage=1, run_eagerly=True)
    before = model.stage, model.jit_compile, model.optimizer
    for wrong in ({"optimizer": "no such"}, {"optimizer": None}, {"metrics": ["no such"]}):
        with pytest.raises(ValueError, match=r"no such|needs an optimizer"):
            model.compile(**{"stage": 2} | wrong)
        assert (model.stage, model.jit_compile, model.optimizer) == before
    model.fit(*batch, verbose=0)
    assert model.trained_glimpses == (1,)


def test_jit_compile_that_is_set_after_predict(make_model, batch):
    model = make_model()
    model.predict(batch[0], verbose=0)
    before = model.predict_function
    model.jit_compile = not model.jit_compile
    model.predict(batch[0], verbose=0)
    assert model.predict_function is not before


@pytest.mark.parametrize(
    ("images", "batch_size", "several"),
    [
        (np.zeros((1, 256, 256, 1)), 32, True),
        (np.zeros((1, 256, 256, 1)), None, True),
        (np.zeros((1, 256, 256, 1)), 33, False),
        (tf.data.Dataset.from_tensors(np.zeros((32, 256, 256, 1), "float32")), None, True),
        (tf.data.Dataset.from_tensors(np.zeros((96, 256, 256, 1), "float32")), None, False),
        (tf.data.Dataset.from_tensor_slices(np.zeros((9, 256, 256, 1), "float32")).batch(3), None, False),
        (tf.data.Dataset.from_tensor_slices(np.zeros((9, 48, 48, 1), "float32")).batch(3), None, True),
    ],
)
def test_predict_holds_a_bounded_number_of_batches(images, batch_size, several):
    """32 batches in at most 256 MiB."""
    shape = (images.element_spec if isinstance(images, tf.data.Dataset) else images).shape[1:]
    assert execution.holds_several(tuple(shape), images, batch_size) == several


def test_numbers_of_numpy(rng):
    """As of `labels.max() + 1`."""
    sizes = {"num_glimpses": np.int64(1), "low_res_size": np.int64(8), "patch_size": np.int64(16)}
    for make in (GlimpseClassifier, GlimpseClassifier.for_large_images):
        model = make(np.int64(3), **sizes, hidden_units=np.int32(8), scales=np.array([1]).tolist())
        assert model(rng.random((4, 24, 24, 1), dtype=np.float32)).shape == (4, 3)
        assert type(model.num_classes) is type(model.hidden_units) is int


def test_a_frozen_backbone_has_no_dropout(rng):
    layers = [keras.Input((None, None, 1)), keras.layers.Conv2D(4, 3), keras.layers.Dropout(0.5)]
    model, pixels = keras.Sequential(layers), rng.random((2, 12, 12, 1), dtype=np.float32)
    backbone = Backbone(model)
    assert np.abs(backbone(pixels, training=True) - backbone(pixels, training=True)).max() > 0.1
    model.trainable = False
    np.testing.assert_array_equal(backbone(pixels, training=True), backbone(pixels, training=False))


def test_batches_of_one_update_draw_places_of_their_own(rng):
    """Where gradients are accumulated, `iterations` counts updates."""
    model = GlimpseClassifier.for_large_images(3, low_res_size=8, patch_size=16, scales=(1,))
    images, labels = rng.random((4, 24, 24, 1), dtype=np.float32), np.arange(4) % 3
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=4)
    model.compile(optimizer, run_eagerly=True)
    losses = set()
    for _ in range(3):
        model.reset_metrics()
        losses.add(float(model.train_on_batch(images, labels, return_dict=True)["best_loss"]))
    assert len(losses) == 3


def test_images_have_channels_last_whatever_keras_prefers(rng):
    images = rng.random((2, 24, 24, 1), dtype=np.float32)
    model = GlimpseClassifier.for_large_images(3, low_res_size=8, patch_size=16, scales=(1,))
    expected = model(images)
    keras.config.set_image_data_format("channels_first")
    try:
        other = GlimpseClassifier.for_large_images(3, low_res_size=8, patch_size=16, scales=(1,))
        other.build((None, 24, 24, 1))
        other.set_weights(model.get_weights())
        np.testing.assert_allclose(other(images), expected, atol=1e-6)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_functional_models_in_place_of_layers_with_two_inputs(make_model):
    patches, location = keras.Input((6, 6, 2)), keras.Input((2,))
    gated = keras.Model([patches, location], keras.layers.Dense(3)(keras.layers.Flatten()(patches)))
    with pytest.raises(ValueError, match="takes .patches, location.; a functional model takes its inputs in one list"):
        make_model(glimpse_net=gated, num_glimpses=1, gated_glimpse=True)
    hidden, logits = keras.Input((8,)), keras.Input((3,))
    head = keras.Model([hidden, logits], keras.layers.Dense(2, "sigmoid")(hidden))
    with pytest.raises(ValueError, match="must take .hidden, logits.; a functional model takes its inputs in one list"):
        make_model(location_head=head, num_glimpses=1)


class Yields(keras.utils.PyDataset):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


def test_what_batches_are_made_of(make_model, batch):
    model, (images, labels) = make_model(), batch
    model.compile("sgd", run_eagerly=True)
    model.fit(Yields((images, labels.tolist())), verbose=0)
    for wrong, got in (((images,), "1 of them"), (images, "a ndarray"), ((images, labels, None, None), "4 of them")):
        for data in (Yields(wrong), iter([wrong])):
            with pytest.raises(ValueError, match=rf"Batch 0 of the training data: Expected \(images, labels\).*; got {got}"):
                model.fit(data, steps_per_epoch=1, verbose=0)
    weights = np.ones((64, 3), np.float32)
    with pytest.raises(ValueError, match=r"one sample weight an image, \[batch\]; got shape \(None, 3\)"):
        model.fit(tf.data.Dataset.from_tensor_slices((images, labels, weights)).batch(4), verbose=0)
    unknown = tf.data.Dataset.from_tensor_slices(batch).map(lambda x, y: (x, tf.py_function(lambda y: y, [y], tf.int32)))
    with pytest.raises(ValueError, match="rank of the labels is not known"):
        model.fit(unknown.batch(4), verbose=0)
