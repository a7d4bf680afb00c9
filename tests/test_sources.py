"""Images of which parts are read: what they give is what arrays give."""

import csv
import os
import re
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_glimpse
from keras_glimpse import MultiScaleCrop, UnreadableImage, open_image
from keras_glimpse.cascade.sources import rows_of
from keras_glimpse.ops.thumbnail import downsample
from keras_glimpse.sources.arrays import ArrayImage
from keras_glimpse.sources.batches import Sources
from keras_glimpse.sources.image import ImageSource

SCALES = (1, 2, 3, 5)
SURE = 0.999


def smooth(rng, height, width, channels=1):
    """An image that differs by a few steps from pixel to pixel."""
    coarse = rng.random((1, height // 16 + 2, width // 16 + 2, channels), dtype=np.float32)
    return np.asarray(255 * tf.image.resize(coarse, (height, width), "bicubic")[0]).clip(0, 255).astype(np.uint8)


def cropped(image, locations, size, scales):
    """By `MultiScaleCrop` on the whole array."""
    return MultiScaleCrop(size, scales)(np.repeat(image[None], len(locations), axis=0), np.float32(locations))


# ---- One image, against MultiScaleCrop and the thumbnail of LowResNet ----


@pytest.mark.parametrize("shape", [(97, 131, 3), (64, 64, 1), (40, 300, 2)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_patches_and_thumbnails_are_those_of_arrays(rng, shape, dtype):
    image = rng.random(shape) if dtype == "float32" else rng.integers(np.iinfo(dtype).max, size=shape)
    image = image.astype(dtype)
    locations = np.concatenate([rng.random((5, 2)), [[0, 0], [1, 1], [-0.1, 1.2], [np.nan, 0.5]]])
    source = ArrayImage(image)
    np.testing.assert_allclose(source.patches(locations, 9, SCALES), cropped(image, locations, 9, SCALES), atol=2e-5)
    for size in [(12, 12), (13, 31), (40, 64)]:
        np.testing.assert_allclose(source.thumbnail(size), downsample(image[None], size)[0], atol=1e-6)


@pytest.mark.parametrize("far", [np.nan, -5.0, 1e6])
def test_places_far_away_need_no_memory(rng, far):
    """Nor when they are whole pixels apart, as those of a search are, of which one crop is made."""
    source = ArrayImage(rng.integers(0, 256, (641, 641, 1), np.uint8))
    found = source.patches([[0, 0], [0, 1 / 640], [far, far]], 12, (1, 2))
    np.testing.assert_allclose(found[:2], source.patches([[0, 0], [0, 1 / 640]], 12, (1, 2)), atol=2e-6)
    assert not found[2].any()


def test_a_pyramid_is_exact_where_edges_meet_and_close_elsewhere(rng):
    image = smooth(rng, 256, 384)
    halves = [image[:256, :384].astype(np.float32)]
    for _ in range(3):
        height, width, channels = halves[-1].shape
        halves.append(halves[-1].reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3)))
    whole, *pyramid = halves
    source = ArrayImage(whole, pyramid)
    np.testing.assert_allclose(source.thumbnail((32, 48)), downsample(whole[None], (32, 48))[0], atol=1e-4)
    assert source.pixels_read == 32 * 48
    aligned = [[(64 + 8 * 4 - 0.5) / 255, (128 + 8 * 4 - 0.5) / 383]]  # A window of 8 x 8 pixels of the third level
    np.testing.assert_allclose(source.patches(aligned, 8, (8,)), cropped(whole, aligned, 8, (8,)), atol=1e-3)
    anywhere = rng.random((20, 2))
    got, want = (np.asarray(each) for each in (source.patches(anywhere, 8, (2, 4)), cropped(whole, anywhere, 8, (2, 4))))
    step = max(np.abs(np.diff(whole, axis=axis)).max() for axis in (0, 1))
    inside = slice(None), slice(1, -1), slice(1, -1)  # At the border of the image, half a pixel of a level is outside.
    assert np.abs(got - want)[inside].max() < 4 * step


def test_only_what_is_looked_at_is_read(rng, tmp_path):
    np.save(tmp_path / "large.npy", np.zeros((2000, 3000), np.uint8))
    source = open_image(tmp_path / "large.npy")
    source.patches([[0.2, 0.7]], 16)
    assert source.shape == (2000, 3000, 1) and source.pixels_read == source.bytes_read == 17 * 17
    source.patches([[0.2, 0.7]], 16, (1, 2))
    assert source.pixels_read == 17 * 17 + 33 * 33  # The finer window lies within the coarser one.
    source.patches([[0.1, 0.1], [0.9, 0.9]], 16)
    assert source.pixels_read == 17 * 17 + 33 * 33 + 2 * 17 * 17


def test_a_file_of_an_array_that_is_cut_off(tmp_path):
    """To read what is not there any more would end the process."""
    np.save(tmp_path / "cut.npy", np.zeros((2000, 3000), np.uint8))
    source = open_image(tmp_path / "cut.npy")
    os.truncate(tmp_path / "cut.npy", 5000)
    with pytest.raises(UnreadableImage, match="cut.npy: the file was changed or removed after it had been opened"):
        source.thumbnail((8, 8))


def test_arrays_that_are_written_while_they_are_open(tmp_path):
    array = np.memmap(tmp_path / "shared", np.uint8, "w+", shape=(40, 50))
    source = open_image(array)
    array[:] = 255
    array.flush()
    np.testing.assert_allclose(source.thumbnail((8, 10)), 1)


def test_a_tensor():
    image = tf.reshape(tf.range(48, dtype=tf.float32), (6, 8, 1))
    np.testing.assert_array_equal(open_image(image).pixels(), image)


def test_a_wide_window_is_read_in_strips(rng):
    class Counted(ArrayImage):
        largest = 0

        def read_level(self, level, top, left, height, width):
            Counted.largest = max(self.largest, height * width)
            return super().read_level(level, top, left, height, width)

    image = rng.integers(256, size=(4096, 2048, 1), dtype=np.uint8)
    source = Counted(image)
    np.testing.assert_allclose(source.patches([[0.5, 0.5]], 32, (64,)), cropped(image, [[0.5, 0.5]], 32, (64,)), atol=1e-4)
    assert source.pixels_read >= 2**22 >= Counted.largest


def test_threads(rng):
    source = ArrayImage(rng.integers(256, size=(100, 100), dtype=np.uint8))
    places = rng.random((64, 1, 2))
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda place: source.patches(place, 8), places)]
    np.testing.assert_array_equal(found, [source.patches(place, 8) for place in places])


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros(5, np.uint8), "height, width"),
        (np.zeros((5, 5), np.int64), "got int64"),
        (np.zeros((0, 5), np.uint8), "at least a pixel"),
        (np.zeros((5, 5, 0), np.uint8), "0 channels"),
    ],
)
def test_arrays_that_are_no_images(image, message):
    with pytest.raises(UnreadableImage, match=message):
        open_image(image)


