"""Writes the training of a row as XLA programs, which run on a GPU without TensorFlow; and tests what they have trained.

python recipes/images/programs.py dump FOLDER kind --data-dir ../DeepPCB --row ours --seeds 3
python recipes/images/run_programs.py FOLDER --data-dir ../DeepPCB       # needs jax, numpy and pillow only
python recipes/images/programs.py load FOLDER --runs runs/images         # then run.py tests it, as any row that is trained

A program is an epoch of a stage: it draws the order of the images and their variations, composes them, and runs for each batch
the `train_step` that `fit` runs. Two things are not as in `run.py`: a last batch that is not full is left out, and the order
is drawn with seeds of 32 bits, for XLA has no others.
"""

import argparse
import csv
import hashlib
import json
import pickle
import shutil
import sys
import zlib
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import runs
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2

from images import boards, dataset, streets, tasks, training


class Decoded:
    """Of files of images to train on an array of all of them: XLA cannot read files."""

    def __init__(self, files: list[str], channels: int):
        self.files = files
        self._numbers = {file: number for number, file in enumerate(files)}
        first = dataset.decoded(files[0], channels)
        self.pixels = tf.Variable(tf.zeros([len(files), *first.shape], tf.uint8), trainable=False)
        self._read = None

    def read(self):
        """Within a program, once: what is read in a loop cannot be vectorized."""
        self._read = self.pixels.read_value()

    def image(self, number, channels):
        """In place of `dataset.decoded`."""
        return dataset.decoded(number, channels) if number.dtype == tf.string else tf.gather(self._read, number)

    def numbered(self, row):
        """A row of names of files as their numbers."""
        return np.array([self._numbers[name] for name in row])


def epoch_program(model: keras.Model, task: dataset.Task, batch_size: int, at: tf.Variable, decoded: Decoded | None):
    """A function that trains for the epoch whose seed and number `at` holds, and returns the values of all variables."""
    count = len(task.train(tf.zeros([2], tf.int64)))
    steps = count // batch_size

    def epoch():
        seeds = tf.random.split(at)
        model.seed = tf.cast(seeds[0][0], tf.int64)
        images = task.train(seeds[1])
        order = tf.argsort(tf.random.stateless_uniform([count], seeds[0]))[: steps * batch_size]

        def batches(row):
            is_file = isinstance(row, np.ndarray) and row.dtype.kind not in "iuf"
            row = tf.gather(decoded.numbered(row) if is_file else row, order)
            return tf.reshape(row, [steps, batch_size, *row.shape[1:]])

        rows = tf.nest.map_structure(batches, (images.rows, images.labels))
        model.reset_metrics()
        if decoded:
            decoded.read()

        def step(i):
            row, labels = tf.nest.map_structure(lambda each: tf.gather(each, i), rows)
            model.train_step((tf.vectorized_map(lambda each: images.make(*each), row), labels))
            return [i + 1]

        tf.while_loop(lambda i: i < steps, step, [0])
        return [variable.value.read_value() for variable in variables(model)]

    return epoch


def variables(model: keras.Model) -> list:
    """All that training changes."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return list({id(variable): variable for variable in found}.values())


def write_program(path: Path, model: keras.Model, epoch, inputs: dict, epochs: int) -> None:
    """Writes a program, and the values of its inputs; `inputs` has the names of variables that are put in there."""
    function = tf.function(epoch, jit_compile=True, autograph=False)
    seed = getattr(model, "seed", None)
    concrete = function.get_concrete_function()
    program = function.experimental_get_compiler_ir()(stage="hlo_serialized")
    if seed is not None:
        model.seed = seed
    number_of = {id(variable.value.handle): number for number, variable in enumerate(variables(model))}
    number_of |= {id(variable.handle): name for name, variable in inputs.items()}
    inputs = [
        number_of[id(each)] if id(each) in number_of else _array(path.parent.parent, each) for each in concrete.captured_inputs
    ]
    if not _is_read(program, inputs.index("at")):
        raise RuntimeError(f"{path}: XLA has taken the seed for a constant, as it does where an image is sliced at random.")
    path.with_suffix(".hlo").write_bytes(zlib.compress(_without_copies(program)))
    content = {
        "inputs": inputs,
        "paths": [variable.path for variable in variables(model)],
        "values": [variable.numpy() for variable in variables(model)],
        "weights": len(model.variables),
        "measured": len(model.metrics_variables),
        "epochs": epochs,
    }
    path.with_suffix(".pkl").write_bytes(zlib.compress(pickle.dumps(content)))


def _is_read(program, number):
    """Whether a program uses the parameter of this number."""
    module = hlo_pb2.HloModuleProto.FromString(program)
    entry = next(each for each in module.computations if each.id == module.entry_computation_id)
    wanted = next(each for each in entry.instructions if each.opcode == "parameter" and each.parameter_number == number)
    return any(wanted.id in each.operand_ids for each in entry.instructions)


def _without_copies(program):
    """A program that returns values themselves where it returned copies of them: not every version of JAX translates copies."""
    module = hlo_pb2.HloModuleProto.FromString(program)
    for computation in module.computations:
        copied = {each.id: each.operand_ids[0] for each in computation.instructions if each.opcode == "copy"}
        kept = [each for each in computation.instructions if each.id not in copied]
        for each in kept:
            each.operand_ids[:] = [copied.get(operand, operand) for operand in each.operand_ids]
        kept = [type(each).FromString(each.SerializeToString()) for each in kept]
        del computation.instructions[:]
        computation.instructions.extend(kept)
    return module.SerializeToString()


def _array(folder, tensor):
    array = tensor.numpy()
    name = hashlib.sha256(array.tobytes()).hexdigest()[:16] + ".npz"
    if not (folder / name).exists():
        np.savez_compressed(folder / name, array)
    return name


def dump(folder: Path, run: training.Run, seeds: int, decoded: Decoded | None = None) -> None:
    """Writes the programs of a row, and its first weights for each seed."""
    folder.mkdir(parents=True)
    row, task = run.row, run.task
    steps = len(task.train(tf.zeros([2], tf.int64))) // row.batch_size
    at = tf.Variable([0, 0], trainable=False)
    inputs = {"at": at} | ({"pixels": decoded.pixels} if decoded else {})
    for seed in reversed(range(seeds)):
        keras.utils.set_random_seed(seed)
        model = run.new_glimpses() if row.name == "ours" else run.new_alternative()
        np.savez_compressed(folder / f"seed{seed}.npz", *[variable.numpy() for variable in model.variables])
    stages = row.stages if row.name == "ours" else {"all": row.epochs}
    for n, (stage, epochs) in enumerate(stages.items()):
        optimizer = run.adam(steps * epochs)
        if row.name == "ours":
            model.compile(optimizer, stage=stage)
        else:
            model.compile(optimizer, training.LOSS)
        optimizer.build(model.trainable_variables)
        epoch = epoch_program(model, task, row.batch_size, at, decoded)
        write_program(folder / f"{n}_{stage}", model, epoch, inputs, epochs)
    about = {"row": asdict(row), "commit": runs.commit(), "seeds": seeds, "channels": task.image_shape[-1]}
    (folder / "about.json").write_text(json.dumps(about, indent=2))
    if decoded:
        (folder / "files.txt").write_text("\n".join(decoded.files))
