"""The paper's tables: rows are data, stored results stay theirs, and rows train, resume and are tested as they say."""

import argparse
import ast
import csv
import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

import keras_glimpse
from keras_glimpse import CascadePrediction, stage_macs
from keras_glimpse.data import Digits, Epoch

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "recipes"))

import runs  # noqa: E402
from tables import config, digits, distortion, figures, measure, networks, report, run, training  # noqa: E402

TABLES = {name: config.load(name) for name in config.NAMES}
ROWS = {f"{table.name}/{name}": row for table in TABLES.values() for name, row in table.rows.items()}
SLOW = pytest.mark.slow
SHIPPED = sorted(path.parent.name for path in keras_glimpse.pretrained_folder().glob("*mnist*/model.keras"))


@pytest.fixture
def call(monkeypatch):
    """Calls a program of the tables with a command line."""

    def main(program, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *map(str, arguments)])
        program.main()

    return main


# ---- Stored results ----


def lines(name):
    return list(csv.DictReader((runs.RESULTS / f"{name}.csv").read_text().splitlines()))


@pytest.mark.parametrize(
    ("name", "count", "attributed"), [("table1", 35, 33), ("table2", 17, 17), ("table3", 48, 40), ("tuning", 18, 15)]
)
def test_every_stored_result_is_attributed_to_its_row(name, count, attributed):
    """But those of configurations, and of an uncommitted state of the code, that no row had any more in version 0.1."""
    known = {(row.name, config.identity(row.config)) for row in ROWS.values()}
    found = [(line["row"], line["protocol"]) in known for line in lines(name)]
    assert len(found) >= count and sum(found) >= attributed


def test_every_attributed_result_has_its_configuration():
    known = {config.identity(row.config): row.config for row in ROWS.values()}
    for path in (runs.RESULTS / "configs").glob("*.json"):
        stored = json.loads(path.read_text())
        assert config.identity(stored) == path.stem and stored == known.get(path.stem, stored)
    results = {line["protocol"] for name in TABLES for line in lines(name)} & known.keys()
    assert len(results) >= 65 and results <= {path.stem for path in (runs.RESULTS / "configs").iterdir()}


def test_identities_are_those_of_version_0_1():
    """The protocol, written out as it was hashed when the first results were stored."""
    first = {"network": ["GlimpseClassifier", 10, 2, {"location_weight": 10.0}], "sweeps": 50, "stage": 1, "after": None}
    first |= {"learning_rate": 0.01, "falls": True, "jittered": True, "data": {}, "tested_on": "test"}
    first |= {"threshold": None, "budget": None}
    second = first | {"stage": 2, "after": first}
    cascade = second | {"sweeps": 0, "threshold": 0.95, "after": second}
    for name, protocol in {"1-glimpse": first, "2-glimpses": second, "cascade": cascade}.items():
        expected = config.hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]
        assert config.identity(ROWS[f"table1/{name}"].config) == expected
        assert expected in {line["protocol"] for line in lines("table1") if line["row"] == name}


def test_rows_of_several_tables_are_the_same():
    for name in ("1-glimpse", "2-glimpses"):
        assert ROWS[f"table2/{name}"].config == ROWS[f"table1/{name}"].config


def test_the_page_has_the_results(call, tmp_path, monkeypatch):
    call(report, "--check")
    page = report.PAGE.read_text()
    monkeypatch.setattr(report, "PAGE", tmp_path / "tables.md")
    before_error = "| `1-glimpse` | this method, 1 glimpse | 2.3 | "
    assert before_error in page
    report.PAGE.write_text(page.replace(before_error, before_error + "9"))
    with pytest.raises(SystemExit, match="tables.md does not say"):
        call(report, "--check")
    call(report)
    assert report.PAGE.read_text() == page


def test_results_of_another_configuration_are_not_shown():
    results, table = report.read(), TABLES["table1"]
    errors = [float(line["error"]) for line in report.runs_of(table.rows["1-glimpse"], results)]
    shown = f"| {np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f} |"
    assert len(errors) == 3 and shown in report.markdown(table, results)
    changed = {"1-glimpse": replace(table.rows["1-glimpse"], learning_rate=1.0)}
    assert "not run yet" in report.markdown(replace(table, rows=changed), results)


