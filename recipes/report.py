"""Writes the README's tables from the results that the recipes left, mean and spread over seeds.

python recipes/report.py             # writes them into README.md, between the marks
python recipes/report.py --check     # fails where README.md differs from the results
"""

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path

import table1
import table2
import table3
import tuning
from experiment import RESULTS, Table

README = Path(__file__).parent.parent / "README.md"
TABLES = [table1.TABLE, table2.TABLE, table3.TABLE, tuning.TABLE]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where README.md differs")
    args = parser.parse_args()
    before = after = README.read_text()
    for table in TABLES:
        after = replaced(after, table.name, markdown(table, read(table.name)))
    if args.check and before != after:
        sys.exit("README.md does not say what recipes/results has: run python recipes/report.py")
    if not args.check:
        README.write_text(after)


def read(name: str) -> list[dict]:
    """The results of a table, of each row, seed and number of sweeps the latest."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return list({(line["row"], line["seed"], line["sweeps"]): line for line in csv.DictReader(file)}.values())


def markdown(table: Table, results: list[dict]) -> str:
    """The paper's rows and our controls; below them the best that we can do; then where the images of cascades stopped."""
    best = [row for row in table.rows if row.title.startswith("best")]
    others = [row for row in table.rows if row not in best]
    tables = [_rows(rows, results) for rows in (others, best) if rows]
    return "\n".join(["\n\n".join(tables), *_exits(table, results)])


def _rows(rows, results):
    lines = ["| row | paper | ours | target | MACs | speed-up | paper's | sweeps | seeds |", f"|{' --- |' * 9}"]
    for row in rows:
        runs = [line for line in results if line["row"] == row.name and int(line["sweeps"]) == _sweeps(row)]
        errors, macs, speed_ups = ([float(run[name]) for run in runs] for name in ("error", "macs", "speed_up"))
        figures = [row.title, _or_blank(row.paper), _mean_and_spread(errors), _or_blank(row.target)]
        figures += [f"{statistics.mean(macs):,.0f}", f"{statistics.mean(speed_ups):.2f}"] if runs else ["", ""]
        figures += [_or_blank(row.paper_speed_up), _sweeps(row), len(runs) or ""]
        lines.append(f"| {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


def _sweeps(row):
    """A row that trains nothing tells of what it tests."""
    return row.sweeps or row.after.sweeps


def _mean_and_spread(errors):
    if not errors:
        return "not run yet"
    spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    return f"{statistics.mean(errors):.2f}{spread}"


def _or_blank(figure):
    return "" if figure is None else figure


def _exits(table, results):
    """Where the images of a cascade stopped, as section 4.1 tells it."""
    sweeps = {row.name: _sweeps(row) for row in table.rows if row.threshold}
    for line in results:
        if sweeps.get(line["row"]) != int(line["sweeps"]):
            continue
        details = json.loads(line["details"])
        parts = enumerate(zip(details["exit_fractions"], details["exit_errors"], details["rejected"]))
        told = [
            f"N{n} is sure of {sure:.1f} %, {wrong:.2f} % of them wrong, {left:.1f} % left" for n, (sure, wrong, left) in parts
        ]
        yield f"\n{line['row']}, seed {line['seed']}, threshold {details['threshold']}: {'; '.join(told)}."


def replaced(text: str, name: str, table: str) -> str:
    """The text with another table between the marks of that name."""
    start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    if start not in text or end not in text:
        sys.exit(f"README.md has no marks for {name}: {start!r} and {end!r}")
    return text[: text.index(start) + len(start)] + table + text[text.index(end) :]


if __name__ == "__main__":
    main()
