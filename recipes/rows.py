"""What a table consists of: a row is something to train and to test, with the figures of the paper beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import keras


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
        search: `search_size` from some sweeps on, by their numbers, if it changes (`SearchSchedule`).
        threshold: of a cascade; or how it is chosen on the digits that were held out of training (`row_test.py`).
        tested_on: "test", or "validation" for the digits that were held out of training.
        xla: whether XLA compiles the step of a `GlimpseClassifier`; on a CPU it is slow at convolutions.
        budget: the multiply-accumulates an image, on average, with which the target is to be reached.
        best: no row or control of the paper's, but what we can do beyond it.
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
    search: Mapping[int, int] | None = None
    threshold: float | str | None = None
    tested_on: str = "test"
    xla: bool = True
    budget: int | None = None
    best: bool = False


def cascaded(trained: Row, name: str, title: str, threshold: float | str, **changes) -> Row:
    """The cascade of a trained row: nothing more is trained, and the paper's figures and the target are its own."""
    own = {"paper": None, "paper_speed_up": None, "target": None, "budget": None} | changes
    return replace(trained, name=name, title=title, after=trained, sweeps=0, threshold=threshold, **own)


@dataclass(frozen=True)
class Table:
    """The rows of one table.

    Attributes:
        name: of its results, its marks in the README and its program.
        title: what it is of.
        rows: in the order of the paper.
        reference_macs: those of the fully connected network; speed-ups are these over those of a row.
        effects: pairs of a row and the one that it is compared with: what their difference does to the error, seed by seed.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    reference_macs: int
    effects: tuple[tuple[Row, Row], ...] = ()
