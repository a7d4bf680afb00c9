"""The rules by which images of the large tasks are made or cut, stated again; batches that resume; what is compared with."""

import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from images import ablation, alternatives, boards, clutter, megapixel, pictures, report, streets, tasks, training
from images.dataset import Images
from images.digits import Digits
from tiers import slow

import keras_glimpse
from keras_glimpse import data

SEED = tf.constant([0, 1])


def flat_digits(values, labels):
    """Digits that fill their square with one value each."""
    images = np.broadcast_to(np.array(values, np.uint8)[:, None, None], (len(values), 28, 28))
    return Digits(tf.constant(images), np.array(labels, np.int32), np.tile([0, 0, 28, 28], (len(values), 1)))


def cut(image, box):
    y1, x1, y2, x2 = np.rint(box).astype(int)
    return image[y1:y2, x1:x2]


def batches(task, number, seed=0, batch_size=8):
    epoch = data.Epoch()
    epoch.number.assign(number)
    return list(task.training_data(batch_size, seed, epoch).as_numpy_iterator())


# ---- All tasks ----


@pytest.mark.parametrize("name", [slow(name) if name in ("translated-60", "clutter-60") else name for name in tasks.TASKS])
def test_smoke(name):
    task = tasks.load(name, smoke=True)
    train, epoch = batches(task, 1), data.Epoch()
    for part in (train, task.test.dataset(8), task.validation.dataset(8)):
        for images, labels in part:
            assert images.shape == (len(labels), *task.image_shape) and images.dtype == np.uint8
            assert labels.dtype == np.int32 and 0 <= min(labels) <= max(labels) < len(task.class_names)
    assert len(train) == len(task.training_data(8, 0, epoch)) and len(task.test.boxes) == len(task.test) > 1
    for boxes in (*task.test.boxes, *task.validation.boxes):
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= task.image_shape[:2]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()

    again = tasks.load(name, smoke=True)
    assert all(np.array_equal(a, b) for one, other in zip(train, batches(again, 1)) for a, b in zip(one, other))
    assert np.array_equal(task.test[1], again.test[1])
    for other in (batches(task, 0), batches(task, 1, seed=1)):
        assert not np.array_equal(train[0][0], other[0][0])


def test_megapixel_images_are_rolled_in_training():
    task = tasks.load("megapixel", smoke=True)
    first, second = (task.train(tf.constant([seed, 0], tf.int64)) for seed in (1, 2))
    np.testing.assert_array_equal(first.labels, second.labels)
    for n in range(4):
        a, b = first[n], second[n]
        assert not np.array_equal(a, b) and a.shape == b.shape == task.image_shape
        spectra = [np.fft.fft2(image[..., 0].astype(float)) for image in (a, b)]
        correlation = np.fft.ifft2(spectra[0] * np.conj(spectra[1])).real
        by = np.unravel_index(correlation.argmax(), correlation.shape)
        np.testing.assert_array_equal(np.roll(b, by, (0, 1)), a)


