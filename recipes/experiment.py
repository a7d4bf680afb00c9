"""What the tables have in common: a row is something to train and to test, with the figures of the paper beside it.

A row that was interrupted goes on from its last epoch, a row that is finished is not trained again: everything that is
needed for both is in `runs/tables/<row>/`. A finished row is appended to `recipes/results/<table>.csv`.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported: what its C++ says is not for readers.

import keras
import numpy as np
from arguments import at_least
from rich.console import Console
from rich.table import Table as RichTable
from row_data import evaluation_data, smoke_digits, training_data

import keras_glimpse
from keras_glimpse import data

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CHEAPEST = "cheapest"  # The threshold of fewest MACs whose error is at most 0.1 points above that of the full model.
CHECKPOINT = "checkpoint"
COLUMNS = ["table", "row", "seed", "sweeps", "error", "paper_error", "macs", "speed_up", "paper_speed_up", "seconds"]
COLUMNS += ["commit", "versions", "details"]


@dataclass(frozen=True)
class Row:
    """One row of a table: what is trained, and what the paper has.

    Attributes:
        name: for `--row` and the CSV.
        title: as in the paper, or what is different.
        build: makes the network, a `GlimpseClassifier` or any Keras classifier that gives logits.
        paper, paper_speed_up: error in percent and speed-up in the paper, if it is there.
        target: the error that we want to be at or under.
        after: the row whose weights this one starts from.
        stage: what is trained of a `GlimpseClassifier`; it is tested after that glimpse.
        sweeps: over the training set. None at all: the row tests what `after` has trained.
        learning_rate, falls: of SGD with momentum 0.9, and whether it falls linearly to 0 (the paper's is constant).
        seeds: how many, by default: 0, 1, ...
        jittered: 48x48 images of digits at random places; if not, MNIST as it is, 28x28.
        data: further arguments of the data set; `training_digits`, if the row trains on the first of them only; `shift`, if
            MNIST's training digits are moved by up to so many pixels each way, by others in every sweep; and `distorted`, if
            ten distorted digits stand for each training digit (`distortion.py`).
        threshold: of a cascade; `CHEAPEST`, to choose it on the digits that were held out of training.
        tested_on: "test", or "validation" for the digits that were held out of training.
        xla: whether XLA compiles the step; on a CPU it is slow at convolutions.
    """

    name: str
    title: str
    build: Callable[[], keras.Model]
    paper: float | None = None
    paper_speed_up: float | None = None
    target: float | None = None
    after: "Row | None" = None
    stage: int | str | None = None
    sweeps: int = 50
    learning_rate: float = 0.05
    falls: bool = True
    seeds: int = 1
    jittered: bool = True
    data: Mapping = field(default_factory=dict)
    threshold: float | str | None = None
    tested_on: str = "test"
    xla: bool = True


@dataclass(frozen=True)
class Table:
    """The rows of one table. Speed-ups are `reference_macs`, those of the fully connected network, over those of a row."""

    name: str
    title: str
    rows: tuple[Row, ...]
    reference_macs: int


def main(table: Table, doc: str) -> None:
    """The command line of a table."""
    args = _parse_args(table, doc)
    rows = [row for row in table.rows if not args.row or row.name in args.row]
    if args.list:
        for row in rows:
            print(f"{row.name:28} {row.sweeps:3} sweeps, {row.seeds} seed(s): {row.title}")
        return
    try:
        _digits(args.smoke)
    except OSError as error:
        sys.exit(f"{table.name}: {error}")
    with tempfile.TemporaryDirectory() as scratch:
        runs, results = (Path(scratch), Path(scratch)) if args.smoke else (args.runs, RESULTS)
        found = []
        for row in rows:
            for seed in range(1 if args.smoke else args.seeds or row.seeds):
                found.append(Run(row, seed, args.sweeps, runs, args.smoke).result(table, results))
    _show(table, found)


def _parse_args(table, doc):
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--row", action="append", choices=[row.name for row in table.rows], help="only this one; repeatable")
    parser.add_argument(
        "--seeds", type=at_least(1), help="number of seeds; default 3 for the headline rows and 1 for the others"
    )
    parser.add_argument("--sweeps", type=at_least(1), help="over the training set; default as --list says")
    parser.add_argument("--smoke", action="store_true", help="all on a few small digits, in under a minute; keeps nothing")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="where models are kept; default %(default)s")
    return parser.parse_args()


@dataclass(frozen=True)
class Run:
    """One row with one seed. `asked_sweeps`, if any, take the place of the row's own."""

    row: Row
    seed: int
    asked_sweeps: int | None
    runs: Path
    smoke: bool = False

    @property
    def sweeps(self) -> int:
        return min(1, self.row.sweeps) if self.smoke else self.row.sweeps and (self.asked_sweeps or self.row.sweeps)

    @property
    def folder(self) -> Path:
        sweeps = self.asked_sweeps or self.row.sweeps
        return self.runs / self.row.name / f"seed{self.seed}-sweeps{sweeps}"

    def result(self, table: Table, results: Path) -> dict:
        """The figures of this run, trained and tested now if that has not been done."""
        done = self.folder / f"{table.name}.json"
        if done.exists():
            return json.loads(done.read_text())
        model = self.model()
        splits = evaluation_data(_digits(self.smoke), self.row)
        test, threshold = getattr(splits, self.row.tested_on), self.row.threshold
        if threshold == CHEAPEST:
            threshold = keras_glimpse.cascade_curve(model, splits.validation).cheapest()
        result = _cascade(model, test, threshold) if threshold else _test(model, test)
        result = self._describe(table) | result | {"speed_up": round(table.reference_macs / result["macs"], 3)}
        _append(results / f"{table.name}.csv", result)
        _write(done, json.dumps(result, indent=2) + "\n")
        print(f"{self.row.title}, seed {self.seed}: {result['error']:.2f} %")
        return result

    def _describe(self, table):
        row = self.row
        log = self.folder / "log.csv"
        epochs = csv.DictReader(log.read_text().splitlines()) if log.exists() else []
        names = ("tensorflow", "keras", "keras-glimpse")
        versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
        return {
            "table": table.name,
            "row": row.name,
            "seed": self.seed,
            "sweeps": self.sweeps or replace(self, row=row.after).sweeps,
            "paper_error": row.paper,
            "paper_speed_up": row.paper_speed_up,
            "seconds": round(sum(float(epoch["seconds"]) for epoch in epochs)),
            "commit": self._same_protocol(),
            "versions": versions,
        }

    def model(self) -> keras.Model:
        """The trained model, compiled for its stage."""
        path = self.folder / "model.keras"
        self._same_protocol()
        if path.exists():
            return keras.models.load_model(path)
        keras.utils.set_random_seed(self.seed)
        model = self.row.build()
        model.build((None, 48, 48, 1) if self.row.jittered else (None, 28, 28, 1))
        if self.row.after:
            _take_over(replace(self, row=self.row.after).model(), model)
        self._fit(model)
        if not self.sweeps:
            return model
        model.save(_scratch(path))
        os.replace(_scratch(path), path)
        shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)
        return model

    def _same_protocol(self):
        """The commit at which this run began, if what it was to do then is what it is to do now."""
        path, row = self.folder / "protocol.json", self.row
        network = getattr(row.build, "keywords", {}) | {"class": getattr(row.build, "func", row.build).__name__}
        protocol = {"network": network, "stage": row.stage, "sweeps": self.sweeps, "after": row.after and row.after.name}
        protocol |= {"learning_rate": row.learning_rate, "falls": row.falls, "data": row.data, "threshold": row.threshold}
        protocol = json.loads(json.dumps(protocol))
        if not path.exists():
            _write(path, json.dumps(protocol | {"commit": commit()}, indent=2) + "\n")
        before = json.loads(path.read_text())
        began = before.pop("commit")
        if before != protocol:
            sys.exit(f"{self.folder} was begun with {before}; now asked for {protocol}. Move it away to train anew.")
        return began

    def _fit(self, model):
        row, epoch = self.row, data.Epoch()
        train = training_data(_digits(self.smoke), row, self.seed, epoch, copies=1 if self.smoke else 10)
        optimizer = lambda steps: keras_glimpse.paper_sgd(steps if row.falls else None, row.learning_rate)  # noqa: E731
        if not self.sweeps:
            model.compile(optimizer(None), stage=row.stage)
            return
        print(f"{row.title}, seed {self.seed}, in {self.folder}")
        how = {} if row.xla else {"jit_compile": False}
        if self.smoke:  # A graph takes longer to trace than these few steps.
            how = {"run_eagerly": True, "steps_per_execution": 1}
        self.folder.mkdir(parents=True, exist_ok=True)
        callbacks = [epoch, Stopwatch(), keras.callbacks.CSVLogger(self.folder / "log.csv", append=True)]
        options = {"epochs": self.sweeps, "verbose": 1 if sys.stdout.isatty() else 2}
        if row.stage:
            options |= {"stages": [row.stage], "compile_args": how, "callbacks": lambda stage: callbacks}
            keras_glimpse.fit_greedy(model, train, optimizer=optimizer, checkpoint=self.folder / CHECKPOINT, **options)
            return
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        steps = self.sweeps * int(train.cardinality())
        model.compile(optimizer(steps), loss, metrics=["accuracy"], **{"steps_per_execution": 32} | how)
        saved = keras_glimpse.Checkpoints(self.folder / CHECKPOINT)
        options |= {"initial_epoch": saved.restore(model), "callbacks": [*callbacks, saved]}
        model.fit(train, shuffle=False, **options)