def test_a_pyramid_of_other_images():
    with pytest.raises(UnreadableImage, match="one dtype"):
        ArrayImage(np.zeros((8, 8), np.uint8), [np.zeros((4, 4))])
    with pytest.raises(UnreadableImage, match="largest first"):
        ArrayImage(np.zeros((8, 8), np.uint8), [np.zeros((16, 16), np.uint8)])


def test_what_is_no_image(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    np.save(tmp_path / "pickled.npy", np.array([{}], object))
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("text.jpg", "pickled.npy", "empty.npy", "missing.png", "", "\0"):
        with pytest.raises(UnreadableImage, match=re.escape(f"{tmp_path / name}: ")):
            open_image(tmp_path / name)
    with pytest.raises(TypeError, match="got a int"):
        open_image(3)


def test_broken_arrays(rng, tmp_path):
    np.save(tmp_path / "good.npy", rng.integers(256, size=(40, 50, 3), dtype=np.uint8))
    good, read = (tmp_path / "good.npy").read_bytes(), 0
    for n in range(300):
        broken = bytearray(good)
        for place in rng.integers(140, size=rng.integers(1, 6)):
            broken[place] = rng.integers(256)
        (tmp_path / f"{n}.npy").write_bytes(broken[: rng.integers(len(good))] if n % 3 else broken)
        try:
            source = open_image(tmp_path / f"{n}.npy")
            source.thumbnail((2, 2))
            source.patches([[0.5, 0.5]], 8)
            read += 1
        except UnreadableImage as error:
            assert f"{n}.npy: " in str(error)
    assert 0 < read < 200


def test_pixels_that_are_no_numbers_and_failures_name_the_image(rng):
    image = rng.random((20, 20))
    image[3, 4] = np.nan
    with pytest.raises(UnreadableImage, match="scan 7: pixels are NaN"):
        ArrayImage(image, name="scan 7").thumbnail((5, 5))

    class Broken(ImageSource):
        def read_level(self, level, top, left, height, width):
            raise OSError("the disk is gone")

    with pytest.raises(
        UnreadableImage, match="scan 8: cannot read 3x5 pixels at row 0, column 0 of level 0: OSError: the disk"
    ):
        Broken("scan 8", [(3, 5)], 1, "uint8").thumbnail((3, 5))
    with pytest.raises(UnreadableImage, match="small: the thumbnail is 5x5"):
        ArrayImage(image[:3], name="small").thumbnail((5, 5))


# ---- Training and inference, against the same pixels in one array ----


@pytest.fixture
def files(rng, tmp_path):
    """24 images of two classes as one array, their files, and labels."""
    images, labels = rng.integers(0, 128, (24, 20, 24, 1), np.uint8), np.arange(24, dtype=np.int32) % 2
    images[labels == 1, 4:9, 5:10] += 100
    paths = [str(tmp_path / f"{n:02}.npy") for n in range(len(images))]
    for path, image in zip(paths, images):
        np.save(path, image)
    return images, paths, labels


def trained(images, labels, **kwargs):
    keras.utils.set_random_seed(3)
    model = keras_glimpse.GlimpseClassifier(2, 2, low_res_size=5, patch_size=6, hidden_units=8)
    compile_args = {"jit_compile": False}  # What reads files is never compiled by XLA.
    keras_glimpse.fit_greedy(model, images, labels, epochs=1, batch_size=8, verbose=0, compile_args=compile_args, **kwargs)
    return model


@pytest.fixture(scope="module")
def model():
    """One that is sure enough of some images after each stage."""
    keras.utils.set_random_seed(3)
    model = keras_glimpse.GlimpseClassifier(2, 2, low_res_size=5, patch_size=6, hidden_units=8)
    model.build((None, 20, 24, 1))
    for net in (model.low_res_net, *model.glimpse_nets):
        net.set_weights([4 * weights for weights in net.get_weights()])
    model.temperatures = (1.25, 0.8, 1.5)
    model.compile(jit_compile=False)
    return model


def assert_same(got, want):
    assert len(got) == len(want)
    for one, other in zip(got, want):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.slow
def test_training_on_files_is_training_on_arrays(files):
    images, paths, labels = files
    split = {"validation_split": 0.25}
    assert_same(trained(paths, labels, **split).get_weights(), trained(images, labels, **split).get_weights())


@pytest.mark.slow
def test_training_on_a_dataset_of_paths(files):
    images, paths, labels = files
    by_array, by_path = (tf.data.Dataset.from_tensor_slices((x, labels)).batch(8) for x in (images, paths))
    kwargs = {"low_res_size": 5, "patch_size": 6, "hidden_units": 8}
    models = []
    for data in (by_array, by_path):
        keras.utils.set_random_seed(3)
        model = keras_glimpse.GlimpseClassifier(2, 1, **kwargs)
        model.build((None, 20, 24, 1))
        model.compile("sgd")
        history = model.fit(data, validation_data=data, epochs=2, verbose=0).history
        models.append((model.get_weights(), history["val_loss"]))
    (weights, losses), (others, other_losses) = models
    assert_same(weights, others)
    np.testing.assert_allclose(losses, other_losses, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{"search_samples": 5}, {}])
