"""Recipes are programs of users: they import public names only, and nothing in the package imports them."""

import ast
from pathlib import Path

import pytest

import keras_glimpse

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
PUBLIC = {name for name in vars(keras_glimpse) if not name.startswith("_") or name == "__version__"}
PUBLIC -= {path.stem for path in (ROOT / "keras_glimpse").iterdir()} - {"data"}  # Modules are no public names, but for one.


def imports(source: str):
    """Every module that is imported, and every name from one, with dots between."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def private_imports(source: str) -> list[str]:
    ours = [name.split(".")[1:] for name in imports(source) if name.split(".")[0] == "keras_glimpse"]
    return [".".join(names) for names in ours if names and names[0] not in PUBLIC or len(names) > 1 and names[0] != "data"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_import_public_names_only(path):
    assert private_imports(path.read_text()) == []


def test_what_is_private():
    source = """
import keras_glimpse
import keras_glimpse.data
from keras_glimpse import GlimpseClassifier, data
from keras_glimpse.data import Epoch
import keras_glimpse.model
from keras_glimpse import cascade, _compat
from keras_glimpse.export.litert import convert
"""
    assert private_imports(source) == ["model", "cascade", "_compat", "export.litert.convert"]


def test_the_package_imports_no_recipe():
    recipes = {path.stem for path in RECIPES} | {"recipes"}
    for path in (ROOT / "keras_glimpse").rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path.read_text())}
        assert not found & recipes, path
