"""Writes the tables of the documentation from the results that the rows left, mean and spread over seeds.

python recipes/tables/report.py             # writes them into docs/paper/tables.md, between the marks
python recipes/tables/report.py --check     # fails where docs/paper/tables.md differs from the results
"""

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from runs import CHANGED, RESULTS

from tables.config import NAMES, Row, Table, identity, load

PAGE = RESULTS.parent.parent / "docs/paper/tables.md"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where docs/paper/tables.md differs")
    args = parser.parse_args()
    before = after = PAGE.read_text()
    results = read()
    for name in NAMES:
        after = replaced(after, name, markdown(load(name), results))
    if args.check and before != after:
        sys.exit("docs/paper/tables.md does not say what recipes/results has: run python recipes/tables/report.py")
    if not args.check:
        PAGE.write_text(after)


def read() -> list[dict]:
    """All results, of each row, configuration and seed the latest; none of code that was not committed. Tables share rows."""
    found = {}
    for path in [RESULTS / f"{name}.csv" for name in NAMES]:
        for line in csv.DictReader(path.read_text().splitlines()) if path.exists() else []:
            if not line["commit"].endswith(CHANGED):
                found[line["row"], line["protocol"], line["seed"]] = line
    return list(found.values())


def runs_of(row: Row, results: list[dict]) -> list[dict]:
    """The results of a row as it is now configured."""
    wanted = identity(row.config)
    return [line for line in results if line["row"] == row.name and line["protocol"] == wanted]


def markdown(table: Table, results: list[dict]) -> str:
    """The paper's rows and our controls; the best that we can do; what changes did; where the images of cascades stopped."""
    parts = [[row for row in table.rows.values() if row.best == best] for best in (False, True)]
    tables = [_rows(rows, results) for rows in parts if rows]
    return "\n".join(["\n\nThe best that we can do:\n\n".join(tables), *_effects(table, results), *_exits(table, results)])


def _rows(rows, results):
    names = ["`--row`", "", "paper", "ours", "target", "MACs", "speed-up", "paper's speed-up", "sweeps", "seeds"]
    lines = [header(names)]
    for row in rows:
        runs, compare = runs_of(row, results), row.compare
        errors, macs, speed_ups = ([float(run[name]) for run in runs] for name in ("error", "macs", "speed_up"))
        budget = f" at {compare['budget']:,}" if "budget" in compare else ""
        cost = [f"{statistics.mean(macs):,.0f}", f"{statistics.mean(speed_ups):.2f}"] if runs else ["", ""]
        figures = [f"`{row.name}`", row.title, compare.get("paper", ""), mean_and_spread(errors)]
        figures += [f"{compare.get('target', '')}{budget}", *cost, compare.get("paper_speed_up", "")]
        lines.append(line([*figures, row.sweeps or row.after.sweeps, len(runs) or ""]))
    return "\n".join(lines)


def header(names):
    return f"{line(names)}\n|{' --- |' * len(names)}"


def line(figures):
    return f"| {' | '.join(map(str, figures))} |"


def mean_and_spread(figures, sign=""):
    if not figures:
        return "not run yet"
    spread = f" ± {statistics.stdev(figures):.2f}" if len(figures) > 1 else ""
    return f"{statistics.mean(figures):{sign}.2f}{spread}"


def _effects(table, results):
    """What a change did to the error of each seed, beside what it did in the paper."""
    if table.effects:
        yield f"\n{header(['`--row`', 'compared with', 'paper: points of error', 'ours', 'ours, seed by seed'])}"
    for pair in table.effects:
        changed, plain = ({run["seed"]: float(run["error"]) for run in runs_of(row, results)} for row in pair)
        points = [changed[seed] - plain[seed] for seed in sorted(changed.keys() & plain.keys())]
        in_paper = pair[0].compare["paper"] - pair[1].compare["paper"]
        figures = [*(f"`{row.name}`" for row in pair), f"{in_paper:+.2f}", mean_and_spread(points, "+")]
        yield line([*figures, ", ".join(f"{point:+.2f}" for point in points)])


def _exits(table, results):
    """Where the images of cascades stopped, as section 4.1 tells it."""
    runs = [run for row in table.rows.values() if row.threshold for run in runs_of(row, results)]
    if runs:
        names = ["stopped", "seed", "threshold", "sure there, and of these wrong", "never sure, answered all the same"]
        yield f"\n{header(names)}"
    for run in runs:
        details = json.loads(run["details"])
        shares = enumerate(zip(details["exit_fractions"], details["exit_errors"]))
        stops = [f"{f'glimpse {n}' if n else 'thumbnail'}: {sure:.1f} %, {wrong:.2f} %" for n, (sure, wrong) in shares]
        figures = [f"`{run['row']}`", run["seed"], f"{details['threshold']:.3g}", "; ".join(stops)]
        yield line([*figures, f"{details['rejected'][-1]:.1f} %"])


def replaced(text: str, name: str, table: str, page: Path = PAGE) -> str:
    """The text with another table between the marks of that name."""
    start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    if start not in text or end not in text:
        sys.exit(f"{page} has no marks for {name}: {start!r} and {end!r}")
    return text[: text.index(start) + len(start)] + table + text[text.index(end) :]


if __name__ == "__main__":
    main()
