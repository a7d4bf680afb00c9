"""The shipped files on a microcontroller: TFLM's runtime gives LiteRT's answers, and the cards tell what it needs."""

import os
import subprocess
from pathlib import Path

import micro
import numpy as np
import pytest
from test_pretrained import BOARDS, DIGITS, NAMES, card_of, digits_for, made_up_boards

import keras_glimpse

litert = pytest.importorskip("ai_edge_litert.interpreter")
FILES = ("cascade.tflite", "cascade-int8.tflite")
EACH = 5  # images of each stage


def content_of(name, file):
    return (keras_glimpse.pretrained_folder() / name / file).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_card_lists_the_operations(name):
    said = (keras_glimpse.pretrained_folder() / name / "README.md").read_text()
    found = {file["file"]: file["micro"] for file in card_of(name)["files"] if "micro" in file}
    assert found.keys() == {*FILES}
    for file, needs in found.items():
        assert needs["operations"] == micro.operations(content_of(name, file))
        assert f"`{file}`: {needs['arena_bytes'] / 1024:,.0f} KiB" in said
        assert ", ".join(needs["operations"]) in " ".join(said.split())


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
@pytest.mark.parametrize("file", FILES)
def test_the_card_tells_the_arena(name, file):
    pytest.importorskip("tflite_micro")
    (needs,) = (each["micro"] for each in card_of(name)["files"] if each["file"] == file)
    assert micro.needs(content_of(name, file)) == needs


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", FILES)
def test_tflm_gives_the_same_answers(name, file):
    """At every stage of the cascade; in 8 bits beside LiteRT's reference kernels, since XNNPACK's round otherwise."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    (arena,) = (each["micro"]["arena_bytes"] for each in card_of(name)["files"] if each["file"] == file)
    images, expected = one_of_each_stage(name, content_of(name, file))
    interpreter = runtime.Interpreter.from_bytes(content_of(name, file), arena_size=arena)
    for image, wanted in zip(images, expected):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        found = {each.dtype.kind: each for each in (interpreter.get_output(n) for n in range(2))}
        assert found["i"] == wanted["exit_stage"]
        np.testing.assert_allclose(found["f"], wanted["probabilities"], atol=1e-5)


def one_of_each_stage(name, content):
    """Some images that stop after 0, 1, ... glimpses each, and what LiteRT says of them."""
    model = keras_glimpse.load_pretrained(name)
    images = made_up_boards() if name == BOARDS else digits_for(model)
    kernels = litert.OpResolverType.BUILTIN_REF
    run = litert.Interpreter(model_content=content, experimental_op_resolver_type=kernels).get_signature_runner()
    answers = [run(images=image[None]) for image in images]
    stages = np.array([int(answer["exit_stage"][0]) for answer in answers])
    assert name == BOARDS or {*stages} == {*range(model.active_glimpses + 1)}
    chosen = np.concatenate([np.flatnonzero(stages == stage)[: 1 if name == BOARDS else EACH] for stage in np.unique(stages)])
    return images[chosen], [answers[n] for n in chosen]


@pytest.mark.slow
def test_the_example_in_cpp(tmp_path):
    """Linked with nothing but the operations of the file; it answers as LiteRT does."""
    if "TFLM_DIR" not in os.environ:
        pytest.skip("TFLM_DIR does not say where TensorFlow Lite for Microcontrollers was built (`make ... microlite`).")
    tflm, name, file = Path(os.environ["TFLM_DIR"]), "mnist", "cascade-int8.tflite"
    content, example = content_of(name, file), Path(micro.__file__).with_name("micro.cc")
    (needs,) = (each["micro"] for each in card_of(name)["files"] if each["file"] == file)
    (tmp_path / "model.h").write_text(micro.header(content, **needs))
    downloads = tflm / "tensorflow/lite/micro/tools/make/downloads"
    includes = [tmp_path, tflm, *(downloads / each for each in ("flatbuffers/include", "gemmlowp", "ruy"))]
    (library,) = tflm.glob("gen/*/lib/libtensorflow-microlite.a")
    flags = ["-std=c++17", "-DTF_LITE_STATIC_MEMORY", "-fno-rtti", *(f"-I{folder}" for folder in includes)]
    command = ["g++", *flags, example, library, "-Wl,--gc-sections", "-o", tmp_path / "micro"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for image, wanted in zip(*one_of_each_stage(name, content)):
        done = subprocess.run([tmp_path / "micro"], input=image.tobytes(), capture_output=True, check=True)
        *probabilities, stage = done.stdout.split()
        assert int(stage) == wanted["exit_stage"]
        np.testing.assert_allclose(np.array(probabilities, float), wanted["probabilities"][0], atol=1e-5)


def test_names_in_cpp():
    text = micro.header(b"\0" * 50, ["BATCH_MATMUL", "CONV_2D", "FULLY_CONNECTED", "IF", "REDUCE_MAX", "SELECT_V2"], 2048)
    for name in ("BatchMatMul", "Conv2D", "FullyConnected", "If", "ReduceMax", "SelectV2"):
        assert f"resolver.Add{name}()" in text
    assert "kArenaBytes = 2048" in text and "kOperations = 6" in text
    assert text.count("0,") == 50


def test_refused(tmp_path, monkeypatch):
    (tmp_path / "other.tflite").write_bytes(b"PK 0123456789")
    for name, message in (("none.tflite", "none.tflite"), ("other.tflite", "Expected the content of a .tflite file")):
        monkeypatch.setattr("sys.argv", ["micro", str(tmp_path / name), "--out", str(tmp_path / "model.h")])
        with pytest.raises(SystemExit, match=message):
            micro.main()
    assert not (tmp_path / "model.h").exists()
