"""Trains and tests ours and the alternatives on a task of large images.

    python recipes/images/run.py kind --data-dir ../DeepPCB              # which of six defects: ours, whole and mobilenet
    python recipes/images/run.py board --data-dir ../DeepPCB --row ours --seeds 3
    python recipes/images/run.py megapixel                               # also translated-60, clutter-60, clutter-100
    python recipes/images/run.py streets --data-dir ../GTSDB --smoke     # few images, an epoch a stage; keeps nothing

A row that was interrupted resumes from its last epoch, a row that is finished is not trained again. A finished row is appended
to `recipes/results/images.csv`. Configurations are in `recipes/images/rows.toml`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from arguments import at_least, folder_to_write, in_one_line, refuse
from runs import RESULTS

from images import tasks, training


def main():
    args = _parse_args()
    rows = training.rows()[args.task]
    with tempfile.TemporaryDirectory() as scratch:
        kept_in, results = (Path(scratch), Path(scratch)) if args.smoke else (args.runs, RESULTS)
        with in_one_line():
            folder_to_write(kept_in, "--runs")
            task = tasks.load(args.task, args.data_dir, args.smoke)
        for name in args.row or training.ROWS:
            row = training.short(rows[name]) if args.smoke else rows[name]
            for seed in range(1 if args.smoke else args.seeds or row.seeds):
                print(_line(training.Run(row, seed, task, kept_in, args.smoke).result(results)))


def _parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=list(training.rows()))
    parser.add_argument("--data-dir", type=Path, help="DeepPCB or GTSDB, where the task needs it")
    parser.add_argument("--row", action="append", choices=training.ROWS, help="only this one; repeatable")
    parser.add_argument("--seeds", type=at_least(1), help="number of seeds; default as rows.toml says")
    parser.add_argument("--smoke", action="store_true", help="all on a few small images, in under a minute; keeps nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/images"), help="where models are kept; default %(default)s")
    args = parser.parse_args()
    if args.smoke:
        refuse(parser, args, "--smoke trains one seed, and keeps nothing", "seeds", "runs")
    return args


def _line(result):
    """Error, cost and, where it is known where the objects are, how often the first glimpse is on one."""
    details = result["details"]
    pointing = f", first glimpse on it in {details['pointing'][0]} %" if "pointing" in details else ""
    fast = details["milliseconds"]["keras, batch 1"]
    return f"{result['row']:10} seed {result['seed']}: {result['error']:6.2f} %, {result['macs']:,} MACs, {fast} ms{pointing}"


if __name__ == "__main__":
    main()
