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
    lines = ["| row | paper | ours | target | sweeps | seeds | speed-up: paper | ours |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in table.rows:
        wanted = [line for line in results if line["row"] == row.name and int(line["sweeps"]) == _sweeps(row)]
        errors = [float(line["error"]) for line in wanted]
        figures = [row.title, _or_blank(row.paper), _mean_and_spread(errors), _or_blank(row.target), _sweeps(row)]
        speed_up = f"{statistics.mean(float(line['speed_up']) for line in wanted):.2f}" if wanted else ""
        figures += [len(errors) or "", _or_blank(row.paper_speed_up), speed_up]
        lines.append("| " + " | ".join(str(figure) for figure in figures) + " |")
    return "\n".join([*lines, *_exits(table, results)])


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
