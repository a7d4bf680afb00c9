"""Writes the tables of the guide, "How large images are learned", and draws its figure, from the results that rows left.

python recipes/images/report.py             # writes them into docs/guide/large-images.md, between the marks
python recipes/images/report.py --check     # fails where the page differs from the results
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from matplotlib.figure import Figure
from runs import CHANGED, RESULTS
from tables.report import header, line, mean_and_spread, replaced

from images import training
from images.ablation import CHANGES

PAGE = RESULTS.parent.parent / "docs/guide/large-images.md"
FIGURE = RESULTS / "figures/ablation.png"
HEADER = [
    "task",
    "row",
    "error, %",
    "MACs, millions",
    "ms: Keras",
    "in a batch",
    "LiteRT",
    "first glimpse on the object",
    "sweeps",
    "seeds",
    "trained on",
]
CASCADE = ["task", "seed", "error after thumbnail, glimpse 1, ...", "cascade: error, MACs in millions", "images that stop"]
ABLATION = [
    "`--change`",
    "what is changed",
    "error, %",
    "of the thumbnail",
    "glimpse on the defect, %",
    "z\\* on it, held-out images, %",
    "MACs, millions",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page differs")
    args = parser.parse_args()
    before = PAGE.read_text()
    changes = {each["change"]: each for each in committed("images_ablation.csv")}
    after = replaced(before, "results", markdown(read()), PAGE)
    after = replaced(after, "ablation", ablation(changes), PAGE)
    if args.check and before != after:
        sys.exit(f"{PAGE.name} does not say what recipes/results has: run python recipes/images/report.py")
    if not args.check:
        PAGE.write_text(after)
        draw({change: changes[change]["details"]["by sweep"] for change in CHANGES if change in changes}, FIGURE)


def committed(name: str) -> Iterator[dict]:
    """The lines of a file of results, none of code that was not committed."""
    for each in csv.DictReader((RESULTS / name).read_text().splitlines()):
        if not each["commit"].endswith(CHANGED):
            yield each | {"details": json.loads(each["details"])}


def read() -> dict[tuple[str, str], list[dict]]:
    """The latest results of each row and seed, of the recipe of the row's last line: others have other sweeps or networks."""
    found = {(each["task"], each["row"], each["seed"]): each for each in committed("images.csv")}
    last = {(each["task"], each["row"]): (each["sweeps"], each["macs"]) for each in committed("images.csv")}
    rows = {key: [] for key in last}
    for (task, row, _), each in found.items():
        if (each["sweeps"], each["macs"]) == last[task, row]:
            rows[task, row].append(each)
    return rows


def markdown(results) -> str:
    """Ours and the alternatives on each task; then what ours does in stages."""
    lines, cascades = [header(HEADER)], [header(CASCADE)]
    measured = csv.DictReader((RESULTS / "benchmark_milliseconds.csv").read_text().splitlines())
    times = {(each["task"], each["row"]): each for each in measured}
    for task, rows in training.rows().items():
        for name in rows:
            runs = results.get((task, name), [])
            lines += [line([task, name, *_figures(runs, times[task, name])])] if runs else []
            cascades += [line([task, run["seed"], *_stages(run["details"])]) for run in runs if name == "ours"]
    return "\n".join([*lines, "", *cascades])


def _figures(runs, times):
    details = [run["details"] for run in runs]
    pointing = [each["pointing"][0] for each in details if "pointing" in each]
    chance = f" (by chance {details[0]['by chance']})" if pointing else ""
    return [
        mean_and_spread([float(run["error"]) for run in runs]),
        f"{int(runs[0]['macs']) / 1e6:.2f}",
        *(f"{float(times[kind]):.2f}" for kind in ("keras, batch 1", "keras, batch", "litert")),
        f"{mean_and_spread(pointing)} %{chance}" if pointing else "",
        runs[0]["sweeps"],
        len(runs),
        ", ".join(sorted({each.get("trained on", "CPU") for each in details})),
    ]


def _stages(details):
    cascade = details["cascade"]
    exits = ", ".join(f"{share} %" for share in cascade["exits"])
    errors = ", ".join(map(str, details["errors"]))
    calibrated = ", calibrated" if "temperatures" in details else ""
    return [errors, f"{cascade['error']} %, {cascade['macs'] / 1e6:.2f} at {cascade['threshold']}{calibrated}", exits]


# ---- Ablation ----


def ablation(changes: dict[str, dict]) -> str:
    """What was changed, and the figures of it: of the test set, but for z*, which an answer does not have."""
    lines = [header(ABLATION)]
    for name in CHANGES:
        if name in changes:
            each, details = changes[name], changes[name]["details"]
            figures = [each["error"], details["errors"][0], each["pointing"], details["by sweep"]["chosen"][-1]]
            lines.append(line([f"`{name}`", CHANGES[name].title, *figures, f"{int(each['macs']) / 1e6:.2f}"]))
    return "\n".join(lines)


def draw(by_sweep: dict[str, dict[str, list[float]]], path: Path) -> None:
    """How often z* and the prediction are on the defect, after each sweep."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (place, title) in zip(panels, {"chosen": "z*, which the E step chooses", "predicted": "predicted place"}.items()):
        for change, shares in by_sweep.items():
            axes.plot(range(1, 1 + len(shares[place])), shares[place], marker=".", label=change)
        axes.set(title=title, xlabel="sweeps")
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="on the defect, % of 200 held-out images", ylim=(0, 100))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
