"""README and docs: links, examples, numbers, and that nothing public is missing. The site itself is built by .ci/run."""

import ast
import contextlib
import inspect
import re
import runpy
from pathlib import Path

import keras
import pytest

import keras_glimpse

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("saved_models/**/*.md"), *ROOT.glob("recipes/results/*.md")]
)
PAGES = [page for page in PAGES if "_build" not in page.parts]
README = ROOT / "README.md"


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_fits_on_a_screen():
    assert len(README.read_text().splitlines()) <= 120


def test_links_lead_somewhere():
    """What Sphinx checks on the site holds in the repository too, where README and docs are read as they are."""
    assert not [(name_of(page), link) for page in PAGES for link in links(page) if not (page.parent / link).exists()]


def links(page):
    """The places in the repository that a page links to."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose))
    return [target.split("#")[0] for target in targets if not re.match(r"https?:|#", target)]


def test_links_are_found():
    assert "docs/guide/images.md" in links(README) and len(PAGES) > 20


def test_python_parses():
    for page in PAGES:
        for block in blocks(page, "python"):
            ast.parse(block, name_of(page))


@pytest.mark.slow
def test_the_readme_runs(tmp_path):
    """All of its Python, from top to bottom, as a reader would."""
    keras.utils.set_random_seed(0)
    names = {}
    with contextlib.chdir(tmp_path):
        for block in blocks(README, "python"):
            exec(block, names)
    assert names["result"].probabilities.shape == (1000, 3)
    assert {"glimpses.png", "model.keras", "model.tflite", "logs"} <= {path.name for path in tmp_path.iterdir()}


def rows_of_the_readme(first_columns):
    """The cells of each row of the table whose header begins so."""
    (table,) = re.findall(rf"^{re.escape(first_columns)}.*?\n\n", README.read_text(), re.DOTALL | re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:-1]]


def test_the_readme_has_the_numbers_of_the_tables():
    """Errors and multiply-accumulates of its results are those that report.py wrote."""
    tables = (ROOT / "docs/paper/tables.md").read_text()
    rows = rows_of_the_readme("| | paper, error %")
    assert len(rows) == 5
    for _, _, error, macs, speed_up in rows:
        written = rf"\| {re.escape(error)} \|[^|]*\| {macs} \| {float(speed_up.split()[0]):.2f} \|"
        assert re.search(written, tables), (error, macs)


def test_the_readme_has_the_numbers_of_large_images():
    """Errors and millions of multiply-accumulates are those that report.py wrote in the guide."""
    guide = (ROOT / "docs/guide/large-images.md").read_text()
    tasks = ("clutter-100", "kind", "megapixel")
    for (_, *cells), task in zip(rows_of_the_readme("| | ours |"), tasks, strict=True):
        for row, cell in zip(("ours", "mobilenet", "whole"), cells, strict=True):
            if cell == "not trained":
                assert f"| {task} | {row} |" not in guide
            else:
                error, macs = re.fullmatch(r"(.+) % \((.+)\)", cell).groups()
                assert f"| {task} | {row} | {error} | {macs} |" in guide


def public_names(module):
    """Those that `import ... as ...` makes public, and functions and classes of its own."""
    tree = ast.parse(inspect.getsource(module))
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    return {alias.asname for alias in aliases if alias.asname and alias.asname == alias.name} - {"data", "__version__"}


def test_everything_public_is_on_the_api_page():
    page = set(re.findall(r"\.\. auto(?:class|function):: keras_glimpse\.([\w.]+)", (ROOT / "docs/api.rst").read_text()))
    assert {name for name in page if "." not in name} == public_names(keras_glimpse)
    data = {f"data.{name}" for name, value in vars(keras_glimpse.data).items() if is_public_data(name, value)}
    assert {name for name in page if "." in name} == data


def is_public_data(name, value):
    if name.startswith(("_", "check_", "integers")) or not callable(value):
        return False
    return value.__module__.startswith("keras_glimpse")


def test_the_diagram_is_what_its_script_draws(tmp_path):
    draw = runpy.run_path(str(ROOT / "docs/diagram.py"))["draw"]
    draw(tmp_path / "diagram.svg")
    same = (tmp_path / "diagram.svg").read_bytes() == (ROOT / "docs/diagram.svg").read_bytes()
    assert same, "run python docs/diagram.py"
