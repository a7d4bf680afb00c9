"""Make `saved_models/` of rows that the tables have trained: each model for Keras, TensorFlow Serving and LiteRT, with a card.

pip install -e ".[recipes,litert,onnx]"
python recipes/deploy/pretrained.py --runs runs/tables     # about a minute for each model
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
from arguments import in_one_line
from export import export_all, one_thread
from tables.config import load
from tables.digits import mnist_digits
from tables.training import Run

from keras_glimpse import pretrained_folder, stage_macs

SHIPPED = ("saved_model/1", "cascade.tflite", "cascade-int8.tflite")
JITTERED = "A digit anywhere in a 48x48 image"
MODELS = {  # The row of the cascade, which has the threshold and comes after the row that was trained; and what it is.
    "jittered-mnist": (
        "table1/fine-tuned-cascade",
        f"{JITTERED}: the paper's model, two glimpses, trained one after the other and fine-tuned.",
    ),
    "jittered-mnist-best": (
        "table1/wide-cascade",
        f"{JITTERED}, as well as we can at the cost of the paper's two glimpses: convolutional ones.",
    ),
    "mnist": (
        "table3/mnist-distorted-cascade",
        "MNIST as it is, 28x28, as well as we can at the cost of the paper's model: two convolutional glimpses.",
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="where models are kept; default %(default)s")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one; repeatable")
    args = parser.parse_args()
    one_thread()
    with in_one_line():
        digits = mnist_digits()
        for name in args.model or MODELS:
            make(name, args.runs, digits)


def make(name, runs, digits):
    """Writes the folder of a model; the one that is there stays until the new one is complete."""
    table, row = MODELS[name][0].split("/")
    cascade = Run(load(table).rows[row], 0, runs)
    paths = [cascade.before.folder / "model.keras", *(run.folder / f"{table}.json" for run in (cascade.before, cascade))]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"{missing[0]} does not exist; train row {cascade.before.row.name!r} and run row {row!r}.")
    model = keras.models.load_model(paths[0], compile=False)  # The state of the optimizer would double the file.
    results = [json.loads(path.read_text()) for path in paths[1:]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model.save(folder / "model.keras")
        files = export_all(model, results[1]["details"]["threshold"], digits, folder, SHIPPED)
        about = {"name": name, "row": results[0], "cascade": results[1], "files": files}
        (folder / "card.json").write_text(json.dumps(about, indent=2) + "\n")
        (folder / "README.md").write_text(card(name, model, cascade.before.row, *results, files))
        shutil.rmtree(pretrained_folder() / name, ignore_errors=True)
        shutil.copytree(folder, pretrained_folder() / name)
    print(f"Wrote {pretrained_folder() / name}/")


def card(name, model, row, result, cascade, files) -> str:
    """What a user should know of a model, in Markdown; every figure comes from a stored result."""
    height, width, channels = model.image_shape
    spread, count = ("48x48 pixels, at random places", 30_000) if height == 48 else ("28x28 pixels", 10_000)
    kept = round(60_000 * (1 - row.data.get("validation_split", 0)))
    distorted = ", each ten times distorted: turned, stretched, slanted, bent" if row.data.get("distorted") else ""
    moved = f", and moved by up to {row.data['shift']} pixels" if row.data.get("shift") else ""
    details, threshold = cascade["details"], cascade["details"]["threshold"]
    stages = [f"{error:.2f} % after {n}" for n, error in enumerate(result["details"]["errors"])]
    exits = enumerate(zip(details["exit_fractions"], details["exit_errors"]))
    exits = [f"{share:.1f} % sure after {n} ({wrong:.2f} % of them wrong)" for n, (share, wrong) in exits]
    line = "| `{file}` | {size:.2f} MB | {error_percent:.2f} % | {median_us:.1f} | {mean_us:.1f} |"
    table = "\n".join(line.format(size=file["bytes"] / 1e6, **file) for file in files)
    return f"""# {name}

{MODELS[name][1]}

- **Input**: {height}x{width}x{channels}, unsigned bytes or floats in [0, 1]; white on black.
- **Data**: MNIST, {spread}; tested on {count:,} images made of MNIST's own 10,000 test digits.
- **Trained on**: {kept:,} of MNIST's 60,000 training digits{distorted}{moved}.
- **Protocol**: row `{row.name}` of `recipes/tables/{result["table"]}.toml`, seed {result["seed"]}, {result["sweeps"]} sweeps,
  commit {result["commit"]}.
- **Test error**: {", ".join(stages)} glimpses; {", ".join(f"{cost:,}" for cost in stage_macs(model))} multiply-accumulates.
- **Cascade at {threshold:.3g}**: {cascade["error"]:.2f} %, {cascade["macs"]:,} multiply-accumulates on average;
  {"; ".join(exits)} glimpses.
- **Limits**: digits in MNIST's style and size only. It was never shown anything that is not a digit and calls everything one,
  sometimes with confidence. The confidence is not calibrated.

| file | size | test error | median µs | mean µs |
| --- | --- | --- | --- | --- |
{table}

Latency is of one image on one thread of the machine that made this card; the `.tflite` files have the cascade inside.

```python
import keras_glimpse, numpy as np

model = keras_glimpse.load_pretrained("{name}")
images = np.zeros((1, {height}, {width}, {channels}), "uint8")
result = keras_glimpse.cascade_predict(model, images, threshold={threshold:.4g})
```
"""


if __name__ == "__main__":
    main()
