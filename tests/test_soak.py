"""The soak test: requests from threads without Python; what is wrong with a model on purpose is seen and counted."""

import csv
import importlib
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

SIZES = [1, 2, 3, 5, 8]


@pytest.fixture(scope="module")
def recipes():
    return importlib.import_module("serve"), importlib.import_module("soak")


@pytest.fixture(scope="module")
def program(recipes, tmp_path_factory):
    serve, _ = recipes
    if not serve.compiler():
        pytest.skip("No C compiler was found (cc or gcc).")
    return serve.build(tmp_path_factory.mktemp("program"))


class Flawed(tf.Module):
    """The share of each channel of an image, and what the flaw makes of it."""

    def __init__(self, flaw):
        self.flaw = flaw
        self.hoard = tf.Variable(tf.zeros([0]), shape=[None])

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.uint8, name="images")])
    def __call__(self, images):
        sums = tf.reduce_sum(tf.cast(images, tf.float32), axis=[1, 2])
        probabilities, size = sums / tf.reduce_sum(sums, axis=-1, keepdims=True), tf.shape(images)[0]
        if self.flaw == "wrong":
            probabilities = tf.where(size == 5, tf.roll(probabilities, 1, axis=1), probabilities)
        elif self.flaw == "fails":
            with tf.control_dependencies([tf.debugging.assert_less(size, 8, "too many for me")]):
                probabilities = tf.identity(probabilities)
        elif self.flaw == "leaks":
            with tf.control_dependencies([self.hoard.assign(tf.concat([self.hoard, tf.zeros([25_000])], axis=0))]):
                probabilities = tf.identity(probabilities)
        return {"probabilities": probabilities}


@pytest.fixture
def soak(recipes, program, tmp_path, rng):
    """Soaks a model with a flaw: images, requests, what came of them, and the figures."""

    def run(flaw, threads):
        module = Flawed(flaw)
        tf.saved_model.save(module, str(tmp_path / flaw), {"uint8": module.__call__})
        images = rng.integers(1, 256, (50, 4, 4, 3), np.uint8)
        asked = recipes[1].plan(50, 300, SIZES, seed=0)
        expected, served = recipes[1].run(program, [tmp_path / flaw], images, asked, threads)
        return images, asked, served, recipes[1].figures(asked, expected, served)

    return run


def test_a_good_model(soak):
    images, asked, served, figures = soak("none", 4)
    assert figures["failures"] == figures["answers_that_differ"] == figures["labels_that_differ"] == 0
    assert figures["requests"] == 300 and figures["images"] == asked[:, 1].sum() and set(asked[:, 1]) == {*SIZES}
    assert (served.seconds > 0).all() and served.complaints == ""
    sums = np.concatenate([images[first : first + count] for first, count in asked]).sum(axis=(1, 2), dtype=float)
    np.testing.assert_allclose(served.answers, sums / sums.sum(axis=1, keepdims=True), rtol=1e-5)


def test_wrong_answers_are_seen(soak):
    _, asked, _, figures = soak("wrong", 4)
    assert figures["failures"] == 0
    wrong = asked[asked[:, 1] == 5, 1].sum()
    assert figures["answers_that_differ"] == wrong > 0 and figures["largest_difference"] > 0.01
    assert 0 < figures["labels_that_differ"] <= wrong


def test_failures_are_counted(soak):
    _, asked, served, figures = soak("fails", 4)
    np.testing.assert_array_equal(np.isnan(served.seconds), asked[:, 1] == 8)
    assert figures["failures"] == (asked[:, 1] == 8).sum() > 10
    assert figures["answers_that_differ"] == 0 and served.complaints.count("too many for me") >= 10


def test_growth_of_memory_is_seen(soak):
    """100 kB are kept in each request; one thread, so that none overwrites what another has added."""
    grows = 100_000 * 100_000 / 1024
    *_, figures = soak("leaks", 1)
    assert figures["memory"]["in use"]["slope_per_100000_requests"] > 0.7 * grows
    *_, figures = soak("none", 1)
    assert figures["memory"]["in use"]["slope_per_100000_requests"] < 0.3 * grows


class Version(tf.Module):
    """Answers what it is, to whatever image, and keeps `numbers` weights."""

    def __init__(self, answer, numbers=1):
        self.answer, self.weights = tf.constant([answer], tf.float32), tf.Variable(tf.ones([numbers]))

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.uint8, name="images")])
    def __call__(self, images):
        return {"probabilities": tf.repeat(self.answer * self.weights[:1], tf.shape(images)[0], axis=0)}


