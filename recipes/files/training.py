"""Training on files, beside training on the same images in memory.

    python recipes/files/training.py --data-dir ../DeepPCB        # about 12 minutes on two cores
    python recipes/files/training.py --smoke                      # few, small and made-up boards; keeps nothing

`fit` on the paths of boards of 640x640 pixels and on their array, in turn, short epochs: the network of row [board] of
`recipes/images/rows.toml` in stage 1, with 16 candidates a step, and one with the local search of the paper. The medians of
the epochs, and of the ratios of epochs that follow one another, go to `recipes/results/files_training.csv`.
"""

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "benchmarks")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from arguments import at_least, in_one_line
from benchmark import report
from images import training
from images.boards import defective

from keras_glimpse import GlimpseClassifier

SAMPLES = 16


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with DeepPCB's PCBData")
    parser.add_argument("--count", type=at_least(1), default=2000, help="boards of an epoch (default: %(default)s)")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="epochs of each (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="few boards, one epoch")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    row = training.rows()["board"]["ours"]
    with in_one_line():
        task = defective(args.data_dir, args.smoke)
        parts = task.train(tf.zeros([2], tf.int64)), task.validation, task.test
        paths, labels = (np.concatenate(each) for each in zip(*((part.rows[0], part.labels) for part in parts)))
        chosen = np.random.default_rng(0).permutation(len(paths))[: args.count]
        paths, labels, images = paths[chosen], labels[chosen], np.stack([task.test.make(path) for path in paths[chosen]])
        searches = {
            f"{SAMPLES} candidates in the image": training.glimpses(row, images.shape[1:], 2),
            "3x3 around the prediction": GlimpseClassifier(2, 1, low_res_size=64, patch_size=48),
        }
        searches[f"{SAMPLES} candidates in the image"].search_samples = SAMPLES
        compared = partial(compare, paths=paths, images=images, labels=labels, batch=row.batch_size)
        rows = [compared(name, model, rounds=1 if args.smoke else args.rounds) for name, model in searches.items()]
        report("files_training", f"`fit` on {len(paths)} boards of {images.shape[1]} pixels, ms a step", rows, args.smoke)


def compare(name: str, model: GlimpseClassifier, paths, images, labels, batch: int, rounds: int) -> dict:
    """A row of the table."""
    model.build((None, *images.shape[1:]))
    model.compile(keras.optimizers.AdamW(1e-3), stage=1)

    def epoch(x):
        start = time.perf_counter(), time.process_time()
        model.fit(x, labels, batch_size=batch, verbose=0)
        return time.perf_counter() - start[0], time.process_time() - start[1]

    seconds = np.array([[epoch(list(paths)), epoch(images)] for _ in range(1 + rounds)])[1:]
    files, memory = 1000 * np.median(seconds[..., 0], axis=0) / -(-len(paths) // batch)
    ratio, of_cores = np.median(seconds[:, 0] / seconds[:, 1], axis=0)
    return {
        "search": name,
        "batch": batch,
        "files": float(files),
        "memory": float(memory),
        "ratio": float(ratio),
        "by CPU time": float(of_cores),
    }


if __name__ == "__main__":
    main()
