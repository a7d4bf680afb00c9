"""Bad input: one clear error that names what was expected and what came, before anything is trained."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import one_fast

from keras_glimpse import (
    GlimpseClassifier,
    cascade_curve,
    cascade_predict,
    draw_glimpses,
    draw_map,
    export_litert,
    export_saved_model,
    fit_greedy,
    fit_temperatures,
)


@pytest.fixture
def compiled(make_model):
    model = make_model()
    model.compile("sgd", jit_compile=False, steps_per_execution=4)
    return model


def poisoned(images, index, value=np.nan):
    images = images.copy()
    images[index, 3, 4] = value
    return images


BAD_ARRAYS = {
    "rank": (lambda x, y: (x[..., 0], y), ValueError, r"\[batch, height, width, channels\]; got shape \(64, 20, 24\)"),
    "size": (lambda x, y: (x[:, :19], y), ValueError, r"built for images \(20, 24, 1\); got images \(19, 24, 1\)"),
    "image dtype": (lambda x, y: (x.astype(np.int64), y), TypeError, "floats, uint8 or uint16; got int64"),
    "label dtype": (lambda x, y: (x, y.astype(str)), TypeError, "labels that are numbers; got string"),
    "label too large": (lambda x, y: (x, y + 1), ValueError, r"Labels must lie in \[0, 3\); got 1 to 3"),
    "negative label": (lambda x, y: (x, y - 1), ValueError, r"Labels must lie in \[0, 3\); got -1 to 1"),
    "one-hot": (lambda x, y: (x, np.eye(4, dtype=int)[y]), ValueError, r"one-hot or soft labels \[batch, 3\]"),
    "count": (lambda x, y: (x, y[:10]), ValueError, "64 images, 10 labels"),
    "empty": (lambda x, y: (x[:0], y[:0]), ValueError, "at least one image"),
    "no labels": (lambda x, y: (x, None), ValueError, "Expected labels"),
    "nan": (lambda x, y: (poisoned(x, 37), y), ValueError, "Image 37 holds NaN"),
    "infinity": (lambda x, y: (poisoned(x, 5, np.inf), y), ValueError, "Image 5 holds NaN or infinite"),
}


def unchanged(model, before):
    return all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


@pytest.mark.parametrize("case", BAD_ARRAYS)
@pytest.mark.parametrize("where", one_fast(["training", "validation"]))
def test_bad_arrays(compiled, batch, case, where):
    spoil, error, message = BAD_ARRAYS[case]
    before = compiled.get_weights()
    with pytest.raises(error, match=message):
        if where == "training":
            compiled.fit(*spoil(*batch), verbose=0)
        else:
            compiled.fit(*batch, validation_data=spoil(*batch), verbose=0)
    assert unchanged(compiled, before)


@pytest.mark.parametrize("case", ["rank", "size", "image dtype", "label dtype", "one-hot"])
def test_bad_datasets_are_told_before_training(compiled, batch, case):
    spoil, error, message = BAD_ARRAYS[case]
    dataset = tf.data.Dataset.from_tensor_slices(spoil(*batch)).batch(8)
    message = message.replace("64, ", "None, ")
    with pytest.raises(error, match=message):
        compiled.fit(dataset, verbose=0)


def sources(images, labels):
    """The same batches of 8 as a dataset, a generator and a PyDataset."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 8

        def __getitem__(self, i):
            return images[8 * i : 8 * i + 8], labels[8 * i : 8 * i + 8]

    yield tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    yield ((images[i : i + 8], labels[i : i + 8]) for i in range(0, 64, 8))
    yield Batches()


@pytest.mark.parametrize("source", [0, 1, 2])
@pytest.mark.parametrize("fault", ["nan", "label"])
def test_a_broken_batch_is_named_and_not_trained_on(compiled, batch, source, fault):
    images, labels = batch
    if fault == "nan":
        images, message = poisoned(images, 0), "Batch 0.*NaN"
    else:
        labels, message = np.where(np.arange(64) == 2, 3, labels), r"Batch 0.*\[0, 3\)"
    before = compiled.get_weights()
    with pytest.raises(ValueError, match=message):
        compiled.fit(list(sources(images, labels))[source], verbose=0)
    assert unchanged(compiled, before)


