"""How large the batches of a server should be: throughput and latency of a SavedModel, by images of a batch and threads.

    python recipes/robustness/batching.py                                 # jittered-mnist, as shipped; five minutes, two cores
    python recipes/robustness/batching.py EXPORTED/1 --out runs/batching  # any SavedModel of digits

The server is `serve.c`, as in soak.py; a request is a batch, as TensorFlow Serving puts them together. Everything runs in turn,
several times; medians count. Leaves benchmark_serving.csv, and batching.txt, the parameters that follow from it, in --out; of
the default model in recipes/results and recipes/deploy/serving.
"""

import argparse
import csv
import itertools
import math
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tensorflow as tf
from arguments import at_least, folder_to_write, in_one_line
from console import show_table
from google.protobuf.message import DecodeError
from runs import RESULTS, commit
from serve import build, serve
from soak import WARM_UP, plan, pool, shipped

DEPLOYED = Path(__file__).parent.parent / "deploy" / "serving"
SIZES, THREADS = (1, 8, 32, 128, 512), (1, 2, 4, 8)
ENOUGH = 0.9  # Of the highest throughput.


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("saved_model", type=Path, nargs="?", help="default: jittered-mnist, as shipped")
    parser.add_argument("--requests", type=at_least(10), default=1000, help="of each kind, in a round; default %(default)s")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="times that everything is run; default %(default)s")
    parser.add_argument("--out", type=Path, help="folder to write to, needed with a SavedModel")
    args = parser.parse_args()
    if args.saved_model and not args.out:
        parser.error("argument --out: is needed with a SavedModel")
    with in_one_line(RuntimeError, DecodeError, tf.errors.OpError, subprocess.CalledProcessError):
        out, deployed = (folder_to_write(args.out or default) for default in (RESULTS, DEPLOYED))
        rows = measure(args.saved_model or shipped(), args.requests, args.rounds)
    show_table("A SavedModel by TensorFlow's C API", rows)
    with (out / "benchmark_serving.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "commit"])
        writer.writeheader()
        writer.writerows(row | {"commit": commit()} for row in rows)
    (deployed / "batching.txt").write_text(parameters(rows))
    print(parameters(rows))


def measure(saved_model: Path, requests: int, rounds: int) -> list[dict]:
    """A row for each size of batch and number of threads."""
    images, kinds = pool(saved_model, seed=0), [*itertools.product(SIZES, THREADS)]
    with tempfile.TemporaryDirectory() as scratch:
        program, figures = build(Path(scratch)), []
        for _, (size, threads) in itertools.product(range(rounds), kinds):
            asked = plan(len(images), requests, [size], seed=0)
            figures.append(figures_of(serve(program, [saved_model], images, asked, threads), size))
    medians = np.median(np.reshape(figures, (rounds, len(kinds), -1)), axis=0)
    names = "images/s", "p50 ms", "p99 ms"
    return [
        {"batch": size, "threads": threads} | {name: float(f"{each:.4g}") for name, each in zip(names, median)}
        for (size, threads), median in zip(kinds, medians)
    ]


def figures_of(served, size: int) -> list[float]:
    """Images a second, and the median and the 99th percentile of the milliseconds of a request, after warm-up."""
    if np.isnan(served.seconds).any():
        raise RuntimeError(f"requests fail: {served.complaints}")
    done, seconds = served.samples[:, :2].T
    warm = np.searchsorted(done, WARM_UP * done[-1])
    latencies = 1000 * np.quantile(served.seconds[int(done[warm]) :], [0.5, 0.99])
    return [size * (done[-1] - done[warm]) / (seconds[-1] - seconds[warm]), *latencies]


def parameters(rows: list[dict]) -> str:
    """Batching parameters of TensorFlow Serving that follow from what was measured."""
    enough = ENOUGH * max(row["images/s"] for row in rows)
    best = min((row for row in rows if row["images/s"] >= enough), key=lambda row: (row["batch"], row["threads"]))
    (alone,) = (row["p50 ms"] for row in rows if row["batch"] == row["threads"] == 1)
    a_second = math.ceil(best["images/s"] / best["batch"])
    return f"""\
# Written by recipes/robustness/batching.py, from recipes/results/benchmark_serving.csv.
# The smallest batches, and then the fewest threads, within {1 - ENOUGH:.0%} of the highest throughput.
max_batch_size {{ value: {best["batch"]} }}
num_batch_threads {{ value: {best["threads"]} }}
# As long as one image alone takes: nobody waits for others longer than for the answer.
batch_timeout_micros {{ value: {round(1000 * alone)} }}
# What is computed in a second: more is refused, rather than answered late.
max_enqueued_batches {{ value: {a_second} }}
"""


if __name__ == "__main__":
    main()