def test_effects_compare_the_same_seeds():
    rows = TABLES["table2"].rows
    first, second = (report.runs_of(rows[name], report.read())[0] for name in ("1-glimpse", "2-glimpses"))
    errors = [(first, "0", 1.0), (first, "1", 2.0), (first, "2", 9.0), (second, "1", 1.7), (second, "0", 0.9)]
    results = [run | {"seed": seed, "error": str(error)} for run, seed, error in errors]
    shown = report.markdown(TABLES["table2"], results).splitlines()
    assert "| `2-glimpses` | `1-glimpse` | -0.70 | -0.20 ± 0.14 | -0.10, -0.30 |" in shown
    assert "| `weight-sharing` | `2-glimpses` | +0.10 | not run yet |  |" in shown


# ---- Rows as data ----

TUNED, CASCADE = ROWS["table1/fine-tuned"], ROWS["table1/best-cascade"]


@pytest.mark.parametrize(
    "changes",
    [
        {"network": TUNED.network | {"num_glimpses": 3}},
        {"network": TUNED.network | {"name": "RandomGlimpse"}},
        {"network": TUNED.network | {"scales": [1]}},
        {"after": replace(TUNED.after, after=replace(TUNED.after.after, learning_rate=1.0))},
        {"stage": 1},
        {"sweeps": 3},
        {"learning_rate": 0.02},
        {"falls": False},
        {"jittered": False},
        {"data": {"fresh_places": True}},
        {"search": {"0": 5}},
        {"threshold": 0.9},
        {"tested_on": "validation"},
        {"label_smoothing": 0.1},
        {"thumbnail": ROWS["table1/sure-thumbnail"]},
        {"teacher": ROWS["table3/mnist-teacher"]},
        {"teacher": ROWS["table3/mnist-teacher"], "temperature": 2.0},
        {"threshold": "within budget", "compare": {"budget": 1}},
    ],
)
def test_the_identity_changes_with_what_matters(tmp_path, changes):
    changed = replace(TUNED, **changes)
    assert config.identity(changed.config) != config.identity(TUNED.config)
    assert training.Run(changed, 0, tmp_path).folder != training.Run(TUNED, 0, tmp_path).folder


@pytest.mark.parametrize("changes", [{"title": "other"}, {"compare": {"paper": 9.0}}, {"seeds": 9}, {"best": True}])
def test_the_identity_does_not_change_with_what_is_only_shown(changes):
    assert config.identity(replace(TUNED, **changes).config) == config.identity(TUNED.config)


def test_what_rows_start_from(tmp_path):
    (tmp_path / "one.toml").write_text("""
title = "One"
reference_macs = 1
effects = [["second", "first"]]
[defaults]
network = { name = "GlimpseClassifier", num_classes = 10, location_weight = 10.0 }
learning_rate = 0.01
[rows.first]
title = "first"
network.scales = [1]
stage = 1
seeds = 3
[rows.second]
title = "second"
after = "first"
stage = 2
[rows.cascade]
title = "cascade"
after = "second"
threshold = 0.9
[rows.dense]
title = "dense"
network = { name = "dense" }
[compare]
first = { paper = 2.0 }
""")
    (tmp_path / "two.toml").write_text("""
title = "Two"
reference_macs = 1
[rows.third]
title = "third"
like = "one/second"
network.scales = [2]
[rows.fourth]
title = "fourth"
after = "one/second"
thumbnail = "one/dense"
[rows.fifth]
title = "fifth"
after = "fourth"
""")
    one, (third, fourth, fifth) = config.load("one", tmp_path), config.load("two", tmp_path).rows.values()
    first, second, cascade, dense = one.rows.values()
    assert first.network == {"name": "GlimpseClassifier", "num_classes": 10, "location_weight": 10.0, "scales": [1]}
    assert first.compare == {"paper": 2.0}
    assert (second.network, second.seeds, second.stage, second.compare) == (first.network, 3, 2, {})
    assert (second.after, cascade.after, cascade.sweeps, cascade.stage) == (first, second, 0, 2)
    assert (dense.network, dense.learning_rate) == ({"name": "dense"}, 0.01)
    assert (third.after, third.network["scales"]) == (first, [2])
    assert (fourth.after, fourth.thumbnail, fifth.after, fifth.thumbnail) == (second, dense, fourth, None)
    assert one.effects == ((second, first),)
    assert [row.sweeps for row in (cascade.with_sweeps(7), cascade.with_sweeps(7).after.after)] == [0, 7]


