"""Make `saved_models/` of rows that have been trained: each model for Keras, TensorFlow Serving and LiteRT, with a card.

pip install -e ".[recipes,litert,micro,onnx]"
python recipes/deploy/pretrained.py --model mnist                                       # about a minute for a model of digits
python recipes/deploy/pretrained.py --model deeppcb-defects --data-dir ../DeepPCB       # some minutes
python recipes/deploy/pretrained.py --refresh           # only what cards tell of microcontrollers, of the files that are there

The rows are those that `recipes/tables/run.py` and `recipes/images/run.py` keep in `runs/tables` and `runs/images`.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import images.training
import keras
import micro
import numpy as np
import tensorflow as tf
from arguments import in_one_line
from export import export_all, images_of, one_thread
from images import measure, tasks
from images.boards import repaired, turned
from tables.config import load
from tables.digits import mnist_digits
from tables.training import Run

from keras_glimpse import cascade_predict, pretrained_folder, stage_macs

SHIPPED = ("saved_model/1", "cascade.tflite", "cascade-int8.tflite")
CALIBRATION, TURNS = 200, 3  # Images of boards, of those held out, each turned so many times.


class Trained(NamedTuple):
    """A trained model, and what is known of it.

    Attributes:
        model: The model, without an optimizer, whose state would double the file.
        results: For `card.json`: of the row and of its cascade.
        threshold: Of the cascade.
        images: A function that returns what `export_all` takes: test images and their labels, and images to calibrate by.
        facts: What a user should know, by what it is about.
    """

    model: keras.Model
    results: dict
    threshold: float
    images: Callable[[], tuple]
    facts: dict[str, str]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="has tables/ and images/; default %(default)s")
    parser.add_argument("--data-dir", type=Path, help="DeepPCB, for deeppcb-defects")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one; repeatable")
    parser.add_argument("--refresh", action="store_true", help="measure only what files need on microcontrollers")
    args = parser.parse_args()
    one_thread()
    with in_one_line():
        for name in args.model or MODELS:
            about, row, trained = MODELS[name]
            if args.refresh:
                refresh(pretrained_folder() / name)
            else:
                make(name, about, trained(row, args.runs, args.data_dir))


def make(name: str, about: str, trained: Trained) -> None:
    """Writes the folder of a model; the one that is there stays until the new one is complete."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        trained.model.save(folder / "model.keras")
        files = export_all(trained.model, trained.threshold, *trained.images(), folder, SHIPPED)
        files = with_micro(folder, files)
        content = {"name": name} | trained.results | {"files": files}
        (folder / "card.json").write_text(json.dumps(content, indent=2) + "\n")
        (folder / "README.md").write_text(card(name, about, trained, files) + micro_section(files))
        shutil.rmtree(pretrained_folder() / name, ignore_errors=True)
        shutil.copytree(folder, pretrained_folder() / name)
    print(f"Wrote {pretrained_folder() / name}/")


def card(name: str, about: str, trained: Trained, files: list[dict]) -> str:
    """What a user should know of a model, in Markdown; every figure comes from a stored result."""
    facts = "\n".join(fill(f"- **{what}**: {fact}", 128, subsequent_indent="  ") for what, fact in trained.facts.items())
    line = "| `{file}` | {size:.2f} MB | {error_percent:.2f} % | {median_us:,.1f} | {mean_us:,.1f} |"
    table = "\n".join(line.format(size=file["bytes"] / 1e6, **file) for file in files)
    return f"""# {name}

{fill(about, 128)}

{facts}

| file | size | test error | median µs | mean µs |
| --- | --- | --- | --- | --- |
{table}

Latency is of one image on one thread of the machine that made this card; the `.tflite` files have the cascade inside.

```python
import keras_glimpse, numpy as np

model = keras_glimpse.load_pretrained("{name}")
images = np.zeros({(1, *trained.model.image_shape)}, "uint8")
result = keras_glimpse.cascade_predict(model, images, threshold={trained.threshold:.4g})
```
"""


# ---- Microcontrollers ----


MICRO = "\n## Microcontrollers\n"


def refresh(folder: Path) -> None:
    """Measures anew what the files of a model need on a microcontroller; all else of its card stays."""
    card_path, readme = folder / "card.json", folder / "README.md"
    content = json.loads(card_path.read_text())
    content["files"] = with_micro(folder, content["files"])
    card_path.write_text(json.dumps(content, indent=2) + "\n")
    readme.write_text(readme.read_text().partition(MICRO)[0] + micro_section(content["files"]))
    print(f"Wrote the card of {folder}/")


def with_micro(folder: Path, files: list[dict]) -> list[dict]:
    """Adds what `micro.needs` says of the `.tflite` files that are there."""
    paths = [folder / file["file"] for file in files]
    needs = [{"micro": micro.needs(path.read_bytes())} if path.suffix == ".tflite" and path.exists() else {} for path in paths]
    return [file | needed for file, needed in zip(files, needs)]


