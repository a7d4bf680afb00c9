"""Writes the table of the guide, "How large images are learned", from the results that the rows left.

python recipes/images/report.py             # writes it into docs/guide/large-images.md, between the marks
python recipes/images/report.py --check     # fails where the page differs from the results
"""

import argparse
import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from runs import CHANGED, RESULTS
from tables.report import header, line, mean_and_spread, replaced

from images import training

PAGE = RESULTS.parent.parent / "docs/guide/large-images.md"
HEADER = [
    "task",
    "row",
    "error, %",
    "MACs, millions",
    "ms, Keras",
    "ms, LiteRT",
    "first glimpse on the object",
    "sweeps",
    "seeds",
    "trained on",
]
CASCADE = ["task", "seed", "error after thumbnail, glimpse 1, ...", "cascade: error, MACs in millions", "images that stop"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page differs")
    args = parser.parse_args()
    before = PAGE.read_text()
    after = replaced(before, "results", markdown(read()), PAGE)
    if args.check and before != after:
        sys.exit(f"{PAGE.name} does not say what recipes/results has: run python recipes/images/report.py")
    if not args.check:
        PAGE.write_text(after)


def read() -> dict[tuple[str, str], list[dict]]:
    """The latest results of each row and seed, none of code that was not committed."""
    found = {}
    for each in csv.DictReader((RESULTS / "images.csv").read_text().splitlines()):
        if not each["commit"].endswith(CHANGED):
            found[each["task"], each["row"], each["seed"]] = each | {"details": json.loads(each["details"])}
    rows = {(task, row): [] for task, row, _ in found}
    for (task, row, _), each in found.items():
        rows[task, row].append(each)
    return rows


def markdown(results) -> str:
    """Ours and the alternatives on each task; then what ours does in stages."""
    lines, cascades = [header(HEADER)], [header(CASCADE)]
    for task, rows in training.rows().items():
        for name in rows:
            runs = results.get((task, name), [])
            lines += [line([task, name, *_figures(runs)])] if runs else []
            cascades += [line([task, run["seed"], *_stages(run["details"])]) for run in runs if name == "ours"]
    return "\n".join([*lines, "", *cascades])


def _figures(runs):
    details = [run["details"] for run in runs]
    times = [[each["milliseconds"].get(kind) for each in details] for kind in ("keras, batch 1", "litert")]
    pointing = [each["pointing"][0] for each in details if "pointing" in each]
    chance = f" (by chance {details[0]['by chance']})" if pointing else ""
    figures = [
        mean_and_spread([float(run["error"]) for run in runs]),
        mean_and_spread([int(run["macs"]) / 1e6 for run in runs]),
    ]
    figures += [mean_and_spread([each for each in time if each is not None]) for time in times]
    return [
        *figures,
        f"{mean_and_spread(pointing)} %{chance}" if pointing else "",
        runs[0]["sweeps"],
        len(runs),
        details[0].get("trained on", "CPU"),
    ]


def _stages(details):
    cascade = details["cascade"]
    exits = ", ".join(f"{share} %" for share in cascade["exits"])
    errors = ", ".join(map(str, details["errors"]))
    return [errors, f"{cascade['error']} %, {cascade['macs'] / 1e6:.2f} at {cascade['threshold']}", exits]


if __name__ == "__main__":
    main()
