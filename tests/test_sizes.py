"""Images that differ in size: one model and one graph, which answer as models do that are built for each size."""

from functools import partial, reduce

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast, slow

from keras_glimpse import (
    ConvGlimpseNet,
    ConvLowResNet,
    GlimpseClassifier,
    LocationMap,
    MultiScaleCrop,
    cascade_curve,
    cascade_predict,
    export_litert,
    export_onnx,
    export_saved_model,
    fit_greedy,
    paper_sgd,
    stage_macs,
)
from keras_glimpse.ops.crop import crop_window
from keras_glimpse.ops.geometry import grid
from keras_glimpse.ops.runtime import ANY, TENSORFLOW
from keras_glimpse.ops.thumbnail import downsample
from keras_glimpse.training.step import training_step

SIZES = [(24, 33), (40, 26), (31, 31)]
FEW = {"num_classes": 3, "patch_size": 6, "hidden_units": 8}


def dense(**kwargs):
    return GlimpseClassifier(**{"low_res_size": 5, **FEW, **kwargs})


def conv(**kwargs):
    networks = {
        "low_res_net": ConvLowResNet(3, 8, (4, 5), hidden_units=6),
        "glimpse_net": ConvGlimpseNet(3, 2, (4, 5), (0,), 6),
        "location_head": LocationMap(4),
    }
    return GlimpseClassifier.for_large_images(**{"num_classes": 3, "patch_size": 8, **networks, **kwargs})


MODELS = {"dense": dense, "conv": conv}


@pytest.fixture
def make(rng):
    def make(name, image_shape=(None, None, 3), **kwargs):
        model = MODELS[name](**kwargs)
        model.build((None, *image_shape))
        for head in model.location_heads:  # Spread the places, or every one would be near the middle.
            head.set_weights([rng.normal(size=weights.shape).astype(np.float32) for weights in head.get_weights()])
        return model

    return make


def built_for(size, model, name, **kwargs):
    twin = MODELS[name](**kwargs)
    twin.build((None, *size, 3))
    twin.set_weights(model.get_weights())
    return twin


@pytest.fixture
def batches(rng):
    """One of each size."""
    pixels = [rng.integers(0, 256, (n, *size, 3), np.uint8) for n, size in zip((3, 2, 4), SIZES)]
    return [(images, rng.integers(0, 3, len(images))) for images in pixels]


def dataset(batches):
    """Its `element_spec` has images `[None, None, None, 3]`."""
    return reduce(tf.data.Dataset.concatenate, map(tf.data.Dataset.from_tensors, batches))


def in_one_graph(function, dtype=tf.uint8, batch=None, runtime=TENSORFLOW):
    """A function of images of any size, `[batch, None, None, 3]`, and of whatever else."""
    traced = tf.function(partial(function, runtime=runtime), autograph=False)
    return lambda images, *rest: traced.get_concrete_function(
        tf.TensorSpec((batch, None, None, 3), dtype), *(tf.TensorSpec((batch, *each.shape[1:])) for each in rest)
    )(tf.constant(images), *map(tf.constant, rest))


# ---- Building ----


@pytest.mark.parametrize("image_shape", [(None, None, 3), (None, 24, 3), (24, None, 3)])
def test_sides_that_may_differ(image_shape, tmp_path):
    model = dense()
    model.build((None, *image_shape))
    model.save(tmp_path / "model.keras")
    assert model.image_shape == keras.models.load_model(tmp_path / "model.keras").image_shape == image_shape
    assert model.look(np.zeros((2, 24, 24, 3), np.uint8))["logits"].shape == (2, 3, 3)
    if image_shape[0]:
        with pytest.raises(ValueError, match=r"built for images \(24, None, 3\); got images \(25, 24, 3\)"):
            model.look(np.zeros((2, 25, 24, 3), np.uint8))


@pytest.mark.slow
def test_a_first_fit_on_images_that_differ(batches):
    model = dense(num_glimpses=1)
    histories = fit_greedy(model, dataset(batches), verbose=0)
    assert model.image_shape == (None, None, 3) and not model.jit_compile
    assert all(np.isfinite(history.history["loss"]).all() for history in histories.values())
    with pytest.raises(ValueError, match="channels of images must be known"):
        dense().build((None, 24, 24, None))


