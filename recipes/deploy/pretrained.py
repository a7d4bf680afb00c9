"""Make `saved_models/` of rows that have been trained: each model for Keras, TensorFlow Serving and LiteRT, with a card.

pip install -e ".[recipes,litert,micro,onnx]"
python recipes/deploy/pretrained.py --model mnist                                       # about a minute for a model of digits
python recipes/deploy/pretrained.py --model deeppcb-defects --data-dir ../DeepPCB       # some minutes

The rows are those that `recipes/tables/run.py` and `recipes/images/run.py` keep in `runs/tables` and `runs/images`.
Without them,

python recipes/deploy/pretrained.py --refresh               # seconds; writes model.keras and the card of each folder again
python recipes/deploy/pretrained.py --refresh --export --data-dir ../DeepPCB     # and the exported files, which it measures

keep weights, and the figures of `card.json` that are not of exported files.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from textwrap import fill

sys.path.insert(0, str(Path(__file__).parent.parent))

import images.training
import keras
import micro
import numpy as np
import tensorflow as tf
from arguments import in_one_line, refuse
from export import export_all, images_of, one_thread
from images import measure, tasks
from images.boards import repaired, turned
from tables.config import load
from tables.digits import mnist_digits
from tables.training import Run

from keras_glimpse import CascadeCurve, cascade_predict, load_pretrained, model_card, pretrained_folder

SHIPPED = ("saved_model/1", "cascade.tflite", "cascade-int8.tflite")
SAID = ("about", "license", "data", "dataset", "facts")  # What `card.json` has for `model_card`, as it is.
LICENSE = "apache-2.0"  # That of the package, of which they are a part.
CALIBRATION, TURNS = 200, 3  # Images of boards, of those held out, each turned so many times.


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="has tables/ and images/; default %(default)s")
    parser.add_argument("--data-dir", type=Path, help="DeepPCB, for deeppcb-defects")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one; repeatable")
    parser.add_argument("--refresh", action="store_true", help="start from saved_models/, not from --runs")
    parser.add_argument("--export", action="store_true", help="with --refresh: write and measure the exported files too")
    args = parser.parse_args()
    if args.refresh:
        refuse(parser, args, "saved_models/ has the models, with --refresh", "runs")
    else:
        refuse(parser, args, "they are always exported without --refresh", "export")
    one_thread()
    with in_one_line():
        for name in args.model or MODELS:
            about, row, trained, to_export = MODELS[name]
            if args.refresh:
                model, content = load_pretrained(name), json.loads((pretrained_folder() / name / "card.json").read_text())
            else:
                model, content = trained(row, args.runs, args.data_dir)
                content = {"name": name, "about": about} | content
            exports = args.export or not args.refresh
            make(model, content, to_export(model, content["threshold"], args.data_dir) if exports else None)


def make(model, content: dict, images: tuple | None) -> None:
    """Writes the folder of a model; the one that is there stays until the new one is complete.

    `content` is that of `card.json`, without exported files; `images` what `export_all` takes, test images with their labels
    and images to calibrate by, or None to keep the exported files that are there.
    """
    target = pretrained_folder() / content["name"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "new"
        if images is None:
            shutil.copytree(target, folder)
        else:
            folder.mkdir()
            content = content | {"files": export_all(model, content["threshold"], *images, folder, SHIPPED)}
        content = content | {"files": with_micro(folder, content["files"])}
        model.class_names = content["class_names"]
        model.save(folder / "model.keras")
        (folder / "card.json").write_text(json.dumps(content, indent=2) + "\n")
        (folder / "README.md").write_text(card(model, content))
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
    print(f"Wrote {target}/")


def card(model, content: dict) -> str:
    """The card of a model by its `card.json`: every figure comes from a stored result."""
    row, cascade = content["row"], content["cascade"]
    files = [file for file in content["files"] if file["file"] in SHIPPED]
    measured = ([content["threshold"]], [cascade["error"] / 100], [cascade["macs"]])
    return model_card(
        model,
        content["name"],
        errors=[error / 100 for error in row["details"]["errors"]],
        cascade=CascadeCurve(*map(np.array, measured), full_error=row["error"] / 100),
        notes=f"{table(files)}\n\n{micro_section(files)}",
        **{what: content[what] for what in SAID},
    )


def table(files: list[dict]) -> str:
    line = "| `{file}` | {size:.2f} MB | {error_percent:.2f} % | {median_us:,.1f} | {mean_us:,.1f} |"
    rows = "\n".join(line.format(size=file["bytes"] / 1e6, **file) for file in files)
    return f"""| file | size | test error | median µs | mean µs |
| --- | --- | --- | --- | --- |
{rows}

