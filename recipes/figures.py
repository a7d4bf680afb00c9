"""Figures 2 to 5 of the paper, and error against cost over thresholds, from a trained model.

    python recipes/figures.py                        # the fine-tuned model of table 1, seed 0, once `table1.py` has trained it
    python recipes/figures.py --model MODEL.keras    # any model of 48x48 images
    python recipes/figures.py --smoke                # an untrained model and few digits, in seconds; keeps nothing

Leaves PNG files in `recipes/results/figures/`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import table1
import tuning
from experiment import RESULTS, Run
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from report import read
from row_data import smoke_digits

import keras_glimpse
from keras_glimpse import data
from keras_glimpse.curve import THRESHOLDS


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a trained GlimpseClassifier of 48x48 images")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/tables"), help="where table1.py keeps models; default %(default)s"
    )
    parser.add_argument("--smoke", action="store_true", help="an untrained model and few digits; keeps nothing")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    digits = smoke_digits() if args.smoke else data.mnist_digits()
    test = data.jittered(digits).test
    images, labels = (np.concatenate(parts) for parts in zip(*test.as_numpy_iterator()))
    model = _model(args)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if args.smoke else RESULTS / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        draw_all(model, images, labels, folder)
        print(f"Wrote {', '.join(path.name for path in sorted(folder.iterdir()))} to {folder}/")


def _model(args):
    if args.smoke:
        model = keras_glimpse.GlimpseClassifier(10, 2)
        model.build((None, 48, 48, 1))
        return model
    path = args.model or Run(table1.TUNED, 0, None, args.runs).folder / "model.keras"
    if not path.exists():
        sys.exit(f"figures: {path} does not exist. Train it by table1.py --row fine-tuned --seeds 1, or name one by --model.")
    return keras.models.load_model(path)


def draw_all(model, images, labels, folder):
    parts = np.array_split(images, max(1, len(images) // 1000))
    probabilities = np.concatenate([keras.ops.softmax(model.look(part)["logits"]) for part in parts])
    tiles(images[np.random.default_rng(0).permutation(len(images))[:60], ..., 0], 12, folder / "figure2.png")
    n0, n1 = (net.hidden_layers[0].kernel.numpy().T for net in (model.low_res_net, model.glimpse_nets[0]))
    tiles(n0.reshape(-1, *model.low_res_net.size), 25, folder / "figure3.png")
    finest = int(np.argmin(model.crop.scales))
    patches = n1.reshape(-1, model.crop.size, model.crop.size, len(model.crop.scales))[..., finest]
    tiles(patches, 25, folder / "figure4.png")
    chosen = disagreement(probabilities).argsort(kind="stable")[::-1][:10]
    keras_glimpse.draw_glimpses(model, images[chosen], labels[chosen], folder / "figure5.png")
    draw_curve(model, probabilities, images, labels, folder / "cascade.png")


def tiles(pictures, columns, path):
    """Pictures side by side, each between its own least and largest value."""
    low, high = (edge(pictures, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    pictures = np.pad((pictures - low) / np.maximum(high - low, 1e-9), ((0, 0), (1, 0), (1, 0)), constant_values=1.0)
    blank = np.ones((-len(pictures) % columns, *pictures.shape[1:]))
    rows = np.concatenate([pictures, blank]).reshape(-1, columns, *pictures.shape[1:])
    sheet = rows.swapaxes(1, 2).reshape(rows.shape[0] * rows.shape[2], -1)
    figure = Figure(figsize=(8, 8 * sheet.shape[0] / sheet.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, cmap="gray", interpolation="nearest")
    axes.axis("off")
    figure.savefig(path, dpi=150)


def disagreement(probabilities):
    """How much the distributions of N0, N1, ... differ: the largest distance between two of them, for each image."""
    return np.abs(probabilities[:, :, None] - probabilities[:, None]).sum(axis=-1).max(axis=(1, 2))


def draw_curve(model, probabilities, images, labels, path):
    """Error against mean MACs as the threshold goes up, with the paper's threshold and the one chosen on held-out digits."""
    macs, wrong = keras_glimpse.stage_macs(model), probabilities.argmax(axis=-1) != labels[:, None]
    marked = list(thresholds())
    curve = keras_glimpse.cascade_curve(model, images, labels, [*THRESHOLDS, *(threshold for threshold, _, _ in marked)])
    line = slice(len(THRESHOLDS))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.macs[line] / 1000, 100 * curve.errors[line], color="tab:blue", label="cascade, thresholds from 0.1 to 1")
    axes.plot(macs / 1000, 100 * wrong.mean(axis=0), "o", color="black", label="all images through N0, N1, ...")
    for point, (threshold, why, marker) in enumerate(marked, start=len(THRESHOLDS)):
        label = f"threshold {threshold:.3g}, {why}"
        axes.plot(curve.macs[point] / 1000, 100 * curve.errors[point], marker, label=label)
    axes.set(xlabel="mean multiply-accumulates an image, thousands", ylabel="test error, %", yscale="log")
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted(ScalarFormatter())  # Percentages, not powers of ten.
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=150)


def thresholds():
    yield table1.CASCADE.threshold, "the paper's", "D"
    held_out = [line for line in read("tuning") if line["row"] == tuning.THRESHOLD.name]
    if held_out:
        yield json.loads(held_out[-1]["details"])["threshold"], "chosen on held-out digits", "*"


if __name__ == "__main__":
    main()
