"""Every option of every recipe does what it says or is refused in one line, and every package they import can be installed."""

import argparse
import ast
import importlib
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiers import one_fast, slow

import keras_glimpse

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
PACKAGES = ("tables", "images", "files")
NAMES = {
    path: f"{path.parent.name}.{path.stem}" if path.parent.name in PACKAGES else path.stem for path in RECIPES.rglob("*.py")
}
PATHS = {name: path for path, name in NAMES.items()}  # As they are imported.
PROGRAMS = sorted(name for name, path in PATHS.items() if "__main__" in path.read_text())
SCRIPTS = [name for name in PROGRAMS if "." not in name]
SHIPPED = keras_glimpse.pretrained_names()
BOARDS = "deeppcb-defects"
DIGITS = [name for name in SHIPPED if name != BOARDS]


@pytest.fixture(autouse=True)
def seeded():
    """Nothing is trained here, so nothing is seeded; and to clear Keras's session after each test would take a minute."""


@pytest.fixture
def recipe(monkeypatch, tmp_path):
    """Imports a recipe and gives it a command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def load(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return importlib.import_module(name)

    return load


@pytest.fixture
def refused(recipe, monkeypatch, capsys):
    """What a recipe says as it ends, before it has done anything."""

    def run(name, *arguments):
        found = recipe(name, *arguments)
        if hasattr(found, "one_thread"):
            monkeypatch.setattr(found, "one_thread", lambda: None)  # TensorFlow runs already.
        with pytest.raises(SystemExit) as ended:
            found.main()
        assert ended.value.code not in (0, None)
        said = capsys.readouterr()
        assert said.out == ""
        return f"{ended.value.code} {said.err}"

    return run


# ---- Models ----


def test_the_recipes_that_take_a_model():
    """Those that the tests below know."""
    assert {name for name in SCRIPTS if '"--model"' in PATHS[name].read_text()} == {
        "on_device",
        "pretrained",
        "runtimes",
    }
    assert len(DIGITS) >= 3 and BOARDS in SHIPPED


@pytest.mark.parametrize("name", one_fast(DIGITS))
def test_on_device_takes_every_shipped_model(recipe, monkeypatch, capsys, name):
    """All but LiteRT itself, in whose place networks are only asked whether they take such images."""
    pytest.importorskip("ai_edge_litert")
    on_device = recipe("on_device", "--smoke", "--rounds", "1", "--model", name)

    class File:
        def __init__(self, export):
            net = export.args[0]
            self.shape = (1, *(getattr(net, "image_shape", None) or net.input_shape[1:]))

        def put(self, image):
            assert image.shape == self.shape

        def seconds(self):
            return 1e-6

    monkeypatch.setattr(on_device.litert, "opened", File)
    on_device.main()
    said = capsys.readouterr().out
    side = keras_glimpse.load_pretrained(name).image_shape[0]
    assert f"dense {side * side}-500-10" in said and f"over {side}" in said and " 256 " in said


@pytest.mark.slow
def test_an_enlarged_model_is_the_same(recipe, rng):
    """Of an image whose pixels are doubled, every other pixel is the image; and so it is in LiteRT."""
    pytest.importorskip("ai_edge_litert")
    on_device, model = recipe("on_device"), keras_glimpse.load_pretrained("jittered-mnist-best")
    large = on_device.enlarged(model, 96)
    images = rng.random((3, 48, 48, 1), np.float32)
    doubled = images.repeat(2, axis=1).repeat(2, axis=2)
    before, after = (np.asarray(net(x)[1]) for net, x in ((model.low_res_net, images), (large.low_res_net, doubled)))
    np.testing.assert_allclose(after, before, atol=1e-5)
    keras_glimpse.export_litert(large, "large.tflite")
    export = recipe("export")
    found = np.concatenate([export.LiteRT(Path("large.tflite"))(image[None]) for image in doubled])
    np.testing.assert_allclose(found, export.by_keras(large, doubled, None), atol=1e-5)


@pytest.mark.parametrize("name", SHIPPED)
def test_pretrained_makes_every_shipped_model(recipe, refused, monkeypatch, name):
    pretrained = recipe("pretrained")
    monkeypatch.setattr(pretrained, "mnist_digits", recipe("tables.digits").smoke_digits)
    boards = recipe("images.stand_ins").boards()
    said = refused("pretrained", "--model", name, "--runs", "none", "--data-dir", boards)
    assert "does not exist; run row 'ours' of 'board'" in said if name == BOARDS else "does not exist; train row" in said


@pytest.mark.parametrize(("name", "options"), [("on_device", ["--model"]), ("export", [])])
def test_recipes_for_digits_refuse_boards(refused, name, options):
    assert "Expected a model of digits, 48x48x1 or 28x28x1; got (640, 640, 1)" in refused(name, *options, BOARDS)


@pytest.mark.parametrize(("name", "options"), [("on_device", ["--model"]), ("export", []), ("demo", [])])
def test_models_that_cannot_be_used(refused, tmp_path, name, options):
    (tmp_path / "some.tflite").write_bytes(b"")
    (tmp_path / "some.keras").write_bytes(b"")
    assert f"{name}: Expected a .keras file or one of {SHIPPED}; nothing does not exist" in refused(name, *options, "nothing")
    assert f"Expected a .keras file or one of {SHIPPED}; got some.tflite" in refused(name, *options, "some.tflite")
    assert f"{name}: " in refused(name, *options, "some.keras")


@pytest.mark.parametrize("name", [*one_fast(DIGITS), slow(BOARDS)])
def test_onnx_of_every_shipped_model(name, rng, tmp_path):
    """As export.py writes it: convolutions inside the branches of the cascade too."""
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, path = keras_glimpse.load_pretrained(name), tmp_path / "cascade.onnx"
    threshold = 0.5 if name in DIGITS else 0.995  # Of two classes one has half of the probability, always.
    keras_glimpse.export_onnx(model, path, threshold)
    session = onnxruntime.InferenceSession(path)
    images = rng.random((12, *model.image_shape), np.float32) * np.linspace(0, 1, 12, dtype=np.float32)[:, None, None, None]
    found = [np.concatenate(each) for each in zip(*(session.run(None, {"images": image[None]}) for image in images))]
    expected = keras_glimpse.cascade_predict(model, images, threshold)
    stages = next(each for each in found if each.dtype == np.int32)
    np.testing.assert_array_equal(stages, expected.exit_stage)
    np.testing.assert_allclose(next(each for each in found if each.ndim == 2), expected.probabilities, atol=1e-5)
    assert len(set(stages)) > 1  # Some stop early.


@pytest.mark.slow
def test_an_onnx_file_that_nothing_can_read_is_an_error(monkeypatch, tmp_path):
    """With weights from outside of the branches, tf2onnx only logs that it cannot convert a convolution."""
    pytest.importorskip("tf2onnx")
    monkeypatch.setattr(importlib.import_module("keras_glimpse.export.onnx"), "Branches", lambda model: model)
    with pytest.raises(ValueError, match="operations that cannot be exported to ONNX"):
        keras_glimpse.export_onnx(keras_glimpse.load_pretrained("mnist"), tmp_path / "cascade.onnx", threshold=0.5)
    assert list(tmp_path.iterdir()) == []


# ---- Options ----


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
@pytest.mark.parametrize("name", ["quickstart", "multi_worker", "worker", "soak"])
def test_seeds_that_numpy_does_not_take(refused, name, seed):
    assert f"argument --seed: must be at least 0 and below 2**32; got {seed}" in refused(name, "--seed", seed)


@pytest.mark.parametrize(
    ("name", "options"),
    [("quickstart", []), ("soak", []), ("multi_worker", []), ("worker", ["--smoke"])],
)
def test_folders_that_cannot_be_written_to(refused, tmp_path, name, options):
    (tmp_path / "file").write_text("no folder")
    said = refused(name, "--out", "file", *options)
    assert f"{name}: --out must be a folder that can be written to; got file (File exists)" in said


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("on_device", ["--rounds", "0"], "argument --rounds: must be at least 1; got 0"),
        ("export", ["mnist", "--threshold", "nan"], "argument --threshold: must lie in (0, 1]; got nan"),
        ("export", ["mnist", "--threshold", "1.5"], "argument --threshold: must lie in (0, 1]; got 1.5"),
        ("soak", ["--batch-sizes", "1,x"], "argument --batch-sizes: invalid integers value: '1,x'"),
        ("worker", ["--digits", "2000"], "worker: --digits must be at most 1,348, those there are to train on; got 2000"),
        # What would be ignored:
        ("quickstart", ["--download"], "argument --download: needs --data mnist"),
        ("quickstart", ["--data-dir", "x"], "argument --data-dir: needs --data mnist"),
        ("multi_worker", ["--data-dir", "x"], "argument --data-dir: needs --data mnist"),
        ("multi_worker", ["--smoke", "--digits", "50"], "argument --digits: --smoke has digits of its own"),
        ("worker", ["--smoke", "--data", "mnist"], "argument --data: --smoke has digits of its own"),
        ("worker", ["--workers", "3"], "unrecognized arguments: --workers 3"),
        ("worker", ["--restarts", "3"], "unrecognized arguments: --restarts 3"),
        ("benchmark", ["memory", "--rounds", "3"], "argument --rounds: memory is measured once"),
    ],
)
def test_options_that_are_refused(refused, name, arguments, message):
    assert message in refused(name, *arguments)


def test_a_worker_beside_others_has_no_replicas(refused, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert "--replicas are of one worker, without TF_CONFIG; got --replicas 2" in refused("worker", "--replicas", "2")


@pytest.mark.parametrize("given", [["--workers", "1", "--restarts", "2"], ["--workers=1", "--resta", "2"]])
def test_workers_get_what_is_theirs(recipe, given):
    """`worker.py` takes `--replicas` without being told how many workers there are, which it would not heed."""
    args, rest = recipe("multi_worker", "--replicas", "2", *given, "--smoke").parse_args()
    assert (args.workers, args.restarts, args.replicas) == (1, 2, 2) and rest == ["--replicas", "2", "--smoke"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("benchmark", ["train"]),
        ("benchmark", ["inference"]),
        ("benchmark", ["memory"]),
        ("export", ["mnist"]),
        ("on_device", []),
        ("pretrained", []),
        ("quickstart", ["--data", "mnist"]),
        ("worker", ["--data", "mnist"]),
    ],
)
def test_without_mnist(recipe, refused, monkeypatch, tmp_path, name, arguments):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    said = refused(name, *arguments)
    assert f"{name}: MNIST was found neither" in said and "quickstart.py --data mnist --download` fetches" in said


# ---- What is printed ----


def commands():
    """All command lines of recipes in the documents and in the recipes' own words: name and arguments."""
    texts = [path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))]
    texts += [ast.get_docstring(ast.parse(PATHS[name].read_text())) for name in SCRIPTS]
    found = re.findall(r"python recipes/((?!tables/|images/|files/)[\w/]+)\.py([^\n`#&']*)", "\n".join(texts))
    return sorted({(name, *re.sub(r"{(\w+)[^}]*}", r"\1", arguments).split()) for name, arguments in found})


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_printed_commands_are_understood(recipe, monkeypatch, command):
    class Understood(Exception):
        pass

    def parse(parser, *args, real=argparse.ArgumentParser.parse_args, **kwargs):
        real(parser, *args, **kwargs)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    path, *arguments = command
    assert (RECIPES / f"{path}.py").exists()
    found = recipe(Path(path).name, *arguments)
    with pytest.raises(Understood):
        found.main()


