"""What Keras users do with the whole model: own networks, saving mid-training, any image."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

from keras_glimpse import GlimpseClassifier, LocationHead, LowResNet, Thumbnail, draw_glimpses, fit_greedy, paper_sgd
from keras_glimpse.ops.runtime import for_runtime, of_user_network

QUIET = {"compile_args": {"run_eagerly": True}, "verbose": 0}  # For what does not depend on graphs.


def conv_net(num_classes=3):
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(num_classes)]
    return keras.Sequential(layers)


def thumbnail_net():
    image = keras.Input((20, 24, 1))
    hidden = keras.layers.Dense(9, "relu")(keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(image)))
    return keras.Model(image, (hidden, keras.layers.Dense(3)(hidden)))


@pytest.mark.parametrize("one_each", one_fast([False, True]))
def test_own_networks(batch, tmp_path, one_each):
    glimpse_net = [conv_net(), conv_net()] if one_each else conv_net()
    model = GlimpseClassifier(3, patch_size=6, low_res_net=thumbnail_net(), glimpse_net=glimpse_net)
    fit_greedy(model, *batch, **QUIET)
    assert model.glimpse_nets[0] is not model.glimpse_nets[1]
    model.save(tmp_path / "own.keras")
    loaded = keras.models.load_model(tmp_path / "own.keras")
    np.testing.assert_allclose(loaded.predict(batch[0], verbose=0), model.predict(batch[0], verbose=0), atol=1e-6)


def test_what_users_froze_stays_frozen(batch):
    low_res_net = LowResNet(3, 5, 8)
    low_res_net.hidden_layers[0].trainable = False
    model = GlimpseClassifier(3, patch_size=6, low_res_net=low_res_net, hidden_units=8)
    model.build((None, 20, 24, 1))
    before = low_res_net.get_weights()
    model.compile(paper_sgd(), jit_compile=False)
    model.fit(*batch, verbose=0)
    same = [np.array_equal(a, b) for a, b in zip(before, low_res_net.get_weights())]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("stage", one_fast([1, "fine_tune"]))
def test_training_goes_on_after_loading(make_model, batch, tmp_path, stage):
    """Stage, optimizer and momentum are in the file: one fit of two epochs is two of one with a reload between."""
    model = make_model()
    model.compile(paper_sgd(), stage=stage, run_eagerly=True)
    model.fit(*batch, shuffle=False, verbose=0)
    model.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    assert loaded.stage == model.stage and int(loaded.optimizer.iterations) == int(model.optimizer.iterations) == 2
    for each in (model, loaded):
        each.fit(*batch, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(13, 40, 1), (33, 12, 4)])
def test_any_image(rng, shape):
    images, labels = rng.random((30, *shape), dtype=np.float32), rng.integers(0, 2, 30)
    model = GlimpseClassifier(2, 3, low_res_size=(7, 9), patch_size=5, scales=(1, 3), hidden_units=(8, 6))
    fit_greedy(model, images, labels, batch_size=10, **QUIET)
    looked = model.look(images)
    assert looked["logits"].shape == (30, 4, 2) and looked["locations"].shape == (30, 3, 2)
    assert looked["patches"].shape == (30, 3, 5, 5, 2 * shape[2])


def test_look_takes_what_predict_takes(make_model, rng):
    model = GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8)
    images = rng.integers(0, 256, (4, 20, 24, 1)).astype(np.uint8)
    looked = model.look(images)["logits"][:, -1]  # not built before
    np.testing.assert_allclose(looked, model.predict(images, verbose=0), atol=1e-5)
    np.testing.assert_allclose(looked, model(images.astype(np.float32) / 255), atol=1e-5)


def test_progress_of_parallel_groups(make_model, batch):
    """With M = 2, glimpses 1 and 2 depend on the thumbnail alone, 3 on all before it."""
    model = make_model(num_glimpses=3, parallel=2)
    images, looked = batch[0], model.look(batch[0])
    net = model.glimpse_nets[0]
    net.set_weights([weights + 1.0 for weights in net.get_weights()])
    moved = np.abs(model.look(images)["locations"] - looked["locations"]).max(axis=(0, 2))
    assert moved[0] == moved[1] == 0.0 and moved[2] > 0


def test_trainable_parameters_in_the_summary(make_model, capsys):
    model = make_model()
    model.compile("sgd", stage=2)
    model.summary()
    trained = sum(int(np.prod(v.shape)) for v in (*model.location_heads[1].variables, *model.glimpse_nets[1].variables))
    assert f"Trainable params: {trained:,}" in capsys.readouterr().out
    assert len(model.trainable_variables) + len(model.non_trainable_variables) == len(model.variables)


@pytest.mark.slow
def test_look_inside_xla_after_looking_eagerly(make_model, batch):
    model = make_model()
    eager = model.look(batch[0])["logits"]
    compiled = tf.function(lambda images: model.look(images)["logits"], jit_compile=True)
    np.testing.assert_allclose(compiled(batch[0]), eager, atol=1e-5)


def test_regularisation_of_own_networks_counts(batch):
    def regularised(strength):
        kernel = keras.regularizers.L2(strength)
        keras.utils.set_random_seed(0)
        net = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, kernel_regularizer=kernel)])
        model = GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8, glimpse_net=net)
        model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
        model.fit(*batch, epochs=5, verbose=0)
        return np.square(net.get_weights()[0]).sum()

    assert regularised(5.0) < 0.8 * regularised(0.0)


def test_pretrained_networks_are_cloned_with_their_weights(batch):
    net = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model = GlimpseClassifier(3, low_res_size=5, patch_size=6, glimpse_net=net)
    assert all(np.array_equal(*pair) for pair in zip(*(each.get_weights() for each in model.glimpse_nets)))
    model.build((None, 20, 24, 1))
    assert len({id(v) for each in model.glimpse_nets for v in each.variables}) == 4


def test_own_networks_are_given_floats(rng):
    images = rng.integers(0, 256, (4, 20, 24, 1)).astype(np.uint8)
    model = GlimpseClassifier(3, patch_size=6, low_res_net=thumbnail_net(), glimpse_net=conv_net())
    np.testing.assert_allclose(model.look(images)["logits"], model.look(images.astype("float32") / 255)["logits"], atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_places_are_exact_under_mixed_precision(rng, policy):
    """At 2048 pixels: the head itself adds nothing to the rounding of the features that it is given."""
    hidden = rng.normal(size=(200, 500)).astype(policy.removeprefix("mixed_") if policy == "mixed_float16" else np.float32)
    logits = rng.normal(size=(200, 10)).astype(np.float32)
    head, mixed = LocationHead(), LocationHead(dtype=policy)
    head(hidden.astype(np.float32), logits), mixed(hidden, logits)
    mixed.set_weights(head.get_weights())
    assert np.abs(head(hidden.astype(np.float32), logits) - mixed(hidden, logits)).max() * 2047 < 0.01


def test_predict_in_batches_of_any_size(make_model, rng):
    model, images = make_model(), rng.random((37, 20, 24, 1), dtype=np.float32)
    model.compile("sgd", jit_compile=True)
    np.testing.assert_allclose(model.predict(images, batch_size=16, verbose=0), model(tf.constant(images)), atol=1e-5)


def test_class_names_are_saved_and_drawn(make_model, batch, tmp_path):
    model = make_model(class_names=["a", "b", "ç"])
    assert model.class_names == ("a", "b", "ç") and "class_names" not in make_model().get_config()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.class_names == ("a", "b", "ç") == keras.models.clone_model(loaded).class_names
    titles = {axes.get_title() for axes in draw_glimpses(loaded, batch[0][:2]).axes}
    assert any(title.startswith(("thumbnail: a", "thumbnail: b", "thumbnail: ç")) for title in titles)
    loaded.class_names = None
    assert loaded.class_names is None


NOT_NAMES = ["abc", ("a", "b"), ("a", "b", "b"), ("a", "b", ""), ("a", "b", "c\n"), (0, 1, 2), 3]
NOT_NAMES += [("a", "b", "b\0"), ("a", "b", "\udcff"), pytest.param({"a", "b", "c"}, id="set"), {"a": 2, "b": 1, "c": 0}]


@pytest.mark.parametrize("names", NOT_NAMES, ids=ascii)
def test_errors_of_class_names(make_model, names):
    with pytest.raises(ValueError, match="class_names must be"):
        make_model(class_names=names)
    model = make_model()
    with pytest.raises(ValueError, match="class_names must be"):
        model.class_names = names


@pytest.mark.parametrize(("runtime", "pools"), [("any", False), ("litert_quantized", True)])
def test_a_thumbnail_in_a_network_of_the_users_knows_what_runs_it(runtime, pools):
    """A matrix, but not in files in 8 bits, where it would be rounded before it is averaged."""
    image = keras.Input((48, 48, 1))
    network = keras.Model(image, keras.layers.Flatten()(Thumbnail(12)(image)))
    function = tf.function(for_runtime(network, runtime), autograph=False)
    operations = {node.type for node in function.get_concrete_function(tf.TensorSpec((1, 48, 48, 1))).graph.get_operations()}
    assert ("AvgPool" in operations) == pools and ("MatMul" in operations) != pools
    pixels = np.random.default_rng(0).random((1, 48, 48, 1), np.float32)
    means = pixels.reshape(12, 4, 12, 4).mean(axis=(1, 3)).reshape(1, 144)
    np.testing.assert_allclose(function(pixels), means, atol=1e-6)
    assert of_user_network() == "any"
