"""LiteRT files answer as Keras does, in their own runtime."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tiers import one_fast

import keras_glimpse

litert = pytest.importorskip("ai_edge_litert.interpreter")


def answers(path, images):
    run = litert.Interpreter(model_path=str(path), num_threads=1).get_signature_runner()
    return [run(images=image[None]) for image in images]


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [None, 0.8, 1.0])
def test_litert_equals_keras(sharp_model, rng, tmp_path, threshold):
    images = rng.random((60, 20, 24, 1), dtype=np.float32)
    keras_glimpse.export_litert(sharp_model, tmp_path / "model.tflite", threshold)
    found = answers(tmp_path / "model.tflite", images)
    stages = np.array([int(each["exit_stage"][0]) for each in found])
    probabilities = np.concatenate([each["probabilities"] for each in found])
    if threshold is None:
        expected = tf.nn.softmax(sharp_model(images)).numpy()
        assert set(stages) == {2}
    else:
        expected, exit_stage, _ = keras_glimpse.cascade_predict(sharp_model, images, threshold)
        np.testing.assert_array_equal(stages, exit_stage)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)  # The logits are in the hundreds.
    if threshold == 0.8:
        assert set(stages) == {0, 1, 2}


@pytest.mark.parametrize("image_shape", [(20, 24, 1), (20, 24, 3), (60, 70, 3)])
@pytest.mark.parametrize("runtime", [litert, tf.lite])
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_every_kernel_gives_the_same(make_model, rng, tmp_path, image_shape, runtime):
    """Its delegate for CPUs, its own and the reference ones. TensorFlow's runtime is what files are calibrated with."""
    model = make_model(image_shape=image_shape, num_glimpses=1)
    image = rng.random((1, *image_shape), dtype=np.float32)
    keras_glimpse.export_litert(model, tmp_path / "model.tflite")
    kinds = litert.OpResolverType if runtime is litert else tf.lite.experimental.OpResolverType
    for kernels in (kinds.AUTO, kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES, kinds.BUILTIN_REF):
        run = runtime.Interpreter(model_path=str(tmp_path / "model.tflite"), experimental_op_resolver_type=kernels)
        found = run.get_signature_runner()(images=image)["probabilities"]
        np.testing.assert_allclose(found, tf.nn.softmax(model(image)), atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_batches(sharp_model, rng, tmp_path, batch_size):
    images = rng.random((7, 20, 24, 1), dtype=np.float32)
    keras_glimpse.export_litert(sharp_model, tmp_path / "model.tflite", batch_size=batch_size)
    run = litert.Interpreter(model_path=str(tmp_path / "model.tflite"), num_threads=1).get_signature_runner()
    np.testing.assert_allclose(run(images=images)["probabilities"], tf.nn.softmax(sharp_model(images)), atol=1e-4)


@pytest.mark.parametrize("quantize, largest_share", [("float16", 0.65), ("dynamic", 0.6), ("int8", 0.6)])
@pytest.mark.parametrize("threshold", one_fast([0.8, None]))
def test_quantized(make_model, rng, tmp_path, quantize, largest_share, threshold):
    """Smaller files, and nearly the same answers. (The networks are large enough for their weights to be most of a file.)"""
    model = make_model(num_classes=4, num_glimpses=1, hidden_units=200)
    images = rng.integers(0, 256, (40, 20, 24, 1), np.uint8)
    calibration = images if quantize == "int8" else None
    plain, small = tmp_path / "plain.tflite", tmp_path / "small.tflite"
    keras_glimpse.export_litert(model, plain, threshold)
    keras_glimpse.export_litert(model, small, threshold, quantize, calibration=calibration)
    assert small.stat().st_size < largest_share * plain.stat().st_size
    found = np.concatenate([each["probabilities"] for each in answers(small, images.astype(np.float32) / 255)])
    expected = tf.nn.softmax(model(images))
    error = np.abs(found - expected).max()
    assert 0 < error < 0.02  # The model is sure of nothing: no image of these stops early, whatever the rounding.


def operations(path):
    """Names of all operations in a file, those inside of branches too, each with the shapes of what it gives."""
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()}
    for graph in file.subgraphs:
        for operation in graph.operators:
            shapes = [graph.tensors[index].shape for index in operation.outputs]
            yield names[file.operatorCodes[operation.opcodeIndex].builtinCode], shapes