ROW = """
title = "Table"
reference_macs = 1
[rows.a]
title = "a row"
"""
DENSE = ROW + 'network.name = "dense"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DENSE + "learning_rat = 0.1", r"bad.toml: row 'a': a row knows .*'learning_rate'.*; got \['learning_rat'\]"),
        (DENSE + "[defaults]\nlearning_rat = 0.1", "bad.toml: row 'a': .*learning_rat"),
        (DENSE + "compare.paper = 1.0", r"bad.toml: row 'a': a row knows .*; got \['compare'\]"),
        (DENSE + "[compare]\nb.paper = 1.0", r"bad.toml: compare knows \['a'\]; got \['b'\]"),
        (DENSE + "[compare]\na.papr = 1.0", r"bad.toml: row 'a': compare knows .*; got \['papr'\]"),
        (DENSE + 'like = "b"', "bad.toml: row 'a': expected a row above, or <table>/<row>; got 'b'"),
        (DENSE + 'after = "a"', "bad.toml: row 'a': expected a row above, or <table>/<row>; got 'a'"),
        (DENSE + 'tested_on = "train"', r"row 'a': tested_on knows \['test', 'validation'\]; got \['train'\]"),
        (DENSE + 'threshold = "best"', r"row 'a': threshold knows \['cheapest', 'within budget'\]; got \['best'\]"),
        (DENSE + 'threshold = "within budget"', "row 'a': a threshold within budget needs compare.budget"),
        (ROW, "bad.toml: row 'a': .*missing.*'network'"),
        (DENSE.replace("reference_macs", "macs"), "bad.toml: .*'macs'"),
        (DENSE.replace("[rows.a]", 'effects = [["a", "b"]]\n[rows.a]'), "bad.toml: expected a row above.*; got 'b'"),
        ("title = ", "bad.toml: Invalid value"),
    ],
)
def test_mistakes_in_toml(tmp_path, text, message):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        config.load("bad", tmp_path)


def test_a_table_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.toml"):
        config.load("none", tmp_path)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "dens"}, r"network.name must be one of \['CentreGlimpse'.*; got 'dens'"),
        ({"hidden_units": 3}, "network.name must be one of .*; got None"),
        ({"name": "dense", "units": 3}, "network 'dense': .*units"),
    ],
)
def test_networks_that_there_are_not(network, message):
    """They are refused before anything is trained."""
    with pytest.raises(ValueError, match=message):
        training.check([TUNED, replace(TUNED, network=network)], smoke=True)


def test_every_network_can_be_made():
    for row in ROWS.values():
        networks.make(row.network)


def test_the_best_rows_cost_no_more_than_they_may():
    rows = [row for row in ROWS.values() if row.best and "budget" in row.compare]
    for row in [row for row in rows if not row.threshold]:
        model = networks.make(row.network)
        model.build((None, 48, 48, 1) if row.jittered else (None, 28, 28, 1))
        assert stage_macs(model)[-1] <= row.compare["budget"]
    assert len(rows) >= 6


# ---- The runner ----


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (run, ["table1", "--row", "nothing"], "argument --row: table1 has dense, conv, .*; got nothing"),
        (run, ["table9"], "invalid choice: 'table9'"),
        (run, ["table1", "--seeds", "0"], "argument --seeds: must be at least 1; got 0"),
        (run, ["table1", "--sweeps", "-1"], "argument --sweeps: must be at least 1; got -1"),
        (run, ["table1", "--smoke", "--seeds", "2"], "argument --seeds: --smoke trains one seed"),
        (run, ["table2", "--smoke", "--runs", "x"], "argument --runs: --smoke trains one seed"),
        (run, ["tuning", "--list", "--sweeps", "3"], "argument --sweeps: --list trains nothing"),
        (run, ["table3", "--runs", __file__], "--runs must be a folder that can be written to; got"),
        (figures, ["--smoke", "--out", "x"], "argument --out: --smoke draws an untrained model"),
        (figures, ["--smoke", "--model", "mnist"], "argument --model: --smoke draws an untrained model"),
        (figures, ["--model", "mnist", "--runs", "x"], "argument --runs: --model draws no other"),
        (figures, ["--model", "nothing"], "Expected a .keras file or one of .*; nothing does not exist"),
        (figures, ["--runs", "none"], "none/fine-tuned/eb83efb2eff6-seed0/model.keras does not exist"),
    ],
)
def test_options_that_are_refused(call, monkeypatch, capsys, program, arguments, message):
    monkeypatch.setattr(training, "mnist_digits", digits.smoke_digits)
    training.digits_of.cache_clear()
    with pytest.raises(SystemExit) as ended:
        call(program, *arguments)
    said = capsys.readouterr()
    assert ended.value.code not in (0, None) and re.search(message, f"{ended.value.code} {said.err}") and said.out == ""
    training.digits_of.cache_clear()