def test_a_search_over_the_whole_image(files, kwargs):
    images, paths, labels = files
    weights = []
    for data in (images, paths):
        keras.utils.set_random_seed(3)
        model = keras_glimpse.GlimpseClassifier.for_large_images(2, low_res_size=16, patch_size=12, scales=(1,), **kwargs)
        model.compile(keras.optimizers.SGD(0.01))
        model.fit(data, labels, batch_size=8, verbose=0)
        weights.append(model.get_weights())
    assert_same(*weights)


@pytest.mark.slow
def test_images_that_differ_in_size_are_searched_with_samples_only(rng):
    images = [ArrayImage(rng.integers(256, size=(40, width), dtype=np.uint8)) for width in (40, 50)]
    model = keras_glimpse.GlimpseClassifier.for_large_images(2, low_res_size=16, patch_size=12)
    model.compile()
    with pytest.raises(UnreadableImage, match="of one size"):
        model.fit(images, np.array([0, 1]), verbose=0)
    model.search_samples = 4
    assert np.isfinite(model.fit(images, np.array([0, 1]), verbose=0).history["loss"][0])
    assert model.image_shape == (40, None, 1)


def test_each_of_several_sizes_is_seen_as_it_is_alone(rng):
    arrays = [rng.integers(256, size=(height, width, 3), dtype=np.uint8) for height, width in [(30, 40), (25, 31), (64, 30)]]
    images, labels = [*map(ArrayImage, arrays)], np.array([0, 1, 2])
    model = keras_glimpse.GlimpseClassifier(3, 2, low_res_size=5, patch_size=6, hidden_units=8)
    model.compile(keras.optimizers.SGD(0.01))
    model.fit(images, labels, verbose=0)
    seen = model.look(images)
    for n, array in enumerate(arrays):
        alone = model.look(array[None])
        assert_same([values[n] for values in seen.values()], [values[0] for values in alone.values()])
        np.testing.assert_allclose(
            model.best_places([images[n]], labels[n : n + 1]), model.best_places(array[None], labels[n : n + 1]), atol=1e-5
        )


