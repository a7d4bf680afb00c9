"""What trainings that take hours leave: files, the time of each epoch, and of which code they are."""

import csv
import importlib.metadata
import json
import os
import subprocess
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import keras

RESULTS = Path(__file__).parent / "results"
CHANGED = "-dirty"  # Marks the commit of a run whose code differed from it.


class Stopwatch(keras.callbacks.Callback):
    """Puts the seconds that an epoch took into its log."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = round(time.perf_counter() - self._start, 2)


@cache
def commit() -> str:
    """The commit of the code that was loaded, marked if the code differs from it (results that were added do not count)."""
    git = partial(subprocess.run, cwd=RESULTS.parent, capture_output=True, text=True)
    found = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    code = [":/keras_glimpse", ":/recipes/*.py", ":/recipes/*.toml", ":/pyproject.toml"]
    changed = git(["git", "status", "--porcelain", "--", *code]).stdout
    return f"{found or 'unknown'}{CHANGED if found and changed else ''}"


def versions() -> str:
    """Of what results depend on."""
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "keras-glimpse"))


def once(done: Path, table: Path, columns: list[str], measured: Callable[[], dict]) -> dict:
    """The result in the file `done`; if there is none, it is measured now, added to a table of results, and kept."""
    if done.exists():
        return json.loads(done.read_text())
    result = measured()
    table.parent.mkdir(parents=True, exist_ok=True)
    append(table, columns, result)
    write_json(done, result)
    return result


def append(path: Path, columns: list[str], result: dict) -> None:
    """Adds a line to a CSV file."""
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if not file.tell():
            writer.writeheader()
        writer.writerow(result | {"details": json.dumps(result["details"])})


def write_json(path: Path, content: dict) -> None:
    """Writes a file of JSON atomically."""
    write(path, lambda scratch: scratch.write_text(json.dumps(content, indent=2) + "\n"))


def write(path: Path, write: Callable[[Path], object]) -> None:
    """Atomically: the file has this name once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"new_{path.name}")
    write(scratch)
    os.replace(scratch, path)
