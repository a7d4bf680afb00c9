"""Damaged files and impossible data: a clear error or a right answer, never a crash, a hang or a wrong answer.

Each case runs in another process with limits on memory and time. `python -m pytest tests/test_fuzz.py -m slow -n 0
--hypothesis-show-statistics` counts what became of them; HYPOTHESIS_PROFILE=thorough draws 1,000 of each kind, others each
time; FUZZ_UNCHECKED=1 counts only, without `check_file`: what Keras, TensorFlow and LiteRT do themselves.
"""

import functools
import json
import os
import shutil
import signal
import tempfile
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from fuzz_strategies import PREPARED, digit_archives, keras_files, litert_files, prepared_digits, records, saved_models, uses
from fuzz_worker import IMAGES, MEMORY, Worker, WrongAnswer, model, read, use
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import keras_glimpse

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
CHECKED = "FUZZ_UNCHECKED" not in os.environ
EXAMPLES = settings(
    max_examples=1000 if THOROUGH else 40,
    derandomize=not THOROUGH,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@pytest.fixture(scope="module")
def worker():
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("tensorflow_datasets")
    worker = Worker()
    yield worker
    worker.stop()


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    """A folder with models in every format and MNIST's two formats, with a few digits of noise; and their answers."""
    base = tmp_path_factory.mktemp("undamaged")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(3)]
    plain, own = model(), model(glimpse_net=keras.Sequential(layers))
    own.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=False)
    own.fit(IMAGES, np.arange(2), verbose=0)
    plain.save(base / "plain.keras")
    own.save(base / "own.keras")
    keras_glimpse.export_saved_model(plain, base / "saved_model", 0.5)
    keras_glimpse.export_litert(plain, base / "cascade.tflite", 0.5)
    keras_glimpse.export_litert(own, base / "full.tflite")
    keras_glimpse.export_litert(plain, base / "int8.tflite", quantize="int8", calibration=np.repeat(IMAGES, 10, axis=0))
    make_digits(base / "prepared" / PREPARED, base / "archive" / "datasets")
    return base