Latency is of one image on one thread of the machine that measured it; the `.tflite` files have the cascade inside."""


# ---- Microcontrollers ----


def with_micro(folder: Path, files: list[dict]) -> list[dict]:
    """Adds what `micro.needs` says of the `.tflite` files that are there."""
    paths = [folder / file["file"] for file in files]
    needs = [{"micro": micro.needs(path.read_bytes())} if path.suffix == ".tflite" and path.exists() else {} for path in paths]
    return [file | needed for file, needed in zip(files, needs)]


def micro_section(files: list[dict]) -> str:
    lines = [(file["file"], file["micro"]) for file in files if "micro" in file]
    lines = [(f"`{name}`: {needs['arena_bytes'] / 1024:,.0f} KiB", ", ".join(needs["operations"])) for name, needs in lines]
    text = "\n".join(fill(f"- {arena}; {operations}.", 128, subsequent_indent="  ") for arena, operations in lines)
    return f"""## Microcontrollers

The arena that TensorFlow Lite for Microcontrollers needs, on a computer of 64 bits, and the operations to register:

{text}"""


# ---- Digits ----


def digits(row: str, runs: Path, data_dir: Path | None) -> tuple[keras.Model, dict]:
    """The model and the content of its `card.json`; of the row of a cascade, which comes after the row that was trained."""
    mnist_digits()  # Raises at once what the export would.
    table, name = row.split("/")
    cascade = Run(load(table).rows[name], 0, runs / "tables")
    row = cascade.before.row
    paths = [cascade.before.folder / "model.keras", *(run.folder / f"{table}.json" for run in (cascade.before, cascade))]
    model, result, stopped = read(*paths, missing=f"train row {row.name!r} and run row {name!r}")
    return model, described_digits(row, result, stopped)


def described_digits(row, result: dict, stopped: dict) -> dict:
    """The content of `card.json`, by the row that was trained and the results of it and of its cascade."""
    spread, count = ("48x48 pixels, at random places", 30_000) if row.jittered else ("28x28 pixels", 10_000)
    kept = round(60_000 * (1 - row.data.get("validation_split", 0)))
    distorted = ", each ten times distorted: turned, stretched, slanted, bent" if row.data.get("distorted") else ""
    moved = f", and moved by up to {row.data['shift']} pixels" if row.data.get("shift") else ""
    details = stopped["details"]
    exits = enumerate(zip(details["exit_fractions"], details["exit_errors"]))
    exits = [f"{share:.1f} % sure after {n} ({wrong:.2f} % of them wrong)" for n, (share, wrong) in exits]
    return {
        "class_names": [*map(str, range(10))],
        "license": LICENSE,
        "data": f"MNIST, {spread}; tested on {count:,} images made of MNIST's own 10,000 test digits. Trained on {kept:,} of "
        f"MNIST's 60,000 training digits{distorted}{moved}.",
        "dataset": "MNIST, jittered" if row.jittered else "MNIST",
        "threshold": details["threshold"],
        "facts": {
            "Images": "white digits on black; floats in [0, 1].",
            "Where the cascade stops": f"{'; '.join(exits)} glimpses.",
            "Protocol": f"row `{row.name}` of `recipes/tables/{result['table']}.toml`, {made(result)}.",
            "Limits": "digits in MNIST's style and size only. It was never shown anything that is not a digit "
            "and calls everything one, sometimes with confidence. The confidence is not calibrated.",
        },
        "row": result,
        "cascade": stopped,
    }


def digits_to_export(model, threshold: float, data_dir: Path | None) -> tuple:
    test, digits = images_of(model, mnist_digits(), count=20_000)
    return test, calibration_images(model, threshold, digits, count=2000)


# ---- Boards ----


def boards(row: str, runs: Path, data_dir: Path | None) -> tuple[keras.Model, dict]:
    """The model and the content of its `card.json`, with as many glimpses as are best on the images that were held out."""
    task_name, name = row.split("/")
    task = tasks.load(task_name, data_dir)
    run = images.training.Run(images.training.rows()[task_name][name], 0, task, runs / "images")
    paths = [run.folder / "model.keras", run.folder / "result.json"]
    model, result = read(*paths, missing=f"run row {name!r} of {task_name!r}")
    model.active_glimpses = best_glimpses(model, task.validation)
    defective = measure.looks(model, repaired(data_dir))[0].argmax(axis=-1)
    mistaken = [round(100 * float(share), 1) for share in defective.mean(axis=0)]
    return model, described_boards(model, task, result, measure.cascade(model, task), mistaken)


def described_boards(model, task, result: dict, cascade: dict, mistaken: list[float]) -> dict:
    """The content of `card.json`, by the results; `mistaken` has percents of repaired boards that are called defective."""
    details, glimpses = result["details"], model.active_glimpses
    defects = [len(boxes) for boxes in task.test.boxes if len(boxes)]
    count = len(task.train(tf.zeros([2], tf.int64)))
    looks = ", ".join(f"{share} %" for share in details["pointing"][:glimpses])
    found = [f"{each['precision']} and {each['recall']} % for {n}" for n, each in details["detections"].items()]
    return {
        "class_names": [*task.class_names],
        "license": LICENSE,
        "data": "[DeepPCB](https://github.com/tangsanli5201/DeepPCB), by its official split; tested on "
        f"{len(task.test):,} images: {len(defects)} scans with {min(defects)} to {max(defects)} defects, most of them drawn by "
        f"hand, and as many templates without. Trained on {count:,} images, and the class of each; {len(task.validation):,} "
        "were held out. Boxes of defects only measure where it looks.",
        "dataset": "DeepPCB",
        "threshold": cascade["threshold"],
        "facts": {
            "Images": "scans that are aligned and made black and white, as DeepPCB's are, with 48 pixels a millimetre; "
            "floats in [0, 1].",
            "Glimpses": f"{glimpses}, with the smallest error on the images held out; in Keras, `model.active_glimpses` can be "
            f"up to {model.num_glimpses}.",
            "Where the cascade stops": ", ".join(f"{share} % after {n}" for n, share in enumerate(cascade["exits"]))
            + " glimpses. The threshold was chosen on the images held out.",
            "Where it looks": f"of the defective boards, glimpses 1 to {glimpses} lie on a defect in {looks}; a place "
            f"by chance in {details['by chance']} %. Precision and recall of the places as detections: {', '.join(found)} "
            "glimpses.",
            "Int8": f"`cascade-int8.tflite` was calibrated by {CALIBRATION} of the images held out, turned.",
            "Protocol": f"row `{result['row']}` of `{result['task']}` in `recipes/images/rows.toml`, {made(result)}.",
            "Limits": "boards and defects like these only. DeepPCB's clean images are templates, retouched by hand, and "
            "glimpses have learned to tell scans from templates, not only defects: of the scans whose defects were replaced by "
            f"what the template has there, {after_each(mistaken)} glimpses are still called defective. It finds some defects "
            "of a board, not all. The confidence is not calibrated.",
            "License of the data": "MIT, copyright (c) 2018 tangsanli5201. Its README says besides that it is for research "
            "only.",
        },
        "row": result,
        "cascade": cascade,
        "repaired boards called defective": mistaken,
    }


def best_glimpses(model, held_out) -> int:
    """The smallest number of glimpses, at least 1, with the smallest error."""
    logits, _ = measure.looks(model, held_out)
    wrong = logits.argmax(axis=-1) != held_out.labels[:, None]
    return 1 + int(wrong.mean(axis=0)[1:].argmin())


def boards_to_export(model, threshold: float, data_dir: Path | None) -> tuple:
    """Calibrated by images held out."""
    task = tasks.load("board", data_dir)
    seeds = tf.reshape(tf.range(2 * TURNS), (TURNS, 2))
    boards = np.concatenate([batch for seed in seeds for batch, _ in turned(task.validation, seed).dataset()])
    test = np.stack([task.test[n] for n in range(len(task.test))]), task.test.labels
    return test, calibration_images(model, threshold, boards, CALIBRATION)


# ---- Both ----


def calibration_images(model, threshold: float, images, count: int):
    """So many of the images: half are those that need most glimpses, since few need all, others at regular distances."""
    stages = cascade_predict(model, images, threshold, batch_size=50).exit_stage
    hardest, others = np.split(np.argsort(-stages, kind="stable"), [count // 2])
    return images[[*hardest, *others[np.linspace(0, len(others) - 1, count // 2, dtype=int)]]]


def read(path: Path, *results: Path, missing: str) -> tuple:
    """A model, and the content of files of results; FileNotFoundError, which says what to do, if one is missing."""
    for each in (path, *results):
        if not each.exists():
            raise FileNotFoundError(f"{each} does not exist; {missing}.")
    return keras.models.load_model(path, compile=False), *(json.loads(each.read_text()) for each in results)


def made(result: dict) -> str:
    return f"seed {result['seed']}, {result['sweeps']} sweeps, commit {result['commit']}"


def after_each(percents: list[float]) -> str:
    return ", ".join(f"{percent:.1f} % after {n}" for n, percent in enumerate(percents))


JITTERED = "A digit anywhere in a 48x48 image"
MODELS = {  # What each is, the row, and the functions that read it and what it is exported with.
    "jittered-mnist": (
        f"{JITTERED}: the paper's model, two glimpses, trained one after the other and fine-tuned.",
        "table1/fine-tuned-cascade",
        digits,
        digits_to_export,
    ),
    "jittered-mnist-best": (
        f"{JITTERED}, as well as we can at the cost of the paper's two glimpses: convolutional ones.",
        "table1/wide-cascade",
        digits,
        digits_to_export,
    ),
    "mnist": (
        "MNIST as it is, 28x28, as well as we can at the cost of the paper's model: two convolutional glimpses.",
        "table3/mnist-distorted-cascade",
        digits,
        digits_to_export,
    ),
    "deeppcb-defects": (
        "Whether a circuit board of 640x640 pixels has defects: a thumbnail of 160x160, and glimpses of 48 and 96 pixels.",
        "board/ours",
        boards,
        boards_to_export,
    ),
}


if __name__ == "__main__":
    main()
