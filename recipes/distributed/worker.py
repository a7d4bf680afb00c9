"""Train and test the model as one of several workers, whose places and addresses are in TF_CONFIG; without it, as the only one.

    srun python recipes/distributed/worker.py --data mnist --out /seen/by/all/hosts     # for each of TF_CONFIG

multi_worker.py starts this on one machine. All workers must be given the same arguments and see the same --out: the first
one, the chief, saves the weights there after every epoch, and all of them go on from there if they are started again.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import tensorflow as tf
from arguments import folder_to_write, in_one_line
from console import show_table
from multi_worker import check, folder, training_options
from runs import Stopwatch
from tables.digits import first_digits, mnist_digits, smoke_digits

import keras_glimpse
from keras_glimpse import data


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], parents=[training_options()])
    args = parser.parse_args()
    check(parser, args)
    if args.replicas > 1 and "TF_CONFIG" in os.environ:
        parser.error(f"--replicas are of one worker, without TF_CONFIG; got --replicas {args.replicas}")
    strategy = _strategy(args)
    with in_one_line():
        folder_to_write(args.out)
        digits = _digits(args)
    train(args, strategy, digits)


def _strategy(args):
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if args.replicas == 1:
        return tf.distribute.get_strategy()
    devices = [tf.config.LogicalDeviceConfiguration()] * args.replicas
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    return tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(args.replicas)])


def train(args, strategy, digits):
    """Trains all stages, tests, and leaves the result."""
    is_chief, resolver = strategy.extended.should_checkpoint, strategy.cluster_resolver
    workers = resolver.cluster_spec().num_tasks("worker") if resolver else 1
    out, epoch = folder(args, workers), data.Epoch()
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)  # Alike in all workers: each takes its share of the same batches.
    copies = 2 if args.smoke else 10
    splits = data.jittered(digits, copies=copies, seed=args.seed, epoch=epoch)
    with strategy.scope():
        model = keras_glimpse.GlimpseClassifier(num_classes=10, num_glimpses=args.glimpses)
        model.build((None, 48, 48, 1))

    def callbacks(stage):
        return [epoch, Stopwatch(), keras.callbacks.CSVLogger(out / f"stage_{stage}.csv", append=True)] if is_chief else [epoch]

    compile_args = {"jit_compile": False} if args.smoke else {}
    options = {"epochs": args.epochs, "callbacks": callbacks, "compile_args": compile_args, "verbose": 2 if is_chief else 0}
    keras_glimpse.fit_greedy(model, splits.train, checkpoint=out / "checkpoint", **options)
    measured = model.evaluate(splits.test, verbose=0, return_dict=True)  # By all workers: each takes its share.
    if is_chief:
        model.save(out / "model.keras")
        names = {"workers": workers, "replicas": args.replicas}
        _report(out, names, measured, copies * len(digits.train_images))


def _digits(args):
    if args.smoke:
        return smoke_digits()
    digits = mnist_digits(args.data_dir) if args.data == "mnist" else data.embedded_digits()
    if args.digits and args.digits > (count := len(digits.train_images)):
        raise ValueError(f"--digits must be at most {count:,}, those there are to train on; got {args.digits}.")
    return first_digits(digits, args.digits)


def _report(out, names, measured, images):
    """Writes the result, and shows all of this protocol, whatever the number of workers and replicas."""
    epochs = csv.DictReader((out / "stage_1.csv").read_text().splitlines())
    seconds = min(float(epoch["seconds"]) for epoch in epochs)  # In the first epoch, TensorFlow compiles.
    errors = [100 * (1 - accuracy) for name, accuracy in measured.items() if name.startswith("accuracy_")]
    result = {**names, "error_percent": errors, "images_per_second": round(images / seconds)}
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")

    rows = [json.loads(path.read_text()) for path in sorted(out.parent.glob("*/result.json"))]
    for row in rows:
        row["error_percent"] = "  ".join(f"{each:.2f}" for each in row["error_percent"])  # After 0, 1, ... glimpses.
    show_table(str(out.parent), rows)


if __name__ == "__main__":
    main()
