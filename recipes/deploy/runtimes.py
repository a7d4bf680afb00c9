"""The shipped models in every runtime that takes an exported file: what loads, what differs from Keras, bytes and time.

    pip install -e ".[recipes,litert,onnx,mediapipe,micro,demo]"              # and a C compiler, Chromium and npm
    python recipes/deploy/runtimes.py --data-dir ../DeepPCB                   # half an hour on two cores
    python recipes/deploy/runtimes.py --model mnist --runtime MediaPipe  # measures these lines anew; both repeatable

The first 1,000 test images of a seeded shuffle, one at a time on one thread, through files that are exported for it, with the
threshold of the model's card. All runtimes take turns, `--rounds` times after a round to warm up: the time of an image is its
median over rounds, without that of copying the image there. A runtime that is missing or fails has a line that says so. Lines
go to `recipes/results/runtimes.csv` model by model, and in short to `docs/on-device.md`.
"""

import argparse
import base64
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

RECIPES = Path(__file__).parent.parent
sys.path[:0] = [str(RECIPES), str(RECIPES / "robustness")]

import demo
import numpy as np
import onnxruntime
import serve
import tensorflow as tf
from accelerator import Cascade
from arguments import at_least, in_one_line
from console import show_table
from export import images_of
from litert import Compiled, LiteRT
from pretrained import MODELS, calibration_images
from rich.console import Console
from rich.progress import track
from runs import RESULTS, commit, write
from screenshots import chromium
from tables.report import replaced

import keras_glimpse
from keras_glimpse import data

SEED, COMPARED, SMOKE, BATCH = 0, 1000, 30, 50  # images
FEWER = dict.fromkeys([("LiteRT Micro", "deeppcb-defects"), ("LiteRT.js", "deeppcb-defects")], 200)  # A tenth of a second each.
PRECISIONS = ("float32", "float16", "dynamic", "int8")
TABLE, PAGE = RESULTS / "runtimes.csv", RECIPES.parent / "docs" / "on-device.md"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="DeepPCB, for deeppcb-defects")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one; repeatable")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="only this one; repeatable")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="times that everything is timed; default %(default)s")
    parser.add_argument("--smoke", action="store_true", help="one model, few images, no server and no browser; keeps nothing")
    args = parser.parse_args()
    models, runtimes = args.model or [*MODELS], args.runtime or [*RUNTIMES]
    if args.smoke:
        models, runtimes = models[:1], args.runtime or [name for name in RUNTIMES if name not in OUTSIDE]
    elif "deeppcb-defects" in models and not args.data_dir:
        parser.error("argument --data-dir: is needed for deeppcb-defects")
    some = slice(1 if args.smoke else None)
    kinds = [(name, precision) for name in runtimes for precision in RUNTIMES[name].precisions[some]]
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}  # Of the C API's process.
    with in_one_line():
        for name in models:
            model, threshold = keras_glimpse.load_pretrained(name), card_of(name)["threshold"]
            images, calibration = images_for(name, model, threshold, args)
            files = Files(model, threshold, calibration)
            rows = measure(name, files, images, kinds, args.rounds)
            show_table(f"{name}, {len(images):,} images", [without(row, "model", "images", "timed") for row in rows])
            if not args.smoke:
                keep(rows)


def card_of(name: str) -> dict:
    return json.loads((keras_glimpse.pretrained_folder() / name / "card.json").read_text())


