"""Training without TensorFlow: programs of XLA that JAX runs give the weights that TensorFlow gives."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gpu_steps
import keras
import numpy as np
import pytest
import tensorflow as tf
from images import programs, tasks, training

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.mark.slow
@pytest.mark.parametrize("name, row", [("kind", "ours"), ("streets", "whole")])
def test_jax_trains_as_tensorflow(name, row, tmp_path, monkeypatch):
    """In a process of its own, on images that are cut out of files, and varied."""
    pytest.importorskip("jax")
    # Adam divides a gradient by its size: where it is but a rounding error, so is the direction of the step.
    monkeypatch.setattr(training.Run, "adam", lambda self, steps: keras.optimizers.SGD(0.001))
    task = tasks.load(name, smoke=True)
    short = training.short(training.rows()[name][row])
    run = training.Run(replace(short, epochs={"1": 1} if row == "ours" else 1), 0, task, tmp_path)
    folder = tmp_path / "programs" / "row"
    programs.write_programs(folder, run, 1, None)
    trained_by_jax(folder, tmp_path / "trained")
    with np.load(tmp_path / "trained" / "row-seed0.npz") as content:
        found = list(content.values())
    before, expected = trained_by_tensorflow(run)
    changed, differs = distance(expected, before), distance(expected, found)
    assert changed > 1e-3 and differs < 0.02 * changed  # Sums in another order; another order of images differs by `changed`.


@pytest.mark.slow
def test_what_was_trained_elsewhere_is_tested_as_any_row(tmp_path, monkeypatch):
    pytest.importorskip("jax")
    folder, trained, kept_in = (str(tmp_path / name) for name in ("programs", "trained", "runs"))
    for command in (
        ["dump", folder, "translated-60", "--row", "ours", "--seeds", "1"],
        ["load", folder, trained, "--runs", kept_in],
    ):
        if command[0] == "load":
            trained_by_jax(Path(folder) / "translated-60-ours", trained)
        monkeypatch.setattr(sys, "argv", ["programs.py", *command, "--smoke"])
        programs.main()
    task = tasks.load("translated-60", smoke=True)
    row = training.short(training.rows()["translated-60"]["ours"])
    result = training.Run(row, 0, task, Path(kept_in), smoke=True).result(tmp_path)
    assert result["sweeps"] == 2 and len(result["details"]["errors"]) == 2 and result["details"]["trained on"] == "cpu"
    model = keras.models.load_model(next(Path(kept_in).rglob("model.keras")))
    assert model.trained_glimpses == (1,) and model.active_glimpses == 1
    with np.load(Path(trained) / "translated-60-ours-seed0.npz") as content:
        for variable, value in zip(model.variables, content.values()):
            np.testing.assert_array_equal(variable, value)


@pytest.mark.slow
def test_steps_to_be_timed_elsewhere(tmp_path):
    """In float32, JAX gives the weights of TensorFlow; in bfloat16, it goes the same way."""
    pytest.importorskip("jax")
    folder = gpu_steps.write_steps(tmp_path, "paper", "fine_tune", batch_size=8, steps=2)
    assert len({path.read_bytes() for path in folder.glob("*.hlo")}) == 3  # A CPU has no TF32, but its program asks.
    assert keras.config.dtype_policy().name == "float32" and tf.config.experimental.tensor_float_32_execution_enabled()
    out = tmp_path / "measured.csv"
    in_jax("benchmarks/run_gpu_steps.py", folder, "--rounds", "1", "--out", out, "--kernels", tmp_path / "kernels")
    with out.open() as file:
        lines = {line["precision"]: line for line in csv.DictReader(file)}
    assert float(lines["float32"]["to cpu"]) < 1e-5 < float(lines["bfloat16"]["to cpu"]) < 0.2
    assert all(float(line["ms a step"]) > 0 for line in lines.values())


def trained_by_jax(folder, out):
    in_jax("images/run_programs.py", folder, "--data-dir", "/", "--out", out)


def in_jax(recipe, *args):
    """Runs a recipe that needs no TensorFlow."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, RECIPES / recipe, *args], check=True, capture_output=True, env=environment, timeout=300)


def distance(values, others):
    """Euclidean, of all weights together."""
    return np.sqrt(sum(np.sum(np.square(value - other)) for value, other in zip(values, others, strict=True)))


def trained_by_tensorflow(run):
    keras.utils.set_random_seed(0)
    model, at = run.untrained(), tf.Variable([0, 0])
    images = run.task.train(tf.zeros([2], tf.int64))
    files, pixels = programs._files(images)
    steps = len(images) // run.row.batch_size
    model.compile(run.adam(steps), **{"stage": 1} if run.row.name == "ours" else {"loss": training.LOSS})
    model.optimizer.build(model.trainable_variables)
    if files:
        pixels.assign(tf.stack([tf.io.decode_jpeg(tf.io.read_file(file), dct_method="INTEGER_ACCURATE") for file in files]))
    before = [variable.numpy() for variable in model.variables]
    program = programs.epoch_program(model, run.task, run.row.batch_size, at, files, pixels)
    after = tf.function(program, jit_compile=True, autograph=False)()
    return before, [value.numpy() for value in after[: len(before)]]
