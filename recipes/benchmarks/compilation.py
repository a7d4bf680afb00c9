"""What `jit_compile="auto"` chooses, beside both choices, and beside the same networks trained by plain Keras.

    pip install -e ".[recipes,litert]"
    python recipes/benchmarks/compilation.py             # about 10 minutes on two cores

Four kinds of networks: dense, small convolutions, MobileNetV3Small for glimpses, and a thumbnail that XLA cannot compile.
Plain Keras trains the same networks with its own defaults at the same FLOPs: on the thumbnail, on nine patches without a
gradient (the search) and on two with one, at places that are fixed. What is compared runs in turn, in one process: ratios
hold on a noisy machine, times do not. The table goes to `recipes/results/benchmark_xla.csv`.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported: its C++ logs are not for readers.
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import tensorflow as tf
from arguments import at_least
from benchmark import in_turn, report
from keras import ops
from tables.networks import conv_glimpse

from keras_glimpse import GlimpseClassifier, LowResNet, paper_sgd


class Kind(NamedTuple):
    """Networks for images of one size, and how they are timed."""

    image_shape: tuple[int, int, int]
    batch_size: int
    patch_size: int
    scales: tuple[int, ...]
    low_res_net: Callable | None  # Makes it; None for that of `GlimpseClassifier`.
    glimpse_net: Callable | None
    steps: int  # of an epoch
    can_xla: bool = True

    def model(self) -> GlimpseClassifier:
        nets = {"low_res_net": self.low_res_net and self.low_res_net(), "glimpse_net": self.glimpse_net and self.glimpse_net()}
        model = GlimpseClassifier(10, 1, patch_size=self.patch_size, scales=self.scales, **nets)
        model.build((None, *self.image_shape))
        return model


def bicubic_thumbnail() -> keras.Model:
    """A low-resolution network whose thumbnail XLA has no kernel for."""
    image = keras.Input((48, 48, 1))
    hidden = keras.layers.Flatten()(keras.layers.Resizing(12, 12, interpolation="bicubic")(image))
    hidden = keras.layers.Dense(500, "relu")(hidden)
    return keras.Model(image, (hidden, keras.layers.Dense(10)(hidden)))


def mobile_net() -> keras.Model:
    options = {"weights": None, "classes": 10, "classifier_activation": None, "include_preprocessing": False}
    return keras.applications.MobileNetV3Small(input_shape=(32, 32, 3), **options)


KINDS = {
    "dense": Kind((48, 48, 1), 50, 12, (1, 2), None, None, 320),
    "small convolutions": Kind((48, 48, 1), 50, 12, (1, 2), None, partial(conv_glimpse, 8, 16), 96),
    "MobileNetV3Small": Kind((96, 96, 3), 8, 32, (1,), partial(LowResNet, 10, 24, 500), mobile_net, 12),
    "bicubic thumbnail": Kind((48, 48, 1), 50, 12, (1, 2), bicubic_thumbnail, None, 320, can_xla=False),
}


class Plain(keras.Model):
    """The networks of a model as plain Keras trains them, on the patches of eleven fixed places."""

    def __init__(self, model: GlimpseClassifier):
        super().__init__()
        self.low_res_net, self.glimpse_net = model.low_res_net, model.glimpse_nets[0]
        self.size, self.scales = model.crop.size, model.crop.scales

    def patches(self, images, count):
        places = [ops.concatenate([self.window(images, 2 * n, scale) for scale in self.scales], axis=-1) for n in range(count)]
        return ops.concatenate(places, axis=0)

    def window(self, images, start, scale):
        window = images[:, start : start + scale * self.size, start : start + scale * self.size]
        return window if scale == 1 else ops.average_pool(window, scale, scale)

    def call(self, images, training=False):
        _, low = self.low_res_net(images, training=training)
        searched = ops.stop_gradient(self.glimpse_net(self.patches(images, 9), training=False))
        first, second = ops.split(self.glimpse_net(self.patches(images, 2), training=training), 2, axis=0)
        return low + first + second + ops.mean(ops.reshape(searched, (9, -1, 10)), axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=at_least(1), help="times that everything is run; default 5, with --smoke 1")
    parser.add_argument("--smoke", action="store_true", help="as little of everything as shows that it works; keeps nothing")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    rows = []
    for name, kind in KINDS.items():
        rows += compare(name, kind, args.rounds or (1 if args.smoke else 5), 2 if args.smoke else kind.steps)
    report("xla", "Milliseconds a step of `fit`, first stage", rows, args.smoke)


def compare(name: str, kind: Kind, rounds: int, steps: int) -> list[dict]:
    """The lines of the table for one kind of networks."""
    batches, chosen = data(kind), kind.model()
    chosen.compile(paper_sgd())
    ways = {"auto": chosen, "without XLA": kind.model(), "plain Keras": Plain(kind.model())}
    ways["without XLA"].compile(paper_sgd(), jit_compile=False)
    ways["plain Keras"].compile(paper_sgd(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if kind.can_xla:
        ways["XLA"] = kind.model()
        ways["XLA"].compile(paper_sgd(), jit_compile=True)
    fits = {way: partial(model.fit, batches, steps_per_epoch=steps, shuffle=False, verbose=0) for way, model in ways.items()}
    seconds = in_turn(fits, rounds)
    best = min(seconds[way] for way in ("XLA", "without XLA") if way in seconds)
    choice = "XLA" if chosen.jit_compile else "without XLA"
    return [
        {
            "networks": name,
            "what": f"auto: {choice}" if way == "auto" else way,
            "ms a step": round(1000 * seconds[way] / steps, 3),
            "to the better": round(seconds[way] / best, 2),
            "auto to this": round(seconds["auto"] / seconds[way], 2),
        }
        for way in ("auto", "XLA", "without XLA", "plain Keras")
        if way in seconds
    ]


def data(kind: Kind) -> tf.data.Dataset:
    """One batch again and again: nothing is measured but steps."""
    images = np.random.default_rng(0).random((kind.batch_size, *kind.image_shape), dtype=np.float32)
    labels = np.arange(kind.batch_size, dtype=np.int32) % 10
    return tf.data.Dataset.from_tensors((images, labels)).cache().repeat().prefetch(64)


if __name__ == "__main__":
    main()
