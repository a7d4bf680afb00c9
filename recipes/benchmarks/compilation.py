"""What `jit_compile="auto"` chooses, beside both choices, and beside the same networks trained by plain Keras.

    pip install -e ".[recipes,litert]"
    python recipes/benchmarks/compilation.py             # about 10 minutes on two cores

Four kinds of networks: dense, small convolutions, MobileNetV3Small for glimpses, and a thumbnail that XLA cannot compile.
Plain Keras trains the same networks with its own defaults at the same FLOPs: on the thumbnail, on nine patches without a
gradient (the search) and on two with one, at places that are fixed. What is compared runs in turn, in one process: ratios
hold on a noisy machine, times do not. The table goes to `recipes/results/benchmark_xla.csv`.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import tensorflow as tf
from benchmark import benchmark_parser, in_turn, report, timer
from keras import ops
from tables.networks import conv_glimpse

from keras_glimpse import GlimpseClassifier, LowResNet, paper_sgd


class Kind(NamedTuple):
    """Networks for images of one size, and how they are timed."""

    image_shape: tuple[int, int, int]
    batch_size: int
    steps: int  # of an epoch
    networks: Callable[[], dict] = dict  # Makes the arguments of `GlimpseClassifier`.
    can_xla: bool = True

    def model(self) -> GlimpseClassifier:
        model = GlimpseClassifier(10, 1, **self.networks())
        model.build((None, *self.image_shape))
        return model


def bicubic_thumbnail() -> dict:
    """A low-resolution network whose thumbnail XLA has no kernel for."""
    image = keras.Input((48, 48, 1))
    hidden = keras.layers.Flatten()(keras.layers.Resizing(12, 12, interpolation="bicubic")(image))
    hidden = keras.layers.Dense(500, "relu")(hidden)
    return {"low_res_net": keras.Model(image, (hidden, keras.layers.Dense(10)(hidden)))}


def mobile_net() -> dict:
    options = {"weights": None, "classes": 10, "classifier_activation": None, "include_preprocessing": False}
    glimpse_net = keras.applications.MobileNetV3Small(input_shape=(32, 32, 3), **options)
    return {"low_res_net": LowResNet(10, 24), "glimpse_net": glimpse_net, "patch_size": 32, "scales": (1,)}


KINDS = {
    "dense": Kind((48, 48, 1), 50, 320),
    "small convolutions": Kind((48, 48, 1), 50, 96, lambda: {"glimpse_net": conv_glimpse(8, 16)}),
    "MobileNetV3Small": Kind((96, 96, 3), 8, 12, mobile_net),
    "bicubic thumbnail": Kind((48, 48, 1), 50, 320, bicubic_thumbnail, can_xla=False),
}


class Plain(keras.Model):
    """The networks of a model as plain Keras trains them, on the patches of eleven fixed places."""

    def __init__(self, model: GlimpseClassifier):
        super().__init__()
        self.low_res_net, self.glimpse_net = model.low_res_net, model.glimpse_nets[0]
        self.size, self.scales = model.crop.size, model.crop.scales

    def patches(self, images, count):
        def patch(start, scale):
            window = images[:, start : start + scale * self.size, start : start + scale * self.size]
            return window if scale == 1 else ops.average_pool(window, scale, scale)

        places = [ops.concatenate([patch(2 * n, scale) for scale in self.scales], axis=-1) for n in range(count)]
        return ops.concatenate(places, axis=0)

    def call(self, images, training=False):
        _, low = self.low_res_net(images, training=training)
        searched = ops.stop_gradient(self.glimpse_net(self.patches(images, 9), training=False))
        first, second = ops.split(self.glimpse_net(self.patches(images, 2), training=training), 2, axis=0)
        return low + first + second + ops.mean(ops.reshape(searched, (9, -1, 10)), axis=0)


def main():
    args = benchmark_parser(__doc__).parse_args()
    keras.utils.set_random_seed(0)
    rows = []
    for name, kind in KINDS.items():
        rows += compare(name, kind, args.rounds, 2 if args.smoke else kind.steps)
    report("benchmark_xla", "Milliseconds a step of `fit`, first stage", rows, args.smoke)


def compare(name: str, kind: Kind, rounds: int, steps: int) -> list[dict]:
    """The lines of the table for one kind of networks."""
    ways = {"auto": kind.model()} | ({"XLA": kind.model()} if kind.can_xla else {})
    ways |= {"without XLA": kind.model(), "plain Keras": Plain(kind.model())}
    for way, jit_compile in {"auto": "auto", "XLA": True, "without XLA": False}.items():
        if way in ways:
            ways[way].compile(paper_sgd(), jit_compile=jit_compile)
    ways["plain Keras"].compile(paper_sgd(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    options = {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}
    timers = {way: timer(partial(model.fit, data(kind), **options), steps) for way, model in ways.items()}
    seconds = in_turn(timers, rounds)
    best = min(seconds[way] for way in ("XLA", "without XLA") if way in seconds)
    choice = "XLA" if ways["auto"].jit_compile else "without XLA"
    return [
        {
            "networks": name,
            "what": f"auto: {choice}" if way == "auto" else way,
            "ms a step": 1000 * each,
            "to the better": round(each / best, 2),
            "auto to this": round(seconds["auto"] / each, 2),
        }
        for way, each in seconds.items()
    ]


def data(kind: Kind) -> tf.data.Dataset:
    """One batch again and again: nothing is measured but steps."""
    images = np.random.default_rng(0).random((kind.batch_size, *kind.image_shape), dtype=np.float32)
    return tf.data.Dataset.from_tensors((images, np.arange(kind.batch_size) % 10)).repeat().prefetch(64)


if __name__ == "__main__":
    main()
