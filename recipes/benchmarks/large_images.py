"""A step of training with the search over the whole image, beside one of the same convolutions over the whole image.

    python recipes/benchmarks/large_images.py            # about 2 minutes on two cores

Row `ours` of `recipes/images/rows.toml` in stage 1, and its alternative `whole`: batch size and optimizer are the row's, images
are random. Both train on the same batch, in turn, in one process: ratios hold on a noisy machine, times do not. The table goes
to `recipes/results/benchmark_large_images.csv`.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import tensorflow as tf
from benchmark import benchmark_parser, in_turn, report, timer
from images import alternatives, training
from milliseconds import SHAPES

TASKS = ("kind", "board")
STEPS = 5  # of a call of `fit`


def main():
    args = benchmark_parser(__doc__).parse_args()
    keras.utils.set_random_seed(0)
    rows = []
    for name in TASKS:
        rows += compare(name, args.rounds, 1 if args.smoke else STEPS, args.smoke)
    report("benchmark_large_images", "Milliseconds a step of `fit`, first stage", rows, args.smoke)


def compare(name: str, rounds: int, steps: int, smoke: bool) -> list[dict]:
    """The lines of the table for one task."""
    row, (shape, classes) = training.rows()[name]["ours"], SHAPES[name]
    if smoke:
        row, shape = training.short(row), (160, 160, 1)
    adam = partial(keras.optimizers.AdamW, row.learning_rate, weight_decay=row.weight_decay)
    ours, whole = training.glimpses(row, shape, classes), alternatives.whole(shape, classes)
    ours.compile(adam(), stage=1)
    whole.compile(adam(), training.LOSS, metrics=["accuracy"])
    images = np.random.default_rng(0).integers(256, size=(row.batch_size, *shape), dtype=np.uint8)
    batches = tf.data.Dataset.from_tensors((images, np.arange(len(images)) % classes)).repeat().prefetch(2)
    options = {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}
    models = {"ours": ours, "whole": whole}
    timers = {what: timer(partial(model.fit, batches, **options), steps) for what, model in models.items()}
    seconds = in_turn(timers, rounds)
    return [
        {"task": name, "batch": row.batch_size, "what": what, "ms a step": 1000 * each, "to whole": each / seconds["whole"]}
        for what, each in seconds.items()
    ]


if __name__ == "__main__":
    main()
