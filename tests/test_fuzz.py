"""A small sample of recipes/fuzz.py; what it would count; and files that would run code if they could."""

import importlib
import json
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

RECIPES = Path(__file__).parent.parent / "recipes"
MUST_COUNT = {
    "memory": "MemoryError: ",
    "odd error": "IndexError: pop from empty list",
    "stumbling": "TypeError: object of type 'NoneType' has no len()",
    "no words": "ValueError: ",
    "not sane": "Insane: no probabilities",
    "other answer": "another answer",
    "code": "code from the file was run",
    "crash": "the process died: killed by SIGSEGV",
    "hang": "no answer after 2 seconds",  # Last, as the one before: each costs a process.
}
MUST_NOT_COUNT = ("clear error", "not finite", "accepted")


@pytest.fixture
def fuzz(monkeypatch):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.syspath_prepend(RECIPES)
    return importlib.import_module("fuzz")


@pytest.mark.slow
def test_what_is_counted_and_that_nothing_is(fuzz, tmp_path):
    """One process runs all, but for those that kill it: to import TensorFlow takes longer than the cases."""
    importlib.import_module("fuzz_cases").prepare(tmp_path)
    with fuzz.Worker(seed=0, base=tmp_path) as worker:
        for kind in fuzz.KINDS:
            results = [worker.run(kind, number) for number in range(4)]
            assert not [result for result in results if result.outcome == "anything else"]
            assert {result.outcome for result in results} >= {"clear error"}, kind
        for name in MUST_NOT_COUNT:
            assert worker.run(f"self-test: {name}", 0).outcome == name
        for name, said in MUST_COUNT.items():
            worker.limit = 2.0 if name == "hang" else 60.0
            result = worker.run(f"self-test: {name}", 0)
            assert result.outcome == "anything else" and result.said.startswith(said), (name, result)


def test_the_exit_status_tells(fuzz, monkeypatch, tmp_path, capsys):
    """And the table and the file say the same; here without any process."""
    outcomes = iter(["accepted", "clear error", "anything else"])
    monkeypatch.setattr(fuzz, "prepare", lambda base: None)
    monkeypatch.setattr(fuzz.Worker, "run", lambda self, kind, number: fuzz.Result(next(outcomes), "a reason", "spoiled"))
    monkeypatch.setattr(sys, "argv", ["fuzz", "--cases", "3", "--kind", "keras", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    written = json.loads((tmp_path / "fuzz.json").read_text())
    assert ended.value.code == 1
    assert written["counts"] == {"keras": {"cases": 3, "accepted": 1, "not finite": 0, "clear error": 1, "anything else": 1}}
    assert [(each["kind"], each["case"]) for each in written["anything else"]] == [("keras", 2)]
    assert "anything else" in capsys.readouterr().out


def test_a_lambda_is_not_run(make_model, batch, tmp_path):
    """Code in a file that would write another file; where code is allowed it does, so this is such code."""
    trap = tmp_path / "trap"
    code = eval(f"lambda values: __import__('pathlib').Path({str(trap)!r}).touch() or values")
    net = keras.Sequential([keras.layers.Flatten(), keras.layers.Lambda(code, output_shape=(72,)), keras.layers.Dense(3)])
    make_model(glimpse_net=net, num_glimpses=1).save(tmp_path / "model.keras")
    trap.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="[Ll]ambda"):
        keras.models.load_model(tmp_path / "model.keras")
    assert not trap.exists()
    keras.models.load_model(tmp_path / "model.keras", safe_mode=False)(batch[0])
    assert trap.exists()


@pytest.mark.parametrize("place", ["the model", "a network", "the optimizer"])
def test_classes_of_other_modules_are_not_looked_up(make_model, tmp_path, place):
    """A configuration that names os.system or subprocess.Popen: refused, and nothing is run."""
    trap, path = tmp_path / "trap", tmp_path / "model.keras"
    model = make_model(num_glimpses=1)
    model.compile("sgd")
    model.save(path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    for evil in (
        {"module": "os", "class_name": "system", "config": {"command": f"touch {trap}"}, "registered_name": "system"},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", str(trap)]}, "registered_name": "Popen"},
        {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "exec"},
    ):
        config = json.loads(parts["config.json"])
        if place == "the model":
            config = evil
        elif place == "a network":
            config["config"]["glimpse_net"] = evil
        else:
            config["compile_config"]["optimizer"] = evil
        with zipfile.ZipFile(path, "w") as file:
            for name, content in (parts | {"config.json": json.dumps(config).encode()}).items():
                file.writestr(name, content)
        with pytest.raises((TypeError, ValueError), match="Could not|cannot|must be a Keras layer|is not"):
            keras.models.load_model(path).look(np.zeros((1, 20, 24, 1), np.float32))
        assert not trap.exists()
