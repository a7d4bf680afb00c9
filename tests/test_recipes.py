"""The recipes run, and the README says what their results are."""

import importlib
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    """Imports a recipe and gives it a command line."""
    monkeypatch.syspath_prepend(RECIPES)

    def load(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_every_row_trains_and_is_tested(recipe, capsys, name):
    before = {path: path.stat().st_mtime for path in RECIPES.rglob("*.csv")}
    table = recipe(name, "--smoke")
    table.main(table.TABLE, table.__doc__)
    printed = capsys.readouterr().out
    assert len(table.TABLE.rows) > 5 and all(f"│ {row.name} " in printed for row in table.TABLE.rows)
    assert {path: path.stat().st_mtime for path in RECIPES.rglob("*.csv")} == before


def test_the_readme_has_the_results(recipe):
    recipe("report", "--check").main()


@pytest.mark.parametrize("arguments", [["--row", "nothing"], ["--seeds", "0"], ["--sweeps", "-1"]])
def test_bad_arguments(recipe, capsys, arguments):
    table = recipe("table1", *arguments)
    with pytest.raises(SystemExit):
        table.main(table.TABLE, table.__doc__)
    assert "error: " in capsys.readouterr().err