@pytest.mark.parametrize("source", [0, 1, 2])
def test_good_batches_train_from_every_source(batch, source):
    """A model that was never built learns the size of the images from any of them."""
    model = GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8)
    model.compile("sgd", jit_compile=False, steps_per_execution=4)
    model.fit(list(sources(*batch))[source], steps_per_epoch=8, verbose=0)
    assert int(model.optimizer.iterations) == 8 and model.image_shape == (20, 24, 1)


def test_a_refused_size_does_not_stay(batch):
    model = GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8)
    model.compile("sgd", jit_compile=False)
    with pytest.raises(ValueError, match="does not fit"):
        model.fit(np.zeros((8, 4, 4, 1), np.float32), np.zeros(8, int), verbose=0)
    model.fit(*batch, verbose=0)


def test_datasets_of_unknown_shape(compiled, batch):
    kwargs = {"output_types": (tf.float32, tf.int32)}
    with pytest.raises(ValueError, match="rank of the images is not known"):
        compiled.fit(tf.data.Dataset.from_generator(lambda: iter([batch]), **kwargs), verbose=0)
    signature = (tf.TensorSpec((None, None, None, 1)), tf.TensorSpec((None,), tf.int32))
    dataset = tf.data.Dataset.from_generator(lambda: iter([batch]), output_signature=signature)
    compiled.fit(dataset, steps_per_epoch=1, verbose=0)  # The model knows the size.


def test_lists(compiled, batch):
    compiled.fit(batch[0], batch[1].tolist(), validation_data=(batch[0], batch[1].tolist()), verbose=0)
    with pytest.raises(TypeError, match="one array of images in the training data; got a list"):
        compiled.fit(list(batch[0]), batch[1], verbose=0)


def test_looking_and_testing_check_too(compiled, batch):
    images, labels = batch
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 3\)"):
        compiled.evaluate(images, labels + 1, verbose=0)
    with pytest.raises(ValueError, match=r"built for images \(20, 24, 1\); got images \(19, 24, 1\)"):
        compiled.look(images[:, :19])
    with pytest.raises(ValueError, match=r"\[batch, height, width, channels\]"):
        compiled.predict(images[..., 0], verbose=0)
    with pytest.raises(TypeError, match="floats, uint8 or uint16; got int64"):
        compiled.predict(images.astype(np.int64), verbose=0)


def test_optimizers_of_another_stage(compiled, batch):
    compiled.fit(*batch, verbose=0)
    with pytest.raises(ValueError, match="compile with a fresh optimizer for each stage"):
        compiled.compile(compiled.optimizer, stage=2)
    compiled.fit(*batch, verbose=0)  # It goes on as it was compiled before.


def test_fit_greedy_refuses_what_cannot_last(make_model, batch):
    with pytest.raises(TypeError, match="callbacks must be a function"):
        fit_greedy(make_model(), *batch, callbacks=[])
    with pytest.raises(ValueError, match="generator lasts for one epoch"):
        fit_greedy(make_model(), iter([batch]))


def test_export_before_build():
    with pytest.raises(ValueError, match="built"):
        GlimpseClassifier(3).export("nowhere")


def test_the_batch_is_named_by_its_number(compiled, batch):
    dataset = tf.data.Dataset.from_tensor_slices((poisoned(batch[0], 63), batch[1])).batch(8)
    with pytest.raises(ValueError, match="Batch 7 of the training data holds NaN"):
        compiled.fit(dataset, verbose=0)


def test_other_structures_of_datasets(compiled, batch):
    with pytest.raises(ValueError, match=r"dataset of \(images, labels\)"):
        compiled.fit(tf.data.Dataset.from_tensor_slices(batch[0]).batch(8), verbose=0)


@pytest.mark.parametrize("stage", [0, 3, -1, True, 1.0, "finetune", None])
def test_stages_that_do_not_exist(make_model, batch, stage):
    with pytest.raises(ValueError, match=r"stage must be one of \[1, 2, 'fine_tune'\]"):
        make_model().compile("sgd", stage=stage)
    with pytest.raises(ValueError, match="stage must be one of"):
        fit_greedy(make_model(), *batch, stages=[1, stage], verbose=0)


def test_stages_without_epochs(make_model, batch):
    with pytest.raises(ValueError, match="epochs must be at least 1 for every stage"):
        fit_greedy(make_model(), *batch, epochs={1: 1, 2: 0}, verbose=0)


class Stubborn(keras.layers.Layer):
    def get_config(self):
        raise NotImplementedError


