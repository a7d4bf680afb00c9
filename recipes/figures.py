"""Figures 2 to 5 of the paper, and error against cost over thresholds, from trained models.

    python recipes/figures.py                        # of three models of table 1, once it has trained them
    python recipes/figures.py --model MODEL.keras    # of any model of 48x48 images; figures 3 and 4 if its networks are dense
    python recipes/figures.py --smoke                # of an untrained model and few digits, in seconds; keeps nothing

Leaves PNG files in `recipes/results/figures/`, those of another model in `runs/figures/`.
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
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import ScalarFormatter
from report import read, runs_of
from row_data import smoke_digits
from row_run import RESULTS, Run

import keras_glimpse
from keras_glimpse import data
from keras_glimpse.checks import check_looks
from keras_glimpse.curve import THRESHOLDS

DPI = 300
TEST_COPIES = 3  # Images of each test digit
DRAWN = {cascade.after.name: cascade for cascade in (table1.TUNED_CASCADE, table1.BEST_CASCADE, table1.LEAN_CASCADE)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a trained GlimpseClassifier of 48x48 images")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/tables"), help="where table1.py keeps models; default %(default)s"
    )
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--smoke", action="store_true", help="an untrained model and few digits; keeps nothing")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    try:
        models = _models(args)
        digits = smoke_digits() if args.smoke else data.mnist_digits()
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f"figures: {error}")
    test = data.jittered(digits, test_copies=TEST_COPIES).test
    images, labels = (np.concatenate(parts) for parts in zip(*test.as_numpy_iterator()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out or (Path("runs/figures") if args.model else RESULTS / "figures")
        folder = Path(scratch) if args.smoke else folder
        folder.mkdir(parents=True, exist_ok=True)
        written = draw_all(models, images, labels, folder)
        print(f"Wrote {', '.join(written)} to {folder}/")


def _models(args):
    """What is drawn, by name; of the first all figures, of the others their curves. Raises if it cannot be drawn."""
    if args.smoke:
        model = keras_glimpse.GlimpseClassifier(10, 2)
        model.build((None, 48, 48, 1))
        return {"untrained": model}
    if args.model:
        return {args.model.name: _loaded(args.model)}
    paths = {name: Run(cascade.after, 0, None, args.runs).folder / "model.keras" for name, cascade in DRAWN.items()}
    for name, path in paths.items():
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist. Train it by table1.py --row {name} --seeds 1, or use --model.")
    return {name: _loaded(path) for name, path in paths.items()}


def _loaded(path):
    model = keras.models.load_model(path)
    check_looks("figures.py", model)
    if model.image_shape != (48, 48, 1):
        raise ValueError(f"Expected a model of 48x48x1 images in {path}; got {model.image_shape}.")
    return model


def draw_all(models, images, labels, folder) -> list[str]:
    """Draws what can be drawn of these models; returns the names of the files."""
    model = next(iter(models.values()))
    tiles(images[np.random.default_rng(0).permutation(len(images))[:60], ..., 0], 12, 4, folder / "figure2.png")
    written = ["figure2.png"]
    if all(hasattr(net, "hidden_layers") for net in (model.low_res_net, model.glimpse_nets[0])):
        draw_filters(model, folder)
        written += ["figure3.png", "figure4.png"]
    chosen = most_disputed(probabilities_after(model, images), count=7)
    picture = keras_glimpse.draw_glimpses(model, images[chosen], labels[chosen])
    picture.savefig(folder / "figure5.png", dpi=DPI)
    draw_curves(models, images, labels, folder / "cascade.png")
    return [*written, "figure5.png", "cascade.png"]


def draw_filters(model, folder):
    """The first layers of N0 (figure 3) and N1 (figure 4, at full resolution)."""
    n0, n1 = (net.hidden_layers[0].kernel.numpy().T for net in (model.low_res_net, model.glimpse_nets[0]))
    tiles(n0.reshape(-1, *model.low_res_net.size), 25, 8, folder / "figure3.png")
    finest = int(np.argmin(model.crop.scales))
    patches = n1.reshape(-1, model.crop.size, model.crop.size, len(model.crop.scales))[..., finest]
    tiles(patches, 25, 8, folder / "figure4.png")


def tiles(pictures, columns, enlarged, path):
    """Pictures side by side, each between its own least and largest value, with white lines between and around them."""
    low, high = (edge(pictures, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    pictures = np.kron((pictures - low) / np.maximum(high - low, 1e-9), np.ones((1, enlarged, enlarged)))
    pictures = np.pad(pictures, ((0, -len(pictures) % columns), (4, 0), (4, 0)), constant_values=1.0)
    rows = pictures.reshape(-1, columns, *pictures.shape[1:])
    sheet = rows.swapaxes(1, 2).reshape(rows.shape[0] * rows.shape[2], -1)
    imsave(path, np.pad(sheet, ((0, 4), (0, 4)), constant_values=1.0), cmap="gray", vmin=0, vmax=1, dpi=DPI)


def probabilities_after(model, images):
    """`[n, num_glimpses + 1, num_classes]`, after the thumbnail and after each glimpse."""
    parts = np.array_split(images, max(1, len(images) // 1000))
    return np.concatenate([keras.ops.softmax(model.look(part)["logits"]) for part in parts])


def most_disputed(probabilities, count):
    """The images on which N0, N1, ... differ most, each from the one before it, in sum; of each digit one image."""
    differ = np.abs(np.diff(probabilities, axis=1)).sum(axis=(1, 2))
    ranked = differ.argsort(kind="stable")[::-1]
    _, first = np.unique(ranked // TEST_COPIES, return_index=True)
    return ranked[np.sort(first)[:count]]


def draw_curves(models, images, labels, path):
    """Error against mean MACs as the threshold goes up, with the thresholds that were fixed beforehand."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, model in models.items():
        fixed = list(thresholds(name))
        curve = keras_glimpse.cascade_curve(model, images, labels, [*THRESHOLDS, *(threshold for threshold, _, _ in fixed)])
        macs, errors = curve.macs / 1000, 100 * curve.errors
        (line,) = axes.plot(macs[: len(THRESHOLDS)], errors[: len(THRESHOLDS)], label=f"{name}, thresholds from 0.1 to 1")
        for x, y, (threshold, why, marker) in zip(macs[len(THRESHOLDS) :], errors[len(THRESHOLDS) :], fixed):
            axes.plot(x, y, marker, color=line.get_color(), markersize=9, label=f"threshold {threshold:.3g}, {why}")
    paper = [(row.paper, table1.DENSE_MACS / row.paper_speed_up / 1000) for row in (table1.FIRST, table1.TUNED, table1.CASCADE)]
    axes.plot([macs for _, macs in paper], [error for error, _ in paper], "kx", label="paper: 1 glimpse, 2 fine tuned, cascade")
    axes.set(xlabel="mean multiply-accumulates an image, thousands", ylabel="test error, %", yscale="log")
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted(ScalarFormatter())  # Percentages, not powers of ten.
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=DPI)


def thresholds(name):
    """Of the model of that row: threshold, where it is from, and a marker; of a user's own model, none."""
    cascade = DRAWN.get(name)
    if cascade is table1.TUNED_CASCADE:
        yield cascade.threshold, "the paper's", "D"
        cascade = tuning.THRESHOLD
    for run in runs_of(cascade, read())[:1] if cascade else []:
        yield json.loads(run["details"])["threshold"], "chosen on held-out digits", "*"


if __name__ == "__main__":
    main()
