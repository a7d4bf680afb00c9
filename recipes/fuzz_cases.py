"""The cases of fuzz.py: what is spoiled, how, and what is then done with it. Run by its worker processes."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from functools import partial
from pathlib import Path

import fuzz_data
import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from ai_edge_litert.interpreter import Interpreter
from fuzz_spoil import (
    Case,
    Insane,
    evil,
    spoil_bytes,
    spoil_file,
    spoil_flatbuffer,
    spoil_json,
    spoil_npz,
    spoil_parts,
    spoil_proto,
)

import keras_glimpse
from keras_glimpse import data

MEMORY = 6 * 2**30  # bytes that a process may have, beyond those it starts with
IMAGES = np.random.default_rng(0).random((2, 20, 24, 1), dtype=np.float32)
CLEAR = (ValueError, TypeError, OSError)
DOCUMENTED = (tf.errors.OpError, RuntimeError, zipfile.BadZipFile)  # what those raise that read files, as they say
OURS = ("keras_glimpse", "export", "layers", "recipes")
TRAP = "trap"  # the file that code from a file would write


# ---- The process ----


def work(pipe, seed: int, base: Path, checked: bool):
    """Runs the cases whose kind and number come through the pipe; sends how each was spoiled, then what became of it."""
    limit_memory()
    pipe.send("ready")
    while True:
        kind, number = pipe.recv()
        rng = random.Random(f"{seed}/{kind}/{number}")
        with tempfile.TemporaryDirectory() as folder:
            case = KINDS[kind](rng, base, Path(folder), checked)
            pipe.send(case.spoiled)
            pipe.send(judged(case, base / TRAP, clear_errors(kind, checked)))
        if number % 20 == 0:  # It takes longer than most cases.
            keras.backend.clear_session()


def clear_errors(kind, checked):
    if kind == "data":  # Who asks for a canvas of a billion pixels is told that there is no memory for it.
        return (*CLEAR, MemoryError, tf.errors.ResourceExhaustedError)
    return CLEAR if checked else (*CLEAR, *DOCUMENTED)


def limit_memory():
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def judged(case: Case, trap: Path, clear) -> tuple[str, str]:
    """What became of a case, as fuzz.py has it, and what was said."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = case.attempt()
        outcome, said = ("accepted" if np.isfinite(answer).all() else "not finite"), ""
        if case.expected is not None and not (np.shape(answer) == case.expected.shape and np.allclose(answer, case.expected)):
            outcome, said = "anything else", "another answer"
    except BaseException as error:
        is_clear = isinstance(error, clear) and str(error).strip() and not stumbled(error)
        outcome = "clear error" if is_clear else "anything else"
        said = f"{type(error).__name__}: {str(error)[:300]}"
    if trap.exists():
        trap.unlink()
        return "anything else", "code from the file was run"
    return outcome, said


def stumbled(error) -> bool:
    """Whether it was our own code that failed, where it should have raised an error of its own."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).parent.name in OURS and not last.line.startswith("raise")


# ---- Whole files ----


def prepare(base: Path):
    """Models in every format, and MNIST's two formats with a few digits of noise; beside the models, their answers."""
    keras.utils.set_random_seed(0)
    plain, own = fuzz_data.model(), fuzz_data.model(glimpse_net=fuzz_data.conv_net())
    own.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=False)
    own.fit(IMAGES, np.arange(2), verbose=0)
    plain.save(base / "plain.keras")
    own.save(base / "own.keras")
    keras_glimpse.export_saved_model(plain, base / "saved_model", 0.5)
    keras_glimpse.export_litert(plain, base / "cascade.tflite", 0.5)
    keras_glimpse.export_litert(own, base / "full.tflite")
    keras_glimpse.export_litert(plain, base / "int8.tflite", quantize="int8", calibration=np.repeat(IMAGES, 10, axis=0))
    prepare_digits(base)
    files = [*base.glob("*.keras"), *base.glob("*.tflite"), base / "saved_model"]
    np.savez(base / "answers.npz", **{path.name: answers(path, True) for path in files})


def prepare_digits(base):
    folder = base / "tfds" / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    rng, arrays = np.random.default_rng(0), {}
    splits = {"train": 12, "test": 6}
    for name, count in splits.items():
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count)
        arrays |= {f"x_{name}": images, f"y_{name}": labels}
        records = [record(image[..., None], label) for image, label in zip(images, labels)]
        write_records(folder / f"mnist-{name}.tfrecord-00000-of-00001", records)
    about = [{"name": name, "numBytes": "1000", "shardLengths": [str(count)]} for name, count in splits.items()]
    about = [each | {"filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"} for each in about]
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": "tfrecord", "description": "noise", "splits": about}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    tfds.builder("mnist", data_dir=base).info.features.save_config(folder)
    np.savez(base / "mnist.npz", **arrays)


def record(image, label) -> bytes:
    image = tf.train.BytesList(value=[tf.io.encode_png(image).numpy()])
    features = {"image": tf.train.Feature(bytes_list=image)}
    if label is not None:
        features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for each in records:
            writer.write(each)


# ---- What is done with a file ----


def answers(path: Path, checked: bool) -> np.ndarray:
    """The probabilities of two images, by whatever reads the file."""
    if checked:
        keras_glimpse.check_file(path)
    if path.suffix == ".keras":
        found = tf.nn.softmax(keras.models.load_model(path).look(IMAGES)["logits"][:, -1]).numpy()
    elif path.suffix == ".tflite":
        run = Interpreter(model_path=str(path), num_threads=1).get_signature_runner()
        found = np.concatenate([run(images=image[None])["probabilities"] for image in IMAGES])
    else:
        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        found = serve(images=tf.constant(IMAGES))["probabilities"].numpy()
    if checked and found.shape != (2, 3):
        raise Insane(f"answers of shape {found.shape}")
    return found


