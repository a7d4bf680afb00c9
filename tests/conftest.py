"""Fixtures that several test files share."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest

import keras_glimpse
from keras_glimpse import data

gc.freeze()  # No collection has to look through all that TensorFlow and Keras have made by now.


def pytest_collection_modifyitems(items):
    """Examples of docstrings are as long as a reader likes, and run with the slow tests."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("slow")


@pytest.fixture(autouse=True, scope="module")
def memory():
    """A collection takes as long as a test does, with thousands of graphs alive: once a module is often enough."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session(free_memory=False)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def make_model():
    """Builds small models for 20x24 images, quick enough to train in every test."""

    def make(image_shape=(20, 24, 1), **kwargs):
        arguments = {"num_classes": 3, "low_res_size": 5, "patch_size": 6, "hidden_units": 8} | kwargs
        model = keras_glimpse.GlimpseClassifier(**arguments)
        model.build((None, *image_shape))
        return model

    return make


@pytest.fixture
def sharp_model(make_model):
    """One with larger weights, so that images differ in how sure it is: some stop at 0.8 after each stage.

    Each stage has its own temperature, as after `fit_temperatures`.
    """
    model = make_model(num_classes=4, num_glimpses=2)
    for net in (model.low_res_net, *model.glimpse_nets):
        net.set_weights([4 * weights for weights in net.get_weights()])
    model.temperatures = (1.25, 0.8, 1.5)
    return model


@pytest.fixture
def batch(rng):
    """64 images and labels for `make_model`."""
    return rng.random((64, 20, 24, 1), dtype=np.float32), rng.integers(0, 3, 64).astype(np.int32)


@pytest.fixture(scope="session")
def mnist():
    try:
        return data.mnist_digits()
    except FileNotFoundError as error:
        pytest.skip(str(error))