def images_for(name: str, model, threshold: float, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Test images, unsigned bytes, and those to calibrate by, as for the shipped files."""
    if args.smoke:
        (images, _), train = images_of(model, data.embedded_digits())
        calibration = calibration_images(model, threshold, train, count=100)
    else:
        *_, to_export = MODELS[name]
        (images, _), calibration = to_export(model, threshold, args.data_dir)
    order = np.random.default_rng(SEED).permutation(len(images))
    return images[order[: SMOKE if args.smoke else COMPARED]], calibration


# ---- Measuring ----


class Pass(NamedTuple):
    """What a runtime says of each image, once."""

    probabilities: np.ndarray  # `[images, classes]`
    stages: np.ndarray  # `[images]`, the glimpses after which it stopped; None where a runtime does not tell.
    seconds: np.ndarray  # `[images]`


class Files(NamedTuple):
    """What is exported, and what Keras answers."""

    model: keras_glimpse.GlimpseClassifier
    threshold: float
    calibration: np.ndarray

    def write(self, kind: str, precision: str, path: Path) -> None:
        options = {} if precision == "float32" else {"quantize": precision}
        if precision == "int8":
            options["calibration"] = self.calibration
        match kind:
            case "litert":
                keras_glimpse.export_litert(self.model, path, self.threshold, **options)
            case "mediapipe":
                keras_glimpse.export_mediapipe(self.model, path, **options)
            case "onnx":
                keras_glimpse.export_onnx(self.model, path, self.threshold)
            case "saved_model":
                keras_glimpse.export_saved_model(self.model, path, self.threshold)
            case "accelerator":
                keras_glimpse.export_accelerator(self.model, path, self.threshold, calibration=self.calibration)

    def by_keras(self, images: np.ndarray, all_glimpses: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities, and the stages of the exits of the cascade."""
        if all_glimpses:
            return tf.nn.softmax(self.model.predict(images, BATCH, verbose=0)).numpy(), None
        expected = keras_glimpse.cascade_predict(self.model, images, self.threshold, BATCH)
        return expected.probabilities, expected.exit_stage


def measure(name: str, files: Files, images: np.ndarray, kinds: list[tuple[str, str]], rounds: int) -> list[dict]:
    """The lines of the table for a model, and such runtimes and precisions."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        @cache
        def exported(kind, precision):
            files.write(kind, precision, path := Path(folder) / f"{kind}-{precision}")
            return path

        def opened(runtime, precision):
            path = exported(RUNTIMES[runtime].kind, precision)
            return RUNTIMES[runtime].open(path, images[: FEWER.get((runtime, name))], stack)

        runs = {each: attempt(opened, *each) for each in in_progress(kinds, f"{name}: exporting")}
        turns = in_progress((1 + rounds) * [*runs], f"{name}: measuring")
        passes = [(each, runs[each] if isinstance(runs[each], Exception) else attempt(runs[each])) for each in turns]
        by_keras = cache(partial(files.by_keras, images))
        rows = []
        for runtime, precision in kinds:
            kind = RUNTIMES[runtime].kind
            found = compare([run for each, run in passes if each == (runtime, precision)], *by_keras(kind == "mediapipe"))
            path = Path(folder) / f"{kind}-{precision}"
            size = sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file()) or None
            row = {"model": name, "runtime": runtime, "precision": precision} | found | {"bytes": size}
            rows.append(row | {"timed": RUNTIMES[runtime].timed})
        return rows


def without(row: dict, *names: str) -> dict:
    return {name: value for name, value in row.items() if name not in names}


def attempt(what: Callable, *args):
    """What it returns, or the exception that it raises."""
    try:
        return what(*args)
    except Exception as error:
        return error


def compare(passes: list[Pass | Exception], probabilities: np.ndarray, stages: np.ndarray | None) -> dict:
    """Of passes, the first of which is to warm up: what differs from Keras, and the time."""
    for error in passes:
        if isinstance(error, Exception):
            said = (str(error) or type(error).__name__).strip().split("\n")[0]
            return dict.fromkeys(FIGURES) | {"loads": f"no: {said[:120]}"}
    found, *timed = passes
    count, told = len(found.seconds), stages is not None and found.stages[0] is not None
    seconds = np.median([each.seconds for each in timed], axis=0)
    figures = (
        "yes",
        count,
        int(np.sum(found.probabilities.argmax(axis=-1) != probabilities[:count].argmax(axis=-1))),
        int(np.sum(found.stages != stages[:count])) if told else None,
        float(np.abs(found.probabilities - probabilities[:count]).max()),
        1e6 * float(np.median(seconds)),
        1e6 * float(np.mean(seconds)),  # Which is what a cascade is about.
    )
    return {name: float(f"{each:.4g}") if isinstance(each, float) else each for name, each in zip(FIGURES, figures)}


FIGURES = ("loads", "images", "labels differ", "stages differ", "largest difference", "µs, median", "µs, mean")


def in_progress(each, what: str):
    return track(each, what, console=Console(stderr=True))


# ---- Runtimes: each takes a file, images and a stack for what is to be closed, and returns a function that makes a pass ----


def one_by_one(images: np.ndarray, answer: Callable) -> Callable[[], Pass]:
    """Passes of a runtime that is called from Python: `answer` returns the probabilities of an image, the stage, seconds."""
    return lambda: Pass(*map(np.array, zip(*map(answer, images))))


def floats(image: np.ndarray) -> np.ndarray:
    return image[None].astype(np.float32) / 255


def timed(call: Callable) -> tuple:
    """What it returns, and the seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def by_litert(api: type, path: Path, images: np.ndarray, stack: ExitStack) -> Callable[[], Pass]:
    file = api(path)

    def answer(image):
        file.put(floats(image))
        seconds = file.seconds()
        return file.probabilities()[0], file.exit_stage(), seconds

    return one_by_one(images, answer)


def by_micro(path: Path, images: np.ndarray, stack: ExitStack) -> Callable[[], Pass]:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(path.read_bytes(), arena_size=2**26)

    def answer(image):
        interpreter.set_input(floats(image), 0)
        _, seconds = timed(interpreter.invoke)
        outputs = {each.ndim: each for each in map(interpreter.get_output, range(2))}
        return outputs[2][0], int(outputs[1][0]), seconds

    return one_by_one(images, answer)


def by_mediapipe(path: Path, images: np.ndarray, stack: ExitStack) -> Callable[[], Pass]:
    import mediapipe

    classifier = stack.enter_context(mediapipe.tasks.vision.ImageClassifier.create_from_model_path(str(path)))

    def answer(image):
        picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.repeat(image, 3, axis=-1))
        result, seconds = timed(lambda: classifier.classify(picture))
        categories = sorted(result.classifications[0].categories, key=lambda category: category.index)
        return np.array([category.score for category in categories], np.float32), None, seconds

    return one_by_one(images, answer)