def test_xla_is_for_one_size():
    model = dense()
    model.compile("sgd", jit_compile=True)
    with pytest.raises(ValueError, match=r"jit_compile=True needs images of one size.*; the model is for \(None, None, 3\)"):
        model.build((None, None, None, 3))
    model = dense()
    model.build((None, None, None, 3))
    with pytest.raises(ValueError, match="jit_compile=True needs images of one size"):
        model.compile("sgd", jit_compile=True)


# ---- The same answers ----


@pytest.mark.parametrize(
    ("name", "dtype"), [("dense", "uint8"), ("conv", "float32"), slow(("dense", "float32")), slow(("conv", "uint8"))]
)
def test_answers_are_those_of_a_model_for_one_size(make, batches, name, dtype):
    model = make(name)
    look = in_one_graph(model.look_at_all, dtype)
    for images, _ in batches:
        images = images if dtype == "uint8" else images / np.float32(255)
        looked = look(images)
        for key, expected in built_for(images.shape[1:3], model, name).look_at_all(tf.constant(images)).items():
            np.testing.assert_allclose(looked[key], expected, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", one_fast(["conv", "dense"]))
def test_predict_evaluate_and_the_cascade(make, batches, name):
    model = make(name)
    model.compile("sgd")
    data = dataset(batches)
    logits = np.concatenate([model.look_at_all(tf.constant(images))["logits"] for images, _ in batches])  # Of known size.
    labels = np.concatenate([labels for _, labels in batches])
    everyone = np.arange(len(labels))
    np.testing.assert_allclose(model.predict(data, verbose=0), logits[:, -1], atol=1e-5)
    measured = model.evaluate(data, verbose=0, return_dict=True)
    probabilities = tf.nn.softmax(logits).numpy()
    np.testing.assert_allclose(measured["loss"], -np.log(probabilities[everyone, -1, labels]).mean(), rtol=1e-4)
    threshold = np.median(probabilities[:, 0].max(axis=-1))
    cascaded = cascade_predict(model, data, threshold)
    assert len({*cascaded.exit_stage}) > 1
    np.testing.assert_allclose(cascaded.probabilities, probabilities[everyone, cascaded.exit_stage], atol=1e-5)
    curve = cascade_curve(model, data, thresholds=[threshold, 1.0])
    wrong = probabilities.argmax(axis=-1) != labels[:, None]
    np.testing.assert_allclose(curve.errors, [wrong[everyone, cascaded.exit_stage].mean(), wrong[:, -1].mean()])


def test_all_places_in_one_pass(make, rng):
    """Also where the last patch lies between the last two outputs of the convolutions."""
    model = make("conv")
    rows, columns = grid((2, 2))
    evidence = model.first_look(np.zeros((1, 8, 8, 3), np.float32))
    everywhere = in_one_graph(
        lambda images, runtime: model.outputs_everywhere(images, evidence, rows, columns, runtime), tf.float32, batch=1
    )
    for size in [(20, 27), (17, 19), (33, 40), (9, 50)]:
        images = rng.random((1, *size, 3), dtype=np.float32)
        expected = model.outputs_everywhere(tf.constant(images), evidence, rows, columns)
        assert expected.shape == (1, 4, 3)
        np.testing.assert_allclose(everywhere(images), expected, atol=1e-5)


SEARCHES = [
    ("conv", "image", "soft"),
    ("dense", "image", "hard"),
    ("dense", 3, "soft"),
    ("conv", 3, "hard"),
    ("dense", "image", "soft"),
    ("dense", 3, "hard"),
    ("conv", "image", "hard"),
    ("conv", 3, "soft"),
]


@pytest.mark.parametrize(("name", "search_size", "assignment"), one_fast(SEARCHES))
def test_a_step_of_training_is_that_of_a_model_for_one_size(make, batches, name, search_size, assignment):
    settings = {"search_size": search_size, "assignment": assignment}
    model = make(name, **settings)
    model.compile(paper_sgd(learning_rate=0.1), stage=model.num_glimpses)
    step = in_one_graph(lambda images, shares, runtime: training_step(model, (images, shares))[0])
    model.build_optimizer()
    for images, labels in batches[:2]:
        twin = built_for(images.shape[1:3], model, name, **settings)
        twin.compile(paper_sgd(learning_rate=0.1), stage=model.num_glimpses, jit_compile=False)
        twin.seed = model.seed
        twin.build_optimizer()
        twin.seed = model.seed
        for theirs, ours in zip(twin.optimizer.variables, model.optimizer.variables):
            theirs.assign(ours)
        expected, _ = training_step(twin, (tf.constant(images), tf.constant(labels)))
        measured = step(images, np.eye(3, dtype=np.float32)[labels])
        for key in expected:
            np.testing.assert_allclose(measured[key], expected[key], rtol=2e-4, atol=1e-4, err_msg=key)
        for theirs, ours in zip(twin.get_weights(), model.get_weights()):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


# ---- Thumbnails and crops, against others ----


def area_means(image, size):
    """Every pixel as a block of so many that each thumbnail pixel has whole ones."""
    fine = image.astype(np.float64).repeat(size[0], axis=1).repeat(size[1], axis=2)
    blocks = fine.reshape(len(image), size[0], image.shape[1], size[1], image.shape[2], image.shape[3])
    return blocks.mean(axis=(2, 4))


THUMBNAILS = {
    "area": area_means,
    "bilinear": lambda image, size: tf.image.resize(image, size, "bilinear", antialias=False),
    "strided": lambda image, size: image[
        :, *np.ix_(*(np.floor((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(size, image.shape[1:3])))
    ],
}


@pytest.mark.parametrize("method", THUMBNAILS)
@pytest.mark.parametrize("runtime", [TENSORFLOW, ANY])
@pytest.mark.parametrize("batch", [None, 1])
def test_thumbnails(batches, method, runtime, batch):
    for dtype, scale in (("uint8", 255), ("float32", 1)):
        shrink = in_one_graph(partial(downsample, size=(7, 5), method=method), dtype, batch, runtime)
        for images, _ in batches:
            images = images[:batch].astype(dtype)
            np.testing.assert_allclose(shrink(images), THUMBNAILS[method](images, (7, 5)) / scale, rtol=1e-5, atol=1e-3 / scale)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16"])
def test_area_means_of_large_images(rng, dtype):
    """Of those that would have to be copied as float32: by another operation, in `predict` and its like."""
    images = tf.cast(rng.integers(0, 256, (2, 301, 320, 3)), dtype)
    mean = downsample(images, (6, 7), runtime=TENSORFLOW) * (255 if dtype == "uint8" else 1)
    np.testing.assert_allclose(mean, area_means(tf.cast(images, tf.float32).numpy(), (6, 7)), rtol=2e-6)


@pytest.mark.parametrize("size", [5, 30])
@pytest.mark.parametrize(("runtime", "batch"), [(TENSORFLOW, None), (ANY, None), (ANY, 1)])
def test_crops(batches, rng, size, runtime, batch):
    crop = in_one_graph(
        lambda image, location, runtime: crop_window(image, location, size, runtime), batch=batch, runtime=runtime
    )
    for images, _ in batches:
        images = images[:batch]
        location = rng.uniform(-0.2, 1.2, (len(images), 2)).astype(np.float32)
        extent = np.array(images.shape[1:3], np.float32) - 1
        start = location * extent - (size - 1) / 2
        boxes = np.concatenate([start, start + size - 1], axis=1) / np.tile(extent, 2)
        expected = tf.image.crop_and_resize(images, boxes, np.arange(len(images)), [size, size])
        np.testing.assert_allclose(crop(images, location), expected, atol=5e-3)  # Of 255.


@pytest.mark.parametrize("share", [2, 1 / 6])
def test_candidates(batches, rng, share):
    """A stride in pixels, or that which a share of the longer side is."""
    crop = MultiScaleCrop(6)
    for images, _ in batches[:2]:
        location = rng.random((len(images), 2), dtype=np.float32)
        stride = max(2, round(share * max(images.shape[1:3]))) if isinstance(share, float) else share
        given = share if isinstance(share, int) else tf.TensorSpec((), tf.int32)
        candidates = tf.function(lambda images, location, stride: crop.candidates(images, location, 3, stride, TENSORFLOW))
        found = candidates.get_concrete_function(tf.TensorSpec((None, None, None, 3), tf.uint8), location, given)
        found = found(tf.constant(images), tf.constant(location), *([] if given is share else [tf.constant(stride)]))
        for n, offset in enumerate((dy, dx) for dy in (-stride, 0, stride) for dx in (-stride, 0, stride)):
            moved = location + np.array(offset) / (np.array(images.shape[1:3]) - 1)
            np.testing.assert_allclose(found[:, n], crop(images, moved.astype(np.float32)), atol=2e-5)


# ---- One graph for all sizes ----


class Counted(GlimpseClassifier):
    """Counts how often its networks are traced: in graphs, this is called by no step."""

    traces = 0

    def first_look(self, images, training=False, runtime="any"):
        Counted.traces += 1
        return super().first_look(images, training, runtime)


def traces_of(action):
    before = Counted.traces
    action()
    return Counted.traces - before


@pytest.mark.slow
def test_nothing_is_traced_for_a_size(batches):
    model = Counted(num_glimpses=1, low_res_size=5, **FEW)
    data, (first, second, *_) = dataset(batches), batches
    model.compile(paper_sgd(learning_rate=0.01))
    fit = lambda: model.fit(data, validation_data=data, epochs=2, verbose=0)  # noqa: E731
    assert traces_of(fit) <= 3  # One of each step, and TensorFlow traces twice what makes variables.
    assert traces_of(fit) == traces_of(lambda: model.evaluate(data, verbose=0)) == 0
    ways = {
        "look": lambda images, _: model.look(images),
        "predict": lambda images, _: model.predict(images, verbose=0),
        "cascade": lambda images, _: cascade_predict(model, images, 0.5),
        "train_on_batch": model.train_on_batch,
        "best_places": model.best_places,
        "fit": lambda images, labels: model.fit(images, labels, verbose=0),
    }
    for name, way in ways.items():
        most = 2 + (name == "cascade")  # Which counts multiply-accumulates in a graph of its own.
        assert traces_of(lambda: [way(*batch) for batch in (first, second)]) <= most, name  # noqa: B023
        assert traces_of(lambda: [way(*batch) for batch in batches]) == 0, name  # noqa: B023
    of_data = lambda: (model.predict(data, verbose=0), cascade_predict(model, data), cascade_curve(model, data))  # noqa: E731
    assert traces_of(of_data) <= 2  # `predict`, with labels that it does not use.
    assert traces_of(of_data) == 0


# ---- Images that are too small ----


def test_images_that_are_too_small(make, batches):
    model = make("dense")
    model.compile("sgd")
    small = np.zeros((2, 30, 4, 3), np.uint8), np.zeros(2, int)
    message = r"Images must be at least 6x6 pixels, as large as the thumbnail and a patch; got images \(30, 4, 3\)"
    for way in (model.look, model.predict, partial(cascade_predict, model), model.predict_on_batch, model):
        with pytest.raises(ValueError, match=message):
            way(small[0])
    for way in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(ValueError, match=message):
            way(*small)
    weights = model.get_weights()
    with pytest.raises(ValueError, match=r"Batch 0 of the training data has too small ones.*6x6 pixels.*got 30 4"):
        model.fit(dataset([small, *batches]), verbose=0)
    assert all(map(np.array_equal, weights, model.get_weights()))
    with pytest.raises(tf.errors.InvalidArgumentError, match="thumbnail .* is 5x5 pixels, which does not fit in images"):
        in_one_graph(model.look_at_all)(small[0])
    with pytest.raises(ValueError, match="does not fit in images of Nonex4"):
        dense().build((None, None, 4, 3))


# ---- Exports and counts ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "conv"])
def test_saved_models(make, batches, name, tmp_path):
    model = make(name, num_glimpses=1)
    expected = [tf.nn.softmax(model(images)) for images, _ in batches]
    export_saved_model(model, tmp_path / "1", 1.0)
    served = tf.saved_model.load(str(tmp_path / "1"))
    shapes = {key: next(iter(serve.structured_input_signature[1].values())).shape for key, serve in served.signatures.items()}
    assert {key: tuple(shape) for key, shape in shapes.items()} == {
        **dict.fromkeys(["serving_default", "uint8", "classify", "explain"], (None, None, None, 3)),
        "portable": (1, None, None, 3),
        "encoded": (None,),
    }
    model.export(tmp_path / "2", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "2"))
    for (images, _), answer in zip(batches, expected):
        floats = images / np.float32(255)
        np.testing.assert_allclose(served.signatures["uint8"](images=tf.constant(images))["probabilities"], answer, atol=1e-5)
        found = served.signatures["classify"](images=tf.constant(floats))
        np.testing.assert_allclose(found["scores"], np.sort(answer)[:, ::-1], atol=1e-5)
        found = served.signatures["explain"](images=tf.constant(floats))
        np.testing.assert_allclose(found["stage_probabilities"][:, -1], answer, atol=1e-5)
        assert {*found["macs"].numpy()} == {stage_macs(model)[-1]}
        found = served.signatures["portable"](images=tf.constant(floats[:1]))["probabilities"]
        np.testing.assert_allclose(found, answer[:1], atol=1e-5)
        np.testing.assert_allclose(tf.nn.softmax(exported.serve(floats)), answer, atol=1e-5)


@pytest.mark.parametrize("name", one_fast(["dense", "conv"]))
def test_files_of_one_size(make, batches, name, tmp_path):
    litert, onnxruntime = pytest.importorskip("ai_edge_litert.interpreter"), pytest.importorskip("onnxruntime")
    model = make(name, num_glimpses=1)
    images = batches[0][0][:1] / np.float32(255)
    expected = tf.nn.softmax(model(images))
    export_litert(model, tmp_path / "model.tflite", image_shape=SIZES[0])
    run = litert.Interpreter(model_path=str(tmp_path / "model.tflite")).get_signature_runner()
    np.testing.assert_allclose(run(images=images)["probabilities"], expected, atol=1e-5)
    export_onnx(model, tmp_path / "model.onnx", image_shape=SIZES[0])
    found = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["probabilities"], {"images": images})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("export", [export_litert, export_onnx])
def test_sizes_of_files(make, export, tmp_path):
    model, fixed, path = make("dense"), make("dense", (24, 33, 3)), tmp_path / "model"
    with pytest.raises(ValueError, match=rf"{export.__name__} writes a file for images of one size.*pass image_shape="):
        export(model, path)
    with pytest.raises(ValueError, match=r"image_shape is for models of images that differ in size.*\(24, 33, 3\)"):
        export(fixed, path, image_shape=(24, 33))
    with pytest.raises(ValueError, match="must be at least 6x6 pixels"):
        export(model, path, image_shape=(5, 33))
    with pytest.raises(ValueError, match="image_shape must be an integer, or 2 of them"):
        export(model, path, image_shape=(24, 33, 3))
    with pytest.raises(ValueError, match=r"built for images \(None, 33, 3\); got images \(24, 24, 3\)"):
        export(make("dense", (None, 33, 3)), path, image_shape=(24, 24))
    with pytest.raises(ValueError, match="use export_litert"):
        model.export(path, format="litert")
    assert not path.exists()


@pytest.mark.parametrize("name", one_fast(["conv", "dense"]))
def test_what_is_counted(make, name):
    np.testing.assert_array_equal(stage_macs(make(name)), stage_macs(make(name, (24, 33, 3))))


def test_costs_that_depend_on_the_size(tmp_path):
    """Of a network that sees the whole image: they are not counted, and all else works."""
    images = keras.Input((None, None, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    model = GlimpseClassifier(3, 1, low_res_net=keras.Model(images, [features, keras.layers.Dense(3)(features)]), patch_size=6)
    model.build((None, None, None, 3))
    with pytest.raises(ValueError, match="whose sizes are not known"):
        stage_macs(model)
    assert cascade_predict(model, np.zeros((2, 20, 30, 3), np.uint8)).macs is None


# ---- No float32 copies ----


def float_shapes(function, *specs):
    """The shapes, without the batch, of all floats in a graph and in the functions that it calls."""
    graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph.as_graph_def(add_shapes=True)
    functions = [node for each in graph.library.function for node in each.node_def]
    for node in (*graph.node, *functions):
        types = {node.attr[key].type for key in ("T", "DstT", "dtype", "SrcT") if key in node.attr}
        if types & {tf.float32.as_datatype_enum, tf.float16.as_datatype_enum, tf.float64.as_datatype_enum}:
            for shape in node.attr["_output_shapes"].list.shape:
                yield [dimension.size for dimension in shape.dim[1:]]


@pytest.mark.parametrize("name", MODELS)
def test_images_are_not_copied_as_floats(make, name):
    """In inference, floats are the thumbnail, patches and what follows from them: of known size, and small."""
    size = (600, 500, 3)
    for image_shape in (size, (None, None, 3)):
        model = make(name, image_shape)
        spec = tf.TensorSpec((None, *image_shape), tf.uint8)
        graphs = [partial(model.look_at_all, runtime=TENSORFLOW), lambda images: model.predict_step((images,))]  # noqa: B023
        for graph in graphs:
            shapes = list(float_shapes(graph, spec))
            assert len(shapes) > 20
            large = [shape for shape in shapes if len(shape) > 1 and (-1 in shape or np.prod(shape) >= np.prod(size))]
            assert large == []


def test_what_scales_itself(make, batches):
    model = make("conv")
    for images, _ in batches:
        np.testing.assert_allclose(model(images), model(images / np.float32(255)), atol=1e-5)
