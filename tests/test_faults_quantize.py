"""Quantized models, LoRA and policies of single layers: every way of saving, loading and running them gives one answer."""

import contextlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import interpreter as litert
from keras import layers

import keras_glimpse
from keras_glimpse import GlimpseClassifier, GlimpseNet, LocationHead, LowResNet
from keras_glimpse._compat import all_layers

pytestmark = pytest.mark.slow  # Conversions take seconds each.

PLAINLY = {"jit_compile": False, "steps_per_execution": 1}  # quick to compile
MNIST = "saved_models/mnist/model.keras"


def momentum():
    return keras.optimizers.SGD(0.05, momentum=0.9)


def policies(model):
    return [layer.dtype_policy.name for layer in all_layers(model) if isinstance(layer, layers.Dense)]


def loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    keras_glimpse.check_file(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


def assert_close(got, expected, atol=1e-5):
    """The same, except where an input lies between two of the 256 steps and another runtime rounds it the other way."""
    difference = np.abs(got - np.asarray(expected))
    assert np.median(difference) <= atol and np.max(difference) <= 0.01


def assert_same(model, other, images, atol=3e-6):
    for name, values in model.look(images).items():
        np.testing.assert_allclose(other.look(images)[name], values, atol=atol, err_msg=name)


def litert_answers(path, images):
    run = litert.Interpreter(model_path=str(path), num_threads=1).get_signature_runner()
    return np.concatenate([run(images=image[None])["probabilities"] for image in images])


def own_nets():
    thumbnail = keras.Input((20, 24, 1))
    hidden = layers.Dense(7, "relu")(layers.Flatten()(layers.AveragePooling2D(4)(thumbnail)))
    low_res = keras.Model(thumbnail, [hidden, layers.Dense(3)(hidden)])
    glimpse = keras.Sequential([layers.Conv2D(2, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)])
    return {"low_res_net": low_res, "glimpse_net": glimpse}


KINDS = {
    "plain": {},
    "gated": {"gated_location": True, "gated_glimpse": True, "hidden_units": (9, 8)},
    "shared": {"share_weights": True},
    "own": None,
    "mixed": {"dtype": "mixed_bfloat16"},
}


def quantize(model, mode):
    has_convolutions = any(isinstance(layer, layers.Conv2D) for layer in all_layers(model))
    is_told = pytest.warns(UserWarning, match="no quantized form of BatchNormalization, Conv2D: such layers stay")
    with is_told if has_convolutions else contextlib.nullcontext():
        model.quantize(mode)


# ---- What `quantize` changes, and what it refuses ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_networks_are_quantized_and_location_heads_are_not(make_model, kind, mode):
    model = make_model(**(own_nets() if kind == "own" else KINDS[kind]))
    of_heads = [policies(head) for head in model.location_heads]
    quantize(model, mode)
    assert [policies(head) for head in model.location_heads] == of_heads == [["float32"] * len(of_heads[0])] * 2
    for net in (model.low_res_net, *model.glimpse_nets):
        assert policies(net) and all(policy.startswith(mode) for policy in policies(net))


def test_int8_is_what_numpy_makes_of_it(make_model, batch):
    model = make_model(downsample="area")
    hidden, output = model.low_res_net.hidden_layers[0], model.low_res_net.output_layer
    kernels = [layer.kernel.numpy() for layer in (hidden, output)]
    model.quantize("int8")

    def product(inputs, kernel):
        rounded = [127 / np.abs(values).max(axis, keepdims=True) for values, axis in ((inputs, 1), (kernel, 0))]
        whole = [np.round(values * scale).astype(np.int32) for values, scale in zip((inputs, kernel), rounded)]
        return (whole[0] @ whole[1]) / (rounded[0] * rounded[1])

    images = batch[0][:, :, :20]
    other = LowResNet.from_config(model.low_res_net.get_config())
    other.build(images.shape)
    other.set_weights(model.low_res_net.get_weights())
    thumbnail = images.reshape(64, 5, 4, 5, 4).mean((2, 4)).reshape(64, 25)
    features = np.maximum(product(thumbnail, kernels[0]), 0)
    logits = product(features, kernels[1])
    for got, expected in zip(other(images), (features, logits)):
        assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_location_heads_of_other_models_stay_float32():
    features, logits = keras.Input((8,)), keras.Input((3,))
    model = keras.Model([features, logits], LocationHead()(features, layers.Dense(3)(logits)))
    model.quantize("int8")
    assert policies(model.layers[-1]) == ["float32", "float32"]
    assert "int8_from_float32" in policies(model)


def test_refused_before_anything_is_changed(make_model):
    with pytest.raises(ValueError, match="isn't yet built"):
        GlimpseClassifier(3).quantize("int8")
    model = make_model()
    refused = {
        "mode must be one of .*'int8', 'int4'.*; got 'float8'": {"mode": "float8"},
        "Invalid quantization mode": {"mode": "int3"},
        "either `mode` or `config`": {},
        "must pass a `GPTQConfig`": {"mode": "gptq"},
        "must pass an `AWQConfig`": {"mode": "awq"},
        "got 'gptq' .it calibrates": {"config": keras.quantizers.GPTQConfig(None, None)},
        "Contradictory": {"mode": "int4", "config": keras.quantizers.Int8QuantizationConfig()},
        "none of the layers that match the filters": {"mode": "int8", "filters": "no_such_layer"},
        "filters must be .*; got 5": {"mode": "int8", "filters": 5},
    }
    for message, arguments in refused.items():
        with pytest.raises(ValueError, match=message):
            model.quantize(**arguments)
    model.glimpse_nets[1].output_layer.quantize("int8")
    with pytest.raises(ValueError, match="is quantized already: it has int8_from_float32"):
        model.quantize("int8")
    assert policies(model).count("int8_from_float32") == 1
    half = make_model(low_res_net=LowResNet(3, 5, 8, dtype="mixed_float16"))
    with pytest.raises(ValueError, match='"int8" needs layers of float32 or bfloat16; .* has mixed_float16'):
        half.quantize("int8")
    assert not any("int8" in policy for policy in policies(half))


def test_filters(make_model):
    model = make_model()
    low_res = [layer.name for layer in all_layers(model.low_res_net)]
    model.quantize("int8", filters=[f"^{name}$" for name in low_res])
    model.quantize("int4", filters=lambda layer: layer not in all_layers(model.low_res_net))
    assert {*policies(model.low_res_net)} == {"int8_from_float32"}
    assert {*policies(model.glimpse_nets[1])} == {"int4/128_from_float32"}


# ---- One answer ----


@pytest.mark.parametrize("kind, mode", [*((kind, "int8") for kind in KINDS), ("plain", "int4")])
def test_saved_loaded_and_cloned(make_model, kind, mode, batch, tmp_path):
    model = make_model(**(own_nets() if kind == "own" else KINDS[kind]))
    quantize(model, mode)
    images = batch[0]
    other = loaded(model, tmp_path)
    assert policies(other) == policies(model)
    assert_same(model, other, images)
    if kind == "plain":
        assert_close(other.predict(images, verbose=0), model(images))
        certain = keras_glimpse.cascade_predict(other, images, threshold=1.0).probabilities
        assert_close(certain, tf.nn.softmax(model(images)))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_same(model, clone, images)


def test_loaded_in_a_fresh_process(make_model, batch, tmp_path):
    model = make_model(gated_glimpse=True)
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", batch[0])
    np.save(tmp_path / "logits.npy", model(batch[0]))
    program = (
        "import sys, keras, keras_glimpse, numpy as np; folder = sys.argv[1]\n"
        "logits = keras.models.load_model(folder + '/model.keras')(np.load(folder + '/images.npy'))\n"
        "np.testing.assert_allclose(logits, np.load(folder + '/logits.npy'), atol=1e-6)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True)


def test_files_of_version_0_1(rng):
    """Their configs know of no inner layers; what they answer is in the file that was exported with them."""
    model = keras.models.load_model(MNIST)
    assert "inner" not in model.get_config()
    images = rng.random((8, *model.image_shape), dtype=np.float32)
    exported = tf.saved_model.load("saved_models/mnist/saved_model/1").signatures["explain"](images=tf.constant(images))
    np.testing.assert_allclose(tf.nn.softmax(model.look(images)["logits"]), exported["stage_probabilities"], atol=1e-6)


def test_accuracy_and_places_of_a_trained_model(mnist):
    images, labels = mnist.test_images[:2000], mnist.test_labels[:2000]
    model, plain = keras.models.load_model(MNIST), keras.models.load_model(MNIST)
    with pytest.warns(UserWarning, match="no quantized form of Conv2D"):
        model.quantize("int8")
    seen, before = model.look(images), plain.look(images)
    errors = [np.mean(np.argmax(look["logits"][:, -1], axis=-1) != labels) for look in (before, seen)]
    assert 0 < errors[0] < 0.02 and abs(errors[1] - errors[0]) <= 0.001
    shift = np.linalg.norm((seen["locations"] - before["locations"]) * 27, axis=-1)
    assert 0 < shift.max() < 0.5


def test_exported_int8(sharp_model, rng, tmp_path):
    threshold = 0.8
    images = rng.random((30, 20, 24, 1), dtype=np.float32)
    sharp_model.quantize("int8")
    result = keras_glimpse.cascade_predict(sharp_model, images, threshold)
    assert len({*result.exit_stage}) > 1
    keras_glimpse.export_saved_model(sharp_model, tmp_path / "saved", threshold)
    keras_glimpse.export_litert(sharp_model, tmp_path / "model.tflite", threshold)
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"](images=tf.constant(images))
    assert_close(served["probabilities"], result.probabilities)
    assert_close(litert_answers(tmp_path / "model.tflite", images), result.probabilities)
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    keras_glimpse.export_onnx(sharp_model, tmp_path / "model.onnx", threshold)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    answers = [session.run(["probabilities"], {"images": image[None]})[0] for image in images]
    assert_close(np.concatenate(answers), result.probabilities)
    assert sharp_model.low_res_net.output_layer.inputs_quantizer(tf.ones((1, 2)), axis=-1)[0].dtype == tf.int8  # as before


def test_exports_that_are_refused(make_model, batch, tmp_path):
    model = make_model()
    model.quantize("int8")
    for quantize, calibration in (("float16", None), ("dynamic", None), ("int8", batch[0])):
        with pytest.raises(ValueError, match=f"export_litert.quantize='{quantize}'. cannot export layers of int8"):
            keras_glimpse.export_litert(model, tmp_path / "a.tflite", quantize=quantize, calibration=calibration)
    model = make_model()
    model.quantize("int4")
    for refused in (
        lambda: keras_glimpse.export_litert(model, tmp_path / "a.tflite"),
        lambda: keras_glimpse.export_onnx(model, tmp_path / "a.onnx"),
        lambda: model.export(tmp_path / "a.onnx", format="onnx"),
    ):
        with pytest.raises(ValueError, match="cannot export layers of int4; .* Export the model as it was before"):
            refused()
    half = make_model(dtype="mixed_bfloat16", num_glimpses=1)
    half.quantize("int8")
    with pytest.raises(ValueError, match="needs a model of float32; .*bfloat16"):
        keras_glimpse.export_litert(half, tmp_path / "a.tflite")
    assert not [*tmp_path.iterdir()]
    keras_glimpse.export_saved_model(half, tmp_path / "half")
    served = tf.saved_model.load(str(tmp_path / "half")).signatures["serving_default"](images=tf.constant(batch[0]))
    assert_close(served["probabilities"], tf.nn.softmax(half(batch[0])), atol=1e-3)


@keras.saving.register_keras_serializable("test_faults_quantize")
class Bits(layers.Layer):
    def call(self, inputs):
        return tf.cast(tf.bitwise.bitwise_and(tf.cast(inputs, tf.int32), 3), tf.float32)


def test_onnx_has_no_such_operation(make_model, tmp_path):
    """Such a file was written, and nothing could run it."""
    pytest.importorskip("tf2onnx")
    model = make_model(glimpse_net=keras.Sequential([layers.Flatten(), Bits(), layers.Dense(3)]))
    with pytest.raises(ValueError, match="operations that cannot be exported to ONNX: .*BitwiseAnd"):
        keras_glimpse.export_onnx(model, tmp_path / "model.onnx")
    assert not [*tmp_path.iterdir()]


# ---- Training ----


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_model_trains_and_goes_on(make_model, batch, mode, tmp_path):
    model = make_model(gated_glimpse=True)
    model.compile(momentum(), stage=1, metrics=["sparse_categorical_accuracy"], **PLAINLY)
    model.fit(*batch, verbose=0)
    model.quantize(mode)
    before = {variable.path: np.array(variable) for variable in model.variables}
    model.fit(*batch, verbose=0)
    moved = {v.path.split("/", 1)[1] for v in model.variables if not np.array_equal(v, before[v.path])}
    of_nets = [layer for net in (model.low_res_net, model.glimpse_nets[0]) for layer in all_layers(net)[1:]]
    head = model.location_heads[0].trainable_variables
    assert moved == {v.path.split("/", 1)[1] for v in [*(layer.bias for layer in of_nets), *head]}
    other = loaded(model, tmp_path)
    assert_same(model, other, batch[0])
    losses = [each.fit(*batch, shuffle=False, verbose=0).history["loss"][0] for each in (model, other)]
    np.testing.assert_allclose(*losses, rtol=1e-5)  # The optimizer has gone on too.


def lora_layers(model):
    head, first, second = model.location_heads[0], *model.glimpse_nets
    return [*model.low_res_net.hidden_layers, head.from_hidden, head.gate, first.output_layer, *second.hidden_layers]


def test_lora(make_model, batch, tmp_path):
    model = make_model(gated_location=True)
    model.compile(momentum(), stage=1, **PLAINLY)
    model.fit(*batch, verbose=0)
    for layer in lora_layers(model):
        layer.enable_lora(2)
    with pytest.raises(ValueError, match="compile with a fresh optimizer .*`enable_lora`"):
        model.fit(*batch, verbose=0)  # It would train the old kernels.
    model.compile(momentum(), stage=1, **PLAINLY)
    names = ("_kernel", "lora_kernel_a", "lora_kernel_b", "bias")
    before = [[np.array(getattr(layer, name)) for name in names] for layer in lora_layers(model)]
    model.fit(*batch, epochs=2, verbose=0)
    for layer, values in zip(lora_layers(model), before):
        kernel, a, *others = [not np.array_equal(getattr(layer, name), value) for name, value in zip(names, values)]
        is_trained = layer not in model.glimpse_nets[1].hidden_layers
        assert not kernel and others == [is_trained] * 2
        assert a == is_trained or layer is model.location_heads[0].gate  # There a's gradient, b times little, is too small.
    other = loaded(model, tmp_path)
    assert all(layer.lora_rank == 2 and layer.lora_enabled for layer in lora_layers(other))
    assert_same(model, other, batch[0])
    clone = GlimpseClassifier.from_config(model.get_config())
    clone.build((None, 20, 24, 1))
    clone.set_weights(model.get_weights())
    assert_same(model, clone, batch[0])
    keras_glimpse.export_litert(model, tmp_path / "model.tflite")
    found = litert_answers(tmp_path / "model.tflite", batch[0][:8])
    np.testing.assert_allclose(found, tf.nn.softmax(model(batch[0][:8])), atol=1e-5)
    model.quantize("int8")
    with pytest.warns(UserWarning, match="LoRA on quantized layers"):
        model.save(tmp_path / "quantized.keras")


# ---- What is done to single layers is kept ----


def test_changes_of_single_layers_are_kept(make_model, batch, tmp_path):
    model = GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8, gated_location=True)
    model.low_res_net.hidden_layers[0].dtype_policy = "mixed_bfloat16"
    model.glimpse_nets[1].output_layer.kernel_regularizer = keras.regularizers.L2(0.5)
    model.location_heads[1].gate.trainable = False
    model.glimpse_nets[0].trainable = False
    model.build((None, 20, 24, 1))
    model.compile(momentum(), stage=2, **PLAINLY)
    model.fit(*batch, verbose=0)
    for other in (loaded(model, tmp_path), keras.models.clone_model(model)):
        assert policies(other) == policies(model) and "mixed_bfloat16" in policies(other)
        assert other.glimpse_nets[1].output_layer.kernel_regularizer.l2 == 0.5
        assert not other.location_heads[1].gate.trainable
        assert not other.glimpse_nets[0].trainable_variables


def test_configs_of_plain_models_are_as_before(make_model):
    config = make_model(gated_location=True, gated_glimpse=True).get_config()
    assert "inner" not in config
    net = GlimpseNet(3, gated=True)
    net.build((None, 6, 6, 2))
    assert {*net.get_config()} - {*keras.Layer().get_config()} == {"num_classes", "hidden_units", "gated"}


@pytest.mark.parametrize("change", ["int8", "int4", "lora"])
def test_clones_for_each_glimpse(make_model, change, rng):
    net = GlimpseNet(3, 8)
    net.build((None, 6, 6, 2))
    if change == "lora":
        net.hidden_layers[0].enable_lora(2)
        net.hidden_layers[0].lora_kernel_b.assign(rng.random((2, 8)))
    else:
        for layer in (*net.hidden_layers, net.output_layer):
            layer.quantize(change)
    first, second = make_model(glimpse_net=net).glimpse_nets
    patches = rng.random((5, 6, 6, 2), dtype=np.float32)
    assert first is net and second is not net
    np.testing.assert_allclose(second(patches), first(patches), atol=1e-6)