@pytest.mark.parametrize(("program", "arguments"), [(run, ["table1", "--row", "dense"]), (figures, ["--model", "mnist"])])
def test_without_mnist(call, monkeypatch, tmp_path, program, arguments):
    for name in ("TFDS_DATA_DIR", "KERAS_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    training.digits_of.cache_clear()  # Other tests may have read it.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="MNIST was found neither.*quickstart.py --data mnist --download` fetches"):
        call(program, *arguments)


def commands():
    """The command lines of these programs in the documents, in TOML and in their own words."""
    texts = [path.read_text() for path in [*ROOT.glob("docs/**/*.md"), *config.HERE.glob("*.toml"), ROOT / "README.md"]]
    texts += [ast.get_docstring(ast.parse(Path(program.__file__).read_text())) for program in (run, report, figures)]
    found = re.findall(r"python recipes/tables/(\w+)\.py([^\n`#&']*)", "\n".join(texts))
    return sorted({(name, *arguments.split()) for name, arguments in found})


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_printed_commands_are_understood(call, monkeypatch, command):
    class Understood(Exception):
        pass

    def parse(parser, *args, real=argparse.ArgumentParser.parse_args, **kwargs):
        args = real(parser, *args, **kwargs)
        assert all(row in TABLES[args.table].rows for row in getattr(args, "row", None) or ())
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(Understood):
        call({"run": run, "report": report, "figures": figures}[command[0]], *command[1:])


def test_the_list(call, capsys):
    call(run, "table2", "--list")
    assert re.search(
        r"^parallel +50 sweeps, 3 seed\(s\): this method, 2 glimpses, done in parallel$", capsys.readouterr().out, re.M
    )


def kept():
    return {path: path.stat().st_mtime for path in runs.RESULTS.rglob("*") if path.suffix in (".csv", ".json")}


def test_smoke_of_one_row(call, capsys):
    before = kept()
    call(run, "table3", "--smoke", "--row", "mnist-cascade")
    assert re.search(r"^mnist-cascade +seed 0,  1 sweeps: +[\d.]+ %, [\d,]+ MACs, speed-up", capsys.readouterr().out, re.M)
    assert kept() == before


@SLOW
@pytest.mark.parametrize("name", config.NAMES)
def test_every_row_trains_and_is_tested(call, capsys, name):
    before = kept()
    call(run, name, "--smoke")
    printed = capsys.readouterr().out
    assert all(f"\n{row:28} seed 0" in printed for row in TABLES[name].rows) and kept() == before


def test_a_result_is_stored_once_with_its_configuration(tmp_path):
    table = TABLES["table3"]
    row = table.rows["mnist-cascade"].with_sweeps(1)
    results = [training.Run(row, 0, tmp_path / "runs", smoke=True).result(table, tmp_path / "results") for _ in range(2)]
    (line,) = csv.DictReader((tmp_path / "results" / "table3.csv").read_text().splitlines())
    assert results[0] == results[1] and list(line) == training.COLUMNS == list(lines("table3")[0])
    assert (line["row"], line["sweeps"], line["protocol"]) == ("mnist-cascade", "1", config.identity(row.config))
    stored = json.loads((tmp_path / "results" / "configs" / f"{line['protocol']}.json").read_text())
    assert stored == row.config and config.identity(stored) == line["protocol"]


class Killed(Exception):
    pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Keras's CSVLogger leaves its file open.
@pytest.mark.parametrize(
    ("name", "smoke"),
    [("dense", True), *(pytest.param(*row, marks=SLOW) for row in (("2-glimpses", True), ("dense", False), ("best-2", False)))],
)
def test_an_interrupted_row_ends_as_if_it_were_not(tmp_path, monkeypatch, name, smoke):
    """To the bit: in smoke runs, which are eager, and in graphs. (XLA rounds otherwise when a callback sees single batches.)"""
    monkeypatch.setattr(training, "digits_of", lambda smoke: digits.smoke_digits())
    row = replace(ROWS[f"table1/{name}"], sweeps=3)
    row = replace(row, after=row.after and row.after.with_sweeps(1))
    whole = training.Run(row, 1, tmp_path / "whole", smoke).model().get_weights()

    class Killer(runs.Stopwatch):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations > 2 * self.params["steps"]:
                raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runs, "Stopwatch", Killer)
        training.Run(row, 1, tmp_path / "killed", smoke).model()
    resumed = training.Run(row, 1, tmp_path / "killed", smoke)
    assert (resumed.folder / "checkpoint").exists()
    for one, other in zip(whole, resumed.model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len((resumed.folder / "log.csv").read_text().splitlines()) == 1 + 3
    assert sorted(path.name for path in resumed.folder.iterdir()) == ["config.json", "log.csv", "model.keras"]


# ---- Data, measures, figures ----


def test_distorted_digits(monkeypatch):
    few = digits.smoke_digits()
    some = distortion.distorted(few, copies=3, seed=1)
    assert some.train_images.shape == (300, *few.train_images.shape[1:]) and some.train_images.dtype == np.uint8
    np.testing.assert_array_equal(some.train_labels, np.repeat(few.train_labels, 3))
    np.testing.assert_array_equal(some.test_images, few.test_images)
    np.testing.assert_array_equal(some.train_images, distortion.distorted(few, copies=3, seed=1).train_images)
    assert len(np.unique(some.train_images[:3], axis=0)) == 3

    monkeypatch.setattr(distortion, "BEND", 0.0)
    maps = np.random.default_rng(0).uniform(-0.2, 0.2, (100, 2, 2)) + np.eye(2)
    monkeypatch.setattr(distortion, "_linear_maps", lambda count, generator: maps[:count].astype(np.float32))
    found = distortion.distorted(few, copies=1).train_images[..., 0].astype(int)
    centre = (np.array(found.shape[1:]) - 1) / 2
    for image, each, result in zip(few.train_images[..., 0], maps, found):
        expected = ndimage.affine_transform(image.astype(float), each.T, centre - each.T @ centre, order=1)
        np.testing.assert_allclose(result, expected, atol=0.51)


def bright_digits(count):
    """Squares, each of a brightness of its own, by which it is known wherever it is."""
    images = np.zeros((count, 28, 28, 1), np.uint8)
    images[:, 8:20, 8:20] = (10 + np.arange(count))[:, None, None, None]
    return Digits(images, np.arange(count) % 10, images[:1], np.zeros(1, int))


@pytest.mark.parametrize("name", ["table1", "table3", "tuning"])
def test_rows_do_not_train_on_what_they_hold_out(name):
    bright = bright_digits(24)
    rows = [row for row in TABLES[name].rows.values() if "validation_split" in row.data and row.sweeps]
    assert rows
    for data, row in {(str(row.data), row.jittered): row for row in rows}.items():
        train = digits.training_data(bright, row, seed=0, epoch=Epoch(), copies=2)
        images, labels = (np.concatenate(parts) for parts in zip(*train.as_numpy_iterator()))
        held_out = np.concatenate([batch for batch, _ in digits.evaluation_data(bright, row).validation.as_numpy_iterator()])
        count = 24 - round(24 * row.data["validation_split"])
        assert set(held_out.max(axis=(1, 2, 3))) == set(range(10 + count, 34))
        assert set(images.max(axis=(1, 2, 3))) == set(range(10, 10 + count)), data
        np.testing.assert_array_equal(labels, (images.max(axis=(1, 2, 3)) - 10) % 10)
        assert len(images) == count * (2 if row.jittered or "distorted" in row.data else 1)


def test_digits_are_moved_by_at_most_two_pixels():
    row = ROWS["table3/mnist-distorted-1"]
    moved = replace(row, data={"shift": row.data["shift"]})
    train = digits.training_data(bright_digits(200), moved, seed=0, epoch=Epoch())
    corners = {tuple(np.argwhere(image[..., 0])[0]) for batch, _ in train for image in batch.numpy()}
    assert {y for y, _ in corners} == {x for _, x in corners} == {6, 7, 8, 9, 10}


def test_smoothed_labels():
    row = replace(ROWS["table3/mnist-1-glimpse"], label_smoothing=0.1)
    for images, shares in digits.training_data(bright_digits(60), row, seed=0, epoch=Epoch()):
        expected = np.full((len(images), 10), 0.01)
        expected[np.arange(len(images)), (np.max(images, axis=(1, 2, 3)) - 10) % 10] = 0.91
        np.testing.assert_allclose(shares, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["table3/mnist-moved", "table1/best-1", "table3/mnist-1-glimpse"])
def test_a_teacher_says_what_each_digit_is_wherever_it_lies(name):
    teacher = keras.Sequential([keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(10)])
    row = replace(ROWS[name], teacher=ROWS["table3/mnist-teacher"], temperature=2.0)
    for images, shares in digits.training_data(bright_digits(60), row, seed=0, epoch=Epoch(), copies=2, teacher=teacher):
        expected = tf.nn.softmax(teacher(images) / 2)  # Of the brightness, which is the same on a canvas.
        np.testing.assert_allclose(shares, expected, atol=1e-5)


def test_a_thumbnail_network_of_one_row_and_glimpses_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "digits_of", lambda smoke: digits.smoke_digits())
    row = replace(ROWS["table1/sure-1"].with_sweeps(1), sweeps=0)
    model, *others = (training.Run(each, 0, tmp_path, smoke=True).model() for each in (row, row.thumbnail, row.after))
    nets = [(model.low_res_net, others[0]), (model.location_heads[0], others[1].location_heads[0])]
    for mine, theirs in [*nets, (model.glimpse_nets[0], others[1].glimpse_nets[0])]:
        for one, other in zip(mine.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_figures_of_a_cascade(make_model, monkeypatch):
    """Against those counted by hand, of four images of which one is never sure and one is sure of a wrong class."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
    looked = CascadePrediction(probabilities, np.array([0, 1, 1, 1]), np.array([10.0, 30.0, 30.0, 30.0]))
    monkeypatch.setattr(measure.keras_glimpse, "cascade_predict", lambda model, images, threshold: looked)
    test = tf.data.Dataset.from_tensor_slices((np.zeros((4, 24, 24, 1)), [0, 1, 1, 0])).batch(3)
    found = measure.measure(make_model(num_glimpses=1, num_classes=2), test, threshold=0.7)
    assert (found["error"], found["macs"]) == (25.0, 25)
    assert found["details"] == {
        "threshold": 0.7,
        "exit_fractions": [25.0, 50.0],
        "exit_errors": [0.0, 50.0],
        "rejected": [75.0, 25.0],
    }


def test_thresholds_are_chosen_on_what_is_held_out(make_model, monkeypatch):
    class Curve:
        cheapest, within = staticmethod(lambda: 0.3), staticmethod(lambda budget: budget / 1000)

    monkeypatch.setattr(measure.keras_glimpse, "cascade_curve", lambda model, held_out: {"held out": Curve}[held_out])
    chosen = partial(measure.chosen_threshold, make_model(), held_out="held out")
    assert chosen(replace(CASCADE, threshold=0.95)) == 0.95
    assert chosen(replace(CASCADE, threshold="cheapest")) == 0.3
    assert chosen(replace(CASCADE, threshold="within budget", compare={"budget": 200})) == 0.2


@SLOW
def test_figures(call, monkeypatch, capsys):
    monkeypatch.setattr(figures, "DPI", 20)
    call(figures, "--smoke")
    assert "Wrote figure2.png, figure3.png, figure4.png, figure5.png, cascade.png" in capsys.readouterr().out


@SLOW
@pytest.mark.parametrize("name", SHIPPED)
def test_figures_of_every_shipped_model_of_digits(call, monkeypatch, tmp_path, name):
    monkeypatch.setattr(figures, "mnist_digits", figures.smoke_digits)
    monkeypatch.setattr(figures, "DPI", 20)
    call(figures, "--model", name, "--out", tmp_path)
    assert {"figure2.png", "figure5.png", "cascade.png"} <= {path.name for path in tmp_path.iterdir()}


def test_the_most_disputed_images():
    """Images 0 to 2 are of one digit, 3 to 5 of the next, and so on."""
    sure = np.eye(3)
    beliefs = [(0, 1, 2), (0, 1, 1), (0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0), (2, 2, 2), (0, 1, 0)]
    chosen = figures.most_disputed(np.array([[sure[believed] for believed in image] for image in beliefs]), count=2)
    assert sorted(chosen) == [0, 7]


def test_a_model_that_is_loaded_again_looks_at_the_same_places(tmp_path, rng):
    """The random places of `random-place` depend on how often they were asked for, which is saved."""
    images = rng.random((8, 48, 48, 1), np.float32)
    for name in ("table1/random-place", "table3/mnist-centre"):
        model = networks.make(ROWS[name].network)
        model.build((None, 48, 48, 1))
        model.look(images)
        model.save(tmp_path / "model.keras")
        found = [each.look(images)["locations"] for each in (model, keras.models.load_model(tmp_path / "model.keras"))]
        np.testing.assert_array_equal(*found)
