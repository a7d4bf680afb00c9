"""Trains and tests a row with one seed, once: `runs/tables/<row>/` has all that is needed to go on, or to do nothing again."""

import csv
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import keras
from row_data import evaluation_data, mnist_digits, smoke_digits, training_data
from row_test import WITHIN_BUDGET, chosen_threshold, measure
from rows import Row, Table

import keras_glimpse
from keras_glimpse import data

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CHECKPOINT = "checkpoint"
CHANGED = "-dirty"  # Marks the commit of a run whose code differed from it.
COLUMNS = ["table", "row", "seed", "sweeps", "error", "paper_error", "macs", "speed_up", "paper_speed_up", "seconds"]
COLUMNS += ["commit", "versions", "protocol", "details"]


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
        return self.runs / self.row.name / f"seed{self.seed}-sweeps{self.asked_sweeps or self.row.sweeps}"

    @property
    def before(self) -> "Run | None":
        """The run that this one starts from."""
        return replace(self, row=self.row.after) if self.row.after else None

    @property
    def protocol(self) -> dict:
        """All that the figures depend on, except the code and the seed."""
        row, build = self.row, partial(self.row.build)
        names = ("stage", "learning_rate", "falls", "jittered", "data", "threshold", "tested_on")
        protocol = {"network": [build.func.__name__, *build.args, build.keywords], "sweeps": self.sweeps}
        protocol |= {name: getattr(row, name) for name in names}
        protocol["budget"] = row.budget if row.threshold == WITHIN_BUDGET else None
        protocol |= {"search": row.search} if row.search else {}
        return json.loads(json.dumps(protocol)) | {"after": self.before and self.before.protocol}

    @property
    def protocol_hash(self) -> str:
        """Tells, in the results, those of one protocol from those of another."""
        return hashlib.sha256(json.dumps(self.protocol, sort_keys=True).encode()).hexdigest()[:12]

    def result(self, table: Table, results: Path) -> dict:
        """The figures of this run, trained and tested now if that has not been done."""
        done = self.folder / f"{table.name}.json"
        self._same_protocol()
        if done.exists():
            return json.loads(done.read_text())
        model = self.model()
        splits = evaluation_data(digits_of(self.smoke), self.row)
        row = replace(self.row, budget=sys.maxsize) if self.smoke else self.row  # Hardly trained, it is sure of nothing.
        threshold = chosen_threshold(model, row, splits.validation)
        result = self._describe(table) | measure(model, getattr(splits, self.row.tested_on), threshold)
        result |= {"speed_up": round(table.reference_macs / result["macs"], 3)}
        _append(results / f"{table.name}.csv", result)
        _write(done, json.dumps(result, indent=2) + "\n")
        print(f"{self.row.name}, seed {self.seed}: {result['error']:.2f} %")
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
            "sweeps": self.sweeps or self.before.sweeps,
            "paper_error": row.paper,
            "paper_speed_up": row.paper_speed_up,
            "seconds": round(sum(float(epoch["seconds"]) for epoch in epochs)),
            "commit": self._same_protocol(),
            "versions": versions,
            "protocol": self.protocol_hash,
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
            _take_over(self.before.model(), model)
        if not self.sweeps:
            model.compile(stage=self.row.stage)
            return model
        self._fit(model)
        model.save(_scratch(path))
        os.replace(_scratch(path), path)
        shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)
        return model

    def _same_protocol(self):
        """The commit at which this run began, if what it was to do then is what it is to do now."""
        path, protocol = self.folder / "protocol.json", self.protocol
        if not path.exists():
            _write(path, json.dumps(protocol | {"commit": commit()}, indent=2) + "\n")
        began = json.loads(path.read_text())
        commit_then = began.pop("commit")
        if began != protocol:
            sys.exit(f"{self.folder} was begun with {began}; now asked for {protocol}. Move it away to train anew.")
        return commit_then

    def _fit(self, model):
        row, epoch = self.row, data.Epoch()
        train = training_data(digits_of(self.smoke), row, self.seed, epoch, copies=1 if self.smoke else 10)
        optimizer = lambda steps: keras_glimpse.paper_sgd(steps if row.falls else None, row.learning_rate)  # noqa: E731
        print(f"{row.name}, seed {self.seed}, in {self.folder}")
        if self._same_protocol().endswith(CHANGED) and not self.smoke:
            print("Its code has changes that are not committed: report.py will not show its result.")
        how = {} if row.xla else {"jit_compile": False}
        if self.smoke:  # A graph takes longer to trace than these few steps.
            how = {"run_eagerly": True, "steps_per_execution": 1}
        self.folder.mkdir(parents=True, exist_ok=True)
        callbacks = [epoch, Stopwatch(), keras.callbacks.CSVLogger(self.folder / "log.csv", append=True)]
        callbacks += [keras_glimpse.SearchSchedule(row.search)] if row.search else []
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


@cache
def digits_of(smoke):
    return smoke_digits() if smoke else mnist_digits()


@cache
def commit() -> str:
    """The commit of the code that was loaded, marked if the code differs from it (results that were added do not count)."""
    git = partial(subprocess.run, cwd=HERE.parent, capture_output=True, text=True)
    found = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    changed = git(["git", "status", "--porcelain", "--", "keras_glimpse", "recipes/*.py", "pyproject.toml"]).stdout
    return f"{found or 'unknown'}{CHANGED if found and changed else ''}"


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