def test_training_resumes_with_the_same_batches():
    task, epoch, seen = tasks.load("kind", smoke=True), data.Epoch(), []

    class Seen(keras.Sequential):
        def train_step(self, batch):
            seen.append(batch[0].numpy().sum())
            return super().train_step(batch)

    model = Seen([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(6)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    options = {"callbacks": [epoch], "verbose": 0, "shuffle": False}
    model.fit(task.training_data(8, 0, epoch), epochs=3, **options)
    whole = seen[:]
    seen.clear()
    model.fit(task.training_data(8, 0, epoch), initial_epoch=1, epochs=3, **options)
    assert len(whole) == 12 and seen == whole[4:] and len({*whole}) == 12


@pytest.mark.parametrize("name", ["board", "kind", "streets"])
def test_data_that_is_missing(name, tmp_path):
    for folder in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match="--data-dir must be"):
            tasks.load(name, folder)


# ---- Clutter ----


@pytest.mark.parametrize("side, pieces", [(60, 0), (60, 4), (100, 8)])
def test_clutter_has_one_digit_and_so_many_pieces(side, pieces):
    images = clutter.composed(flat_digits([1] * 300, [0] * 300), side, pieces, SEED)
    canvases = next(images.dataset(300).as_numpy_iterator())[0][..., 0]
    assert (canvases.sum(axis=(1, 2)) == 28**2 + pieces * 8**2).all()
    reached = canvases.any(axis=0)
    assert all(edge.any() for edge in (reached[0], reached[-1], reached[:, 0], reached[:, -1]))
    assert canvases.max() > 1 if pieces else canvases.max() == 1
    assert all((cut(canvas, [y, x, y + 28, x + 28]) >= 1).all() for canvas, (y, x) in zip(canvases, images.rows[1].numpy()))


def test_clutter_adds_up_to_white():
    images = clutter.composed(flat_digits([100, 150, 200], [0, 1, 2]), 60, 8, SEED)
    for n, value in enumerate((100, 150, 200)):
        found = {*np.unique(images[n])}
        assert found <= {0, 100, 150, 200, 250, 255} and {0, value, 255} <= found and images.labels[n] == n


def test_a_translated_digit_is_the_digit():
    task, digits = tasks.load("translated-60", smoke=True), data.embedded_digits()
    for n in range(10):
        image, digit, box = task.test[n], digits.test_images[n], task.test.boxes[n][0]
        rows, columns = digit[..., 0].any(axis=1).nonzero()[0], digit[..., 0].any(axis=0).nonzero()[0]
        ink = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert np.array_equal(cut(image, box), ink) and image.sum() == digit.sum()


# ---- Megapixel ----


def test_megapixel_has_five_digits_of_which_three_are_of_the_class(rng):
    digits = flat_digits(np.repeat(np.arange(1, 11), 3), np.repeat(np.arange(10), 3))
    images = megapixel.composed(digits, 100, 120, 0, rng)  # 120 pixels are little: without a check, most would overlap.
    for n, label in enumerate(images.labels):
        values, counts = np.unique(images[n], return_counts=True)
        counts = dict(zip(values, counts))
        assert counts.pop(0) == 120**2 - 5 * 28**2 and counts.pop(label + 1) == 3 * 28**2
        assert sum(counts.values()) == 2 * 28**2
        assert [(cut(images[n], box) == label + 1).all() for box in images.boxes[n]] == [True] * 3 + [False] * 2
    assert {*images.labels} == {*range(10)}


def test_strokes_cover_what_was_there(rng):
    digits = flat_digits([1] * 20, [n % 10 for n in range(20)])
    images = megapixel.composed(digits, 20, 300, 50, rng)
    images = np.stack([images[n] for n in range(20)])
    assert 204 <= images[images > 1].min() < 210 and images.max() >= 250
    assert 20 * 50 * 25 < (images > 1).sum() < 20 * 50 * 80  # Some are covered, or cut off by the border.
    assert 0.2 < (images == 1).sum() / (20 * 5 * 28**2) < 0.7  # Squares of 28x28 are covered, not just lines.


def test_patterns_are_two_lines_from_corners(rng):
    patterns = megapixel.stroke_patterns(rng)
    assert patterns.shape == (50, 28, 28) and patterns[:, 0, 0].all() and len(np.unique(patterns, axis=0)) == 50
    for pattern in patterns:
        rows, columns = pattern.nonzero()
        assert 28 <= len(rows) <= 2 * 56 and max(rows.max(), columns.max()) == 27


# ---- Boards ----


def test_windows_contain_one_box_and_touch_no_other(rng):
    made = []
    for _ in range(10):
        corners = rng.integers(250, size=(6, 2))
        boxes = np.hstack([corners, corners + rng.integers(10, 30, size=(6, 2))])
        made.append(boards.Board("", "", boxes, rng.integers(6, size=6)))
    which, corners = boards.windows(made, 100, 300, 3, rng)
    assert 20 < len(which) < 60 and corners.shape == (len(which), 3, 2) and len(np.unique(which, axis=0)) == len(which)
    for (number, defect), three in zip(which, corners):
        inside = np.zeros((6, 300, 300), bool)
        for mask, box in zip(inside, made[number].boxes):
            cut(mask, box)[:] = True
        expected = np.where(np.arange(6) == defect, inside.sum(axis=(1, 2)), 0)
        for y, x in three:
            window = inside[:, y : y + 100, x : x + 100]
            assert window.shape == (6, 100, 100) and (window.sum(axis=(1, 2)) == expected).all()


def test_an_epoch_has_a_window_of_each_defect():
    task = tasks.load("kind", smoke=True)
    first, second = task.train(SEED), task.train(SEED + 1)
    assert len(first) == 30 and np.array_equal(first.labels, second.labels) and first.boxes is None
    assert not any(np.array_equal(first[n], second[n]) for n in range(30))
    for label, ((y1, x1, y2, x2),) in zip(task.test.labels, task.test.boxes):  # The size of a stand-in tells its kind.
        assert y2 - y1 == x2 - x1 == 8 + 2 * label


def test_repaired_boards():
    """Those with defects, with the pixels of the clean ones in boxes."""
    whole, repaired = tasks.load("board", smoke=True).test, boards.repaired(smoke=True)
    assert len(repaired) == 4 and not repaired.labels.any()
    for n in range(4):
        defective, clean, inside = whole[n], whole[n + 4], np.zeros(whole.shape, bool)
        for box in whole.boxes[n]:
            cut(inside, box)[:] = True
        assert np.array_equal(repaired[n], np.where(inside, clean, defective)) and not np.array_equal(repaired[n], defective)


def test_turns_are_the_eight_symmetries():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    images = boards.turned(Images(np.zeros(100, np.int32), (), lambda: tf.constant(image)), SEED)
    expected = {np.rot90(each, k).tobytes() for each in (image, image[:, ::-1]) for k in range(4)}
    assert {images[n].tobytes() for n in range(100)} == expected and len(expected) == 8


def test_boards_from_files(tmp_path):
    """As DeepPCB has them: a board with one defect at x 100 to 119 and y 300 to 339 of kind 3, a mousebite."""
    folder = tmp_path / "PCBData" / "group1"
    folder.mkdir(parents=True)
    clean = np.zeros((640, 640, 1), np.uint8)
    defect = clean.copy()
    defect[300:340, 100:120] = 255
    for kind, image in (("temp", clean), ("test", defect)):
        keras.utils.save_img(folder / f"7_{kind}.jpg", image, scale=False)
    (folder / "7.txt").write_text("100 300 119 339 3\n")
    for name in ("trainval", "test"):
        (tmp_path / "PCBData" / f"{name}.txt").write_text("group1/7.jpg group1/7.txt\n" * 2)
    board, kind = (tasks.load(name, tmp_path) for name in ("board", "kind"))
    assert board.test.labels.tolist() == [1, 1, 0, 0] and board.image_shape == (640, 640, 1)
    assert [len(boxes) for boxes in board.test.boxes] == [1, 1, 0, 0]
    assert cut(board.test[0], board.test.boxes[0][0]).min() > 200 and board.test[2].max() < 50
    assert kind.test.labels.tolist() == [2, 2] and kind.class_names[2] == "mousebite" and kind.image_shape == (256, 256, 1)
    assert cut(kind.test[0], kind.test.boxes[0][0]).shape == (40, 20, 1)
    assert cut(kind.test[0], kind.test.boxes[0][0]).min() > 200 and len(kind.validation) == 1


# ---- Streets ----


def test_streets_from_files(tmp_path):
    """A tenth of the size that boxes are for. Class 17, no entry, is no prohibitory sign here; 7 is a speed limit."""
    image = np.zeros((80, 136, 3), np.uint8)
    image[30:40, 50:70] = (255, 0, 0)
    for name in ("00000", "00001", "00599", "00600", "00899"):
        keras.utils.save_img(tmp_path / f"{name}.jpg", image, scale=False)
    lines = ["00000.ppm;500;300;699;399;7", "00599.ppm;500;300;699;399;17", "00600.ppm;0;0;9;9;6"]
    lines += ["00600.ppm;500;300;699;399;16", "00700.ppm;0;0;9;9;1"]
    (tmp_path / "gt.txt").write_text("\n".join(lines) + "\n")
    task = tasks.load("streets", tmp_path)
    assert task.image_shape == (80, 136, 3) and task.test.labels.tolist() == [1, 0]
    assert np.array_equal(task.test.boxes[0], [[30, 50, 40, 70]]) and len(task.test.boxes[1]) == 0
    assert cut(task.test[0], task.test.boxes[0][0])[2:-2, 2:-2, 0].min() > 200
    assert task.validation.labels.tolist() == [1] and task.train(SEED).labels.tolist() == [0, 0]


def test_scenes_as_they_are_released(tmp_path, rng):
    scenes = rng.integers(256, size=(2, 800, 1360, 3), dtype=np.uint8)
    for name, scene in zip(("00600", "00601"), scenes):
        (tmp_path / f"{name}.ppm").write_bytes(b"P6\n1360 800\n255\n" + scene.tobytes())
    (tmp_path / "gt.txt").write_text("00601.ppm;500;300;699;399;7\n")
    for name in ("00000", "00001"):
        (tmp_path / f"{name}.ppm").write_bytes((tmp_path / "00600.ppm").read_bytes())
    test = tasks.load("streets", tmp_path).test
    assert all(np.array_equal(test[n], scenes[n]) for n in range(2)) and test.labels.tolist() == [0, 1]
    assert np.array_equal(test.boxes[1], [[300, 500, 400, 700]])


def test_scenes_are_zoomed_and_mirrored():
    image = np.full((100, 200, 3), 90, np.uint8)
    image[40:50, 30:50] = 180
    scenes = Images(np.zeros(60, np.int32), (), lambda: tf.constant(image))
    varied = np.stack([scene[..., 0] for scene in map(streets.varied(scenes, SEED, (100, 200)).__getitem__, range(60))])
    signs = [np.argwhere(scene > (scene.min() + scene.max()) / 2) for scene in varied.astype(float)]
    heights, widths = np.transpose([np.ptp(places, axis=0) + 1 for places in signs])
    assert heights.min() < 9 and heights.max() > 11 and (abs(widths - 2 * heights) <= 2).all()  # Enlarged alike along both axes
    assert all(7 <= height <= 13 for height in heights) and len({*varied[:, 0, 0]}) > 20
    columns = [places[:, 1].mean() for places in signs]
    assert min(columns) < 60 and max(columns) > 140  # Mirrored or not


# ---- Pictures ----


def test_pictures(tmp_path):
    task = tasks.load("board", smoke=True)
    model = keras_glimpse.GlimpseClassifier.for_large_images(2, low_res_size=40, patch_size=24)
    model.build((None, *task.image_shape))
    pictures.draw(model, task, 0, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"board-glimpses.png", "board-map.png"}
    chosen = pictures.choose(task.test, 0)
    assert [len(task.test.boxes[n]) for n in chosen] == [3, 3, 3, 0] and len({*chosen}) == 4
    assert chosen == pictures.choose(task.test, 0) != pictures.choose(task.test, 1)


# ---- Ablation ----


@pytest.mark.slow
def test_smoke_of_the_ablation(monkeypatch, capsys):
    changes = [name for name in ablation.CHANGES if name not in ("ours", "local")]  # Trained by other tests.
    options = [option for change in changes for option in ("--change", change)]
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--smoke", *options])
    ablation.main()
    printed = capsys.readouterr().out
    assert all(re.search(rf"^{change} +[\d.]+ %, glimpse on the defect in ", printed, re.MULTILINE) for change in changes)


@pytest.mark.slow
def test_a_change_is_trained_once(tmp_path):
    task = tasks.load("kind", smoke=True)
    run = training.Run(ablation.changed("local", smoke=True), 0, task, tmp_path, smoke=True)
    first, again = (ablation.tested("local", run, tmp_path) for _ in range(2))
    assert first == again and first["details"]["by sweep"].keys() == {"predicted", "chosen"}
    assert len((tmp_path / "images_ablation.csv").read_text().splitlines()) == 2
    report.draw({"local": first["details"]["by sweep"]}, tmp_path / "ablation.png")


# ---- What they are compared with ----


def test_whole_is_the_glimpse_network():
    model = alternatives.whole((40, 48, 1), 3, (4, 6), (0,), 5)
    images = np.random.default_rng(0).integers(256, size=(2, 40, 48, 1), dtype=np.uint8)
    net = keras_glimpse.ConvGlimpseNet(3, 1, (4, 6), (0,), 5)
    net.build((None, 40, 48, 1))
    net.set_weights(model.get_weights())
    np.testing.assert_allclose(model.predict(images, verbose=0), net(images / np.float32(255)), atol=1e-5)
    first, second = 38 * 46 * 4 * 9, 17 * 21 * 6 * 4 * 9
    assert keras_glimpse.count_macs(model) == first + second + 12 * 5 + 5 * 3


@pytest.mark.slow
def test_mobilenet_within_a_budget():
    shape, size_of = (48, 40, 1), lambda model: model.get_layer("MobileNetV3Small").input_shape[1:]
    full = keras_glimpse.count_macs(alternatives._mobilenet(shape, 3, (48, 40)))
    model = alternatives.mobilenet(shape, 3, full - 1)
    assert size_of(model) == (40, 32, 1) and keras_glimpse.count_macs(model) < full
    assert model(np.zeros((2, *shape), np.uint8)).shape == (2, 3)
    smallest = alternatives.mobilenet((32, 32, 1), 3, budget=1)
    assert size_of(smallest) == (32, 32, 1) and 1_490_000 < keras_glimpse.count_macs(smallest) < 1_500_000