def micro_section(files: list[dict]) -> str:
    """The last section of a card."""
    lines = [(file["file"], file["micro"]) for file in files if "micro" in file]
    lines = [(f"`{name}`: {needs['arena_bytes'] / 1024:,.0f} KiB", ", ".join(needs["operations"])) for name, needs in lines]
    text = "\n".join(fill(f"- {arena}; {operations}.", 128, subsequent_indent="  ") for arena, operations in lines)
    return f"""{MICRO}
The arena that TensorFlow Lite for Microcontrollers needs, on a computer of 64 bits, and the operations to register:

{text}
"""


# ---- Digits ----


def digits(row: str, runs: Path, data_dir: Path | None) -> Trained:
    """Of the row of a cascade, which has the threshold and comes after the row that was trained."""
    table, name = row.split("/")
    mnist, cascade = mnist_digits(), Run(load(table).rows[name], 0, runs / "tables")
    row = cascade.before.row
    paths = [cascade.before.folder / "model.keras", *(run.folder / f"{table}.json" for run in (cascade.before, cascade))]
    model, result, stopped = read(*paths, missing=f"train row {row.name!r} and run row {name!r}")
    height, width, channels = model.image_shape
    spread, count = ("48x48 pixels, at random places", 30_000) if height == 48 else ("28x28 pixels", 10_000)
    kept = round(60_000 * (1 - row.data.get("validation_split", 0)))
    distorted = ", each ten times distorted: turned, stretched, slanted, bent" if row.data.get("distorted") else ""
    moved = f", and moved by up to {row.data['shift']} pixels" if row.data.get("shift") else ""
    details, macs = stopped["details"], ", ".join(f"{cost:,}" for cost in stage_macs(model))
    exits = enumerate(zip(details["exit_fractions"], details["exit_errors"]))
    exits = [f"{share:.1f} % sure after {n} ({wrong:.2f} % of them wrong)" for n, (share, wrong) in exits]
    facts = {
        "Input": f"{height}x{width}x{channels}, unsigned bytes or floats in [0, 1]; white on black.",
        "Data": f"MNIST, {spread}; tested on {count:,} images made of MNIST's own 10,000 test digits.",
        "Trained on": f"{kept:,} of MNIST's 60,000 training digits{distorted}{moved}.",
        "Protocol": f"row `{row.name}` of `recipes/tables/{table}.toml`, {made(result)}.",
        "Test error": f"{after_each(result['details']['errors'])} glimpses; {macs} multiply-accumulates.",
        f"Cascade at {details['threshold']:.3g}": f"{at_cost(stopped)}; {'; '.join(exits)} glimpses.",
        "Limits": "digits in MNIST's style and size only. It was never shown anything that is not a digit and calls everything "
        "one, sometimes with confidence. The confidence is not calibrated.",
    }
    results = {"row": result, "cascade": stopped}
    return Trained(model, results, details["threshold"], partial(images_of, model, mnist), facts)


# ---- Boards ----


