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

from arguments import at_least, folder_to_write, in_one_line
from rich.console import Console
from rich.progress import track
from rich.table import Table

STAGES, EPOCHS = (1, 2, "fine_tune"), 20  # Epochs of each stage; each takes about a tenth of a second.


def main():
    args = parse_args()
    if args.train:
        train(args.train)
        return
    with in_one_line():
        folder_to_write(args.out)
    rng, kills = random.Random(args.seed), []
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        weights = finish(Path(scratch) / "whole")
        for kill in track(range(args.kills), "Killing", console=Console(stderr=True)):
            folder = Path(scratch) / f"kill{kill}"
            found = kill_once(folder, rng)
            kills.append(found | {"identical": finish(folder) == weights})
    identical = sum(kill["identical"] for kill in kills)
    result = {"seed": args.seed, "epochs_of_a_stage": EPOCHS, "identical": identical, "kills": kills}
    (args.out / "kills.json").write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    sys.exit(identical < args.kills)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--kills", type=at_least(1), default=20, help="trainings that are killed, each once; default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/kills"), help="folder for kills.json; default %(default)s")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)  # What is killed: this program once more.
    return parser.parse_args()


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
    keras_glimpse.fit_greedy(model, digits, epochs=EPOCHS, checkpoint=folder, verbose=0)
    (folder / "new").write_bytes(b"".join(weights.tobytes() for weights in model.get_weights()))
    os.replace(folder / "new", folder / "weights")


def command(folder):
    return [sys.executable, __file__, "--train", folder]


def finish(folder) -> bytes:
    """The weights at the end of the training."""
    subprocess.run(command(folder), check=True)
    return (folder / "weights").read_bytes()


def kill_once(folder, rng):
    """Kills the training at a random moment after a random number of epochs; tells how far it had come."""
    wanted, delay = rng.randrange(len(STAGES) * EPOCHS), rng.uniform(0, 0.2)
    with subprocess.Popen(command(folder)) as process:
        while sum(progress(folder)) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay if wanted else 50 * delay)  # Before the first epoch, a program starts and graphs are compiled.
        process.kill()
    done = progress(folder)
    return {"stage": str(STAGES[max(0, len(done) - 1)]), "epochs": done[-1] if done else 0}


def progress(folder):
    """Epochs that are finished, for each stage that has begun."""
    files = [sorted((folder / f"stage_{stage}").glob("checkpoint-*")) for stage in STAGES]
    begun = [stage for stage in STAGES if (folder / f"stage_{stage}").exists()]
    return [int(each[-1].stem.split("-")[1]) if each else 0 for each in files[: len(begun)]]


def show(result):
    table = Table(title=f"{result['identical']} of {len(result['kills'])} ended with the very weights of no kill")
    for name in ("killed in stage", "after epochs", "identical"):
        table.add_column(name, justify="right")
    for kill in result["kills"]:
        table.add_row(kill["stage"], str(kill["epochs"]), "yes" if kill["identical"] else "no")
    Console().print(table)


if __name__ == "__main__":
    main()
