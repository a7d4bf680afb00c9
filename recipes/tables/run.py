"""Trains and tests rows of a table.

    python recipes/tables/run.py table1 --list                   # also table2, table3 and tuning
    python recipes/tables/run.py table1 --row 1-glimpse --seeds 1
    python recipes/tables/run.py table3 --smoke                  # every row on a few small digits; keeps nothing

A row that was interrupted resumes from its last epoch, a row that is finished is not trained again. A finished row is appended
to `recipes/results/<table>.csv`, its configuration kept in `recipes/results/configs/`. How long rows take, and the errors to
expect, are in `recipes/tables/<table>.toml`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from arguments import at_least, folder_to_write, in_one_line, refuse
from runs import RESULTS

from tables import config, training


def main():
    args, table = _parse_args()
    rows = [row for row in table.rows.values() if not args.row or row.name in args.row]
    if args.list:
        for row in rows:
            print(f"{row.name:28} {row.sweeps:3} sweeps, {row.seeds} seed(s): {row.title}")
        return
    sweeps = 1 if args.smoke else args.sweeps
    rows = [row.with_sweeps(sweeps) if sweeps else row for row in rows]
    with tempfile.TemporaryDirectory() as scratch:
        runs, results = (Path(scratch), Path(scratch)) if args.smoke else (args.runs, RESULTS)
        with in_one_line():
            training.check(rows, args.smoke)
            folder_to_write(runs, "--runs")
        for row in rows:
            for seed in range(1 if args.smoke else args.seeds or row.seeds):
                print(_line(training.Run(row, seed, runs, args.smoke).result(table, results)))


def _parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", choices=config.NAMES)
    parser.add_argument("--row", action="append", help="only this one; repeatable")
    parser.add_argument("--seeds", type=at_least(1), help="number of seeds; default as --list says")
    parser.add_argument("--sweeps", type=at_least(1), help="over the training set; default as --list says")
    parser.add_argument("--smoke", action="store_true", help="all on a few small digits, in under a minute; keeps nothing")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="where models are kept; default %(default)s")
    args = parser.parse_args()
    if args.smoke:
        refuse(parser, args, "--smoke trains one seed for one sweep, and keeps nothing", "seeds", "sweeps", "runs")
    if args.list:
        refuse(parser, args, "--list trains nothing", "seeds", "sweeps", "runs", "smoke")
    with in_one_line():
        table = config.load(args.table)
    if unknown := set(args.row or ()) - set(table.rows):
        parser.error(f"argument --row: {args.table} has {', '.join(table.rows)}; got {', '.join(unknown)}")
    return args, table


def _line(result):
    """Error and cost of a result, with the paper's figures beside them."""
    paper = f" (paper {result['paper_error']})" if result["paper_error"] else ""
    cheaper = f" ({result['paper_speed_up']})" if result["paper_speed_up"] else ""
    figures = f"{result['error']:6.2f} %{paper}, {result['macs']:,} MACs, speed-up {result['speed_up']:.2f}{cheaper}"
    return f"{result['row']:28} seed {result['seed']}, {result['sweeps']:2} sweeps: {figures}"


if __name__ == "__main__":
    main()