def boards(row: str, runs: Path, data_dir: Path | None) -> Trained:
    """Of a row of `recipes/images`, with as many glimpses as are best on the images that were held out."""
    task_name, name = row.split("/")
    task = tasks.load(task_name, data_dir)
    run = images.training.Run(images.training.rows()[task_name][name], 0, task, runs / "images")
    paths = [run.folder / "model.keras", run.folder / "result.json"]
    model, result = read(*paths, missing=f"run row {name!r} of {task_name!r}")
    glimpses = model.active_glimpses = best_glimpses(model, task.validation)
    cascade = measure.cascade(model, task)
    details, (height, width, channels) = result["details"], model.image_shape
    defective = measure.looks(model, repaired(data_dir))[0].argmax(axis=-1)
    mistaken = [round(100 * float(share), 1) for share in defective.mean(axis=0)]
    defects = [len(boxes) for boxes in task.test.boxes if len(boxes)]
    macs, count = ", ".join(f"{cost:,}" for cost in stage_macs(model)), len(task.train(tf.zeros([2], tf.int64)))
    looks = ", ".join(f"{share} %" for share in details["pointing"][:glimpses])
    found = [f"{each['precision']} and {each['recall']} % for {n}" for n, each in details["detections"].items()]
    facts = {
        "Input": f"{height}x{width}x{channels}, unsigned bytes or floats in [0, 1]: a scan that is aligned and made black and "
        "white, as DeepPCB's are, with 48 pixels a millimetre.",
        "Classes": "; ".join(f"{number}, {name}" for number, name in enumerate(task.class_names)) + ".",
        "Data": "[DeepPCB](https://github.com/tangsanli5201/DeepPCB), by its official split; tested on "
        f"{len(task.test):,} images: {len(defects)} scans with {min(defects)} to {max(defects)} defects, most of them drawn by "
        "hand, and as many templates without.",
        "Trained on": f"{count:,} images, and the class of each. {len(task.validation):,} were held out. Boxes of defects only "
        "measure where it looks.",
        "Protocol": f"row `{name}` of `{task_name}` in `recipes/images/rows.toml`, {made(result)}.",
        "Test error": f"{after_each(result['details']['errors'])} glimpses.",
        "Glimpses": f"{glimpses}, with the smallest error on the images held out; in Keras, `model.active_glimpses` can be "
        f"up to {model.num_glimpses}. {macs} multiply-accumulates after 0 to {glimpses}.",
        f"Cascade at {cascade['threshold']:.4g}": f"{at_cost(cascade)}; "
        + ", ".join(f"{share} % stop after {n}" for n, share in enumerate(cascade["exits"]))
        + " glimpses. The threshold was chosen on the images held out.",
        "Where it looks": f"of the defective boards, glimpses 1 to {glimpses} lie on a defect in {looks}; a place by chance in "
        f"{details['by chance']} %. Precision and recall of the places as detections: {', '.join(found)} glimpses.",
        "Int8": f"`cascade-int8.tflite` was calibrated by {CALIBRATION} of the images held out, turned.",
        "Limits": "boards and defects like these only. DeepPCB's clean images are templates, retouched by hand, and glimpses "
        "have learned to tell scans from templates, not only defects: of the scans whose defects were replaced by what the "
        f"template has there, {after_each(mistaken, 1)} glimpses are still called defective. It finds some defects of a board, "
        "not all. The confidence is not calibrated.",
        "Licence of the data": "MIT, copyright (c) 2018 tangsanli5201. Its README says besides that it is for research only.",
    }
    images_to_export = partial(_boards_to_export, model, task, cascade["threshold"])
    results = {"row": result, "cascade": cascade, "repaired boards called defective": mistaken}
    return Trained(model, results, cascade["threshold"], images_to_export, facts)


def best_glimpses(model, held_out) -> int:
    """The smallest number of glimpses, at least 1, with the smallest error."""
    logits, _ = measure.looks(model, held_out)
    wrong = logits.argmax(axis=-1) != held_out.labels[:, None]
    return 1 + int(wrong.mean(axis=0)[1:].argmin())


def _boards_to_export(model, task, threshold):
    """Calibrated by images held out: those that need most glimpses, since few need all, and others at regular distances."""
    seeds, half = tf.reshape(tf.range(2 * TURNS), (TURNS, 2)), CALIBRATION // 2
    boards = np.concatenate([batch for seed in seeds for batch, _ in turned(task.validation, seed).dataset()])
    stages = cascade_predict(model, boards, threshold, batch_size=50).exit_stage
    hardest, others = np.split(np.argsort(-stages, kind="stable"), [half])
    chosen = [*hardest, *others[np.linspace(0, len(others) - 1, half, dtype=int)]]
    return (np.stack([task.test[n] for n in range(len(task.test))]), task.test.labels), boards[chosen]


# ---- Both ----


def read(path: Path, *results: Path, missing: str) -> tuple:
    """A model, and the content of files of results; FileNotFoundError, which says what to do, if one is missing."""
    for each in (path, *results):
        if not each.exists():
            raise FileNotFoundError(f"{each} does not exist; {missing}.")
    return keras.models.load_model(path, compile=False), *(json.loads(each.read_text()) for each in results)


def made(result: dict) -> str:
    return f"seed {result['seed']}, {result['sweeps']} sweeps, commit {result['commit']}"


def after_each(percents: list[float], decimals: int = 2) -> str:
    return ", ".join(f"{percent:.{decimals}f} % after {n}" for n, percent in enumerate(percents))


def at_cost(cascade: dict) -> str:
    return f"{cascade['error']:.2f} %, {cascade['macs']:,} multiply-accumulates on average"


JITTERED = "A digit anywhere in a 48x48 image"
MODELS = {  # What each is, the row, and the function that reads it.
    "jittered-mnist": (
        f"{JITTERED}: the paper's model, two glimpses, trained one after the other and fine-tuned.",
        "table1/fine-tuned-cascade",
        digits,
    ),
    "jittered-mnist-best": (
        f"{JITTERED}, as well as we can at the cost of the paper's two glimpses: convolutional ones.",
        "table1/wide-cascade",
        digits,
    ),
    "mnist": (
        "MNIST as it is, 28x28, as well as we can at the cost of the paper's model: two convolutional glimpses.",
        "table3/mnist-distorted-cascade",
        digits,
    ),
    "deeppcb-defects": (
        "Whether a circuit board of 640x640 pixels has defects: a thumbnail of 160x160, and glimpses of 48 and 96 pixels.",
        "board/ours",
        boards,
    ),
}


if __name__ == "__main__":
    main()