@pytest.mark.parametrize("downsample", ["strided", "bilinear"])
def test_cost_does_not_grow_with_the_image(tmp_path, downsample):
    """Nothing touches more of a large image than a few rows and columns, in no branch."""
    model = keras_glimpse.GlimpseClassifier(3, 2, hidden_units=8, downsample=downsample)
    model.build((None, 1000, 1200, 1))
    keras_glimpse.export_litert(model, tmp_path / "model.tflite", 0.9)
    found = list(operations(tmp_path / "model.tflite"))
    large = {name for name, shapes in found for shape in shapes if np.prod(shape) > 25 * 25}
    assert {"SLICE", "GATHER_ND"} <= {name for name, _ in found} and not large, large


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_only_built_in_operations(sharp_model, rng, tmp_path, quantize):
    calibration = rng.random((60, 20, 24, 1), dtype=np.float32) if quantize else None
    keras_glimpse.export_litert(sharp_model, tmp_path / "model.tflite", 0.8, quantize, calibration=calibration)
    names = {name for name, _ in operations(tmp_path / "model.tflite")}
    assert "IF" in names and "CUSTOM" not in names, names
    assert not names & {"CAST", "GATHER", "GREATER", "LESS", "SELECT_V2"}, names  # The delegate for CPUs has none of these.


@pytest.mark.parametrize("quantize", ["dynamic", "int8"])
def test_places_are_not_quantized(make_model, rng, tmp_path, quantize):
    """In 8 bits they would have 256 steps, and miss by pixels in a large image."""
    model = make_model(image_shape=(200, 240, 1), num_glimpses=1, hidden_units=50)
    images = rng.random((30, 200, 240, 1), dtype=np.float32)
    calibration = images if quantize == "int8" else None
    keras_glimpse.export_litert(model, tmp_path / "model.tflite", None, quantize, calibration=calibration)
    content = schema.Model.GetRootAsModel((tmp_path / "model.tflite").read_bytes(), 0)
    tensors = schema.ModelT.InitFromObj(content).subgraphs[0].tensors
    places = [each for each in tensors if each.shape is not None and list(each.shape) == [1, 2]]
    assert places and {each.type for each in places} <= {schema.TensorType.FLOAT32, schema.TensorType.INT32}


@pytest.mark.slow
def test_calibration_of_a_model_with_preprocess(make_model, rng, tmp_path):
    """It is given pixels from 0 to 255, integers or floats, and so they calibrate."""
    model = make_model(preprocess=keras.layers.Rescaling(1 / 255))
    images = rng.integers(0, 256, (20, 20, 24, 1)).astype(np.uint8)
    for name, calibration in (("integers", images), ("floats", images.astype("float32"))):
        keras_glimpse.export_litert(model, tmp_path / f"{name}.tflite", quantize="int8", calibration=calibration)
    pixels = images[:1].astype("float32")
    integers, floats = (answers(tmp_path / f"{name}.tflite", pixels)[0]["probabilities"] for name in ("integers", "floats"))
    np.testing.assert_array_equal(integers, floats)
    np.testing.assert_allclose(integers, tf.nn.softmax(model.predict(images[:1], verbose=0)), atol=0.02)


@pytest.mark.parametrize("quantize", one_fast([None, "float16", "int8"]))
def test_compiled_model(sharp_model, rng, tmp_path, quantize):
    """LiteRT's other API answers as its interpreter does and, without rounding, as Keras does: it stops at the same stages."""
    api, path = pytest.importorskip("ai_edge_litert.compiled_model"), tmp_path / "model.tflite"
    images = rng.random((60, 20, 24, 1), dtype=np.float32)
    calibration = images if quantize == "int8" else None
    keras_glimpse.export_litert(sharp_model, path, 0.8, quantize, calibration=calibration)
    model = api.CompiledModel.from_file(str(path), options=api.Options(cpu_options=api.CpuOptions(num_threads=1)))
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    order = model.get_signature_by_index(0)["outputs"]
    buffers, found = dict(zip(order, outputs)), []
    for image in images:
        inputs[0].write(image[None])
        model.run_by_index(0, inputs, outputs)
        found.append((buffers["probabilities"].read(4, np.float32), buffers["exit_stage"].read(1, np.int32)[0]))
    probabilities, stages = map(np.array, zip(*found))
    expected = answers(path, images)
    np.testing.assert_array_equal(stages, [each["exit_stage"][0] for each in expected])
    np.testing.assert_allclose(probabilities, [each["probabilities"][0] for each in expected], atol=1e-6)
    if quantize is None:
        wanted, exit_stage, _ = keras_glimpse.cascade_predict(sharp_model, images, 0.8)
        np.testing.assert_array_equal(stages, exit_stage)
        np.testing.assert_allclose(probabilities, wanted, atol=1e-4)  # The logits are in the hundreds.
        assert {*stages} == {0, 1, 2}