def test_inference_on_files_is_inference_on_arrays(files, model):
    images, paths, labels = files
    np.testing.assert_allclose(model.predict(paths, verbose=0), model.predict(images, verbose=0), atol=1e-4)
    np.testing.assert_allclose(model.predict_on_batch(paths), model.predict_on_batch(images), atol=1e-4)
    np.testing.assert_allclose(model.evaluate(paths, labels, verbose=0), model.evaluate(images, labels, verbose=0), atol=1e-5)
    np.testing.assert_allclose(model.test_on_batch(paths, labels), model.test_on_batch(images, labels), atol=1e-5)
    assert_same(model.look(paths[:4]).values(), model.look(images[:4]).values())
    assert_same(model.look(paths[0]).values(), model.look(images[:1]).values())
    by_path, by_array = (keras_glimpse.cascade_curve(model, x, labels) for x in (paths, images))
    assert_same(by_path, by_array)
    data = tf.data.Dataset.from_tensor_slices((paths, labels)).batch(5)
    assert_same(keras_glimpse.cascade_curve(model, data), by_array)


@pytest.mark.parametrize("batch_size", [None, 5])
def test_the_cascade_on_files_is_the_cascade_on_arrays(files, model, batch_size):
    images, paths, _ = files
    want = keras_glimpse.cascade_predict(model, images, SURE)
    assert len(np.unique(want.exit_stage)) > 1
    data = tf.data.Dataset.from_tensor_slices(paths).batch(7)
    for given in (paths, [*map(ArrayImage, images)], data):
        got = keras_glimpse.cascade_predict(model, given, SURE, batch_size)
        np.testing.assert_allclose(got.probabilities, want.probabilities, atol=1e-5)
        assert got.exit_stage.tolist() == want.exit_stage.tolist() and got.macs.tolist() == want.macs.tolist()
        assert (np.isfinite(got.locations[..., 0]).sum(axis=1) == got.exit_stage).all()
        np.testing.assert_allclose(
            got.locations[got.exit_stage == 2], model.look(images)["locations"][got.exit_stage == 2], atol=1e-5
        )
        stopped = got.exit_stage == 0
        assert (got.pixels_read[stopped] == 20 * 24).all() and (got.pixels_read[~stopped] > 20 * 24).all()
        assert not got.errors and len(got.names) == 24


