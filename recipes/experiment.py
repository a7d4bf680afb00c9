"""The command line that the tables have in common.

A row that was interrupted goes on from its last epoch, a row that is finished is not trained again. A finished row is appended
to `recipes/results/<table>.csv`.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported: what its C++ says is not for readers.

from arguments import at_least, folder_to_write, in_one_line, refuse
from rich.console import Console
from rich.table import Table as RichTable
from row_run import RESULTS, Run, digits_of
from rows import Table


def main(table: Table, doc: str) -> None:
    """The command line of a table."""
    args = _parse_args(table, doc)
    rows = [row for row in table.rows if not args.row or row.name in args.row]
    if args.list:
        for row in rows:
            print(f"{row.name:28} {row.sweeps:3} sweeps, {row.seeds} seed(s): {row.title}")
        return
    with in_one_line():
        if not args.smoke:
            folder_to_write(args.runs, "--runs")
        digits_of(args.smoke)
    with tempfile.TemporaryDirectory() as scratch:
        runs, results = (Path(scratch), Path(scratch)) if args.smoke else (args.runs, RESULTS)
        found = []
        for row in rows:
            for seed in range(1 if args.smoke else args.seeds or row.seeds):
                found.append(Run(row, seed, args.sweeps, runs, args.smoke).result(table, results))
    _show(table, found)


def _parse_args(table, doc):
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--row", action="append", choices=[row.name for row in table.rows], help="only this one; repeatable")
    parser.add_argument(
        "--seeds", type=at_least(1), help="number of seeds; default 3 for the headline rows and 1 for the others"
    )
    parser.add_argument("--sweeps", type=at_least(1), help="over the training set; default as --list says")
    parser.add_argument("--smoke", action="store_true", help="all on a few small digits, in under a minute; keeps nothing")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="where models are kept; default %(default)s")
    args = parser.parse_args()
    if args.smoke:
        refuse(parser, args, "--smoke trains one seed for one sweep, and keeps nothing", "seeds", "sweeps", "runs")
    if args.list:
        refuse(parser, args, "--list trains nothing", "seeds", "sweeps", "runs", "smoke")
    return args


def _show(table, results):
    view = RichTable(title=table.title)
    for name in ("", "seed", "sweeps", "error %", "paper %", "target %", "MACs", "speed-up", "paper's"):
        view.add_column(name, justify="right" if name else "left", no_wrap=True)
    rows = {row.name: row for row in table.rows}
    for result in results:
        row = rows[result["row"]]
        figures = result["seed"], result["sweeps"], f"{result['error']:.2f}", row.paper, row.target
        figures += f"{result['macs']:,}", f"{result['speed_up']:.2f}", row.paper_speed_up
        view.add_row(row.name, *("" if figure is None else str(figure) for figure in figures))
    Console(width=max(Console().width, 120)).print(view)