def known(base, name):
    with np.load(base / "answers.npz") as file:
        return file[name]


# ---- The kinds ----


def spoiled_keras(rng, base, folder, checked):
    source, path = base / rng.choice(["plain.keras", "own.keras"]), folder / "model.keras"
    with zipfile.ZipFile(source) as file:
        parts = [(name, file.read(name)) for name in file.namelist()]
    how = rng.choice(["bytes", "bytes", "parts", "weights", "config", "config", "config"])
    if how == "bytes":
        content, spoiled = spoil_bytes(rng, source.read_bytes())
        path.write_bytes(content)
        return Case(spoiled, lambda: answers(path, checked), known(base, source.name))
    if how == "config":
        tree, spoiled = spoil_json(rng, json.loads(dict(parts)["config.json"]), evil(base / TRAP))
        parts = [(name, json.dumps(tree).encode() if name == "config.json" else content) for name, content in parts]
    elif how == "weights":
        weights, spoiled = spoil_bytes(rng, dict(parts)["model.weights.h5"])
        parts = [(name, weights if name == "model.weights.h5" else content) for name, content in parts]
    else:
        parts, spoiled = spoil_parts(rng, parts)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in parts:
            file.writestr(name, content)
    return Case(f"{how}: {spoiled}", lambda: answers(path, checked))


def spoiled_saved_model(rng, base, folder, checked):
    path = folder / "1"
    shutil.copytree(base / "saved_model", path)
    if rng.random() < 0.3:
        graph = path / "saved_model.pb"
        content, spoiled = spoil_proto(rng, graph.read_bytes())
        graph.write_bytes(content)
        return Case(spoiled, lambda: answers(path, checked))
    return Case(spoil_file(rng, path), lambda: answers(path, checked), known(base, "saved_model"))


def spoiled_tflite(rng, base, folder, checked):
    source, path = base / rng.choice(["cascade.tflite", "full.tflite", "int8.tflite"]), folder / "model.tflite"
    damaged = rng.random() < 0.6
    content, spoiled = (spoil_bytes if damaged else spoil_flatbuffer)(rng, source.read_bytes())
    path.write_bytes(content)
    return Case(spoiled, lambda: answers(path, checked), known(base, source.name) if damaged else None)


def spoiled_tfds(rng, base, folder, checked):
    """MNIST as TFDS prepares it, or as Keras keeps it."""
    os.environ["KERAS_HOME"] = str(folder)
    with np.load(base / "mnist.npz") as file:
        arrays = dict(file)
    expected = np.concatenate([arrays[name].ravel() for name in ("x_train", "y_train", "x_test", "y_test")])

    def attempt():
        digits = data.mnist_digits(folder / "tfds")
        if digits.train_images.shape[1:] != (28, 28, 1) or len(digits.test_images) != len(digits.test_labels):
            raise Insane(f"digits of shapes {[part.shape for part in digits]}")
        return np.concatenate([part.ravel() for part in digits])

    how = rng.choice(["npz", "file", "file", "info", "record"])
    if how == "npz":
        return Case(spoil_npz(rng, base / "mnist.npz", folder / "datasets" / "mnist.npz", arrays), attempt, expected)
    shutil.copytree(base / "tfds", folder / "tfds")
    prepared = folder / "tfds" / "mnist" / "3.0.1"
    if how == "file":
        return Case(spoil_file(rng, prepared), attempt, expected)
    if how == "info":
        tree, spoiled = spoil_json(rng, json.loads((prepared / "dataset_info.json").read_text()), [])
        (prepared / "dataset_info.json").write_text(json.dumps(tree))
        return Case(spoiled, attempt)
    shape, label = rng.choice([(28, 28, 1), (30, 28, 1), (28, 28, 3), (1, 1, 1)]), rng.choice([None, 10, -1, 2**40, 3])
    records = [record(np.zeros((28, 28, 1), np.uint8), 1)] * 5 + [record(np.zeros(shape, np.uint8), label)]
    write_records(prepared / "mnist-test.tfrecord-00000-of-00001", records)
    return Case(f"an image of {shape} labelled {label}", attempt)


FAILURES = {  # Nothing is spoiled: what must be counted as anything else, or not.
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(0),
    "hang": lambda: time.sleep(1000),
    "memory": lambda: bytearray(2 * MEMORY),
    "odd error": lambda: [].pop(),
    "stumbling": lambda: len(None),
    "no words": partial(fuzz_data.fail, ValueError()),
    "not sane": partial(fuzz_data.fail, Insane("no probabilities")),
    "clear error": partial(fuzz_data.fail, ValueError("one that says something")),
    "not finite": lambda: np.array([np.nan]),
    "accepted": lambda: np.zeros(1),
    "other answer": lambda: np.ones(1),
}


def failing(name, rng, base, folder, checked):
    return Case(name, FAILURES[name], np.zeros(1) if name == "other answer" else None)


def running_code(rng, base, folder, checked):
    return Case("code", lambda: (base / TRAP).write_text(""))


KINDS = {
    **{f"self-test: {name}": partial(failing, name) for name in FAILURES},
    "self-test: code": running_code,
    "keras": spoiled_keras,
    "saved_model": spoiled_saved_model,
    "tflite": spoiled_tflite,
    "tfds": spoiled_tfds,
    "data": fuzz_data.spoiled_data,
}
