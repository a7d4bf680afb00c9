"""Trains rows on a GPU without TensorFlow: writes their training as XLA programs, and reads the weights that these gave.

python recipes/images/programs.py dump FOLDER kind --data-dir ../DeepPCB --row ours --seeds 3
python recipes/images/run_programs.py FOLDER/* --data-dir ../DeepPCB --out TRAINED     # there; needs jax, numpy, pillow
python recipes/images/programs.py load FOLDER TRAINED --data-dir ../DeepPCB            # run.py then tests what it finds

A program is an epoch of a stage: it draws the order of the images and their variations, composes them, and runs for each batch
the `train_step` that `fit` runs. It differs from `run.py` in two points: a last batch that is not full is left out, and the
seeds of order and variations have 32 bits, for XLA has no others.
"""

import argparse
import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import runs
import tensorflow as tf
from arguments import at_least, in_one_line

from images import dataset, hlo, tasks, training


def main():
    args = _parse_args()
    with in_one_line():
        if args.do == "dump":
            dump(args)
        else:
            load(args)


def dump(args: argparse.Namespace) -> None:
    """Writes the programs of rows, and their first weights for each seed."""
    task = tasks.load(args.task, args.data_dir, args.smoke)
    for name in args.row or training.ROWS:
        row = training.rows()[args.task][name]
        row = training.short(row) if args.smoke else row
        run = training.Run(row, 0, task, args.folder)
        write_programs(args.folder / f"{args.task}-{name}", run, args.seeds or row.seeds, args.data_dir)


def write_programs(folder: Path, run: training.Run, seeds: int, data_dir: Path | None) -> None:
    """Writes the programs of a row."""
    folder.mkdir(parents=True)
    row, task, at = run.row, run.task, tf.Variable([0, 0])
    images = task.train(tf.zeros([2], tf.int64))
    files, pixels = _files(images)
    for seed in reversed(range(seeds)):
        keras.utils.set_random_seed(seed)
        model = run.untrained()
        np.savez_compressed(folder / f"seed{seed}.npz", *[variable.numpy() for variable in model.variables])
    for n, (stage, epochs) in enumerate(row.stages.items()):
        optimizer = run.adam(len(images) // row.batch_size * epochs)
        model.compile(optimizer, **{"stage": stage} if row.name == "ours" else {"loss": training.LOSS})
        model.optimizer.build(model.trainable_variables)
        program = epoch_program(model, task, row.batch_size, at, files, pixels)
        given = {"at": at} | ({"pixels": pixels} if files else {})
        hlo.write(folder / f"{n}_{stage}", program, model, given, epochs)
    names = [str(Path(file).relative_to(data_dir or "/")) for file in files]
    about = {"row": asdict(row), "commit": runs.commit(), "channels": task.image_shape[-1], "files": names}
    runs.write_json(folder / "about.json", about)


def _files(images):
    """The files of the images to train on, which XLA cannot read, and a variable in place of what they contain."""
    if not _has_files(images.rows[0]):
        return [], None
    files = np.unique(images.rows[0]).tolist()
    if others := [file for file in files if not file.endswith(".jpg")]:
        raise ValueError(f"Programs are for images in .jpg files; got {others[0]}.")
    shape = tf.io.decode_jpeg(tf.io.read_file(files[0])).shape
    return files, tf.Variable(tf.zeros([len(files), *shape], tf.uint8))


def _has_files(row):
    return isinstance(row, np.ndarray) and row.dtype.kind in "UO"


def epoch_program(model: keras.Model, task: dataset.Task, batch_size: int, at: tf.Variable, files: list[str], pixels):
    """A function that trains for the epoch whose seed and number `at` holds, and returns the values of all variables."""
    number_of = {file: number for number, file in enumerate(files)}

    def epoch():
        seeds = tf.random.split(at)
        model.seed = tf.cast(seeds[0][0], tf.int64)
        images = task.train(seeds[1])
        steps = len(images) // batch_size
        order = tf.argsort(tf.random.stateless_uniform([len(images)], seeds[0]))[: steps * batch_size]

        def batches(row):
            row = tf.gather([number_of[file] for file in row] if _has_files(row) else row, order)
            return tf.reshape(row, [steps, batch_size, *row.shape[1:]])

        rows = tf.nest.map_structure(batches, (images.rows, images.labels))
        model.reset_metrics()

        def step(i):
            row, labels = tf.nest.map_structure(lambda each: tf.gather(each, i), rows)
            model.train_step((tf.vectorized_map(lambda each: images.make(*each), row), labels))
            return [i + 1]

        with dataset.already_decoded(pixels.read_value() if files else None):
            tf.while_loop(lambda i: i < steps, step, [0])
        return [variable.value.read_value() for variable in hlo.variables(model)]

    return epoch


def load(args: argparse.Namespace) -> None:
    """Puts weights that were trained elsewhere where `run.py` finds the models of rows that it has trained."""
    for path in sorted(args.trained.glob("*.npz")):
        name, seed = path.stem.rsplit("-seed", 1)
        about = json.loads((args.folder / name / "about.json").read_text())
        row = training.Row(**about["row"])
        task = tasks.load(row.task, args.data_dir, args.smoke)
        run = training.Run(row, int(seed), task, args.runs)
        model = run.untrained()
        if row.name == "ours":  # It notes which glimpses were trained, and on bytes.
            model.compile(run.adam(1), stage=1)
            model.fit(task.validation.dataset(1).take(1), verbose=0)
        with np.load(path) as content:
            for variable, value in zip(model.variables, content.values(), strict=True):
                variable.assign(value)
        run.begin(about["commit"])
        trained = json.loads(path.with_suffix(".json").read_text())
        for stage, log in trained["logs"].items():
            with (run.folder / f"log{stage}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("epoch", "seconds"), *enumerate(epoch["seconds"] for epoch in log)])
        runs.write_json(run.folder / "trained_on.json", {"device": trained["device"]})
        run.keep(model)
        print(run.folder)


def _parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="do", required=True)
    for name in ("dump", "load"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path, help="of the programs")
        command.add_argument("--data-dir", type=Path, help="DeepPCB or GTSDB, where the task needs it")
        command.add_argument("--smoke", action="store_true", help="few small images, an epoch a stage")
        if name == "dump":
            command.add_argument("task", choices=list(training.rows()))
            command.add_argument("--row", action="append", choices=training.ROWS, help="only this one; repeatable")
            command.add_argument("--seeds", type=at_least(1), help="number of seeds; default as rows.toml says")
        else:
            command.add_argument("trained", type=Path, help="folder that run_programs.py wrote")
            command.add_argument("--runs", type=Path, default=Path("runs/images"), help="where models are kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
