"""Training without TensorFlow: programs of XLA that JAX runs give the weights that TensorFlow gives."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from images import programs, tasks, training

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.mark.slow
@pytest.mark.parametrize("name, row", [("translated-60", "ours"), ("kind", "ours"), ("streets", "whole")])
def test_jax_trains_as_tensorflow(name, row, tmp_path, monkeypatch):
    """In a process of its own, on images that are composed, cut out of files, and varied."""
    pytest.importorskip("jax")
    # Adam divides a gradient by its size: where it is but a rounding error, so is the direction of the step.
    monkeypatch.setattr(training.Run, "adam", lambda self, steps: keras.optimizers.SGD(0.001))
    task = tasks.load(name, smoke=True)
    short = training.short(training.rows()[name][row])
    run = training.Run(replace(short, epochs={"1": 1} if row == "ours" else 1), 0, task, tmp_path)
    folder = tmp_path / "programs" / "row"
    programs.write_programs(folder, run, 1, None)
    command = [sys.executable, RECIPES / "images/run_programs.py", folder, "--data-dir", "/", "--out", tmp_path / "trained"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=300)
    with np.load(tmp_path / "trained" / "row-seed0.npz") as content:
        found = list(content.values())
    before, expected = trained_by_tensorflow(run)
    changed, differs = distance(expected, before), distance(expected, found)
    assert changed > 1e-3 and differs < 0.02 * changed  # Sums in another order; another order of images differs by `changed`.


def distance(values, others):
    """Euclidean, of all weights together."""
    return np.sqrt(sum(np.sum(np.square(value - other)) for value, other in zip(values, others, strict=True)))


def trained_by_tensorflow(run):
    keras.utils.set_random_seed(0)
    model, at = run.untrained(), tf.Variable([0, 0])
    files, pixels = programs._files(run.task)
    steps = len(run.task.train(tf.zeros([2], tf.int64))) // run.row.batch_size
    model.compile(run.adam(steps), **{"stage": 1} if run.row.name == "ours" else {"loss": training.LOSS})
    model.optimizer.build(model.trainable_variables)
    if files:
        pixels.assign(tf.stack([tf.io.decode_jpeg(tf.io.read_file(file), dct_method="INTEGER_ACCURATE") for file in files]))
    before = [variable.numpy() for variable in model.variables]
    program = programs.epoch_program(model, run.task, run.row.batch_size, at, files, pixels)
    after = tf.function(program, jit_compile=True, autograph=False)()
    return before, [value.numpy() for value in after[: len(before)]]