def by_onnx(path: Path, images: np.ndarray, stack: ExitStack) -> Callable[[], Pass]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)

    def answer(image):
        feed = {"images": floats(image)}
        (probabilities, stage), seconds = timed(lambda: session.run(["probabilities", "exit_stage"], feed))
        return probabilities[0], int(stage[0]), seconds

    return one_by_one(images, answer)


def by_accelerator_driver(path: Path, images: np.ndarray, stack: ExitStack) -> Callable[[], Pass]:
    cascade = Cascade(path)

    def answer(image):
        image = floats(image)[0]
        found, seconds = timed(lambda: cascade(image))
        return *found, seconds

    return one_by_one(images, answer)


def by_c_api(path: Path, images: np.ndarray, stack: ExitStack) -> Callable[[], Pass]:
    """Bytes, as servers get them, by `serve.c`: a process for each pass."""
    program = serve.build(Path(stack.enter_context(tempfile.TemporaryDirectory())))
    requests = np.array([(n, 1) for n in range(len(images))])

    def run():
        served = serve.serve(program, [path], images, requests, warm_up=100)
        if np.isnan(served.seconds).any():
            raise RuntimeError(served.complaints)
        return Pass(served.answers, np.full(len(images), None), served.seconds)

    return run


# Pages that are isolated have a clock with steps of 5 µs, others of 100.
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
IMPORTS = """<!doctype html><link rel="icon" href="data:,"><script type="importmap">{"imports": {
  "@litertjs/core": "./litertjs/core/dist/index.js", "@litertjs/wasm-utils": "./litertjs/wasm-utils/dist/index.js"
}}</script>"""
LOAD = """async () => {
  const {open, load, run} = await import(new URL("models.js", document.baseURI));
  await open();
  const model = await load("model.tflite");
  window.answer = image => run(model, image);
}"""
PASS = """async count => {
  const answers = [];
  for (let n = 0; n < count; n++) {
    const image = Float32Array.from(atob(await imageOf(n)), byte => byte.charCodeAt(0) / 255);
    const {probabilities, exit_stage, milliseconds} = await answer(image);
    answers.push([[...probabilities], exit_stage[0], milliseconds / 1000]);
  }
  return answers;
}"""


