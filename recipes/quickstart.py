"""Train two glimpses greedily on handwritten digits, and look at where the model looks.

    python recipes/quickstart.py                              # embedded digits, under two minutes on two cores
    python recipes/quickstart.py --data mnist --glimpses 1 --epochs 4     # jittered MNIST

Leaves in --out: model.keras, saved_model/, result.json, glimpses.png. No network is needed for the embedded digits.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported: what its C++ says is not for readers.

import keras
import numpy as np
import tensorflow as tf
from arguments import at_least, folder_to_write, in_one_line, refuse, seed
from console import show_table
from tables.digits import mnist_digits

import keras_glimpse
from keras_glimpse import data

THRESHOLD = 0.95  # The paper's, section 4.1.


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    about = "1,797 embedded digits (default), or MNIST"
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits", help=about)
    parser.add_argument("--data-dir", help="folder where TFDS keeps MNIST; default $TFDS_DATA_DIR or ~/tensorflow_datasets")
    parser.add_argument("--download", action="store_true", help="download MNIST by TFDS if it is not there")
    parser.add_argument("--glimpses", type=at_least(1), default=2, help="number of glimpses; default 2")
    parser.add_argument("--epochs", type=at_least(1), help="sweeps over the training set in each stage; default 6, MNIST 4")
    parser.add_argument("--seed", type=seed, default=0, help="of weights, places and order; default 0")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder to write to; default %(default)s")
    args = parser.parse_args()
    if args.data != "mnist":
        refuse(parser, args, "needs --data mnist", "data_dir", "download")
    keras.utils.set_random_seed(args.seed)
    with in_one_line():  # All that can be known before training.
        digits = mnist_digits(args.data_dir, args.download) if args.data == "mnist" else data.embedded_digits()
        folder_to_write(args.out)
    train, _, test = data.jittered(digits, seed=args.seed, fresh_places=args.data == "digits")

    start = time.perf_counter()
    model = keras_glimpse.GlimpseClassifier(num_classes=10, num_glimpses=args.glimpses)
    epochs = args.epochs or (4 if args.data == "mnist" else 6)
    # The model is saved after every epoch: nothing that comes later can lose what was trained.
    keep = lambda stage: [keras.callbacks.ModelCheckpoint(args.out / "model.keras")]  # noqa: E731
    keras_glimpse.fit_greedy(model, train, epochs=epochs, callbacks=keep)
    seconds = time.perf_counter() - start

    about = {"data": args.data, "epochs": epochs, "seed": args.seed, "seconds": round(seconds, 1)}
    result = measure(model, test) | about
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    model.export(args.out / "saved_model", verbose=False)
    draw(model, test, args.out / "glimpses.png")
    print(f"Training took {seconds:.0f} s. Wrote {', '.join(sorted(path.name for path in args.out.iterdir()))} to {args.out}/")


def measure(model, test):
    """Errors on the whole test set and MACs, after each number of glimpses and of the cascade."""
    labels = np.concatenate([labels for _, labels in test])
    logits = np.concatenate([model.look(images)["logits"] for images, _ in test])
    macs = keras_glimpse.stage_macs(model)
    cascade = keras_glimpse.cascade_predict(model, test, THRESHOLD)
    stages = np.bincount(cascade.exit_stage, minlength=len(macs)) / len(labels)
    return {
        "test_images": len(labels),
        "error_percent": [error(logits[:, n], labels) for n in range(len(macs))],
        "macs": macs.tolist(),
        "cascade": {
            "threshold": THRESHOLD,
            "error_percent": error(cascade.probabilities, labels),
            "mean_macs": round(float(cascade.macs.mean())),
            "exit_fractions": stages.round(4).tolist(),
        },
    }


def error(scores, labels):
    return round(100 * float(np.mean(scores.argmax(axis=-1) != labels)), 3)


def show(result):
    rows, cascade = [], result["cascade"]
    for n, (percent, macs) in enumerate(zip(result["error_percent"], result["macs"])):
        name = "thumbnail alone" if n == 0 else f"{n} glimpse{'s' * (n > 1)}"
        rows.append((name, f"{percent:.2f}", f"{macs:,}", f"{cascade['exit_fractions'][n]:.1%}"))
    rows.append((f"cascade at {THRESHOLD}", f"{cascade['error_percent']:.2f}", f"{cascade['mean_macs']:,} (mean)", ""))
    columns = ("", "test error %", "MACs an image", "stopped here")
    show_table(f"{result['test_images']:,} test images, 48x48", [dict(zip(columns, row)) for row in rows])


def draw(model, test, path, count=8):
    """The test images on which glimpses changed the mind of the model most."""
    images, labels = (np.concatenate(parts) for parts in zip(*test.take(40).as_numpy_iterator()))
    probabilities = tf.nn.softmax(model.look(images)["logits"]).numpy()
    changed = np.abs(probabilities[:, -1] - probabilities[:, 0]).sum(axis=-1)
    chosen = np.argsort(-changed, kind="stable")[:count]
    keras_glimpse.draw_glimpses(model, images[chosen], labels[chosen], path)


if __name__ == "__main__":
    main()