class Stopwatch(keras.callbacks.Callback):
    """Puts the seconds that an epoch took into its log."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = round(time.perf_counter() - self._start, 2)


def _take_over(source, target):
    """Gives `target` the weights of the networks that `source` has trained."""
    if not isinstance(source, keras_glimpse.GlimpseClassifier):
        target.set_weights(source.get_weights())
        return
    count = source.stage.glimpse + 1
    target.low_res_net.set_weights(source.low_res_net.get_weights())
    for name in ("location_heads", "glimpse_nets"):
        for mine, theirs in list(zip(getattr(target, name), getattr(source, name)))[:count]:
            mine.set_weights(theirs.get_weights())


def _test(model, test):
    """Error after the glimpses that were trained, on a whole data set."""
    measured = model.evaluate(test, verbose=0, return_dict=True)
    if not isinstance(model, keras_glimpse.GlimpseClassifier):
        return {"error": _percent(1 - measured["accuracy"]), "macs": keras_glimpse.count_macs(model), "details": {}}
    count = model.stage.glimpse + 1
    errors = [_percent(1 - measured[f"accuracy_{n}"]) for n in range(count + 1)]
    macs = int(keras_glimpse.stage_macs(model)[count])
    return {"error": errors[-1], "macs": macs, "details": {"errors": errors, "border_px": round(measured["border_px"], 2)}}


def _cascade(model, test, threshold):
    """The figures of section 4.1: what stops where, how wrong it is, and what it costs."""
    images, labels = (np.concatenate(parts) for parts in zip(*test.as_numpy_iterator()))
    result = keras_glimpse.cascade_predict(model, images, threshold)
    wrong = result.probabilities.argmax(axis=-1) != labels
    confidence = result.probabilities.max(axis=-1)
    details = {"threshold": threshold, "exit_fractions": [], "exit_errors": [], "rejected": []}
    for stage in range(model.num_glimpses + 1):
        here = (result.exit_stage == stage) & (confidence >= threshold)
        details["exit_fractions"].append(_percent(here.mean()))
        details["exit_errors"].append(_percent(wrong[here].mean() if here.any() else 0.0))
        details["rejected"].append(_percent(1 - np.mean((result.exit_stage <= stage) & (confidence >= threshold))))
    return {"error": _percent(wrong.mean()), "macs": round(float(result.macs.mean())), "details": details}


def _percent(share):
    return round(100 * float(share), 3)


@cache
def _digits(smoke):
    return smoke_digits() if smoke else data.mnist_digits()


def commit() -> str:
    """The commit that runs, marked if the code differs from it (results that were added do not count)."""
    git = partial(subprocess.run, cwd=HERE.parent, capture_output=True, text=True)
    found = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    changed = git(["git", "diff", "--quiet", "HEAD", "--", "keras_glimpse", "recipes/*.py", "pyproject.toml"]).returncode
    return f"{found or 'unknown'}{'-dirty' if found and changed else ''}"


def _append(path, result):
    """Adds a line to a CSV file."""
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(result | {"details": json.dumps(result["details"])})


def _scratch(path):
    return path.with_name(f"new_{path.name}")


def _write(path, text):
    """Under the final name there is never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _scratch(path).write_text(text)
    os.replace(_scratch(path), path)


def _show(table, results):
    view = RichTable(title=table.title)
    for name in ("", "seed", "sweeps", "test error %", "paper", "target", "MACs", "speed-up", "paper"):
        view.add_column(name, justify="right" if name else "left", no_wrap=True)
    rows = {row.name: row for row in table.rows}
    for result in results:
        row = rows[result["row"]]
        figures = result["seed"], result["sweeps"], f"{result['error']:.2f}", row.paper, row.target
        figures += f"{result['macs']:,}", f"{result['speed_up']:.2f}", row.paper_speed_up
        view.add_row(row.name, *("" if figure is None else str(figure) for figure in figures))
    Console(width=max(Console().width, 100)).print(view)
