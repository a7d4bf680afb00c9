"""What the worker process of test_fuzz.py runs: it reads damaged files, uses impossible data, and says what became of it."""

import multiprocessing
import os
import resource
import sys
import tempfile
import traceback
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

import keras_glimpse
from keras_glimpse import data

MEMORY = 6 * 2**30  # bytes that a worker may allocate, beyond those it starts with
START_LIMIT = 600  # seconds to import TensorFlow
CLEAR = (ValueError, TypeError, OSError)
OUT_OF_MEMORY = (MemoryError, tf.errors.ResourceExhaustedError)  # the answer to a canvas of a billion pixels
DOCUMENTED = (tf.errors.OpError, RuntimeError, zipfile.BadZipFile)  # what Keras, TensorFlow and LiteRT raise themselves
OURS = (Path(keras_glimpse.__file__).parent, Path(__file__).parent)
SHAPE = (20, 24, 1)
IMAGES = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
HUGE = 1e30  # Sums of such pixels need not be finite.


class Outcome(NamedTuple):
    """ "accepted", "not finite" (accepted, and so is what went in), "clear error" or "anything else"; and what was raised."""

    kind: str
    said: str = ""


class WrongAnswer(Exception):
    """A result that cannot be right, where there should have been an error."""


class Worker:
    """A process that runs one call after another. After a crash or a hang, the next call gets a new process."""

    def __init__(self, limit: float = 60.0):
        self.limit, self.process = limit, None

    def __call__(self, function, *arguments) -> Outcome:
        if self.process is None:
            self._start()
        self.pipe.send((function, arguments))
        try:
            if self.pipe.poll(self.limit):
                return self.pipe.recv()
            said = f"no answer after {self.limit:g} seconds"
        except (EOFError, ConnectionError):
            self.process.join()
            said = f"the process died: exit code {self.process.exitcode}"
        self.stop()
        return Outcome("anything else", said)

    def _start(self):
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork.
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        assert self.pipe.poll(START_LIMIT) and self.pipe.recv() == "ready"

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def _run(pipe):
    for stream in (1, 2):  # TensorFlow's C++ logs at length about damaged files.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    pipe.send("ready")
    calls = 0
    while True:
        function, arguments = pipe.recv()
        pipe.send(outcome(function, *arguments))
        calls += 1
        if calls % 20 == 0:  # It takes longer than most calls.
            keras.backend.clear_session()


def outcome(function, *arguments) -> Outcome:
    more = OUT_OF_MEMORY if function is use else DOCUMENTED if function is read and arguments[3:] == (False,) else ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = function(*arguments)
        return Outcome("accepted" if np.isfinite(answer).all() else "not finite")
    except BaseException as error:
        is_clear = isinstance(error, (*CLEAR, *more)) and str(error).strip() and not _is_bug(error)
        return Outcome("clear error" if is_clear else "anything else", f"{type(error).__name__}: {str(error)[:300]}")