def make_digits(prepared, archive):
    tfds = pytest.importorskip("tensorflow_datasets")
    prepared.mkdir(parents=True)
    archive.mkdir(parents=True)
    rng, arrays, splits = np.random.default_rng(0), {}, []
    for name, count in {"train": 12, "test": 6}.items():
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count)
        arrays |= {f"x_{name}": images, f"y_{name}": labels}
        (prepared / f"mnist-{name}.tfrecord-00000-of-00001").write_bytes(records(images[..., None], labels))
        split = {"name": name, "numBytes": "1000", "shardLengths": [str(count)]}
        splits.append(split | {"filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": "tfrecord", "description": "noise", "splits": splits}
    (prepared / "dataset_info.json").write_text(json.dumps(info))
    tfds.builder("mnist", data_dir=prepared.parents[1]).info.features.save_config(prepared)
    np.savez(archive / "mnist.npz", **arrays)


FILES = {  # By format, the undamaged files, and how they are damaged.
    "keras": dict.fromkeys(["plain.keras", "own.keras"], keras_files),
    "saved_model": {"saved_model": saved_models},
    "litert": dict.fromkeys(["cascade.tflite", "full.tflite", "int8.tflite"], litert_files),
    "digits": {"prepared": prepared_digits, "archive": digit_archives},
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FILES)
@EXAMPLES
@given(st.data())
def test_damaged_files(worker, undamaged, form, drawn):
    """No code from a file is run either."""
    name = drawn.draw(st.sampled_from(sorted(FILES[form])))
    source, trap = undamaged / name, undamaged / "trap"
    damage = drawn.draw(FILES[form][name](source, *([trap] if form == "keras" else [])))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
        for part, content in damage.files.items():
            (path / part).unlink() if content is None else (path / part).write_bytes(content)
        count(worker(read, path, form, answer_of(source, form) if damage.exact else None, CHECKED))
    assert not trap.exists()


@functools.cache
def answer_of(source, form):
    return read(source, form)


def count(result):
    event(result.kind)
    assert result.kind != "anything else" or not CHECKED, result.said


@pytest.mark.slow
@EXAMPLES
@given(uses())
def test_impossible_data(worker, case):
    count(worker(use, *case[:4]))


# ---- What is counted ----


def fail(error):
    raise error


@pytest.mark.slow
def test_what_is_counted(worker, undamaged):
    assert worker(read, undamaged / "plain.keras", "keras", np.zeros((2, 3)))[1].startswith("WrongAnswer: ")
    assert worker(np.zeros, 1).kind == "accepted"
    assert worker(np.array, [np.nan]).kind == "not finite"
    assert worker(fail, ValueError("one that says something")).kind == "clear error"
    for function, argument, said in (
        (list.pop, [], "IndexError: pop from empty list"),
        (len, None, "TypeError: object of type 'NoneType' has no len()"),  # Not raised, but come upon.
        (fail, ValueError(), "ValueError: "),
        (fail, WrongAnswer("no probabilities"), "WrongAnswer: no probabilities"),
        (bytearray, 2 * MEMORY, "MemoryError: "),
        (os._exit, 3, "the process died: exit code 3"),
        (signal.raise_signal, signal.SIGSEGV, "the process died: exit code -11"),
    ):
        kind, found = worker(function, argument)
        assert kind == "anything else" and found.startswith(said), found


@pytest.mark.slow
def test_a_hang_is_counted(worker):
    worker(np.zeros, 1)  # There is a process.
    try:
        worker.limit, limit = 2.0, worker.limit
        assert worker(time.sleep, 1000) == ("anything else", "no answer after 2 seconds")
    finally:
        worker.limit = limit


# ---- Files that would run code if they could ----


def test_a_lambda_is_not_run(make_model, batch, tmp_path):
    """Code in a file that would write another file; where code is allowed it does, so this is such code."""
    trap = tmp_path / "trap"
    code = eval(f"lambda values: __import__('pathlib').Path({str(trap)!r}).touch() or values")
    net = keras.Sequential([keras.layers.Flatten(), keras.layers.Lambda(code, output_shape=(72,)), keras.layers.Dense(3)])
    make_model(glimpse_net=net, num_glimpses=1).save(tmp_path / "model.keras")
    trap.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="[Ll]ambda"):
        keras.models.load_model(tmp_path / "model.keras")
    assert not trap.exists()
    keras.models.load_model(tmp_path / "model.keras", safe_mode=False)(batch[0])
    assert trap.exists()


@pytest.mark.parametrize("place", ["the model", "a network", "the optimizer"])
def test_classes_of_other_modules_are_not_looked_up(make_model, tmp_path, place):
    """A configuration that names os.system or subprocess.Popen: refused, and nothing is run."""
    trap, path = tmp_path / "trap", tmp_path / "model.keras"
    model = make_model(num_glimpses=1)
    model.compile("sgd")
    model.save(path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    for evil in (
        {"module": "os", "class_name": "system", "config": {"command": f"touch {trap}"}, "registered_name": "system"},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", str(trap)]}, "registered_name": "Popen"},
        {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "exec"},
    ):
        config = json.loads(parts["config.json"])
        if place == "the model":
            config = evil
        elif place == "a network":
            config["config"]["glimpse_net"] = evil
        else:
            config["compile_config"]["optimizer"] = evil
        with zipfile.ZipFile(path, "w") as file:
            for name, content in (parts | {"config.json": json.dumps(config).encode()}).items():
                file.writestr(name, content)
        with pytest.raises((TypeError, ValueError), match="Could not|cannot|must be a Keras layer|is not"):
            keras.models.load_model(path).look(np.zeros((1, 20, 24, 1), np.float32))
        assert not trap.exists()
