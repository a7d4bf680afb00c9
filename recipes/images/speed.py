"""The milliseconds an image that a model takes on one core; of LiteRT too, if that is there: pip install -e ".[litert]"."""

import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import keras
import numpy as np
import tensorflow as tf

import keras_glimpse

ROUNDS = 7


def milliseconds(path: Path, images: np.ndarray, threshold: float | None = None) -> dict[str, float]:
    """Of the model in a `.keras` file, and of its cascade at a threshold, if there is one."""
    return _process().submit(_milliseconds, path, images, threshold).result()


@cache
def _process():
    """A process for all measurements: what TensorFlow runs on is chosen before its first operation."""
    return ProcessPoolExecutor(1, get_context("spawn"), _on_one_core)


def _on_one_core():
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _milliseconds(path, images, threshold):
    model = keras.models.load_model(path, compile=False)
    options = {"runtime": "tensorflow"} if isinstance(model, keras_glimpse.GlimpseClassifier) else {}  # As in `predict`.
    net = tf.function(lambda batch: model(batch, training=False, **options))
    timed = {
        f"keras, batch {size}": _timed(lambda size=size: net(tf.constant(images[:size]))) / size for size in (1, len(images))
    }
    if threshold:
        cascade = lambda: keras_glimpse.cascade_predict(model, images, threshold)  # noqa: E731
        timed["keras, cascade"] = _timed(cascade) / len(images)
    timed |= _litert(model, images, threshold)
    return {name: round(1000 * seconds, 3) for name, seconds in timed.items()}


def _litert(model, images, threshold):
    """Of one image at a time; the cascade's are the mean over the images."""
    try:
        litert = import_module("litert")  # A recipe does not need it.
    except ImportError:
        return {}
    floats = images.astype(np.float32) / (255 if isinstance(model, keras_glimpse.GlimpseClassifier) else 1)

    def seconds(file):
        def all_images():
            total = 0.0
            for image in floats:
                file.put(image[None])
                total += file.seconds()
            return total / len(floats)

        all_images()
        return median(all_images() for _ in range(3))

    if not isinstance(model, keras_glimpse.GlimpseClassifier):
        signature = [keras.InputSpec(shape=(1, *images.shape[1:]), dtype="float32")]
        write = lambda path: model.export(path, format="litert", input_signature=signature, verbose=False)  # noqa: E731
        return {"litert": seconds(litert.opened(write))}
    export = lambda threshold: lambda path: keras_glimpse.export_litert(model, path, threshold=threshold)  # noqa: E731
    named = {"litert": None} | ({"litert, cascade": threshold} if threshold else {})
    return {name: seconds(litert.opened(export(each))) for name, each in named.items()}


def _timed(run):
    run(), run()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)