BAD_MODELS = {
    "num_classes": ({"num_classes": 1}, "num_classes must be an integer, at least 2; got 1"),
    "num_glimpses": ({"num_glimpses": 0}, "num_glimpses must be an integer, at least 1; got 0"),
    "half a glimpse": ({"num_glimpses": 1.5}, "num_glimpses must be an integer, at least 1; got 1.5"),
    "samples": ({"search_samples": 0}, "search_samples must be an integer, at least 1; got 0"),
    "sharpness": ({"sharpness": 0.0}, "sharpness must be finite and positive; got 0.0"),
    "stride": ({"search_stride": 1.5}, "search_stride must be pixels, an integer, or a share of a side"),
    "half a pixel": ({"patch_size": 6.5}, "size must be an integer, at least 1; got 6.5"),
    "no thumbnail": ({"low_res_size": 0}, "size must be an integer, at least 1; got 0"),
    "no hidden units": ({"hidden_units": (8, 0)}, "hidden_units must be an integer, at least 1; got 0"),
    "infinite lambda": ({"location_weight": float("inf")}, "location_weight must be finite"),
    "no variance": ({"diversity_variance": 0.0}, "diversity_variance must be finite and positive"),
    "shared list": ({"glimpse_net": [keras.layers.Dense(3)] * 2, "share_weights": True}, "one glimpse_net for all"),
    "not to be cloned": ({"glimpse_net": Stubborn()}, "cannot be cloned for glimpse 2: pass a list"),
    "search_size": ({"search_size": 4}, "search_size must be odd"),
    "too many": ({"hidden_units": 10**30}, r"hidden_units must be below 2\*\*31; got 1000"),
    "flags": ({"contrastive": 2}, r"contrastive must be one of \(False, True\); got 2"),
    "no scales": ({"scales": ()}, r"scales must be an integer, or at least one of them; got \(\)"),
    "three sides": ({"low_res_size": (5, 5, 5)}, r"size must be an integer, or 2 of them; got \(5, 5, 5\)"),
    "units": ({"hidden_units": "8"}, "hidden_units must be an integer, at least 1; got '8'"),
    "weight": ({"location_weight": "10"}, "location_weight must be finite and not negative; got '10'"),
    "averaging": ({"averaging": "mean"}, "averaging must be one of"),
    "location_input": ({"location_input": "hidden"}, "location_input must be one of"),
    "location_weight": ({"location_weight": -1.0}, "location_weight must be finite and not negative; got -1.0"),
    "parallel": ({"parallel": -1}, "parallel must be an integer, at least 0; got -1"),
    "patch": ({"patch_size": 21}, r"A patch \(`size`\) is 21x21 pixels, which does not fit in images of 20x24"),
    "thumbnail": ({"low_res_size": (5, 25)}, "is 5x25 pixels, which does not fit in images of 20x24"),
    "number of networks": ({"glimpse_net": [keras.layers.Dense(3)]}, "one layer or 2"),
    "network without hidden": ({"low_res_net": keras.layers.Flatten()}, r"low_res_net must return \(hidden, logits\)"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(make_model, case):
    arguments, message = BAD_MODELS[case]
    with pytest.raises(ValueError, match=message):
        make_model(**arguments)


@pytest.mark.parametrize("name", ["low_res_net", "glimpse_net"])
def test_networks_that_are_none(make_model, name):
    with pytest.raises(TypeError, match=f"{name} must be a Keras layer or model; got 3"):
        make_model(**{name: 3})
    with pytest.raises(TypeError, match="glimpse_net must be a Keras layer or model; got 3"):
        make_model(glimpse_net=[3, 3])


def test_networks_with_the_wrong_number_of_logits(make_model):
    net = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(7)])
    with pytest.raises(ValueError, match="glimpse_net must give 3 logits; got 7"):
        make_model(glimpse_net=net)


def test_unknown_channels(make_model):
    with pytest.raises(ValueError, match="channels of images must be known statically"):
        make_model(image_shape=(20, 24, None))


def test_a_loss_of_ones_own_is_refused(make_model):
    with pytest.raises(ValueError, match="brings its own loss"):
        make_model().compile("sgd", loss="sparse_categorical_crossentropy")


def test_fit_before_compile(batch):
    with pytest.raises(ValueError, match="compile"):
        GlimpseClassifier(3, low_res_size=5, patch_size=6).fit(*batch)