@pytest.fixture
def replaced(recipes, program, tmp_path):
    """Soaks two versions that replace each other under load; images, requests and what came of them."""

    def run(requests, every, numbers=1, answers=((0.9, 0.1), (0.2, 0.8))):
        for name, answer in enumerate(answers):
            tf.saved_model.save(module := Version(answer, numbers), str(tmp_path / str(name)), {"uint8": module.__call__})
        images, asked = np.zeros((50, 4, 4, 3), np.uint8), recipes[1].plan(50, requests, SIZES, seed=0)
        return asked, *recipes[1].run(program, [tmp_path / "0", tmp_path / "1"], images, asked, 4, every, warm_up=5)

    return run


@pytest.mark.slow
def test_versions_are_replaced_under_load(recipes, replaced):
    asked, expected, served = replaced(20_000, 500)
    figures = recipes[1].figures(asked, expected, served)
    assert figures["failures"] == figures["answers_that_differ"] == 0 and figures["times_replaced"] >= 3
    assert min(figures["requests_by_version"]) > 500 and sum(figures["requests_by_version"]) == 20_000
    starts = np.cumsum(asked[:, 1]) - asked[:, 1]
    of_requests = np.split(served.answers[:, 0], starts[1:])
    assert all({*answers} in ({np.float32(0.9)}, {np.float32(0.2)}) for answers in of_requests)


@pytest.mark.slow
def test_memory_of_versions_is_given_back(replaced):
    """Each has weights of 40 MB. If they stayed, four replacements would add 120 MB to the two that there are at a time."""
    *_, served = replaced(60_000, 1000, numbers=10_000_000)
    _, _, resident, in_use, times = served.samples.T
    assert times[-1] >= 4
    for kib in (resident, in_use):
        assert kib[times >= 2].max() - kib[times < 2].max() < 80_000


def test_answers_of_two_versions_in_one_request_are_wrong(recipes):
    """Answers 0.9 and 0.2 are right by themselves; the last request has both."""
    expected = np.tile(np.float32([[[0.9]], [[0.2]]]), (1, 50, 1))
    answers = np.float32([0.9, 0.9, 0.2, 0.2, 0.2, 0.9])[:, None]
    asked, samples = np.array([[0, 2], [3, 2], [5, 2]]), np.array([[0, 0, 1, 1, 0], [3, 1, 1, 1, 1]])
    figures = recipes[1].figures(asked, expected, recipes[0].Served(answers, np.ones(3), samples, ""))
    assert figures["answers_that_differ"] == 1 and figures["largest_difference"] == pytest.approx(0.7)
    assert figures["requests_by_version"] in ([2, 1], [1, 2])


def test_versions_of_different_classes(recipes, tmp_path):
    for name, answer in enumerate([(0.5, 0.5), (0.2, 0.3, 0.5)]):
        tf.saved_model.save(module := Version(answer), str(tmp_path / str(name)), {"uint8": module.__call__})
    with pytest.raises(ValueError, match=r"the same number of classes; got \[2, 3\]"):
        recipes[0].serve(None, [tmp_path / "0", tmp_path / "1"], np.zeros((1, 4, 4, 3), np.uint8), [(0, 1)])


def test_figures_of_samples_are_those_of_the_line(recipes):
    samples = np.array([[0, 10], [100, 500], [200, 600], [300, 700], [400, 790]])
    assert recipes[1].growth(samples, 100) == {
        "loaded": 10,
        "warm": 500,
        "end": 790,
        "growth": 290,
        "growth_in_last_half": 190,
        "slope_per_100000_requests": 97_000.0,
    }


def test_a_server_that_dies(recipes, tmp_path):
    tf.saved_model.save(module := Flawed("none"), str(tmp_path / "1"), {"uint8": module.__call__})
    dies = tmp_path / "dies"
    dies.write_text("#!/bin/sh\necho 0 0.0 1 1\necho 7 0.1 1 1\necho out of order >&2\nkill -SEGV $$\n")
    dies.chmod(0o755)
    with pytest.raises(RuntimeError, match="ended with -11 after 7 requests or a few more: out of order"):
        recipes[0].serve(dies, [tmp_path / "1"], np.zeros((1, 4, 4, 3), np.uint8), [(0, 1)])


