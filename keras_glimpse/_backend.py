"""Tells at once what is missing, instead of somewhere deep in an import."""

import importlib.util

if importlib.util.find_spec("tensorflow") is None:
    raise ImportError("keras_glimpse needs TensorFlow: pip install 'keras-glimpse[tensorflow]', or the build you prefer.")

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(f"keras_glimpse needs the TensorFlow backend of Keras; KERAS_BACKEND is {keras.backend.backend()!r}.")