def test_a_file_that_cannot_be_read_is_reported_and_skipped(files, model, tmp_path):
    _, paths, labels = files
    want = keras_glimpse.cascade_predict(model, paths, SURE)
    (tmp_path / "03.npy").write_bytes(b"\x93NUMPY broken")
    np.save(tmp_path / "05.npy", np.zeros((9, 9, 1), np.uint8))
    for call in (
        lambda: keras_glimpse.cascade_predict(model, paths, SURE),
        lambda: model.predict(paths, verbose=0),
        lambda: model.fit(paths, labels, verbose=0),
        lambda: keras_glimpse.cascade_curve(model, paths, labels),
    ):
        with pytest.raises(UnreadableImage, match="03.npy: cannot be mapped"):
            call()
    got = keras_glimpse.cascade_predict(model, paths, SURE, batch_size=8, on_error="skip")
    assert sorted(got.errors) == [3, 5] and "20, 24, 1" in got.errors[5] and got.exit_stage[3] == -1
    rest = np.delete(np.arange(24), [3, 5])
    np.testing.assert_allclose(got.probabilities[rest], want.probabilities[rest], atol=1e-5)
    assert np.isnan(got.probabilities[[3, 5]]).all()


def test_results_are_continued_after_an_interruption(files, model, tmp_path, capsys):
    images, paths, _ = files
    table = tmp_path / "results.csv"

    def interrupted():
        yield from paths[:11]
        raise KeyboardInterrupt

    model.class_names = ("dark", "bright")
    with pytest.raises(KeyboardInterrupt):
        keras_glimpse.predict_to_csv(model, interrupted(), table, SURE, batch_size=4)
    with table.open("ab") as file:
        file.write(b"cut o")  # As if the machine had failed
    (tmp_path / "20.npy").unlink()
    looked_at = []

    def all_of_them():
        for path in paths:
            looked_at.append(path)
            yield path

    assert keras_glimpse.predict_to_csv(model, all_of_them(), table, SURE) == 1
    rows = [*csv.DictReader(table.read_text().splitlines())]
    assert [row["image"] for row in rows] == paths and rows[20]["error"].endswith("No such file or directory.")
    want = keras_glimpse.cascade_predict(model, images, SURE)
    for n, row in enumerate(rows[8:20], start=8):
        assert row["class"] == ("dark", "bright")[want.probabilities[n].argmax()]
        assert int(row["glimpses"]) == want.exit_stage[n] == len([*filter(None, row["places"].split(";"))])
        assert int(row["macs"]) == want.macs[n]
    with pytest.raises(ValueError, match="Two images are called"):
        keras_glimpse.predict_to_csv(model, paths[:1] * 2, tmp_path / "other.csv")
    before = table.read_bytes()
    with pytest.raises(ValueError, match=f"results.csv has results of threshold {SURE}, not of 0.3: remove it"):
        keras_glimpse.predict_to_csv(model, paths, table, 0.3)
    bias = model.glimpse_nets[0].output_layer.bias
    bias.assign(bias + 1)
    with pytest.raises(ValueError, match="results.csv has results of model [0-9a-f]{8}, not of [0-9a-f]{8}: remove it"):
        keras_glimpse.predict_to_csv(model, paths, table, SURE)
    assert table.read_bytes() == before
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected a file with the columns"):
        keras_glimpse.predict_to_csv(model, paths, tmp_path / "wrong.csv")


def test_models_that_cannot_read_parts(files):
    _, paths, labels = files
    for kwargs in ({"preprocess": keras.layers.Rescaling(1 / 255)}, {"downsample": "strided"}):
        model = keras_glimpse.GlimpseClassifier(2, low_res_size=5, patch_size=6, **kwargs)
        model.build((None, 20, 24, 1))
        model.compile()
        for call in (
            lambda m: m.fit(paths, labels),
            lambda m: m.predict(paths),
            lambda m: keras_glimpse.cascade_predict(m, paths),
        ):
            with pytest.raises(ValueError, match="read in parts"):
                call(model)


def test_xla_reads_no_files(files):
    _, paths, labels = files
    model = keras_glimpse.GlimpseClassifier(2, low_res_size=5, patch_size=6)
    model.compile(jit_compile=True)
    with pytest.raises(ValueError, match="XLA does not read files"):
        model.fit(paths, labels)


