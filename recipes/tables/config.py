"""The rows of the tables, read from TOML: what is trained and tested, with the paper's figures beside it.

A row of `[rows]` starts from the `[defaults]` of its table, from the row that it is `like`, or from the one that it comes
`after`, whose weights it takes as well. What it says itself replaces that; arguments of a network are added, unless it gives a
`name` too. A row with a `threshold` trains nothing more. Rows are named within their table, or as "<table>/<row>".
`[compare]` has what they are compared with.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("table1", "table2", "table3", "tuning")
OTHERS = ("after", "thumbnail", "teacher")  # Attributes of a row that are rows
CHEAPEST = "cheapest"  # The threshold of fewest MACs whose error is at most 0.1 points above that of the full model.
WITHIN_BUDGET = "within budget"  # The threshold of least error whose MACs are within the row's budget.


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        network: a `name` in `networks.NETWORKS`, and its arguments.
        after: the row whose weights this one starts from.
        stage: what is trained of a `GlimpseClassifier`; it is tested after that glimpse.
        thumbnail: the row whose low-resolution network this one starts with, where the rest is of `after`. Not passed on.
        sweeps: over the training set. 0: the row tests what `after` has trained.
        learning_rate, falls: of SGD with momentum 0.9, and whether it decays linearly to 0 (the paper's is constant).
        label_smoothing: the share of a label that is spread over all classes.
        teacher: the row whose probabilities, at a `temperature`, are the labels of the training digits (Hinton et al., 2015).
            It is shown the digits alone, of 28x28 pixels, whatever they lie on.
        seeds: how many, by default: 0, 1, ...
        jittered: 48x48 images of digits at random places; if not, MNIST as it is, 28x28.
        data: further arguments of the data set, and those of `digits.training_data`: `training_digits`, `shift`, `distorted`.
        search: `search_size` from some sweeps on, by their numbers, if it changes (`SearchSchedule`).
        threshold: of a cascade; or how it is chosen on the digits held out of training, "cheapest" or "within budget".
        tested_on: "test", or "validation" for the digits held out of training.
        best: no row or control of the paper's, but what we can do beyond it.
        compare: `paper` and `paper_speed_up`, error in percent and speed-up in the paper; `target`, the error that we want to
            be at or under, and `budget`, the multiply-accumulates an image, on average, with which it is to be reached.
    """

    name: str
    title: str
    network: Mapping
    after: "Row | None" = None
    stage: int | str | None = None
    thumbnail: "Row | None" = None
    sweeps: int = 50
    learning_rate: float = 0.05
    falls: bool = True
    label_smoothing: float = 0.0
    teacher: "Row | None" = None
    temperature: float = 1.0
    seeds: int = 1
    jittered: bool = True
    data: Mapping = field(default_factory=dict)
    search: Mapping[str, int] = field(default_factory=dict)
    threshold: float | str | None = None
    tested_on: str = "test"
    best: bool = False
    compare: Mapping = field(default_factory=dict)

    def __post_init__(self):
        _check_keys("compare", self.compare, {"paper", "paper_speed_up", "target", "budget"})
        _check_keys("tested_on", [self.tested_on], {"test", "validation"})
        if isinstance(self.threshold, str):
            _check_keys("threshold", [self.threshold], {CHEAPEST, WITHIN_BUDGET})
        if self.threshold == WITHIN_BUDGET and "budget" not in self.compare:
            raise ValueError("a threshold within budget needs compare.budget")

    @property
    def config(self) -> dict:
        """All that the figures of this row depend on, except the code and the seed."""
        names = ("network", "sweeps", "stage", "learning_rate", "falls", "jittered", "data", "threshold", "tested_on")
        config = {name: getattr(self, name) for name in names} | {"after": self.after and self.after.config}
        config["budget"] = self.compare["budget"] if self.threshold == WITHIN_BUDGET else None
        # Left out where a row has none of them, as in the first results.
        added = {name: getattr(self, name) for name in ("search", "label_smoothing")}
        if self.thumbnail:
            added |= {"thumbnail": self.thumbnail.config}
        if self.teacher:
            added |= {"teacher": self.teacher.config, "temperature": self.temperature}
        return config | {name: value for name, value in added.items() if value}

    def with_sweeps(self, sweeps: int) -> "Row":
        """This row and those that it comes after with other sweeps, where they have any."""
        others = {name: row.with_sweeps(sweeps) for name in OTHERS if (row := getattr(self, name))}
        return replace(self, sweeps=self.sweeps and sweeps, **others)


def identity(config: Mapping) -> str:
    """The hash by which results are attributed to a configuration.

    Its form is that of the first results, so that these stay valid: a network's first arguments by position.
    """

    def positional(config):
        network = dict(config["network"])
        first = [network.pop(name) for name in ("name", "num_classes", "num_glimpses", "size") if name in network]
        return config | {"network": [*first, network], "after": config["after"] and positional(config["after"])}

    return hashlib.sha256(json.dumps(positional(config), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Table:
    """The rows of one table, in the order of the paper; cost, which speed-ups are relative to; and pairs of rows, of which
    the first changes something in the second, to tell what it does to the error."""

    name: str
    title: str
    reference_macs: int
    rows: Mapping[str, Row]
    effects: tuple[tuple[Row, Row], ...] = ()


@cache
def load(name: str, folder: Path = HERE) -> Table:
    """The table of `<folder>/<name>.toml`; ValueError, with the place, where that does not describe one."""
    path = folder / f"{name}.toml"
    try:
        return _table(name, tomllib.loads(path.read_text()), folder)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _table(name, content, folder):
    def find(reference):
        table, _, row = reference.rpartition("/")
        known = load(table, folder).rows if table else rows
        if row not in known:
            raise ValueError(f"expected a row above, or <table>/<row>; got {reference!r}")
        return known[row]

    rows, defaults, compare = {}, content.pop("defaults", {}), content.pop("compare", {})
    for row, own in content.pop("rows", {}).items():
        try:
            rows[row] = Row(row, compare=compare.pop(row, {}), **_settings(own, defaults, find))
        except (TypeError, ValueError) as error:
            raise ValueError(f"row {row!r}: {error}") from error
    _check_keys("compare", compare, rows)
    effects = tuple(tuple(map(find, pair)) for pair in content.pop("effects", ()))
    return Table(name, rows=rows, effects=effects, **content)


def _settings(own, base, find):
    """What a row says itself, added to what it starts from."""
    inherited = {each.name for each in fields(Row)} - {"name", "title", "compare", "thumbnail"}
    _check_keys("a row", own, inherited | {"title", "thumbnail", "like"})
    own = ({"sweeps": 0} if "threshold" in own else {}) | own
    own |= {name: find(own[name]) for name in OTHERS if name in own}
    if like := find(own.pop("like")) if "like" in own else own.get("after"):
        base = {name: getattr(like, name) for name in inherited}
    if "name" not in own.get("network", {"name"}):
        own["network"] = base.get("network", {}) | own["network"]
    return base | own


def _check_keys(what, found, known):
    if not {*known} >= {*found}:
        raise ValueError(f"{what} knows {sorted(known)}; got {sorted({*found} - {*known})}")
