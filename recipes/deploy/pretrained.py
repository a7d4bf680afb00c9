"""Make `saved_models/` of rows that the tables have trained: each model for Keras, TensorFlow Serving and LiteRT, with a card.

pip install -e ".[recipes,litert,onnx]"
python recipes/deploy/pretrained.py --runs runs/tables     # about a minute for each model
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported: its C++ logs are not for readers.
sys.path.insert(0, str(Path(__file__).parent.parent))

from arguments import in_one_line
from export import export_all, one_thread
from tables.config import Row, load
from tables.digits import mnist_digits
from tables.training import Run

import keras_glimpse
from keras_glimpse import data, pretrained_folder

WANTED = ("saved_model/1", "full.tflite", "cascade.tflite", "cascade-int8.tflite")
SHIPPED = ("saved_model/1", "cascade.tflite", "cascade-int8.tflite")


class Pretrained(NamedTuple):
    """A model to ship: the trained row, the row of its cascade, which has the threshold and the weights, and what it is."""

    name: str
    table: str
    row: str
    cascade: str
    about: str


JITTERED = "A digit anywhere in a 48x48 image"
PAPER = f"{JITTERED}: the paper's model, two glimpses, trained one after the other and fine-tuned."
BEST = f"{JITTERED}, as well as we can at the cost of the paper's two glimpses: convolutional ones."
PLAIN = "MNIST as it is, 28x28, as well as we can at the cost of the paper's model: two convolutional glimpses."
MODELS = (
    Pretrained("jittered-mnist", "table1", "fine-tuned", "fine-tuned-cascade", PAPER),
    Pretrained("jittered-mnist-best", "table1", "wide-2", "wide-cascade", BEST),
    Pretrained("mnist", "table3", "mnist-distorted-2", "mnist-distorted-cascade", PLAIN),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="where models are kept; default %(default)s")
    parser.add_argument("--model", action="append", choices=[each.name for each in MODELS], help="only this one; repeatable")
    args = parser.parse_args()
    one_thread()
    with in_one_line():
        digits = mnist_digits()
    for each in MODELS:
        if args.model and each.name not in args.model:
            continue
        run, cascade = (Run(load(each.table).rows[row], 0, args.runs) for row in (each.row, each.cascade))
        results = [run.folder / f"{each.table}.json", cascade.folder / f"{each.table}.json"]
        missing = [path for path in (run.folder / "model.keras", *results) if not path.exists()]
        if missing:
            sys.exit(f"pretrained: {missing[0]} does not exist; train row {each.row!r} and run row {each.cascade!r}.")
        make(each, cascade.model(), *(json.loads(path.read_text()) for path in results), digits)


def make(each: Pretrained, trained, result: dict, cascade: dict, digits: data.Digits):
    with tempfile.TemporaryDirectory() as scratch:  # The one that is there stays until the new one is complete.
        folder = Path(scratch) / each.name
        fill(folder, each, trained, result, cascade, digits)
        shutil.rmtree(pretrained_folder() / each.name, ignore_errors=True)
        shutil.copytree(folder, pretrained_folder() / each.name)
    print(f"Wrote {pretrained_folder() / each.name}/")


def fill(folder: Path, each: Pretrained, trained, result: dict, cascade: dict, digits: data.Digits):
    folder.mkdir()
    model = without_optimizer(trained)
    model.save(folder / "model.keras")
    files = export_all(model, cascade["details"]["threshold"], digits, folder, WANTED)
    for name in set(WANTED) - set(SHIPPED):
        (folder / name).unlink()
    about = {"name": each.name, "row": result, "cascade": cascade, "files": files}
    (folder / "card.json").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "README.md").write_text(card(each, model, result, cascade, files))


def without_optimizer(trained):
    """The same model, not compiled: the state of the optimizer would double the file."""
    model = keras_glimpse.GlimpseClassifier.from_config(trained.get_config())
    model.build((None, *trained.image_shape))
    model.set_weights(trained.get_weights())
    return model


def card(each, model, result, cascade, files) -> str:
    """What a user should know of a model, in Markdown; every figure comes from a stored result."""
    height, width, channels = model.image_shape
    details, macs = cascade["details"], keras_glimpse.stage_macs(model)
    stages = [f"{error:.2f} % after {n}" for n, error in enumerate(result["details"]["errors"])]
    exits = [f"{share:.1f} % sure after {n} ({wrong:.2f} % of them wrong)" for n, (share, wrong) in exit_figures(details)]
    table = "\n".join(file_line(**file) for file in files if file["file"] in SHIPPED)
    protocol = f"seed {result['seed']}, {result['sweeps']} sweeps, commit {result['commit']}"
    cascade_cost = f"{cascade['error']:.2f} %, {cascade['macs']:,} multiply-accumulates on average"
    spread = "48x48 pixels, at random places" if height == 48 else "28x28 pixels"
    return f"""# {each.name}

{each.about}

- **Input**: {height}x{width}x{channels}, unsigned bytes or floats in [0, 1]; white on black.
- **Data**: MNIST, {spread}; tested on {len_test(height):,} images made of MNIST's own 10,000 test digits.
- **Trained on**: {seen_in_training(load(each.table).rows[each.row])}.
- **Protocol**: row `{each.row}` of `recipes/tables/{each.table}.toml`, {protocol}.
- **Test error**: {", ".join(stages)} glimpses; {", ".join(f"{cost:,}" for cost in macs)} multiply-accumulates.
- **Cascade at {details["threshold"]:.3g}**: {cascade_cost}; {"; ".join(exits)} glimpses.
- **Limits**: digits in MNIST's style and size only. It was never shown anything that is not a digit and calls everything one,
  sometimes with confidence. The confidence is not calibrated.

| file | size | test error | median µs | mean µs |
| --- | --- | --- | --- | --- |
{table}

Latency is of one image on one thread of the machine that made this card; the `.tflite` files have the cascade inside.

```python
import keras_glimpse, numpy as np

model = keras_glimpse.load_pretrained("{each.name}")
images = np.zeros((1, {height}, {width}, {channels}), "uint8")
result = keras_glimpse.cascade_predict(model, images, threshold={details["threshold"]:.4g})
```
"""


def file_line(file, bytes, error_percent, median_us, mean_us, **_):
    return f"| `{file}` | {bytes / 1e6:.2f} MB | {error_percent:.2f} % | {median_us:.1f} | {mean_us:.1f} |"


def exit_figures(details):
    return enumerate(zip(details["exit_fractions"], details["exit_errors"]))


def seen_in_training(row: Row) -> str:
    """How many training digits, and what became of them."""
    kept = round(60_000 * (1 - row.data.get("validation_split", 0)))
    distorted = ", each ten times distorted: turned, stretched, slanted, bent" if row.data.get("distorted") else ""
    moved = f", and moved by up to {row.data['shift']} pixels" if row.data.get("shift") else ""
    return f"{kept:,} of MNIST's 60,000 training digits{distorted}{moved}"


def len_test(height):
    return 30_000 if height == 48 else 10_000


if __name__ == "__main__":
    main()
