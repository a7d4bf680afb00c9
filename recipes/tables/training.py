"""Trains and tests a row with one seed, once: its folder has all that is needed to resume, or to do nothing again."""

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import keras
import runs

import keras_glimpse
from keras_glimpse import data
from tables import networks
from tables.config import Row, Table, identity
from tables.digits import evaluation_data, mnist_digits, smoke_digits, training_data
from tables.measure import chosen_threshold, measure

COLUMNS = ["table", "row", "seed", "sweeps", "error", "paper_error", "macs", "speed_up", "paper_speed_up", "seconds"]
COLUMNS += ["commit", "versions", "protocol", "details"]


def check(rows: Sequence[Row], smoke: bool) -> None:
    """Raises what would otherwise be raised after hours: no such network, or no digits."""
    for row in rows:
        networks.make(row.network)
    digits_of(smoke)


@cache
def digits_of(smoke: bool) -> data.Digits:
    return smoke_digits() if smoke else mnist_digits()


@dataclass(frozen=True)
class Run:
    """One row with one seed, kept in `<kept_in>/<row>/<identity of its configuration>-seed<seed>/`."""

    row: Row
    seed: int
    kept_in: Path
    smoke: bool = False

    @property
    def folder(self) -> Path:
        return self.kept_in / self.row.name / f"{identity(self.row.config)}-seed{self.seed}"

    @property
    def before(self) -> "Run | None":
        """The run that this one starts from."""
        return replace(self, row=self.row.after) if self.row.after else None

    def result(self, table: Table, results: Path) -> dict:
        """The figures of this run, trained and tested now if that has not been done."""
        done = self.folder / f"{table.name}.json"
        return runs.once(done, results / f"{table.name}.csv", COLUMNS, lambda: self._measured(table, results))

    def _measured(self, table, results):
        model, row = self.model(), self.row
        splits = evaluation_data(digits_of(self.smoke), row)
        if self.smoke:  # Hardly trained, it is sure of nothing.
            row = replace(row, compare={"budget": sys.maxsize})
        threshold = chosen_threshold(model, row, splits.validation)
        result = self._describe(table) | measure(model, getattr(splits, row.tested_on), threshold)
        result |= {"speed_up": round(table.reference_macs / result["macs"], 3)}
        runs.write_json(results / "configs" / f"{result['protocol']}.json", self.row.config)
        return result

    def _describe(self, table):
        log = self.folder / "log.csv"
        epochs = csv.DictReader(log.read_text().splitlines()) if log.exists() else []
        return {
            "table": table.name,
            "row": self.row.name,
            "seed": self.seed,
            "sweeps": self.row.sweeps or self.row.after.sweeps,
            "paper_error": self.row.compare.get("paper"),
            "paper_speed_up": self.row.compare.get("paper_speed_up"),
            "seconds": round(sum(float(epoch["seconds"]) for epoch in epochs)),
            "commit": self._began_at(),
            "versions": runs.versions(),
            "protocol": identity(self.row.config),
        }

    def _began_at(self):
        """The commit at which this run began."""
        path = self.folder / "config.json"
        if not path.exists():
            runs.write_json(path, self.row.config | {"commit": runs.commit()})
        return json.loads(path.read_text())["commit"]

    def model(self) -> keras.Model:
        """The trained model, compiled for its stage."""
        path = self.folder / "model.keras"
        if path.exists():
            return keras.models.load_model(path)
        keras.utils.set_random_seed(self.seed)
        model = networks.make(self.row.network)
        model.build((None, 48, 48, 1) if self.row.jittered else (None, 28, 28, 1))
        if self.before:
            _take_over(self.before.model(), model)
        if self.row.thumbnail:
            _take_over(replace(self, row=self.row.thumbnail).model(), model)
        if not self.row.sweeps:
            model.compile(stage=self.row.stage)
            return model
        self._fit(model)
        runs.write(path, model.save)
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
        return model

    def _fit(self, model):
        row, epoch, checkpoint = self.row, data.Epoch(), self.folder / "checkpoint"
        teacher = replace(self, row=row.teacher, seed=0).model() if row.teacher else None
        train = training_data(digits_of(self.smoke), row, self.seed, epoch, 1 if self.smoke else 10, teacher)
        print(f"{row.name}, seed {self.seed}, in {self.folder}")
        if self._began_at().endswith(runs.CHANGED) and not self.smoke:
            print("Its code has changes that are not committed: report.py will not show its result.")
        callbacks = [epoch, runs.Stopwatch(), keras.callbacks.CSVLogger(self.folder / "log.csv", append=True)]
        if row.search:
            callbacks += [keras_glimpse.SearchSchedule({int(sweep): size for sweep, size in row.search.items()})]
        # A graph takes longer to trace than the few steps of a smoke run.
        how = {"run_eagerly": True, "steps_per_execution": 1} if self.smoke else {}
        options = {"epochs": row.sweeps, "verbose": 2}
        optimizer = lambda steps: keras_glimpse.paper_sgd(steps if row.falls else None, row.learning_rate)  # noqa: E731
        if row.stage:
            options |= {"stages": [row.stage], "compile_args": how, "callbacks": lambda stage: callbacks}
            keras_glimpse.fit_greedy(model, train, optimizer=optimizer, checkpoint=checkpoint, **options)
            return
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        steps = row.sweeps * int(train.cardinality())
        model.compile(optimizer(steps), loss, metrics=["accuracy"], **{"steps_per_execution": 32} | how)
        saved = keras_glimpse.Checkpoints(checkpoint)
        model.fit(train, shuffle=False, initial_epoch=saved.restore(model), callbacks=[*callbacks, saved], **options)


def _take_over(source, target):
    """Gives `target` the weights of the networks that `source` has trained."""
    if not isinstance(source, keras_glimpse.GlimpseClassifier):
        (target if type(target) is type(source) else target.low_res_net).set_weights(source.get_weights())
        return
    count = source.stage.glimpse + 1
    pairs = [(target.low_res_net, source.low_res_net), *zip(target.location_heads[:count], source.location_heads)]
    for mine, theirs in [*pairs, *zip(target.glimpse_nets[:count], source.glimpse_nets)]:
        mine.set_weights(theirs.get_weights())
