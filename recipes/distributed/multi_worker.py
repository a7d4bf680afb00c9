"""Train the same model by several workers as by one: processes on this machine that talk over 127.0.0.1.

    python recipes/distributed/multi_worker.py --workers 1      # what the others are compared with
    python recipes/distributed/multi_worker.py --workers 2
    python recipes/distributed/multi_worker.py --workers 1 --replicas 2     # in one process, on two logical devices

Batches have 50 images for all replicas together, so the weights are those of one worker, but for rounding. Where all share
the same cores, as here, more workers are slower; worker.py is what runs on hosts of your own. A run that is broken off
goes on from its last epoch when it is started again, with `--restarts` by itself.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import launcher
from arguments import at_least, folder_to_write, in_one_line, refuse, seed


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what of it is for worker.py."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--workers", type=at_least(1), default=2, help="processes; default 2")
    own.add_argument("--restarts", type=at_least(0), default=0, help="times all are started again when one fails; default 0")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], parents=[own, training_options()])
    args = parser.parse_args()
    check(parser, args)
    if args.replicas > 1 and args.workers > 1:
        parser.error(f"--replicas are of one worker; got --workers {args.workers} --replicas {args.replicas}")
    return args, own.parse_known_args()[1]


def training_options() -> argparse.ArgumentParser:
    """What this recipe and worker.py both understand."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--replicas", type=at_least(1), default=1, help="logical CPU devices of one worker; default 1")
    about = "1,797 embedded digits (default), or MNIST; jittered"
    parser.add_argument("--data", choices=["embedded", "mnist"], default="embedded", help=about)
    parser.add_argument("--digits", type=at_least(1), help="train on so many digits only; default all")
    parser.add_argument("--data-dir", help="folder where TFDS keeps MNIST; default $TFDS_DATA_DIR or ~/tensorflow_datasets")
    parser.add_argument("--glimpses", type=at_least(1), default=2, help="number of glimpses; default 2")
    parser.add_argument("--epochs", type=at_least(1), default=4, help="sweeps over the training set in each stage; default 4")
    parser.add_argument("--seed", type=seed, default=0, help="of weights, places and order; default 0")
    parser.add_argument("--smoke", action="store_true", help="only a few digits, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/multi_worker"), help="folder to write to; default %(default)s")
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program where an option would change nothing."""
    if args.smoke:
        refuse(parser, args, "--smoke has digits of its own", "data", "digits", "data_dir")
    if args.data != "mnist":
        refuse(parser, args, "needs --data mnist", "data_dir")


def folder(args: argparse.Namespace, workers: int) -> Path:
    """Where a run leaves what it has: another protocol has another folder."""
    digits = "smoke" if args.smoke else f"{args.data}{args.digits or ''}"
    protocol = f"{digits}-glimpses{args.glimpses}-epochs{args.epochs}-seed{args.seed}"
    return args.out / protocol / f"workers{workers}-replicas{args.replicas}"


def main():
    args, rest = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("multi_worker: stopped"))  # And no worker is left behind.
    command = [sys.executable, Path(__file__).parent / "worker.py", *rest]
    try:
        with in_one_line(launcher.WorkerFailed):
            folder_to_write(args.out)
            launcher.run(command, args.workers, folder(args, args.workers), args.restarts)
    except KeyboardInterrupt:
        sys.exit("multi_worker: stopped")


if __name__ == "__main__":
    main()
