"""Models on the Hugging Face Hub and their cards, with a stand-in for the Hub on this machine; the client is the real one."""

import os
import re
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import huggingface_hub.constants
import keras
import numpy as np
import pytest
import yaml
from hub import Hub
from PIL import Image

import keras_glimpse
from keras_glimpse.command import main

REPO, URL = "user/name", "hf://user/name"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """With a user who is logged in, and a cache of its own."""
    with Hub() as hub:
        use(monkeypatch, hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def use(monkeypatch, url):
    """What HF_ENDPOINT does at the start of a process."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(scope="module")
def model(make_model):
    """That no test changes."""
    return make_model(class_names=["a", "b", "ç"])


def put(hub, files):
    """A repository with the content of files, by their names in it."""
    hub.repositories[REPO] = [{name: Path(path).read_bytes() for name, path in files.items()}]


# ---- Saving and loading ----


def test_a_round_trip(hub, model, batch):
    """In one commit, with our card in place of Keras's; Keras loads it too."""
    model.save(URL)
    (_, files) = hub.repositories[REPO]
    assert {*files} == {"config.json", "metadata.json", "model.weights.h5", "README.md"}
    assert files["README.md"].decode() == keras_glimpse.model_card(model, URL)
    for loaded in (keras_glimpse.load_pretrained(URL), keras.saving.load_model(URL)):
        np.testing.assert_array_equal(loaded(batch[0]), model(batch[0]))
        assert loaded.class_names == ("a", "b", "ç") and not loaded.compiled


@pytest.mark.slow
def test_a_new_version_replaces_the_old_one(hub, make_model, batch):
    model = make_model()
    model.save(URL)
    keras_glimpse.load_pretrained(URL)
    model.set_weights([2 * weights for weights in model.get_weights()])
    model.save(URL, card="# Mine\n")
    np.testing.assert_array_equal(keras_glimpse.load_pretrained(URL)(batch[0]), model(batch[0]))
    assert hub.repositories[REPO][-1]["README.md"] == b"# Mine\n"


def test_a_commit_that_is_refused_changes_nothing(hub, model):
    hub.repositories[REPO], hub.refuses = [{"README.md": b"old"}], True
    with pytest.raises(OSError, match=f"(?s){URL} could not be written at {hub.url}: .*You may not write here"):
        model.save(URL)
    assert hub.repositories[REPO] == [{"README.md": b"old"}]


@pytest.mark.slow
def test_a_keras_file_in_a_repository(hub, model, batch, tmp_path):
    """As `hf upload user/name model.keras` puts it there."""
    model.save(tmp_path / "model.keras")
    put(hub, {"model.keras": tmp_path / "model.keras"})
    np.testing.assert_array_equal(keras_glimpse.load_pretrained(URL)(batch[0]), model(batch[0]))


def test_without_a_connection(hub, model, batch, monkeypatch):
    """What was downloaded before can be loaded; nothing else, and nothing can be saved."""
    model.save(URL)
    keras_glimpse.load_pretrained(URL)
    use(monkeypatch, "http://127.0.0.1:9")  # The port of a service that no machine runs any more.
    np.testing.assert_array_equal(keras_glimpse.load_pretrained(URL)(batch[0]), model(batch[0]))
    refused = "at http://127.0.0.1:9: .*refused"
    with pytest.raises(OSError, match=f"hf://user/other could not be read {refused}"):
        keras_glimpse.load_pretrained("hf://user/other")
    with pytest.raises(OSError, match=f"{URL} could not be written {refused}"):
        model.save(URL)


@pytest.mark.slow
def test_in_a_fresh_process(hub, model, batch, tmp_path):
    """With nothing but the environment to say where the Hub is."""
    model.save(URL)
    np.save(tmp_path / "images.npy", batch[0])
    program = f"""
import keras_glimpse, numpy as np
model = keras_glimpse.load_pretrained({URL!r})
np.save("logits.npy", model.predict(np.load("images.npy"), verbose=0))
"""
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    env |= {"PYTHONPATH": str(Path(keras_glimpse.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, check=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), model.predict(batch[0], verbose=0), atol=1e-6)


@pytest.mark.slow
def test_the_command_looks_by_a_model_of_the_hub(hub, make_model, tmp_path, capsys):
    make_model(num_classes=2, class_names=["dark", "bright"]).save("hf://user/name.keras")
    Image.new("L", (24, 20)).save(tmp_path / "image.png")
    assert main(["look", "hf://user/name.keras", str(tmp_path / "image.png")]) == 0
    assert re.search(r"image.png: (dark|bright) \(", capsys.readouterr().out)
    assert main(["look", "hf://user/none", str(tmp_path / "image.png")]) == 2
    assert f"error: hf://user/none could not be read: {hub.url} has no such repository" in capsys.readouterr().err


# ---- Bad input ----


@pytest.mark.parametrize("path", ["hf://name", "hf://user/name/model.keras", "hf://", "hf://user/na me", "hf://user/name@main"])
def test_other_forms_of_a_name(path, model):
    for use in (model.save, keras_glimpse.load_pretrained, lambda path: keras_glimpse.model_card(model, path)):
        with pytest.raises(ValueError, match=f"Expected hf://user/name; got '{path}'"):
            use(path)


def test_without_the_library(monkeypatch, model):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (model.save, keras_glimpse.load_pretrained, lambda path: keras_glimpse.model_card(model, path)):
        with pytest.raises(ImportError, match=r"pip install 'keras-glimpse\[hub\]'"):
            use(URL)


def test_what_cannot_be_saved(hub, model, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="card is for the Hub: expected hf://user/name with it; got .*model.keras"):
        model.save(tmp_path / "model.keras", card="# Mine")
    for card in (None, "# Mine"):
        with pytest.raises(ValueError, match="save needs a model that is built"):
            keras_glimpse.GlimpseClassifier(3).save(URL, card=card)
    with pytest.raises(ValueError, match=r"only card goes with it; got \['overwrite'\]"):
        model.save(URL, overwrite=False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with pytest.raises(OSError, match=f"(?s){URL} could not be written at {hub.url}: .*Invalid username or password"):
        model.save(URL)
    assert not hub.repositories and not [*tmp_path.glob("model.keras")]


def test_repositories_of_others(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{URL} could not be read: {hub.url} has no such repository, or it is private"):
        keras_glimpse.load_pretrained(URL)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    put(hub, {"config.json": tmp_path / "config.json"})
    with pytest.raises(ValueError, match=f"{URL} is not a repository of keras_glimpse: it has neither model.keras nor all of"):
        keras_glimpse.load_pretrained(URL)
    dense = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    dense.save(tmp_path / "dense", zipped=False)
    put(hub, {path.name: path for path in (tmp_path / "dense").iterdir() if path.is_file()})
    with pytest.raises(ValueError, match=f"{URL} is not a GlimpseClassifier, but a Sequential"):
        keras_glimpse.load_pretrained(URL)
    dense.save(tmp_path / "dense.keras")
    put(hub, {"model.keras": tmp_path / "dense.keras"})
    with pytest.raises(ValueError, match=f"{URL} is not a GlimpseClassifier, but a Sequential"):
        keras_glimpse.load_pretrained(URL)


@pytest.mark.slow
def test_a_repository_that_is_damaged_or_has_code(hub, model, make_model):
    model.save(URL)
    files = hub.repositories[REPO][-1]
    hub.repositories[REPO].append(files | {"model.weights.h5": files["model.weights.h5"][:-100]})
    with pytest.raises(ValueError, match="is corrupt: "):
        keras_glimpse.load_pretrained(URL)
    make_model(preprocess=keras.layers.Lambda(lambda images: images + 1)).save(URL)
    with pytest.raises(ValueError, match="[Ll]ambda"):
        keras_glimpse.load_pretrained(URL)


def test_folders_are_checked(model, tmp_path):
    model.save(tmp_path / "model", zipped=False)
    keras_glimpse.check_file(tmp_path / "model")
    (tmp_path / "model" / "metadata.json").unlink()
    with pytest.raises(ValueError, match="model is corrupt: metadata.json is missing"):
        keras_glimpse.check_file(tmp_path / "model")


# ---- Cards ----

CURVE = keras_glimpse.CascadeCurve(np.array([0.9, 0.99]), np.array([0.031, 0.02]), np.array([1234.0, 2345.6]), 0.02)


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_of_what_is_known(model):
    """Nothing of what nobody said."""
    card = keras_glimpse.model_card(model, URL)
    assert metadata(card) == {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["keras-glimpse", "early-exit"],
    }
    macs = ", ".join(f"{cost:,}" for cost in keras_glimpse.stage_macs(model))
    assert f"- **Cost**: {macs} multiply-accumulates after 0 to 2 glimpses." in card
    assert "images of 20x24 pixels, 1 channel;" in card and "3, in this order: a, b, ç." in card
    assert f"of {sum(np.size(weights) for weights in model.get_weights()):,} weights" in card
    assert not re.search("License|error|None|Data", card)


def test_a_card_of_all_that_is_said(model):
    said = {"about": "What it is.", "license": "mit", "data": "Ours: many.", "facts": {"Limits": "Few."}, "notes": "| a |"}
    card = keras_glimpse.model_card(model, URL, dataset="ours: 1", errors=[0.5, 0.25, 0.031], cascade=CURVE, **said)
    (result,) = metadata(card)["model-index"]
    assert result == {
        "name": "name",
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {"name": "ours: 1", "type": "ours: 1"},
                "metrics": [{"type": "accuracy", "value": 0.969}],
            }
        ],
    }
    assert metadata(card)["license"] == "mit" and metadata(card)["metrics"] == ["accuracy"]
    for line in (
        "# name",
        "What it is.",
        "- **Data**: Ours: many.",
        "- **Test error**: 50.00 % after 0, 25.00 % after 1, 3.10 % after 2 glimpses.",
        "- **Cascade at 0.9**: test error 3.10 %, 1,234 multiply-accumulates on average.",
        "- **Cascade at 0.99**: test error 2.00 %, 2,346 multiply-accumulates on average.",
        "- **Limits**: Few.",
        "- **License**: mit",
        "| a |",
    ):
        assert line in card.splitlines()
    assert "threshold=0.9)" in card


def test_an_accuracy_is_that_of_the_model(make_model):
    """Of what it says after its active glimpses, and of data that have a name."""
    model = make_model()
    model.active_glimpses = 1
    card = keras_glimpse.model_card(model, URL, dataset="ours", errors=[0.5, 0.25, 0.031])
    assert metadata(card)["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    for arguments in ({"dataset": "ours", "errors": [0.5]}, {"errors": [0.5, 0.25, 0.031]}, {"dataset": "ours"}):
        assert "model-index" not in metadata(keras_glimpse.model_card(model, URL, **arguments))


@pytest.mark.slow
def test_a_card_has_the_runtimes_that_can_run_the_model(make_model):
    runtimes = lambda model: re.findall("^## (.*)$", keras_glimpse.model_card(model, URL), re.MULTILINE)  # noqa: E731
    everywhere = ["Keras", "TensorFlow Serving", "LiteRT", "ONNX Runtime", "In the browser"]
    assert runtimes(make_model()) == everywhere
    assert runtimes(make_model(dtype="mixed_bfloat16")) == everywhere[:2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"errors": [1.4]}, ValueError, r"errors must be fractions in \[0, 1\], at most 3, .*; got \[1.4\]"),
        ({"errors": [0.1] * 4}, ValueError, "errors must be fractions"),
        ({"errors": []}, ValueError, "errors must be fractions"),
        ({"cascade": 0.95}, TypeError, "cascade must be a CascadeCurve, the result of cascade_curve; got float"),
        ({"cascade": CURVE._replace(thresholds=np.ones(11))}, ValueError, "cascade must have 1 to 10 thresholds; got 11"),
    ],
)
def test_errors_of_cards(model, arguments, error, message):
    with pytest.raises(error, match=message):
        keras_glimpse.model_card(model, URL, **arguments)


def test_a_card_of_another_model():
    with pytest.raises(TypeError, match="model_card needs a GlimpseClassifier; got Sequential"):
        keras_glimpse.model_card(keras.Sequential(), URL)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(20, 24, 1), (None, None, 3)])
def test_the_examples_run(hub, make_model, tmp_path, shape):
    """All Python of a card, from top to bottom; the models of TensorFlow Serving and of the browser are then there."""
    pytest.importorskip("tf2onnx")
    pytest.importorskip("ai_edge_litert")
    model, names = make_model(shape), {}
    model.save(URL)
    card = hub.repositories[REPO][-1]["README.md"].decode()
    with chdir(tmp_path):
        for block in re.findall("^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE):
            exec(block, names)
        keras_glimpse.check_file("name/1")
        keras_glimpse.check_file("name.tflite")
    expected = names["result"].probabilities
    for found in (names["answer"]["probabilities"], names["probabilities"]):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert names["answer"]["exit_stage"] == names["exit_stage"] == names["result"].exit_stage
    assert str([1, *names["images"].shape[1:]]) in card.split("## In the browser")[1]
