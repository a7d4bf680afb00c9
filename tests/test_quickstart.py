"""The recipe that the README starts with, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def quickstart(*arguments, **kwargs):
    command = [sys.executable, ROOT / "recipes" / "quickstart.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def test_quickstart(tmp_path):
    done = quickstart("--epochs", 1, "--glimpses", 2, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.keras",
        "saved_model",
        "glimpses.png",
        "result.json",
    }
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["macs"] == [77_000, 227_020, 377_040] and result["test_images"] == 1347
    assert len(result["error_percent"]) == 3 and result["error_percent"][1] < result["error_percent"][0]
    assert f"{result['error_percent'][2]:.2f}" in done.stdout and "cascade at 0.95" in done.stdout


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
def test_bad_arguments(tmp_path, arguments, message):
    done = quickstart(*arguments, cwd=tmp_path, env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)})
    assert done.returncode != 0 and message in done.stderr
    assert "Traceback" not in done.stderr and "Epoch" not in done.stdout