def by_browser(path: Path, images: np.ndarray, stack: ExitStack) -> Callable[[], Pass]:
    """The demo's `models.js` in a page of Chromium that gets its files from here, without a server."""
    packages, page = demo.litertjs(demo.CACHE), browser(stack).new_page()
    height, width, channels = images.shape[1:]
    files = {"models.js": demo.PAGE / "models.js", "model.tflite": path}
    texts = {"": IMPORTS, "about.json": json.dumps({"image": {"height": height, "width": width, "channels": channels}})}

    def fulfill(route):
        name = urlsplit(route.request.url).path[1:]
        if name in texts:
            route.fulfill(body=texts[name], content_type="text/html", headers=ISOLATED)
        else:
            route.fulfill(path=files.get(name) or packages / name.removeprefix("litertjs/"), headers=ISOLATED)

    page.route("**/*", fulfill)
    page.expose_function("imageOf", lambda n: base64.b64encode(images[n]).decode())
    page.goto("https://runtimes.example/")
    page.evaluate(LOAD)
    return lambda: Pass(*map(np.array, zip(*page.evaluate(PASS, len(images)))))


@cache
def browser(stack: ExitStack):
    """One for all files, until the stack is closed."""
    return stack.enter_context(launched())


@contextmanager
def launched():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, driver.chromium.launch(executable_path=chromium()) as browser:
        yield browser


class Runtime(NamedTuple):
    """A runtime, the kind of file that it takes, and what its time includes."""

    open: Callable[[Path, np.ndarray, ExitStack], Callable[[], Pass]]
    kind: str
    precisions: tuple[str, ...]
    timed: str


RUNTIMES = {
    "LiteRT interpreter": Runtime(partial(by_litert, LiteRT), "litert", PRECISIONS, "invoke, from Python"),
    "LiteRT CompiledModel": Runtime(partial(by_litert, Compiled), "litert", PRECISIONS, "run, from Python"),
    "LiteRT Micro": Runtime(by_micro, "litert", PRECISIONS, "invoke, from Python; reference kernels"),
    "LiteRT.js": Runtime(by_browser, "litert", PRECISIONS, "run, in JavaScript; Chromium"),
    "MediaPipe": Runtime(by_mediapipe, "mediapipe", PRECISIONS, "classify, from Python; all glimpses"),
    "ONNX Runtime": Runtime(by_onnx, "onnx", ("float32",), "run, from Python"),
    "SavedModel, C API": Runtime(by_c_api, "saved_model", ("float32",), "request of bytes, in C"),
    "accelerator's driver": Runtime(by_accelerator_driver, "accelerator", ("int8",), "all of it, in Python; on the CPU"),
}
OUTSIDE = ("LiteRT.js", "SavedModel, C API")  # What needs more than Python packages.


# ---- Results ----


def keep(rows: list[dict]) -> None:
    """Puts lines into the file of results, where they replace those of the same models and runtimes, and into the page."""
    rows = [row | {"commit": commit()} for row in rows]
    models, runtimes = [*MODELS], [*RUNTIMES]
    anew = {(row["model"], row["runtime"]) for row in rows}
    lines = [line for line in read() if (line["model"], line["runtime"]) not in anew] + rows
    lines.sort(key=lambda line: (models.index(line["model"]), runtimes.index(line["runtime"])))

    def write_to(path):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0]])
            writer.writeheader()
            writer.writerows(lines)

    write(TABLE, write_to)
    PAGE.write_text(replaced(PAGE.read_text(), "runtimes", markdown(read()), PAGE))


def read() -> list[dict]:
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        return [*csv.DictReader(file)]


def markdown(lines: list[dict]) -> str:
    """In short: float32 and int8, a column for each model."""
    if not lines:
        return "Not measured yet."
    cells = {(line["runtime"], line["precision"], line["model"]): cell(line) for line in lines}
    table = [["runtime", "precision", *(f"`{model}`" for model in MODELS)], 6 * ["---"]]
    for runtime in RUNTIMES:
        for precision in ("float32", "int8"):
            found = [cells.get((runtime, precision, model), "") for model in MODELS]
            table += [[runtime, precision, *found]] if any(found) else []
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def cell(line: dict) -> str:
    if line["loads"] != "yes":
        return "does not run"
    median, mean = (
        f"{float(line[name]):,.{'0f' if float(line[name]) >= 100 else '1f'}}" for name in ("µs, median", "µs, mean")
    )
    of = "" if int(line["images"]) == COMPARED else f" of {line['images']}"
    return f"{median} ({mean}), {line['labels differ']}{of}"


if __name__ == "__main__":
    main()
