"""Trains and tests one row with one seed: its folder has all that is needed to resume, or to do nothing again."""

import csv
import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
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
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclass(frozen=True)
class Row:
    """What one network is trained with on a task.

    Attributes:
        task, name: of `tasks.TASKS`, and one of `ROWS`.
        title: what the task is.
        model: arguments of `GlimpseClassifier.for_large_images`; `low_res_net` may be arguments of `ConvLowResNet`,
            `glimpse_net` of `ConvGlimpseNet`, and `location_head` of `LocationMap`.
        epochs: of each stage of ours; of the alternatives a number.
        glimpses: how many are tested: more than were trained, where glimpses share their weights.
        search: of `SearchSchedule` in the stages that search, if it changes.
        batch_size, learning_rate: of Adam, whose rate decays to 0 by a cosine.
        seeds: how many, by default.
        calibrated: whether temperatures are fitted before the cascade's threshold is chosen (see `fit_temperatures`).
    """

    task: str
    name: str
    title: str
    model: Mapping
    epochs: Mapping | int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    glimpses: int = 1
    search: Mapping | None = None
    seeds: int = 1
    calibrated: bool = False

    @property
    def stages(self) -> dict:
        """Epochs of each stage; an alternative has one."""
        if isinstance(self.epochs, int):
            return {"all": self.epochs}
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
        return runs.once(self.folder / "result.json", results / "images.csv", COLUMNS, self._measured)

    def _measured(self):
        model, task = self.model(), self.task
        if self.row.name == "ours":
            figures = measure.of_glimpses(model, task, self.row.calibrated)
        else:
            figures = measure.of_network(model, task)
        result = self._describe() | figures
        if (trained_on := self.folder / "trained_on.json").exists():  # As `images/programs.py` says.
            result["details"] |= {"trained on": json.loads(trained_on.read_text())["device"]}
        return result

    def _describe(self):
        logs = [csv.DictReader(path.read_text().splitlines()) for path in self.folder.glob("log*.csv")]
        seconds = sum(float(epoch["seconds"]) for log in logs for epoch in log)
        names = {"task": self.row.task, "row": self.row.name, "seed": self.seed, "sweeps": sum(self.row.stages.values())}
        return names | {"seconds": round(seconds), "commit": self.begin(), "versions": runs.versions()}

    def begin(self, commit: str | None = None) -> str:
        """Keeps the commit at which this run begins, by default this one, and returns it.

        Raises:
            ValueError: If it has begun, but was configured otherwise.
        """
        path, config = self.folder / "config.json", json.loads(json.dumps(asdict(self.row)))
        del config["calibrated"]  # Of the test: training is the same.
        if not path.exists():
            runs.write_json(path, config | {"commit": commit or runs.commit()})
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
        self.begin()
        keras.utils.set_random_seed(self.seed)
        epoch = data.Epoch()
        train = self.task.training_data(self.row.batch_size, self.seed, epoch)
        fit = self._fit_glimpses if self.row.name == "ours" else self._fit_network
        model = fit(train, [epoch, runs.Stopwatch()])
        self.keep(model)
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
        return model

    def keep(self, model: keras.Model) -> None:
        """Keeps the trained model."""
        if self.row.name == "ours":
            model.active_glimpses = self.row.glimpses
        runs.write(self.folder / "model.keras", model.save)

    def _log(self, stage=""):
        return keras.callbacks.CSVLogger(self.folder / f"log{stage}.csv", append=True)

    def adam(self, steps):
        rate = keras.optimizers.schedules.CosineDecay(self.row.learning_rate, steps)
        return keras.optimizers.AdamW(rate, weight_decay=self.row.weight_decay)

    def untrained(self) -> keras.Model:
        """The network of this row with new weights."""
        return untrained(self.row, self.task.image_shape, len(self.task.class_names))

    def _fit_glimpses(self, train, callbacks):
        model, row = self.untrained(), self.row
        search = [keras_glimpse.SearchSchedule({int(at): how for at, how in row.search.items()})] if row.search else []

        def of_stage(stage):
            pointing = measure.Pointing(self.task.validation, self.folder / f"pointing_{stage}.csv")
            return [*callbacks, *search, *([pointing] if self.task.validation.boxes is not None else []), self._log(stage)]

        keras_glimpse.fit_greedy(
            model,
            train,
            epochs=row.stages,
            stages=list(row.stages),
            optimizer=self.adam,
            compile_args={"run_eagerly": self.smoke},  # A graph takes longer to trace than the few steps of a smoke run.
            callbacks=of_stage,
            checkpoint=self.folder / "checkpoint",
            verbose=2,
        )
        return model

    def _fit_network(self, train, callbacks):
        model = self.untrained()
        optimizer = self.adam(self.row.epochs * int(train.cardinality()))
        model.compile(optimizer, LOSS, metrics=["accuracy"], run_eagerly=self.smoke)
        saved = keras_glimpse.Checkpoints(self.folder / "checkpoint")
        options = {"epochs": self.row.epochs, "initial_epoch": saved.restore(model), "shuffle": False, "verbose": 2}
        model.fit(train, callbacks=[*callbacks, saved, self._log()], **options)
        return model


def untrained(row: Row, image_shape: Sequence[int], classes: int) -> keras.Model:
    """The network of a row with new weights."""
    if row.name == "ours":
        return glimpses(row, image_shape, classes)
    if row.name == "whole":
        return alternatives.whole(image_shape, classes)
    ours = rows()[row.task]["ours"]
    macs = keras_glimpse.stage_macs(glimpses(ours, image_shape, classes))[ours.glimpses]  # The cost that is reported of ours.
    return alternatives.mobilenet(image_shape, classes, int(macs))


def glimpses(row: Row, image_shape: Sequence[int], classes: int) -> keras_glimpse.GlimpseClassifier:
    """Ours, with the arguments of a row."""
    options = keras.saving.deserialize_keras_object(dict(row.model))  # Layers that were saved, and all else as it is.
    if isinstance(net := options.get("low_res_net"), dict):
        options["low_res_net"] = keras_glimpse.ConvLowResNet(classes, options["low_res_size"], **net)
    if isinstance(net := options.get("glimpse_net"), dict):
        options["glimpse_net"] = keras_glimpse.ConvGlimpseNet(classes, len(options["scales"]), **net)
    if isinstance(head := options.get("location_head"), dict):
        options["location_head"] = keras_glimpse.LocationMap(**head)
    model = keras_glimpse.GlimpseClassifier.for_large_images(classes, **options)
    model.build((None, *image_shape))
    return model


def short(row: Row) -> Row:
    """A row for a smoke run: an epoch a stage."""
    return replace(row, epochs=1 if isinstance(row.epochs, int) else dict.fromkeys(row.epochs, 1), batch_size=8)
