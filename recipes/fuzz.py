"""Feed broken files and broken data to everything that reads them, and count what becomes of it.

    pip install -e ".[recipes,litert]"
    python recipes/fuzz.py --cases 200                   # of each kind: two minutes on two cores
    python recipes/fuzz.py --kind tflite --unchecked     # what LiteRT itself does, where check_file is not asked first
    python recipes/fuzz.py --kind keras --only 17        # one case again

A case follows from its kind, its number and --seed; fuzz_cases.py and fuzz_data.py have them all. It runs in another process,
with limits on memory and time, so that a crash is counted and ends nothing. What can become of it:

- accepted: finite answers of the right shape. A file with damaged bytes must give the very answers of the whole one (some bytes
  do not matter); one that was written anew, with other weights or another configuration, may give others.
- not finite: accepted, but what went in, as pixels or as weights, was not finite, and what came out is not.
- clear error: a ValueError, TypeError or OSError that says something. (--unchecked: and what TensorFlow and LiteRT document.)
- anything else: the process died, hung or asked for too much memory; an error of another type or without a word; another answer
  from a damaged file; code that was run from a file. There must be none: the exit status is 1 if there are.

Leaves fuzz.json in --out.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported: it has much to say of broken files.

from arguments import at_least, folder_to_write, in_one_line, refuse, seconds
from rich.console import Console
from rich.progress import track
from rich.table import Table

KINDS = ("keras", "saved_model", "tflite", "tfds", "data")
OUTCOMES = ("accepted", "not finite", "clear error", "anything else")
PACKAGES = ("keras", "tensorflow", "ai-edge-litert", "tensorflow-datasets", "h5py", "numpy")
START_LIMIT = 600  # seconds in which a process must have imported TensorFlow


class Result(NamedTuple):
    """What became of a case: one of OUTCOMES, what was raised or seen, and how it had been spoiled."""

    outcome: str
    said: str
    spoiled: str = "?"


class Worker:
    """A process that runs cases, one after another; when it has died or hangs, the next case gets a new one."""

    def __init__(self, seed: int, base: Path, checked: bool = True, limit: float = 60.0):
        self.arguments, self.limit, self.process = (seed, base, checked), limit, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()

    def run(self, kind: str, number: int) -> Result:
        spoiled = "?"
        try:
            if self.process is None:
                self._start()
            self.pipe.send((kind, number))
            spoiled = self._receive(self.limit)
            return Result(*self._receive(self.limit), spoiled)
        except (EOFError, ConnectionError):
            self.process.join()
            said = f"the process died: {how_it_ended(self.process.exitcode)}"
        except TimeoutError:
            said = f"no answer after {self.limit:g} seconds"
        self.stop()
        return Result("anything else", said, spoiled)

    def _start(self):
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork.
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()
        self._receive(START_LIMIT)

    def _receive(self, limit):
        if not self.pipe.poll(limit):
            raise TimeoutError
        return self.pipe.recv()

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def how_it_ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _work(pipe, *arguments):
    _say_to(os.devnull)  # What C++ has to say of broken files.
    import fuzz_cases  # Here, since it imports TensorFlow, which the process that counts has no use for.

    fuzz_cases.work(pipe, *arguments)


def _prepare(base, log):
    _say_to(log)
    import fuzz_cases

    fuzz_cases.prepare(base)


def _say_to(path):
    with open(path, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def prepare(base: Path):
    """Makes whole files to spoil."""
    log = base / "log"
    process = multiprocessing.get_context("spawn").Process(target=_prepare, args=(base, log))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"fuzz: the files to spoil could not be made: {how_it_ended(process.exitcode)}\n{log.read_text()}")


def main():
    args = parse_args()
    if args.only is None:
        with in_one_line():
            folder_to_write(args.out)
    numbers, console = range(args.cases) if args.only is None else [args.only], Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        prepare(base)
        with Worker(args.seed, base, not args.unchecked, args.limit) as worker:
            results = {
                kind: [worker.run(kind, number) for number in track(numbers, kind, console=console)]
                for kind in args.kind or KINDS
            }
    show(results, args)
    odd = [
        {"kind": kind, "case": number, "spoiled": result.spoiled, "said": result.said}
        for kind, some in results.items()
        for number, result in zip(numbers, some)
        if result.outcome == "anything else" or args.only is not None
    ]
    for each in odd:
        print(json.dumps(each))
    if args.only is None:
        write(results, odd, args)
    sys.exit(any(result.outcome == "anything else" for some in results.values() for result in some))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=at_least(1), default=200, help="of each kind; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this one; repeatable")
    parser.add_argument("--only", type=at_least(0), metavar="N", help="only case N; keeps nothing")
    parser.add_argument("--unchecked", action="store_true", help="load files without asking keras_glimpse.check_file first")
    parser.add_argument("--limit", type=seconds, default=60.0, help="seconds for a case; default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder to write to; default %(default)s")
    args = parser.parse_args()
    if args.only is not None:
        refuse(parser, args, "--only runs one case, and keeps nothing", "cases", "out")
    return args


def show(results, args):
    title = f"seed {args.seed}, {'not checked' if args.unchecked else 'checked'}"
    table = Table("kind", *(("cases", *OUTCOMES)), title=title)
    for kind, some in results.items():
        counts = Counter(result.outcome for result in some)
        table.add_row(kind, *(str(count) for count in (len(some), *(counts[outcome] for outcome in OUTCOMES))))
    Console().print(table)


def write(results, odd, args):
    counts = {
        kind: {"cases": len(some)} | {outcome: sum(each.outcome == outcome for each in some) for outcome in OUTCOMES}
        for kind, some in results.items()
    }
    from tables.config import commit

    about = {"seed": args.seed, "commit": commit(), "checked": not args.unchecked, "counts": counts, "anything else": odd}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    path = args.out / ("fuzz_unchecked.json" if args.unchecked else "fuzz.json")
    path.write_text(json.dumps(about | {"versions": versions}, indent=2) + "\n")
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
