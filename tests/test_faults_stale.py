"""One model, one answer: whatever was done to a model before, all ways of asking it say the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

from keras_glimpse import (
    GlimpseClassifier,
    GlimpseNet,
    LocationHead,
    LowResNet,
    cascade_curve,
    cascade_predict,
    export_saved_model,
    fit_greedy,
    paper_sgd,
    stage_macs,
)


def answers(model, images, labels, folder=None):
    """Probabilities by every way of asking."""
    found = {
        "call": model(images),
        "predict": model.predict(images, verbose=0),
        "predict_on_batch": model.predict_on_batch(images),
        "look": model.look(images)["logits"][:, -1],
    }
    found = {name: tf.nn.softmax(logits).numpy() for name, logits in found.items()}
    found["cascade"] = cascade_predict(model, images, threshold=1.0).probabilities
    if folder is not None:
        export_saved_model(model, folder)
        serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
        found["SavedModel"] = serve(images=tf.constant(images))["probabilities"].numpy()
    error = (found["call"].argmax(axis=-1) != labels).mean()
    assert cascade_curve(model, images, labels).full_error == pytest.approx(error)
    if model.compiled:
        measured = model.evaluate(images, labels, verbose=0, return_dict=True)
        assert measured[f"accuracy_{model.active_glimpses}"] == pytest.approx(1 - error)
        loss = -np.log(found["call"][np.arange(len(labels)), labels]).mean()
        assert measured["loss"] == pytest.approx(loss, abs=1e-4)
    return found


def assert_one_answer(model, images, labels, folder=None, atol=1e-4):
    found = answers(model, images, labels, folder)
    for name, probabilities in found.items():
        np.testing.assert_allclose(probabilities, found["call"], atol=atol, err_msg=name)
    return found["call"]


@pytest.mark.parametrize("count", [1, 2])
def test_normalization_that_is_adapted_again(rng, count):
    normalization = keras.layers.Normalization(axis=None)
    images = rng.random((8, 20, 24, 1), dtype=np.float32)
    normalization.adapt(images)
    model = GlimpseClassifier(3, 1, low_res_size=5, patch_size=6, hidden_units=8, preprocess=normalization)
    model.build((None, 20, 24, 1))
    ask = lambda: cascade_predict(model, images[:count], 1.0).probabilities  # noqa: E731
    before = ask(), model.look(images[:count])["logits"], model.predict(images[:count], verbose=0)
    normalization.adapt(5 * images + 3)
    after = ask(), model.look(images[:count])["logits"], model.predict(images[:count], verbose=0)
    expected = model(images[:count])
    for old, new in zip(before, after):
        assert np.abs(old - new).max() > 1e-3
    np.testing.assert_allclose(after[1][:, -1], expected, atol=1e-5)
    np.testing.assert_allclose(after[2], expected, atol=1e-5)
    np.testing.assert_allclose(after[0], tf.nn.softmax(expected), atol=1e-5)


def lora(model):
    layer = model.glimpse_nets[0].output_layer
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))


def freeze(model):
    model.low_res_net.trainable = False


def half(model):
    for layer in model.glimpse_nets[0].hidden_layers:
        layer.dtype_policy = "mixed_bfloat16"


def activation(model):
    model.glimpse_nets[0].hidden_layers[0].activation = keras.activations.tanh


CHANGES = {
    "averaging": lambda model: setattr(model, "averaging", "uniform"),
    "location input": lambda model: setattr(model, "location_input", "probabilities"),
    "fewer glimpses": lambda model: setattr(model, "active_glimpses", 1),
    "temperatures": lambda model: setattr(model, "temperatures", (0.5, 2.0, 3.0)),
    "activation": activation,
    "LoRA": lora,
    "int8": lambda model: model.quantize("int8"),
    "bfloat16": half,
    "weights": lambda model: model.set_weights([weights + 0.1 for weights in model.get_weights()]),
    "compile": lambda model: model.compile("sgd", stage=1),
    "freezing": freeze,
}
NO_OTHER_ANSWER = ("compile", "freezing")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "compiled"),
    [
        (("averaging", "location input", "activation", "weights", "compile", "freezing", "fewer glimpses"), True),
        (("temperatures", "LoRA", "bfloat16"), True),
        (("int8",), True),
        (("weights", "compile", "temperatures"), False),
    ],
)
def test_no_answer_is_old(sharp_model, rng, changes, compiled, tmp_path):
    """One change after another, each seen in all answers; all of them in a SavedModel."""
    images, labels = rng.random((40, 20, 24, 1), dtype=np.float32), rng.integers(0, 4, 40)
    for head in sharp_model.location_heads:
        head.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in head.get_weights()])
    if compiled:
        sharp_model.compile("sgd", stage=2)
    before = assert_one_answer(sharp_model, images, labels)
    for change in changes:
        CHANGES[change](sharp_model)
        folder = tmp_path / "1" if change == changes[-1] else None
        after = assert_one_answer(sharp_model, images, labels, folder, atol=1e-3 if change in ("int8", "bfloat16") else 1e-4)
        assert (np.abs(after - before).max() < 1e-6) == (change in NO_OTHER_ANSWER), change
        before = after


def test_networks_are_not_replaced(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        model.low_res_net = LowResNet(3, 5, 8)
    for layers, other in ((model.glimpse_nets, GlimpseNet(3, 8)), (model.location_heads, LocationHead())):
        with pytest.raises(TypeError, match="does not support item assignment"):
            layers[0] = other


@pytest.mark.parametrize(
    ("name", "value"),
    one_fast(
        [
            ("location_weight", 0.0),
            ("search_size", 5),
            ("search_stride", 5),
            ("search_stride", 0.2),
            ("contrastive", False),
            ("diversity_weight", 5.0),
            ("diversity_variance", 2.0),
            ("averaging", "uniform"),
            ("location_input", "probabilities"),
        ]
    ),
)
def test_what_is_set_after_training_takes_effect_in_training(make_model, batch, name, value):
    """As in a model that was made with it, and not as before."""
    model, made = make_model(diversity_weight=3.0), make_model(**{"diversity_weight": 3.0, name: value})
    initial = [weights + 0.2 for weights in model.get_weights()]
    after = []
    for each in (model, made, model):
        each.set_weights(initial)
        if len(after) == 2:
            setattr(model, name, value)
        else:
            each.compile(keras.optimizers.SGD(0.1), stage=2, jit_compile=False)
        each.fit(*batch, batch_size=16, shuffle=False, verbose=0)
        after.append(each.get_weights())
    before, expected, got = after
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(expected, got))
    assert not all(np.allclose(a, b, atol=1e-6) for a, b in zip(before, got))


@pytest.mark.parametrize("name", ["num_classes", "num_glimpses", "parallel", "share_weights", "gated_glimpse"])
def test_what_is_fixed_says_so(make_model, name):
    model = make_model()
    with pytest.raises(AttributeError, match=f"{name} is fixed at construction"):
        setattr(model, name, 1)
    setattr(model, name, getattr(model, name))  # As subclasses do that keep their arguments.
    with pytest.raises(AttributeError):
        model.group_size = 2
    with pytest.raises(AttributeError):
        model.image_shape = (3, 3, 3)
    for layer, other in ((model.low_res_net, ("downsample", "strided")), (model.crop, ("scales", (1, 3)))):
        with pytest.raises(AttributeError, match=f"{other[0]} is fixed"):  # The config of the model would not know.
            setattr(layer, *other)
    with pytest.raises(AttributeError):
        model.stage = 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("averaging", "median", "averaging must be one of"),
        ("search_size", 4, "search_size must be odd"),
        ("search_stride", 0, "search_stride must be an integer"),
        ("search_stride", 1.5, "share of a side"),
        ("location_weight", -1.0, "location_weight must be finite"),
        ("diversity_variance", 0.0, "diversity_variance must be finite and positive"),
        ("contrastive", "yes", "contrastive must be one of"),
        ("active_glimpses", 3, "at most num_glimpses, 2; got 3"),
        ("active_glimpses", 0, "active_glimpses must be an integer"),
    ],
)
def test_what_is_set_is_checked(make_model, name, value, message):
    model = make_model()
    before = getattr(model, name)
    with pytest.raises(ValueError, match=message):
        setattr(model, name, value)
    assert getattr(model, name) == before


@pytest.mark.slow
def test_contrastive_and_measures(make_model, batch):
    model = make_model()
    model.compile(paper_sgd())
    assert "offending_loss" in model.fit(*batch, verbose=0).history
    model.contrastive = False
    assert "offending_loss" not in model.fit(*batch, verbose=0).history


def test_parallel_is_saved(make_model, batch, tmp_path):
    model = make_model(num_glimpses=3, parallel=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.parallel == 2 and loaded.group_size == model.group_size == 2
    np.testing.assert_allclose(loaded(batch[0]), model(batch[0]), atol=1e-6)


# ---- The model answers with what was trained ----


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, "auto"])
def test_fit_of_the_first_stage_is_what_predict_answers(make_model, batch, tmp_path, jit_compile):
    """The most ordinary use: a glimpse that no stage has trained takes no part."""
    model = make_model()
    model.compile(paper_sgd(), jit_compile=jit_compile)
    assert model.active_glimpses == 2
    history = model.fit(*batch, validation_data=batch, verbose=0).history
    assert model.active_glimpses == 1 and model.trained_glimpses == (1,)
    assert "val_accuracy_1" in history and "val_accuracy_2" not in history
    probabilities = assert_one_answer(model, *batch, tmp_path / "1")
    evidence = model.look_again(batch[0], model.first_look(batch[0]))
    np.testing.assert_allclose(probabilities, tf.nn.softmax(model.combine(evidence)), atol=2e-5)
    assert len(stage_macs(model)) == 2 and cascade_predict(model, batch[0], 1.0).exit_stage.max() == 1
    for path in ("model.keras", "model.weights.h5"):
        (model.save if path.endswith("keras") else model.save_weights)(tmp_path / path)
    loaded, fresh = keras.models.load_model(tmp_path / "model.keras"), make_model()
    fresh.load_weights(tmp_path / "model.weights.h5")
    for each in (loaded, fresh):
        assert each.active_glimpses == 1 and each.trained_glimpses == (1,)
        np.testing.assert_allclose(tf.nn.softmax(each(batch[0])), probabilities, atol=1e-5)


@pytest.mark.slow
def test_later_stages_add_their_glimpse(make_model, batch):
    model = make_model(num_glimpses=3)
    active = []
    for stage in (1, 2, 3, "fine_tune"):
        model.compile(paper_sgd(), stage=stage, jit_compile=False)
        active.append(model.active_glimpses)
        model.fit(*batch, verbose=0)
        active.append(model.active_glimpses)
    assert active == [3, 1, 1, 2, 2, 3, 3, 3] and model.trained_glimpses == (1, 2, 3)


@pytest.mark.slow
def test_a_trained_glimpse_is_not_overwritten(make_model, batch):
    """`fit_greedy(stages=[2])` goes on with glimpse 2; it starts from glimpse 1 only if it was never trained."""
    quiet = {"verbose": 0, "compile_args": {"jit_compile": False}}
    stands_still = {"optimizer": lambda steps: keras.optimizers.SGD(0.0)}
    model = make_model()
    fit_greedy(model, *batch, stages=[1], **quiet)
    fit_greedy(model, *batch, stages=[2], **quiet, **stands_still)
    for one, two in zip(model.glimpse_nets[0].get_weights(), model.glimpse_nets[1].get_weights()):
        np.testing.assert_array_equal(one, two)  # warm start
    fit_greedy(model, *batch, stages=[2], **quiet)
    trained = model.glimpse_nets[1].get_weights()
    fit_greedy(model, *batch, stages=[2], **quiet, **stands_still)
    for before, after in zip(trained, model.glimpse_nets[1].get_weights()):
        np.testing.assert_array_equal(before, after)


def test_files_of_version_0_1_look_at_all_glimpses(make_model, batch, tmp_path):
    """They do not say what was trained."""
    model = make_model()
    model.save_own_variables = lambda store: None
    model.save_weights(tmp_path / "old.weights.h5")
    loaded = GlimpseClassifier.from_config(model.get_config())
    loaded.build((None, 20, 24, 1))
    loaded.load_weights(tmp_path / "old.weights.h5")
    assert loaded.active_glimpses == 2 and loaded.trained_glimpses == (1, 2)


@pytest.mark.parametrize("convert", one_fast([np.float64, float, np.float32]))
def test_numbers_of_numpy_take_effect_every_time(make_model, batch, convert):
    """A sweep over `np.linspace`: each value, not only the first."""
    model = make_model()
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    shown = []
    for weight in (0.001, 0.01, 0.1):
        model.location_weight = convert(weight)
        shown.append(model.fit(*batch, verbose=0).history["location_loss"][0])
    assert 0 < 5 * shown[0] < shown[1] < shown[2] / 2


def test_what_a_callback_sets_takes_effect_in_the_same_fit(make_model, batch):
    model, seen = make_model(), []

    class Anneals(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.contrastive = epoch == 0

        def on_epoch_end(self, epoch, logs=None):
            seen.append("offending_loss" in logs)

    model.compile(paper_sgd(), jit_compile=False)
    model.fit(*batch, epochs=2, callbacks=Anneals(), verbose=0)
    assert seen == [True, False]