def ways_to_look(model, folder):
    """From images to answers, in everything that computes them."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    export_saved_model(model, folder / "1", 0.9)
    export_litert(model, folder / "model.tflite", 0.9)
    serve = tf.saved_model.load(str(folder / "1")).signatures["serving_default"]
    run = litert.Interpreter(model_path=str(folder / "model.tflite"), num_threads=1).get_signature_runner()
    return {
        "look": lambda images: model.look(images)["logits"][:, -1].numpy(),
        "xla": lambda images: tf.function(model, jit_compile=True)(images).numpy(),
        "predict": lambda images: model.predict(images, verbose=0),
        "cascade": lambda images: cascade_predict(model, images, 0.9).probabilities,
        "saved_model": lambda images: serve(images=tf.constant(images))["probabilities"].numpy(),
        "litert": lambda images: np.concatenate([run(images=image[None])["probabilities"] for image in images]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("side", [(20, 24), (200, 200)])
def test_one_image_that_is_not_finite_spoils_its_own_answer_only(make_model, rng, tmp_path, side):
    """In small images and in large ones, which are cropped by other operations."""
    model, images = make_model(image_shape=(*side, 1)), rng.random((8, *side, 1), dtype=np.float32)
    whole, spoiled = np.array([0, 1, 3, 4, 5, 6, 7]), poisoned(images, 2)
    for name, way in ways_to_look(model, tmp_path).items():
        np.testing.assert_allclose(way(spoiled)[whole], way(images)[whole], atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("side", [(20, 24), (200, 200)])
def test_places_that_are_not_numbers(make_model, rng, tmp_path, side):
    """Nothing fails, as it once did: LiteRT and TensorFlow do not read pixel number NaN."""
    model, images = make_model(image_shape=(*side, 1)), rng.random((3, *side, 1), dtype=np.float32)
    for head in model.location_heads:
        head.set_weights([np.full_like(weights, np.nan) for weights in head.get_weights()])
    assert np.isnan(model.look(images)["locations"]).all()
    for name, way in ways_to_look(model, tmp_path).items():
        assert way(images).shape == (3, 3), name


LOOKING = {
    "look": lambda model, images: model.look(images),
    "predict": lambda model, images: model.predict(images, verbose=0),
    "cascade_predict": lambda model, images: cascade_predict(model, images),
    "cascade_curve": lambda model, images: cascade_curve(model, images, np.zeros(64, int)),
    "fit_temperatures": lambda model, images: fit_temperatures(model, images, np.zeros(64, int)),
    "draw_glimpses": lambda model, images: draw_glimpses(model, images),
    "draw_map": lambda model, images: draw_map(model, images),
}


@pytest.mark.parametrize("way", LOOKING)
def test_what_is_looked_at_must_be_images(make_model, batch, way):
    look, images = LOOKING[way], batch[0]
    with pytest.raises(TypeError, match="one array of images; got a NoneType"):
        look(make_model(), None)
    if not way.startswith("draw"):  # Pictures take a list.
        with pytest.raises(TypeError, match="one array of images; got a list. Try numpy.stack"):
            look(make_model(), list(images))
    with pytest.raises(ValueError, match=r"built for images \(20, 24, 1\); got images \(19, 24, 1\)"):
        look(make_model(), images[:, :19])
    if way in ("look", "cascade_predict"):
        look(make_model(), images[:0])  # No answers.
    else:
        with pytest.raises(ValueError, match="at least one image; got none"):
            look(make_model(), images[:0])


@pytest.mark.parametrize("part", ["config", "build_config", "compile_config"])
def test_broken_configurations(make_model, monkeypatch, part):
    """Whatever Keras, or memory that is full, raises of them is told as a ValueError."""
    model, nameless = make_model(), {"module": 3, "class_name": "x", "config": {}}
    model.compile("sgd")
    monkeypatch.setattr("keras.Model.build_from_config", lambda self, config: {}["no such shape"])
    attempts = {
        "config": lambda: GlimpseClassifier.from_config({"num_classes": 3, "glimpse_net": nameless}),
        "build_config": lambda: model.build_from_config({"input_shape": (None, 48, 48, 1)}),
        "compile_config": lambda: model.compile_from_config({"optimizer": nameless}),
    }
    with pytest.raises(ValueError, match=f"The {part} of the model cannot be used: (Attribute|Key)Error: "):
        attempts[part]()
