"""What `keras-glimpse train` tells of a model: errors, costs, confusions and pictures, of images that were held out."""

from pathlib import Path

import numpy as np

from keras_glimpse.cascade.curve import cascade_curve
from keras_glimpse.cascade.macs import stage_macs
from keras_glimpse.cascade.predict import cascade_predict
from keras_glimpse.command.folders import Images, evenly
from keras_glimpse.pictures import draw_glimpses

DRAWN = 12  # Images of which glimpses are drawn.
LABELLED = 20  # Classes up to which the picture of confusions has numbers.
REPORT = """\
# Report

On {count} images of {classes} classes, which were held out.

{stages}

The cascade stops as soon as a class has a probability of {threshold:.4f}: the lowest threshold whose error is at most 0.1
percentage points above that of all glimpses, or 1 if none has. It was chosen on the same images; on others, expect a somewhat
larger error.

![Error and cost by threshold](curve.png)

## Confusions of the cascade

{confusions}

![Confusions](confusion.png)
"""
GLIMPSES = """
## Where it looks

![Glimpses](glimpses.png)
"""


def check_pictures() -> None:
    """Raises if pictures cannot be drawn, before any work."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("The report needs matplotlib: pip install 'keras-glimpse[pictures]'.") from error


def write_report(folder: Path, model, images: Images, batch_size: int) -> float:
    """Writes the report of a compiled model to a folder, prints its table, and returns the threshold that it chose."""
    folder.mkdir(exist_ok=True)
    curve = cascade_curve(model, images.paths, images.labels)
    threshold = curve.cheapest(default=1.0)
    cascade = cascade_predict(model, images.paths, threshold, batch_size)
    predicted = cascade.probabilities.argmax(axis=-1)
    confusions = np.zeros((len(images.classes),) * 2, int)
    np.add.at(confusions, (images.labels, predicted), 1)
    measured = model.evaluate(images.paths, images.labels, batch_size, verbose=0, return_dict=True)
    errors = [1 - measured[f"accuracy_{n}"] for n in range(model.active_glimpses + 1)]
    stages = _stages(model, errors, np.mean(predicted != images.labels), threshold, cascade)
    print(stages)
    has_colours = model.channels in (1, 3)
    text = REPORT.format(
        count=len(images.paths),
        classes=len(images.classes),
        stages=stages,
        threshold=threshold,
        confusions=_confusions(images.classes, confusions),
    )
    (folder / "report.md").write_text(text + (GLIMPSES if has_colours else ""), encoding="utf-8")
    _draw_curve(curve, threshold, folder / "curve.png")
    _draw_confusions(images.classes, confusions, folder / "confusion.png")
    if has_colours:
        few = evenly(images, DRAWN)
        draw_glimpses(model, few.paths, few.labels, folder / "glimpses.png")
    return threshold


def _stages(model, errors, cascade_error, threshold, cascade):
    """The table of errors and costs."""
    stopped = np.bincount(cascade.exit_stage, minlength=len(errors)) / len(cascade.exit_stage)
    rows = [
        (f"{n} glimpse{'s' * (n > 1)}" if n else "thumbnail alone", f"{error:.2%}", f"{macs:,}", f"{share:.1%}")
        for n, (error, macs, share) in enumerate(zip(errors, stage_macs(model), stopped))
    ]
    rows.append((f"cascade at {threshold:.4f}", f"{cascade_error:.2%}", f"{cascade.macs.mean():,.0f} (mean)", ""))
    return _table(["", "error", "MACs an image", "stop here"], rows)


def _confusions(classes, counts):
    """A table: a row for each true class, a column for each prediction."""
    return _table(["true, predicted:", *classes], [(name, *map(str, row)) for name, row in zip(classes, counts)])


def _table(columns, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])


def _draw_curve(curve, threshold, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.macs, 100 * curve.errors, ".-", label="cascade, by threshold")
    axes.axhline(100 * curve.full_error, color="gray", linestyle="dotted", label="all glimpses")
    chosen = np.abs(curve.thresholds - threshold).argmin()
    axes.plot(curve.macs[chosen], 100 * curve.errors[chosen], "o", color="tab:red", label=f"threshold {threshold:.4f}")
    axes.set(xlabel="MACs an image", ylabel="error, %", ylim=(0, 1 + 100 * curve.errors.max()))
    axes.legend()
    figure.savefig(path, dpi=120)


def _draw_confusions(classes, counts, path):
    from matplotlib.figure import Figure

    side = 2 + 0.4 * min(len(classes), 4 * LABELLED)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, "Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= LABELLED:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    figure.savefig(path, dpi=120)
