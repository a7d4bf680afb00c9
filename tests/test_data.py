"""The datasets: what is in them, that it is real and that it can be had twice."""

import socket

import numpy as np
import pytest

from keras_glimpse import data


def collect(dataset, batches=None):
    dataset = dataset if batches is None else dataset.take(batches)
    return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator())]


@pytest.fixture(scope="module")
def digits():
    return data.embedded_digits()


def test_embedded_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    images = np.concatenate([digits.train_images, digits.test_images])
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    original, original_labels = load_digits(return_X_y=True)
    assert images.shape == (1797, 28, 28, 1) and images.dtype == np.uint8
    assert np.array_equal(np.bincount(labels), np.bincount(original_labels))
    # Averaged back to 8x8, every image is nearer to an original of its label than to any of another label, nearly always.
    small = images[:200, 4:24, 4:24, 0].reshape(-1, 20, 20)
    small = np.stack([image[np.arange(8) * 20 // 8 + 1][:, np.arange(8) * 20 // 8 + 1] for image in small]) / 255 * 16
    nearest = ((small.reshape(-1, 1, 64) - original) ** 2).sum(-1).argmin(-1)
    assert np.mean(original_labels[nearest] == labels[:200]) > 0.98


@pytest.mark.parametrize(("canvas", "expected"), [(48, (48, 48)), ((40, 60), (40, 60)), (28, (28, 28))])
def test_digits_are_placed_whole(digits, canvas, expected):
    """Against slicing each digit into a black canvas, at the place where it is found."""
    splits = data.jittered(digits, canvas=canvas, test_copies=2)
    images, labels = collect(splits.test)
    assert images.shape == (898, *expected, 1) and images.dtype == np.uint8 and labels.dtype == np.int32
    for i in range(0, 898, 37):
        digit = digits.test_images[i // 2]
        assert labels[i] == digits.test_labels[i // 2]
        rows, columns = np.nonzero(digit[..., 0].any(1))[0], np.nonzero(digit[..., 0].any(0))[0]
        found_rows, found_columns = np.nonzero(images[i, ..., 0].any(1))[0], np.nonzero(images[i, ..., 0].any(0))[0]
        y, x = found_rows[0] - rows[0], found_columns[0] - columns[0]
        assert 0 <= y <= expected[0] - 28 and 0 <= x <= expected[1] - 28
        canvas_with_digit = np.zeros((*expected, 1), np.uint8)
        canvas_with_digit[y : y + 28, x : x + 28] = digit
        np.testing.assert_array_equal(images[i], canvas_with_digit)


def test_places_fill_the_canvas_evenly(digits):
    images, _ = collect(data.jittered(digits, copies=4).train)
    mass = images.reshape(-1, 48, 48).astype(np.float64).mean(0)
    centre = [(mass.sum(axis) * np.arange(48)).sum() / mass.sum() for axis in (1, 0)]
    np.testing.assert_allclose(centre, 23.5, atol=0.5)
    assert mass[14:34, 14:34].min() > 0 and mass[2:5, 14:34].max() > 0  # Digits reach far up, and each margin is 4 wide.


def test_an_epoch_has_every_image_once_in_a_new_order(digits):
    train = data.jittered(digits, copies=3).train
    assert int(train.cardinality()) == -(-1348 * 3 // 50)
    (first, labels), (second, other) = collect(train), collect(train)
    assert len(labels) == 1348 * 3 and not np.array_equal(labels, other)
    sort = lambda images: images[np.lexsort(images.reshape(len(images), -1).T[::37])]  # noqa: E731
    np.testing.assert_array_equal(sort(first).sum((1, 2, 3)), sort(second).sum((1, 2, 3)))
    assert np.array_equal(np.unique(first, axis=0), np.unique(second, axis=0))  # The same ten places every epoch.


def test_fresh_places_are_new_every_epoch(digits):
    train = data.jittered(digits, copies=1, fresh_places=True).train
    first, second = (np.unique(collect(train)[0], axis=0) for _ in range(2))
    assert len(first) == 1348 and not np.array_equal(first, second)
    assert first.sum() == second.sum()  # The digits are the same.


def test_seeds_decide_places_and_order(digits):
    same = [collect(data.jittered(digits, seed=3, fresh_places=True).train, 5)[0] for _ in range(2)]
    other = collect(data.jittered(digits, seed=4, fresh_places=True).train, 5)[0]
    assert np.array_equal(*same) and not np.array_equal(same[0], other)


def test_validation_digits_are_not_trained_on(digits):
    splits = data.plain(digits, validation_split=0.25)
    train, validation = (collect(part)[0].reshape(-1, 784) for part in (splits.train, splits.validation))
    assert (len(train), len(validation)) == (1011, 337)
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in validation}
    assert data.plain(digits).validation is None


@pytest.mark.slow
def test_mnist_is_mnist(mnist):
    assert mnist.train_images.shape == (60000, 28, 28, 1) and mnist.test_images.shape == (10000, 28, 28, 1)
    assert np.bincount(mnist.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    splits = data.jittered(mnist)
    assert [int(splits.train.cardinality()), int(splits.test.cardinality())] == [12000, 600]


def test_cached_keras_mnist_is_used(tmp_path, monkeypatch, rng):
    images, labels = rng.integers(0, 255, (6, 28, 28)).astype(np.uint8), np.arange(6, dtype=np.uint8)
    (tmp_path / "datasets").mkdir()
    np.savez(tmp_path / "datasets/mnist.npz", x_train=images[:4], y_train=labels[:4], x_test=images[4:], y_test=labels[4:])
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    found = data.mnist_digits(tmp_path / "nothing here")
    assert np.array_equal(found.train_images[..., 0], images[:4]) and np.array_equal(found.test_labels, [4, 5])


def test_missing_mnist_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="download=True"):
        data.jittered_mnist(data_dir=tmp_path)

    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        data.jittered_mnist(data_dir=tmp_path, download=True)


def test_bad_arguments(digits):
    with pytest.raises(ValueError, match="canvas must be at least as large as the digits"):
        data.jittered(digits, canvas=(48, 20))
    with pytest.raises(ValueError, match="validation_split"):
        data.plain(digits, validation_split=1.0)


BAD_DIGITS = {
    "floats": lambda images, labels: (images / 255.0, labels),
    "no channel": lambda images, labels: (images[..., 0], labels),
    "none": lambda images, labels: (images[:0], labels[:0]),
    "fewer labels": lambda images, labels: (images, labels[:-1]),
    "words": lambda images, labels: (images, labels.astype(str)),
}


@pytest.mark.parametrize("case", BAD_DIGITS)
def test_bad_digits(digits, case):
    """Bytes of floats were once put on canvases as if they were pixels."""
    spoiled = BAD_DIGITS[case](*digits[2:])
    for make in (data.plain, data.jittered):
        with pytest.raises(
            ValueError, match=r"Expected (images \[n, height, width, 1\], uint8|a label for each of 449 images)"
        ):
            make(data.Digits(*digits[:2], *spoiled))


def test_damaged_mnist(tmp_path, monkeypatch, rng):
    """Both kinds of files; the message names them."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    path, digits = tmp_path / "datasets" / "mnist.npz", rng.integers(0, 256, (3, 28, 28), np.uint8)
    whole = {"x_train": digits, "y_train": np.arange(3), "x_test": digits, "y_test": np.arange(3)}
    for change, message in (
        ({"y_test": np.array([0, 1, 10])}, "Expected images of 28x28 labelled 0 to 9; .* 0 to 10"),
        ({"x_test": digits[:, 1:]}, "Expected images of 28x28"),
        ({"y_test": np.arange(3) / 2}, "a label for each of 3 images; .*float64"),
        ({"y_test": np.array([0, 1, {}])}, "allow_pickle"),
    ):
        np.savez(path, **whole | change)
        with pytest.raises(ValueError, match=f"MNIST in .*mnist.npz is corrupt; remove it.*{message}"):
            data.mnist_digits(tmp_path)
    path.unlink()
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0.1" / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="MNIST in .*mnist is corrupt; remove it"):
        data.mnist_digits(tmp_path)
