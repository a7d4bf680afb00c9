"""Runs what `gpu_steps.py` wrote on JAX's first device: weights beside a CPU's, milliseconds a step, and the slowest kernels.

    pip install -e ".[programs]"     # here; where it is to run, it needs jax and numpy, and run_programs.py of `recipes/images`
    python recipes/benchmarks/run_gpu_steps.py FOLDER/*-* --out measured.csv

Each program runs once for its weights, then `--rounds` times from where it stands, handed over to the device together.
`to cpu` is the distance of its weights from those of a CPU in float32 over how far these went: 1 is as far as at the start.
"""

import argparse
import csv
import gzip
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from images.run_programs import DEVICE, Stage, jax, load, np, shared_arrays  # First of all: it sets up JAX.


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=10, help="of 8 steps each; five such measurements are made")
    parser.add_argument(
        "--kernels", type=Path, help="folder for the times of kernels, by a run of each program under a profiler"
    )
    parser.add_argument("--out", type=Path, required=True, help="file to which lines are added")
    args = parser.parse_args()
    for folder in args.folder:
        arrays = shared_arrays(folder)
        programs = {path: Stage(path.with_suffix(""), arrays) for path in sorted(folder.glob("*.hlo"))}
        with args.out.open("a", newline="") as file:
            lines = [measured(path, program, args.rounds) for path, program in programs.items()]
            writer = csv.DictWriter(file, lines[0])
            if not file.tell():
                writer.writeheader()
            writer.writerows(lines)
        if args.kernels:
            args.kernels.mkdir(exist_ok=True)
            found = {path.stem: kernels(program) for path, program in programs.items()}
            (args.kernels / f"{folder.name}.json").write_text(json.dumps(found, indent=1))


def measured(path: Path, program: Stage, rounds: int) -> dict:
    """The line of the table for one program."""
    values = program.on_device()
    before = [np.array(value) for value in values[: program.weights]]  # The program may write over its inputs.
    values = program.run(values)
    found, expected = values[: program.weights], load(path.with_name("after.npz"))
    to_cpu = distance(found, expected) / distance(before, expected)
    seconds = []
    for _ in range(5):
        jax.block_until_ready(values)
        start = time.perf_counter()
        for _ in range(rounds):
            values = program.run(values)
        jax.block_until_ready(values)
        seconds.append((time.perf_counter() - start) / rounds / program.epochs)
    names = dict(zip(("model", "stage", "batch", "precision"), [*path.parent.name.split("-"), path.stem]))
    figures = {"ms a step": f"{1000 * np.median(seconds):.3f}", "to cpu": f"{to_cpu:.2g}"}
    line = names | figures | {"device": DEVICE.device_kind}
    print(*line.values(), flush=True)
    return line


def distance(values, others):
    """Euclidean, of all weights together."""
    squares = (np.sum(np.square(np.asarray(a, float) - np.asarray(b, float))) for a, b in zip(values, others, strict=True))
    return sum(squares) ** 0.5


def kernels(program: Stage) -> dict:
    """Microseconds and launches a step of each kernel, the slowest first."""
    values = program.on_device()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program.run(values))
        trace = json.loads(gzip.decompress(next(Path(folder).rglob("*.trace.json.gz")).read_bytes()))
    events = trace["traceEvents"]
    names = {each["pid"]: each["args"]["name"] for each in events if each.get("name") == "process_name"}
    lanes = {(each["pid"], each["tid"]): each["args"]["name"] for each in events if each.get("name") == "thread_name"}
    time_of, launches = Counter(), Counter()
    for each in events:
        lane = lanes.get((each.get("pid"), each.get("tid")), "")
        if each.get("ph") == "X" and "GPU" in names.get(each["pid"], "") and lane.startswith("Stream"):
            time_of[each["name"]] += each["dur"] / program.epochs
            launches[each["name"]] += 1 / program.epochs
    slowest = [{"kernel": name, "us": round(us, 2), "launches": launches[name]} for name, us in time_of.most_common(25)]
    return {"us": round(time_of.total(), 1), "launches": launches.total(), "slowest": slowest}


if __name__ == "__main__":
    main()
