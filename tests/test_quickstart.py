"""The recipe that the README starts with, as a user runs it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_quickstart(tmp_path):
    options = ["--epochs", "1", "--glimpses", "1", "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, ROOT / "recipes" / "quickstart.py", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = {"model.keras", "saved_model", "glimpses.png", "result.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["macs"] == [77_000, 227_020] and result["test_images"] == 1347
    assert len(result["error_percent"]) == 2 and result["error_percent"][1] < result["error_percent"][0]
    assert f"{result['error_percent'][1]:.2f}" in done.stdout and "cascade at 0.95" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--glimpses", 0], "must be at least 1; got 0"),
        (
            ["--data", "mnist", "--data-dir", "no-such-folder"],
            "MNIST was found neither prepared by TFDS in no-such-folder",
        ),
        (["--out", "/proc/nothing"], "/proc/nothing"),
    ],
)
def test_bad_arguments(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["quickstart", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("quickstart").main()
    said = capsys.readouterr()
    assert message in f"{ended.value.code}{said.err}" and ended.value.code != 0 and "Epoch" not in said.out
