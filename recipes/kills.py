"""Kill a training by SIGKILL at random moments, start it again, and compare the weights with those of no kill, bit by bit.

    python recipes/kills.py --kills 20      # about half a minute each on two cores

Two glimpses with dropout and fine-tuning, on jittered digits that need no download, at fresh places every sweep.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table


def main():
    args = parse_args()
    if args.train:
        train(args.train)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    rng, kills = random.Random(args.seed), []
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        start = time.perf_counter()
        weights = finish(Path(scratch) / "whole")
        seconds = time.perf_counter() - start
        for kill in track(range(args.kills), "Killing", console=Console(stderr=True)):
            folder = Path(scratch) / f"kill{kill}"
            moment, found = kill_once(folder, rng, seconds)
            kills.append({"second": round(moment, 2), **found, "identical": finish(folder) == weights})
    identical = sum(kill["identical"] for kill in kills)
    result = {"seed": args.seed, "seconds_of_no_kill": round(seconds, 1), "identical": identical, "kills": kills}
    (args.out / "kills.json").write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    sys.exit(identical < args.kills)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="trainings that are killed, each once; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/kills"), help="folder for kills.json; default %(default)s")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)  # What is killed: this program once more.
    args = parser.parse_args()
    if args.kills < 1:
        parser.error(f"--kills must be at least 1; got {args.kills}")
    return args


def train(folder):
    """The training; an early kill leaves no more than the folder, a late one all but the weights."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    import keras_glimpse
    from keras_glimpse import data

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(50, "relu"), keras.layers.Dropout(0.3), keras.layers.Dense(10)]
    model = keras_glimpse.GlimpseClassifier(10, 2, hidden_units=50, glimpse_net=keras.Sequential(layers))
    digits = data.jittered(data.embedded_digits(), copies=4, fresh_places=True).train
    keras_glimpse.fit_greedy(model, digits, epochs=60, checkpoint=folder, verbose=0)
    (folder / "new").write_bytes(b"".join(weights.tobytes() for weights in model.get_weights()))
    os.replace(folder / "new", folder / "weights")


def command(folder):
    return [sys.executable, __file__, "--train", folder]


def finish(folder) -> bytes:
    """The weights at the end of the training."""
    subprocess.run(command(folder), check=True)
    return (folder / "weights").read_bytes()


def kill_once(folder, rng, seconds):
    """Kills the training at a random moment; returns that moment, and how far the training had come."""
    while True:
        moment = rng.uniform(0, seconds)
        process = subprocess.Popen(command(folder))
        try:
            process.wait(timeout=moment)  # It had ended already: another moment.
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            stages = sorted(folder.glob("stage_*"), key=os.path.getmtime)
            files = sorted(stages[-1].glob("checkpoint-*")) if stages else []
            epochs = int(files[-1].stem.split("-")[1]) if files else 0
            return moment, {"stage": stages[-1].name.removeprefix("stage_") if stages else "none yet", "epochs": epochs}
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()


def show(result):
    table = Table(title=f"{result['identical']} of {len(result['kills'])} ended with the very weights of no kill")
    for name in ("killed after s", "in stage", "after epochs", "identical"):
        table.add_column(name, justify="right")
    for kill in result["kills"]:
        table.add_row(f"{kill['second']:.1f}", kill["stage"], str(kill["epochs"]), "yes" if kill["identical"] else "no")
    Console().print(table)


if __name__ == "__main__":
    main()