@pytest.mark.slow
def test_the_shipped_model(recipes, program, tmp_path, monkeypatch, capsys):
    """Through the command line; and once more with what came of it, but other answers to compare with."""
    _, soak = recipes
    monkeypatch.setattr(sys, "argv", ["soak", "--requests", "300", "--threads", "4", "--out", str(tmp_path / "out")])
    monkeypatch.setattr(soak, "build", lambda folder: program)
    monkeypatch.setattr(soak.data, "mnist_digits", soak.data.embedded_digits)
    results, run = [], soak.run
    monkeypatch.setattr(soak, "run", lambda *args: results.append(run(*args)) or results[0])
    soak.main()
    result = json.loads((tmp_path / "out" / "soak.json").read_text())
    assert result["failures"] == result["answers_that_differ"] == result["labels_that_differ"] == 0
    assert result["requests"] == sum(result["requests_by_glimpses"]) == 300 and min(result["requests_by_glimpses"]) > 0
    assert result["samples"][-1][0] == 300 and (tmp_path / "out" / "soak.png").stat().st_size > 10_000
    assert "300 requests from 4 threads" in capsys.readouterr().out

    ((expected, served),) = results
    monkeypatch.setattr(soak, "run", lambda *args: (expected + 1e-4, served))
    with pytest.raises(SystemExit, match="answers differ from those of single calls"):
        soak.main()
    assert json.loads((tmp_path / "out" / "soak.json").read_text())["answers_that_differ"] == result["images"]


@pytest.mark.slow
def test_two_versions_of_the_shipped_model(recipes, program, tmp_path, monkeypatch, capsys):
    """The second, whose networks are those of the first with the classes rotated, is made for the run."""
    arguments = ["soak", "--requests", "10000", "--replace", "1000", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(recipes[1], "build", lambda folder: program)
    monkeypatch.setattr(recipes[1].data, "mnist_digits", recipes[1].data.embedded_digits)
    recipes[1].main()
    result = json.loads((tmp_path / "soak_versions.json").read_text())
    assert result["failures"] == result["answers_that_differ"] == result["labels_that_differ"] == 0
    assert result["times_replaced"] >= 1 and min(result["requests_by_version"]) > 0
    assert result["saved_models"] == ["jittered-mnist/saved_model/1", "jittered-mnist/saved_model/2"]
    assert (tmp_path / "soak_versions.png").stat().st_size > 10_000


@pytest.mark.slow
def test_batches_are_measured(recipes, program, tmp_path, monkeypatch, capsys):
    batching = importlib.import_module("batching")
    monkeypatch.setattr(sys, "argv", ["batching", "--requests", "200", "--rounds", "1", "--out", str(tmp_path)])
    monkeypatch.setattr(batching, "build", lambda folder: program)
    monkeypatch.setattr(batching, "SIZES", (1, 64))
    monkeypatch.setattr(batching, "THREADS", (1, 2))
    monkeypatch.setattr(recipes[1].data, "mnist_digits", recipes[1].data.embedded_digits)
    batching.main()
    with (tmp_path / "benchmark_serving.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if name != "commit"} for row in csv.DictReader(file)]
    assert [(row["batch"], row["threads"]) for row in rows] == [(1, 1), (1, 2), (64, 1), (64, 2)]
    assert all(0 < row["p50 ms"] <= row["p99 ms"] for row in rows)
    for row in rows:  # As many are in work at a time as are done in a second, times how long one takes.
        assert 0 < row["images/s"] / row["batch"] * row["p50 ms"] / 1000 < 1.5 * row["threads"]
    assert "max_batch_size { value: 64 }" in (tmp_path / "batching.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "1,0"], "must be at least 1; got 0"),
        (["--batch-sizes", "5000"], "batch sizes must be at most 1347, the number of images; got 5000"),
        (["none"], "none/saved_model.pb"),
        (["none", "--replace", "5"], "argument --replace: is for two SavedModels or more, and needed with them; got 1"),
        (["none", "other"], "argument --replace: is for two SavedModels or more, and needed with them; got 2"),
        (["flawed"], "with a signature 'explain'; flawed has ['__saved_model_init_op', 'uint8']"),
    ],
)
def test_bad_arguments(recipes, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    tf.saved_model.save(module := Flawed("none"), "flawed", {"uint8": module.__call__})
    monkeypatch.setattr(recipes[1].data, "mnist_digits", recipes[1].data.embedded_digits)
    monkeypatch.setattr(sys, "argv", ["soak", *arguments])
    with pytest.raises(SystemExit) as caught:
        recipes[1].main()
    assert message in f"{caught.value}{capsys.readouterr().err}"
