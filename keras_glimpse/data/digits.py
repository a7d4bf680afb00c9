"""MNIST, and a small substitute that needs no download, as arrays."""

import contextlib
import os
import socket
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MNIST_HOST = "storage.googleapis.com"


class Digits(NamedTuple):
    """Images and labels of a training and a test set.

    Attributes:
        train_images: Uint8 array `[n, height, width, 1]`.
        train_labels: Integer array `[n]`.
        test_images: Uint8 array `[m, height, width, 1]`.
        test_labels: Integer array `[m]`.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def mnist_digits(data_dir: str | os.PathLike | None = None, download: bool = False) -> Digits:
    """Loads MNIST: 60,000 training and 10,000 test images of 28x28 pixels.

    Args:
        data_dir: Optional string or path of a TFDS folder. Defaults to `None`: `$TFDS_DATA_DIR` if set, else
            `~/tensorflow_datasets`. If it has no prepared MNIST, the file cached by `keras.datasets.mnist` is used.
        download: Boolean, whether to download MNIST to `data_dir` with TFDS if it is in neither place. Defaults to `False`.

    Returns:
        A `Digits` of uint8 images `[n, 28, 28, 1]` and int32 labels `[n]`.

    Raises:
        FileNotFoundError: If MNIST is in neither place and `download` is `False`.
        ValueError: If the files are corrupt, or not MNIST.
        ConnectionError: If `download` is `True` and the server cannot be reached.
        ImportError: If `download` is `True` and tensorflow-datasets is not installed.

    Example:
    >>> digits = mnist_digits(download=True)  # doctest: +SKIP
    >>> digits.train_images.shape  # doctest: +SKIP
    (60000, 28, 28, 1)
    """
    cached = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets" / "mnist.npz"
    digits = _load_tfds(data_dir, download=False) or _load_cached(cached)
    if digits is None and not download:
        raise FileNotFoundError(
            f"MNIST was found neither prepared by TFDS in {_tfds_dir(data_dir)} nor at {cached}. Pass download=True, or "
            "data_dir= (or $TFDS_DATA_DIR) the folder that holds mnist/3.0.1."
        )
    return digits or _download(data_dir)


@contextlib.contextmanager
def _clear_errors(path):
    """Turns any exception that corrupt files raise into a ValueError that names them."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"MNIST in {path} is corrupt; remove it and fetch it again. {error}") from error


def check_digits(digits: Digits) -> Digits:
    """The digits as arrays; raises ValueError unless they have the shapes and dtypes of `Digits`."""
    digits = Digits(*map(np.asarray, digits))
    for images, labels in (digits[:2], digits[2:]):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 1 or not len(images):
            raise ValueError(f"Expected images [n, height, width, 1], uint8; got {images.shape}, {images.dtype}.")
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(f"Expected a label for each of {len(images)} images; got {labels.shape}, {labels.dtype}.")
    return digits


def _checked_mnist(digits):
    digits = check_digits(digits)
    sides, labels = {digits.train_images.shape[1:], digits.test_images.shape[1:]}, np.concatenate(digits[1::2])
    if sides != {(28, 28, 1)} or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"Expected images of 28x28 labelled 0 to 9; got {sides}, {labels.min()} to {labels.max()}.")
    return digits._replace(**{part: getattr(digits, part).astype(np.int32) for part in ("train_labels", "test_labels")})


def _load_cached(path):
    if not path.exists():
        return None
    with _clear_errors(path), np.load(path) as file:
        images, labels = ([file[f"{kind}_{part}"] for part in ("train", "test")] for kind in "xy")
        return _checked_mnist(Digits(images[0][..., None], labels[0], images[1][..., None], labels[1]))


def _download(data_dir):
    if not urllib.request.getproxies():  # Behind a proxy, a direct connection tells nothing.
        try:
            socket.create_connection((MNIST_HOST, 443), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"MNIST cannot be downloaded: {MNIST_HOST} cannot be reached ({error}).") from error
    return _load_tfds(data_dir, download=True)


def _tfds_dir(data_dir):
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _load_tfds(data_dir, download):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        if download:
            raise ImportError("Downloading MNIST needs tensorflow-datasets: pip install 'keras-glimpse[data]'.") from error
        return None
    folder = _tfds_dir(data_dir)
    with _clear_errors(folder / "mnist"):
        builder = tfds.builder("mnist", data_dir=folder)
    if download:
        builder.download_and_prepare()
    elif not (Path(builder.data_dir) / "dataset_info.json").exists():
        return None
    with _clear_errors(builder.data_dir):
        if builder.info.splits.total_num_examples > 70_000:  # TensorFlow would take memory for them, and stop the process.
            raise ValueError(f"Expected 70,000 digits; got {builder.info.splits.total_num_examples:,}.")
        arrays = builder.as_dataset(split=["train", "test"], batch_size=-1)
        train, test = ((part["image"], part["label"]) for part in arrays)
        return _checked_mnist(Digits(*train, *test))


def embedded_digits(test_fraction: float = 0.25) -> Digits:
    """Loads the 1,797 handwritten digits of scikit-learn, resized from 8x8 to 28x28 pixels.

    They are the test set of the UCI "Optical Recognition of Handwritten Digits". As in MNIST, a digit fills the central 20x20
    pixels. The random split is the same at every call. It mixes writers, so errors are lower than for unseen writers.

    Args:
        test_fraction: Float in (0, 1), the fraction of the images in the test set. Defaults to `0.25`.

    Returns:
        A `Digits` of uint8 images `[n, 28, 28, 1]` and int32 labels `[n]`.

    Raises:
        ValueError: If `test_fraction` is not in (0, 1).
        ImportError: If scikit-learn is not installed (`pip install keras-glimpse[data]`).

    Example:
    >>> digits = embedded_digits()
    >>> digits.train_images.shape, digits.test_images.shape
    ((1348, 28, 28, 1), (449, 28, 28, 1))
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie in (0, 1); got {test_fraction}.")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The embedded digits need scikit-learn: pip install 'keras-glimpse[data]'.") from error
    images, labels = load_digits(return_X_y=True)
    images = tf.image.resize(images.reshape(-1, 8, 8, 1), (20, 20), method="bicubic")
    images = tf.image.pad_to_bounding_box(tf.clip_by_value(images * (255.0 / 16.0), 0.0, 255.0), 4, 4, 28, 28)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = np.rint(images.numpy()).astype(np.uint8)[order], labels.astype(np.int32)[order]
    first = len(images) - round(test_fraction * len(images))
    return Digits(images[:first], labels[:first], images[first:], labels[first:])
