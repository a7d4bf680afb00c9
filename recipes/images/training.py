"""Trains and tests one row with one seed: its folder has all that is needed to resume, or to do nothing again."""

import csv
import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import keras
import runs

import keras_glimpse
from images import alternatives, measure
from images.dataset import Task
from keras_glimpse import data

COLUMNS = ["task", "row", "seed", "sweeps", "error", "macs", "seconds", "commit", "versions", "details"]
ROWS = ("ours", "whole", "mobilenet")


@dataclass(frozen=True)
class Row:
    """What one network is trained with on a task.

    Attributes:
        task, name: of `tasks.TASKS`, and one of `ROWS`.
        title: what the task is.
        model: arguments of `GlimpseClassifier.for_large_images`.
        epochs: of each stage of ours; of the alternatives a number.
        glimpses: how many are tested: more than were trained, where glimpses share their weights.
        search: of `SearchSchedule` in the stages that search, if it changes.
        batch_size, learning_rate: of Adam, whose rate decays to 0 by a cosine.
        seeds: how many, by default.
    """

    task: str
    name: str
    title: str
    model: Mapping
    epochs: Mapping | int
    batch_size: int
    learning_rate: float
    glimpses: int = 1
    search: Mapping | None = None
    seeds: int = 1

    @property
    def stages(self) -> dict:
        """Epochs of each stage."""
        return {stage if stage == "fine_tune" else int(stage): count for stage, count in self.epochs.items()}


@cache
def rows() -> dict[str, dict[str, Row]]:
    """The rows of each task, from `rows.toml`."""
    content = tomllib.loads(Path(__file__).with_name("rows.toml").read_text())
    defaults = content.pop("defaults")
    return {task: _rows(task, defaults | own) for task, own in content.items()}


def _rows(task, settings):
    others = {name: settings.pop(name) for name in ROWS[1:]}
    return {name: Row(task, name, **settings | others.get(name, {})) for name in ROWS}


@dataclass(frozen=True)
class Run:
    """One row with one seed, kept in `<kept_in>/<task>/<row>-seed<seed>/`."""

    row: Row
    seed: int
    task: Task
    kept_in: Path
    smoke: bool = False

    @property
    def folder(self) -> Path:
        return self.kept_in / self.row.task / f"{self.row.name}-seed{self.seed}"

    def result(self, results: Path) -> dict:
        """The figures of this run, trained and tested now if that has not been done."""
        done = self.folder / "result.json"
        if done.exists():
            return json.loads(done.read_text())
        model = self.model()
        measured = measure.of_glimpses if self.row.name == "ours" else measure.of_network
        result = self._describe() | measured(model, self.task)
        results.mkdir(parents=True, exist_ok=True)
        runs.append(results / "images.csv", COLUMNS, result)
        runs.write_json(done, result)
        return result

    def _describe(self):
        sweeps = self.row.epochs if isinstance(self.row.epochs, int) else sum(self.row.epochs.values())
        logs = [csv.DictReader(path.read_text().splitlines()) for path in self.folder.glob("log*.csv")]
        seconds = sum(float(epoch["seconds"]) for log in logs for epoch in log)
        names = {"task": self.row.task, "row": self.row.name, "seed": self.seed, "sweeps": sweeps}
        return names | {"seconds": round(seconds), "commit": self._began_at(), "versions": runs.versions()}

    def _began_at(self):
        """The commit at which this run began; ValueError if it was configured otherwise."""
        path, config = self.folder / "config.json", json.loads(json.dumps(asdict(self.row)))
        if not path.exists():
            runs.write_json(path, config | {"commit": runs.commit()})
        began = json.loads(path.read_text())
        if (before := {name: began[name] for name in config}) != config:
            raise ValueError(f"{self.folder} was begun with {before}; rows.toml says {config}. Remove or rename it.")
        return began["commit"]

    def model(self) -> keras.Model:
        """The trained model."""
        path = self.folder / "model.keras"
        if path.exists():
            return keras.models.load_model(path)
        print(f"{self.row.task}, {self.row.name}, seed {self.seed}, in {self.folder}")
        self._began_at()
        keras.utils.set_random_seed(self.seed)
        epoch = data.Epoch()
        train = self.task.training_data(self.row.batch_size, self.seed, epoch)
        fit = self._fit_glimpses if self.row.name == "ours" else self._fit_network
        model = fit(train, [epoch, runs.Stopwatch()])
        runs.write(path, model.save)
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
        return model

    def _log(self, stage=""):
        return keras.callbacks.CSVLogger(self.folder / f"log{stage}.csv", append=True)

    def _adam(self, steps):
        return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(self.row.learning_rate, steps))

    def new_glimpses(self) -> keras_glimpse.GlimpseClassifier:
        """Ours, untrained."""
        model = keras_glimpse.GlimpseClassifier.for_large_images(len(self.task.class_names), **self.row.model)
        model.build((None, *self.task.image_shape))
        return model

    def _fit_glimpses(self, train, callbacks):
        model, row = self.new_glimpses(), self.row
        search = [keras_glimpse.SearchSchedule({int(at): how for at, how in row.search.items()})] if row.search else []

        def of_stage(stage):
            pointing = measure.Pointing(self.task.validation, self.folder / f"pointing_{stage}.csv")
            return [*callbacks, *search, *([pointing] if self.task.validation.boxes is not None else []), self._log(stage)]

        keras_glimpse.fit_greedy(
            model,
            train,
            epochs=row.stages,
            stages=list(row.stages),
            optimizer=self._adam,
            compile_args={"run_eagerly": self.smoke},  # A graph takes longer to trace than the few steps of a smoke run.
            callbacks=of_stage,
            checkpoint=self.folder / "checkpoint",
            verbose=2,
        )
        model.active_glimpses = row.glimpses
        return model

    def _fit_network(self, train, callbacks):
        shape, classes = self.task.image_shape, len(self.task.class_names)
        if self.row.name == "whole":
            model = alternatives.whole(shape, classes)
        else:  # At the cost that is reported of ours.
            ours = Run(rows()[self.row.task]["ours"], self.seed, self.task, self.kept_in)
            macs = keras_glimpse.stage_macs(ours.new_glimpses())[ours.row.glimpses]
            model = alternatives.mobilenet(shape, classes, int(macs))
        steps = self.row.epochs * int(train.cardinality())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(self._adam(steps), loss, metrics=["accuracy"], run_eagerly=self.smoke)
        saved = keras_glimpse.Checkpoints(self.folder / "checkpoint")
        options = {"epochs": self.row.epochs, "initial_epoch": saved.restore(model), "shuffle": False, "verbose": 2}
        model.fit(train, callbacks=[*callbacks, saved, self._log()], **options)
        return model


def short(row: Row) -> Row:
    """A row for a smoke run: an epoch a stage."""
    return replace(row, epochs=1 if isinstance(row.epochs, int) else dict.fromkeys(row.epochs, 1), batch_size=8)