# ---- What is installed ----

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = importlib.metadata.packages_distributions()


def installed_by(*extras):
    """The distributions that this package with these extras brings, those that they need included."""
    found, left = set(), [*PROJECT["dependencies"], f"keras-glimpse[{','.join(extras)}]"]
    while left:
        wanted = Requirement(left.pop())
        name = canonicalize_name(wanted.name)
        if name == "keras-glimpse":
            left += [each for extra in wanted.extras for each in PROJECT["optional-dependencies"][extra]]
        elif name not in found:
            found.add(name)
            left += [each for each in _needs(name) if "extra ==" not in each]
    return found


def _needs(name):
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def imported_by(source):
    """The distributions that a program imports, itself or by other recipes; each with the module."""
    found, seen, left = {}, set(), [ast.parse(source)]
    while left:
        for node in ast.walk(left.pop()):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            for name in names - seen:
                seen.add(name)
                module = name.split(".")[0]
                if module in PATHS or module in PACKAGES:
                    left += [ast.parse(PATHS[name].read_text())] if name in PATHS else []
                elif module not in sys.stdlib_module_names | {"keras_glimpse"}:
                    found[module] = {canonicalize_name(each) for each in DISTRIBUTIONS.get(module, [module])}
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_recipe_names_the_extra_that_it_needs(name):
    """In its first words; where it does not, `[recipes]` is enough."""
    source = PATHS[name].read_text()
    named = re.search(r'pip install -e "\.\[([\w,]+)\]"', ast.get_docstring(ast.parse(source)))
    extras = named.group(1).split(",") if named else ["recipes"]
    brought, imported = installed_by(*extras), imported_by(source)
    if name != "benchmark":
        imported.pop("torch", None)  # Which benchmark.py imports, for others too, only where it is installed.
    missing = {module for module, distributions in imported.items() if not distributions & brought}
    assert not missing, f"{name}.py imports {missing}, which {extras} does not bring"


@pytest.mark.parametrize("path", ["README.md", "docs/on-device.md", "docs/serving.md"])
def test_examples_import_what_an_extra_brings(path):
    text = (ROOT / path).read_text()
    brought = installed_by("recipes", "litert", "mediapipe")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for module, distributions in imported_by(block).items():
            assert distributions & brought, module


def test_tensorboard_comes_with_the_first_command_of_the_readme():
    text = (ROOT / "README.md").read_text()
    extras = re.search(r'pip install -e "\.\[([\w,]+)\]"', text).group(1).split(",")
    assert "keras.callbacks.TensorBoard()" in text and "tensorboard" in installed_by(*extras)
    assert "torch" not in installed_by(*extras)  # The closure does not simply have everything.