def _is_bug(error) -> bool:
    """Whether the error came out of a line of ours that is no `raise`: where a check should have been before."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return any(folder in Path(last.filename).parents for folder in OURS) and not last.line.startswith("raise")


# ---- Files ----


def read(path: Path, form: str, expected: np.ndarray | None = None, checked: bool = True) -> np.ndarray:
    """What a file or folder of a format says: of `IMAGES`, or which digits it holds; an error unless that is as `expected`."""
    if checked and form != "digits":
        keras_glimpse.check_file(path)
    answer = READERS[form](path)
    if form != "digits" and answer.shape != (2, 3) or expected is not None and not np.allclose(answer, expected):
        raise WrongAnswer("not the answer of the undamaged file")
    return answer


def _read_keras(path):
    return tf.nn.softmax(keras.models.load_model(path).look(IMAGES)["logits"][:, -1]).numpy()


def _read_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(path), num_threads=1).get_signature_runner()
    return np.concatenate([run(images=image[None])["probabilities"] for image in IMAGES])


def _read_saved_model(path):
    return tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant(IMAGES))["probabilities"].numpy()


def _read_digits(folder):
    """MNIST as TFDS prepares it or as Keras keeps it."""
    with mock.patch.dict(os.environ, KERAS_HOME=str(folder)):
        digits = data.mnist_digits(folder / "tfds")
    if digits.train_images.shape[1:] != (28, 28, 1) or len(digits.test_images) != len(digits.test_labels):
        raise WrongAnswer(f"digits of shapes {[part.shape for part in digits]}")
    return np.concatenate([part.ravel() for part in digits])


READERS = {"keras": _read_keras, "litert": _read_litert, "saved_model": _read_saved_model, "digits": _read_digits}


# ---- Data and arguments ----


def model(**arguments) -> keras_glimpse.GlimpseClassifier:
    """A small one, built for images of `SHAPE`."""
    defaults = {"num_classes": 3, "low_res_size": 5, "patch_size": 6, "hidden_units": 8}
    made = keras_glimpse.GlimpseClassifier(**defaults | arguments)
    made.build((None, *SHAPE))
    return made


def use(operation: str, images, labels, options: dict) -> np.ndarray:
    """Runs one of `OPERATIONS`; what it returns must be of the right shape, and finite where the images are."""
    with tempfile.TemporaryDirectory() as folder:
        return OPERATIONS[operation](images, labels, Path(folder), **options)


def _predict(images, labels, folder):
    return _sane(images, model().predict(images, batch_size=4, verbose=0), (3,))


def _look(images, labels, folder):
    seen = {name: values.numpy() for name, values in model().look(images).items()}
    _sane(images, seen["locations"], (2, 2))
    _sane(images, seen["patches"], (2, 6, 6, 2))
    return _sane(images, seen["logits"], (3, 3))


def _cascade(images, labels, folder, threshold=0.5, batch_size=4):
    probabilities, stages, macs = keras_glimpse.cascade_predict(model(), images, threshold, batch_size)
    if not ((stages >= 0) & (stages <= 2) & (macs > 0)).all():
        raise WrongAnswer(f"stages {stages}, macs {macs}")
    return _sane(images, probabilities, (3,))


def _curve(images, labels, folder):
    return _sane(images, keras_glimpse.cascade_curve(model(), images, labels, thresholds=[0.4, 0.9]).errors[None], (2,), 1)


def _fit(images, labels, folder, how, as_dataset):
    """No error may come after the weights have changed to something that is not finite, or in `evaluate` at all."""
    classifier = model()
    classifier.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    before = _flat(classifier)
    given = (tf.data.Dataset.from_tensor_slices((images, labels)).batch(4),) if as_dataset else (images, labels)
    try:
        losses = _train(classifier, how, given, as_dataset)
    except Exception:
        if not np.isfinite(_flat(classifier)).all() or (how == "evaluate" and not np.array_equal(_flat(classifier), before)):
            raise WrongAnswer(f"{how}: an error after the weights were damaged") from None
        raise
    if not np.isfinite(np.asarray(images, float)).all():
        raise WrongAnswer(f"{how} takes pixels that are not finite")
    answer = np.append(_flat(classifier), losses)
    return _sane(images, answer[None], answer.shape, 1)


def _train(classifier, how, given, as_dataset):
    if how == "fit":
        return classifier.fit(*given, batch_size=None if as_dataset else 4, verbose=0).history["loss"]
    if how == "validation":
        held_out = given[0] if as_dataset else given
        good = np.zeros((4, *SHAPE), np.float32), np.arange(4) % 3
        return classifier.fit(*good, validation_data=held_out, verbose=0).history["val_loss"]
    if how == "evaluate":
        return [classifier.evaluate(*given, verbose=0, return_dict=True)["loss"]]
    keras_glimpse.fit_greedy(classifier, *given, batch_size=4, compile_args={"jit_compile": False}, verbose=0)
    return []


def _flat(classifier):
    return np.concatenate([weights.ravel() for weights in classifier.get_weights()])


def _export(images, labels, folder, name, calibrate, threshold=None, batch_size=1, quantize=None):
    """Images to calibrate by, where 8 bits are asked for. No partial file may stay after an error."""
    classifier, path = model(num_glimpses=1), folder / name
    calibration = {"quantize": "int8", "calibration": images} if calibrate else {"quantize": quantize}
    try:
        if path.suffix:
            keras_glimpse.export_litert(classifier, path, threshold, batch_size=batch_size, **calibration)
        else:
            keras_glimpse.export_saved_model(classifier, path, threshold)
    except Exception:
        if left := list(folder.iterdir()):
            raise WrongAnswer(f"an error that leaves {left}") from None
        raise
    keras_glimpse.check_file(path)
    return np.zeros(1)


def _draw(images, labels, folder):
    keras_glimpse.draw_glimpses(model(), images, labels, folder / "glimpses.png")
    return np.zeros(1)


def _jitter(images, labels, folder, batch_size=4, **options):
    train = data.jittered(data.Digits(images, labels, images, labels), batch_size, **{"canvas": 48} | options).train
    batch, its_labels = next(train.as_numpy_iterator())
    if batch.ndim != 4 or len(batch) != len(its_labels):
        raise WrongAnswer(f"batches of {batch.shape}")
    return np.zeros(1)


def _build(images, labels, folder, **arguments):
    made, images = model(**arguments), np.full((2, *SHAPE), 0.5, np.float32)
    return _sane(images, made.look(images)["logits"].numpy(), (made.num_glimpses + 1, made.num_classes))


def _sane(images, answer, shape, count=None):
    count = len(images) if count is None else count
    if answer.shape != (count, *shape):
        raise WrongAnswer(f"an answer of shape {answer.shape}, not {(count, *shape)}")
    good = (np.abs(np.asarray(images, np.float64)) < HUGE).all(axis=(1, 2, 3))  # NaN compares false.
    good = good if len(good) == count else np.repeat(good.all(), count)
    if not np.isfinite(answer[good]).all():
        raise WrongAnswer("an answer that is not finite, for images that are")
    return answer


OPERATIONS = {"predict": _predict, "look": _look, "cascade": _cascade, "curve": _curve, "fit": _fit, "export": _export}
OPERATIONS |= {"draw": _draw, "jitter": _jitter, "build": _build}
