"""The recipes that predict and train on JPEG files, in small."""

import importlib
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shown"), [("jpegs", "computing"), ("training", "3x3 around the prediction")])
def test_smoke(name, shown, monkeypatch, capsys):
    for folder in (RECIPES, RECIPES / "files"):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "argv", [name, "--smoke"])
    monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module(name).main()
    assert shown in capsys.readouterr().out
