"""Figures 2 to 5 of the paper, and error against cost over thresholds, from trained models.

    python recipes/tables/figures.py                        # of three models of table 1, once it has trained them
    python recipes/tables/figures.py --model MODEL.keras    # of any model of digits; figures 3 and 4 if its networks are dense
    python recipes/tables/figures.py --smoke                # of an untrained model and few digits, in seconds; keeps nothing

Leaves PNG files in `recipes/results/figures/`, those of another model in `runs/figures/`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
from arguments import folder_to_write, in_one_line, refuse
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import ScalarFormatter
from runs import RESULTS
from trained import HELP, load_of_digits

import keras_glimpse
from tables.config import load
from tables.digits import mnist_digits, smoke_digits, splits_for
from tables.report import read, runs_of
from tables.training import Run

DPI = 300
TEST_COPIES = 3  # Images of each test digit, where they are jittered
# Rows of table 1, and those whose threshold was chosen on held-out digits for them
DRAWN = {
    "fine-tuned": load("tuning").rows["held-out-threshold"],
    "best-2": load("table1").rows["best-cascade"],
    "lean-2": load("table1").rows["lean-cascade"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help=f"{HELP}; of digits")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="where run.py keeps models; default %(default)s")
    parser.add_argument("--out", type=Path, help="folder; default recipes/results/figures, with --model runs/figures")
    parser.add_argument("--smoke", action="store_true", help="an untrained model and few digits; keeps nothing")
    args = parser.parse_args()
    if args.smoke:
        refuse(parser, args, "--smoke draws an untrained model, and keeps nothing", "model", "runs", "out")
    if args.model:
        refuse(parser, args, "--model draws no other", "runs")
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        with in_one_line():
            models, digits = _models(args), smoke_digits() if args.smoke else mnist_digits()
            folder = args.out or Path(scratch if args.smoke else "runs/figures" if args.model else RESULTS / "figures")
            folder_to_write(folder)
        draw_all(models, digits, folder)


def _models(args):
    """What is drawn, by name; of the first all figures, of the others their curves. Raises if it cannot be drawn."""
    if args.smoke:
        model = keras_glimpse.GlimpseClassifier(10, 2)
        model.build((None, 48, 48, 1))
        return {"untrained": model}
    if args.model:
        return {Path(args.model).name: load_of_digits(args.model)}
    paths = {name: Run(load("table1").rows[name], 0, args.runs).folder / "model.keras" for name in DRAWN}
    for name, path in paths.items():
        if not path.exists():
            train = f"run.py table1 --row {name} --seeds 1"
            raise FileNotFoundError(f"{path} does not exist. Train it by {train}, or use --model.")
    return {name: load_of_digits(path) for name, path in paths.items()}


def draw_all(models, digits, folder):
    """Draws what can be drawn of these models."""
    model = next(iter(models.values()))
    test = splits_for(model.image_shape, digits, TEST_COPIES).test
    images, labels = (np.concatenate(parts) for parts in zip(*test.as_numpy_iterator()))
    tiles(images[np.random.default_rng(0).permutation(len(images))[:60], ..., 0], 12, 4, folder / "figure2.png")
    written = ["figure2.png"]
    if all(hasattr(net, "hidden_layers") for net in (model.low_res_net, model.glimpse_nets[0])):
        draw_filters(model, folder)
        written += ["figure3.png", "figure4.png"]
    chosen = most_disputed(probabilities_after(model, images), 7, len(images) // len(digits.test_images))
    keras_glimpse.draw_glimpses(model, images[chosen], labels[chosen]).savefig(folder / "figure5.png", dpi=DPI)
    draw_curves(models, images, labels, folder / "cascade.png")
    print(f"Wrote {', '.join([*written, 'figure5.png', 'cascade.png'])} to {folder}/")


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


def most_disputed(probabilities, count, copies=TEST_COPIES):
    """The images on which N0, N1, ... differ most, each from the one before it, in sum; of each digit one image."""
    differ = np.abs(np.diff(probabilities, axis=1)).sum(axis=(1, 2))
    ranked = differ.argsort(kind="stable")[::-1]
    _, first = np.unique(ranked // copies, return_index=True)
    return ranked[np.sort(first)[:count]]


def draw_curves(models, images, labels, path):
    """Error against mean MACs as the threshold goes up, with the thresholds that were fixed beforehand."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, model in models.items():
        curve = keras_glimpse.cascade_curve(model, images, labels)
        (line,) = axes.plot(curve.macs / 1000, 100 * curve.errors, label=f"{name}, thresholds from 0.1 to 1")
        for threshold, why, marker in thresholds(name):
            fixed = keras_glimpse.cascade_curve(model, images, labels, [threshold])
            style = {"color": line.get_color(), "markersize": 9, "label": f"threshold {threshold:.3g}, {why}"}
            axes.plot(fixed.macs / 1000, 100 * fixed.errors, marker, **style)
    if images.shape[1] == 48:
        table = load("table1")
        paper = [table.rows[name].compare for name in ("1-glimpse", "fine-tuned", "cascade")]
        macs = [table.reference_macs / each["paper_speed_up"] / 1000 for each in paper]
        axes.plot(macs, [each["paper"] for each in paper], "kx", label="paper: 1 glimpse, 2 fine tuned, cascade")
    axes.set(xlabel="mean multiply-accumulates an image, thousands", ylabel="test error, %", yscale="log")
    axes.yaxis.set_major_formatter(ScalarFormatter())  # Percentages, not powers of ten.
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=DPI)


def thresholds(name):
    """Of the model of that row: threshold, where it is from, and a marker; of a user's own model, none."""
    if name == "fine-tuned":
        yield 0.95, "the paper's", "D"
    for run in runs_of(DRAWN[name], read())[:1] if name in DRAWN else []:
        yield json.loads(run["details"])["threshold"], "chosen on held-out digits", "*"


if __name__ == "__main__":
    main()