@pytest.mark.slow
def test_the_trap_of_the_weight_cache(make_model, rng, tmp_path):
    """XNNPACK answers with the weights of another model, whose cache it finds; recipes/litert.py has a cache for each file."""
    recipe = pytest.importorskip("litert")
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options

    image, paths = rng.random((1, 20, 24, 1), dtype=np.float32), [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    for seed, path in enumerate(paths):
        keras.utils.set_random_seed(seed)
        keras_glimpse.export_litert(make_model(num_glimpses=1), path, 0.9)
    wanted = [answers(path, image[0][None])[0]["probabilities"] for path in paths]
    assert np.abs(wanted[0] - wanted[1]).max() > 0.01

    def with_cache(path):
        cpu = CpuOptions(num_threads=1, xnnpack_weight_cache_path=str(tmp_path / "cache"))
        model = CompiledModel.from_file(str(path), options=Options(cpu_options=cpu))
        inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
        inputs[0].write(image)
        model.run_by_index(0, inputs, outputs)
        return outputs[model.get_signature_by_index(0)["outputs"].index("probabilities")].read(3, np.float32)

    for path in paths:  # The answer of the first file both times: docs/on-device.md warns of it.
        np.testing.assert_allclose(with_cache(path), wanted[0][0], atol=1e-6)
    for path, expected in 2 * [*zip(paths, wanted)]:
        np.testing.assert_allclose(recipe.Compiled(path, tmp_path)(image), expected, atol=1e-6)
    assert len([*tmp_path.glob("*.xnnpack")]) == 2


def test_bad_exports(sharp_model, tmp_path):
    with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\]; got 1.5"):
        keras_glimpse.export_litert(sharp_model, tmp_path / "model.tflite", 1.5)
    with pytest.raises(ValueError, match="needs a model that is built"):
        keras_glimpse.export_litert(keras_glimpse.GlimpseClassifier(3), tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="quantize must be one of"):
        keras_glimpse.export_litert(sharp_model, tmp_path / "model.tflite", quantize="int4")
    with pytest.raises(ValueError, match="batch_size must be 1 with a threshold; got 7"):
        keras_glimpse.export_litert(sharp_model, tmp_path / "model.tflite", 0.9, batch_size=7)
    with pytest.raises(ValueError, match="got quantize='int8' without calibration images"):
        keras_glimpse.export_litert(sharp_model, tmp_path / "model.tflite", quantize="int8")
    with pytest.raises(ValueError, match="got quantize=None with calibration images"):
        keras_glimpse.export_litert(sharp_model, tmp_path / "model.tflite", calibration=np.zeros((2, 20, 24, 1)))
    with pytest.raises(ValueError, match="Expected at least one calibration image"):
        keras_glimpse.export_litert(
            sharp_model, tmp_path / "model.tflite", quantize="int8", calibration=np.zeros((0, 20, 24, 1), "float32")
        )
    with pytest.raises(ValueError, match="of finite numbers"):
        keras_glimpse.export_litert(
            sharp_model, tmp_path / "model.tflite", quantize="int8", calibration=np.full((2, 20, 24, 1), np.nan, "float32")
        )
    with pytest.raises(ValueError, match=r"at least 10 calibration images .* of 2, \[.*\] stop after 0, 1"):
        keras_glimpse.export_litert(
            sharp_model, tmp_path / "model.tflite", 0.9, "int8", calibration=np.zeros((2, 20, 24, 1), "float32")
        )
    with pytest.raises(TypeError, match="needs a GlimpseClassifier; got Dense"):
        keras_glimpse.export_litert(keras.layers.Dense(3), tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="20, 24"):
        keras_glimpse.export_litert(
            sharp_model, tmp_path / "model.tflite", quantize="int8", calibration=np.zeros((2, 9, 24, 1), "float32")
        )
    with pytest.raises(FileNotFoundError, match="The folder to write to does not exist: .*missing"):
        keras_glimpse.export_litert(sharp_model, tmp_path / "missing" / "model.tflite")
    half = keras_glimpse.GlimpseClassifier(3, low_res_size=5, patch_size=6, dtype="mixed_bfloat16")
    half.build((None, 20, 24, 1))
    with pytest.raises(ValueError, match="needs a model of float32; .* has mixed_bfloat16"):
        keras_glimpse.export_litert(half, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