def test_labels_and_weights_are_checked_before_anything_is_read(files):
    _, paths, labels = files
    model = keras_glimpse.GlimpseClassifier(2, low_res_size=5, patch_size=6)
    model.compile()
    with pytest.raises(ValueError, match="as many labels"):
        model.fit(paths, labels[:5])
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 2\)"):
        model.fit(paths, labels + 1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.fit(paths, labels, sample_weight=np.where(labels, np.nan, 1.0))


@pytest.mark.slow
def test_training_resumes(files, tmp_path):
    _, paths, labels = files
    whole = trained(paths, labels, checkpoint=tmp_path / "whole")

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if self.model.stage.glimpse == 1:
                raise Killed  # After the checkpoint of this epoch was written, or before

    with pytest.raises(Killed):
        trained(paths, labels, checkpoint=tmp_path / "killed", callbacks=lambda stage: [Kill()])
    resumed = trained(paths, labels, checkpoint=tmp_path / "killed")
    for one, other in zip(whole.get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_replicas_read_their_own_share(files):
    images, paths, labels = files
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = keras_glimpse.GlimpseClassifier(2, 1, low_res_size=5, patch_size=6, hidden_units=8)
        model.compile(keras.optimizers.SGD(0.01))
    assert np.isfinite(model.fit(paths, labels, batch_size=8, verbose=0).history["loss"][0])


def test_pictures(files, model, tmp_path):
    images, paths, labels = files
    figure = keras_glimpse.draw_glimpses(model, paths[:2], labels[:2], tmp_path / "glimpses.png")
    want = keras_glimpse.draw_glimpses(model, images[:2], labels[:2])
    for axes, others in zip(figure.axes, want.axes, strict=True):
        assert axes.get_title() == others.get_title()
        np.testing.assert_allclose(axes.get_xlim(), others.get_xlim(), atol=1e-3)
        np.testing.assert_allclose(axes.images[0].get_array(), others.images[0].get_array(), atol=1e-5)
    assert (tmp_path / "glimpses.png").stat().st_size > 1000


def test_a_large_image_is_drawn_small(rng):
    model = keras_glimpse.GlimpseClassifier(2, 1, low_res_size=8, patch_size=8)
    model.build((None, None, None, 1))
    figure = keras_glimpse.draw_glimpses(model, [ArrayImage(np.zeros((3000, 6000), np.uint8))])
    assert figure.axes[0].images[0].get_array().shape == (500, 1000) and figure.axes[0].get_xlim() == (-0.5, 5999.5)


class Paths(keras.utils.PyDataset):
    """Batches of paths."""

    def __init__(self, paths, labels):
        super().__init__()
        self.paths, self.labels = np.array(paths, object), labels

    def __len__(self):
        return len(self.paths) // 8

    def __getitem__(self, n):
        return self.paths[8 * n : 8 * n + 8], self.labels[8 * n : 8 * n + 8]


def test_paths_by_a_py_dataset_or_a_generator(files, model):
    images, paths, labels = files
    data = Paths(paths, labels)
    want = model.evaluate(images, labels, batch_size=8, verbose=0)
    np.testing.assert_allclose(model.evaluate(data, verbose=0), want, atol=1e-5)
    np.testing.assert_allclose(model.evaluate((data[n] for n in range(3)), steps=3, verbose=0), want, atol=1e-5)
    np.testing.assert_allclose(model.evaluate(data, verbose=0), want, atol=1e-5)


@pytest.mark.slow
def test_half_precision(files):
    images, paths, labels = files
    model = keras_glimpse.GlimpseClassifier(2, 1, low_res_size=5, patch_size=6, hidden_units=8, dtype="mixed_float16")
    model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    assert np.isfinite(model.fit(paths, labels, batch_size=8, verbose=0).history["loss"][0])
    np.testing.assert_allclose(model.predict(paths, verbose=0), model.predict(images, verbose=0), atol=2e-3)


def test_a_dataset_of_paths_needs_a_model_that_is_built(files):
    _, paths, labels = files
    model = keras_glimpse.GlimpseClassifier(2, low_res_size=5, patch_size=6)
    model.compile()
    with pytest.raises(ValueError, match="a model that is built"):
        model.fit(tf.data.Dataset.from_tensor_slices((paths, labels)).batch(8))


def test_predict_on_paths_in_batches(files, model, tmp_path):
    images, paths, _ = files
    want = model.predict(images, verbose=0)
    data = tf.data.Dataset.from_tensor_slices(paths).batch(8)
    np.testing.assert_allclose(model.predict(data, verbose=0), want, atol=1e-4)
    np.testing.assert_allclose(model.predict(Paths(paths, np.zeros(24)), verbose=0), want, atol=1e-4)
    by_xla = keras_glimpse.GlimpseClassifier(2, low_res_size=5, patch_size=6, preprocess=keras.layers.Rescaling(2.0))
    by_xla.build((None, 20, 24, 1))
    with pytest.raises(ValueError, match="read in parts"):
        by_xla.predict(data, verbose=0)
    np.save(tmp_path / "05.npy", np.zeros((30, 30, 1), np.uint8))
    for given in (data, Paths(paths, np.zeros(24)), paths):
        with pytest.raises(UnreadableImage, match="05.npy: The model was built for"):
            model.predict(given, verbose=0)
    with pytest.raises(TypeError, match="Batch 0.*expected paths"):
        model.evaluate(Paths([*map(ArrayImage, images)], np.zeros(24)), verbose=0)


@pytest.mark.slow
def test_a_callback_may_evaluate_arrays(files):
    images, paths, labels = files
    model = keras_glimpse.GlimpseClassifier(2, 1, low_res_size=5, patch_size=6, hidden_units=8)
    model.build((None, 20, 24, 1))
    model.compile(jit_compile="auto")
    evaluate = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: model.evaluate(images, labels, verbose=0))
    history = model.fit(paths, labels, validation_data=(paths, labels), epochs=2, verbose=0, callbacks=[evaluate])
    assert len(history.history["val_loss"]) == 2


def test_a_replica_without_images(files):
    """As of a last batch that is smaller than there are replicas."""
    names = tf.zeros([0], tf.string)
    sources = Sources.of(names, 1, check=None)
    assert sources.sides.shape == (0, 2) and sources.thumbnails((5, 6), 1).shape == (0, 5, 6, 1)
    assert sources.patches(tf.zeros([0, 3, 2]), 4, (1, 2), 1).shape == (0, 3, 4, 4, 2)


def test_names_that_are_no_text(files, model, tmp_path):
    odd = [os.path.join(os.fsencode(tmp_path), name) for name in (b"\xff.npy", b"two\nlines.npy", "\u2028.npy".encode())]
    for path, image in zip(odd, files[0]):
        np.save(os.fsdecode(path), image)
    paths = [os.fsdecode(path) for path in odd]
    np.testing.assert_allclose(model.predict(paths, verbose=0), model.predict(files[0][:3], verbose=0), atol=1e-4)
    for _ in range(2):
        assert keras_glimpse.predict_to_csv(model, paths, tmp_path / "odd.csv") == 0
    assert [row["image"] for row in rows_of(tmp_path / "odd.csv")] == paths


def test_a_file_of_somebody_else_is_left_alone(files, model, tmp_path):
    (tmp_path / "notes.csv").write_text('{"precious": 1}')
    with pytest.raises(ValueError, match="expected a file with the columns"):
        keras_glimpse.predict_to_csv(model, files[1], tmp_path / "notes.csv")
    assert (tmp_path / "notes.csv").read_text() == '{"precious": 1}'


def test_what_a_graph_of_the_user_cannot_read_is_named(model):
    with pytest.raises((RuntimeError, tf.errors.OpError), match="/none.png: "):
        model(tf.constant(["/none.png"]))


def test_memory_of_many_windows_is_bounded(rng, monkeypatch):
    image, places = rng.integers(256, size=(200, 200, 1), dtype=np.uint8), rng.random((50, 2))
    want = ArrayImage(image).patches(places, 8, (1, 4))
    monkeypatch.setattr("keras_glimpse.sources.image.STRIP", 200 * 200)
    np.testing.assert_array_equal(ArrayImage(image).patches(places, 8, (1, 4)), want)
