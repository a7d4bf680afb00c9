"""Training steps as programs of XLA, and the weights that a CPU gives, for `run_gpu_steps.py` to compare and to time on a GPU.

    python recipes/benchmarks/gpu_steps.py FOLDER                              # here, ten minutes on two cores
    python recipes/benchmarks/run_gpu_steps.py FOLDER/*-* --out measured.csv   # there; needs jax and numpy, and no TensorFlow

A program is 8 of the steps that `fit` runs, of the paper's networks in each stage, or of `GlimpseClassifier.for_large_images`
as row `kind` of `recipes/images/rows.toml` has it. It gathers its batches from images on the device: input pipelines are not
in the times. All train by SGD: the first steps of Adam have the size of the rate even where a gradient is a rounding error.
"""

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import tensorflow as tf
from images import hlo, training

from keras_glimpse import GlimpseClassifier, data

STEPS = 8
PRECISIONS = ("float32", "tf32", "bfloat16")  # Of products; of all that layers compute, in bfloat16.
MODELS = {"paper": (1, 2, "fine_tune"), "kind": (1, "fine_tune")}  # Their stages.
SIDES = {"paper": 48, "kind": 256}  # Of their images, in pixels.
BATCHES = {"paper": (50, 500, 5000), "kind": (16,)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    for name, stages in MODELS.items():
        for stage in stages:
            for batch_size in BATCHES[name]:
                print(write_steps(args.folder, name, stage, batch_size), flush=True)


def write_steps(folder: Path, name: str, stage: int | str, batch_size: int, precisions=PRECISIONS, steps: int = STEPS) -> Path:
    """Writes `<name>-<stage>-<batch size>/`: a program for each precision, and the weights that a CPU gives in float32."""
    path = folder / f"{name}-{stage}-{batch_size}"
    path.mkdir(parents=True)
    images, labels = _digits(SIDES[name])
    model = _compiled(name, stage)
    weights = model.get_weights()
    after = tf.function(steps_program(model, images, labels, batch_size, steps), jit_compile=True, autograph=False)()
    np.savez_compressed(path / "after.npz", *[value.numpy() for value in after[: len(model.variables)]])
    for precision in precisions:
        with computed_in(precision):
            model = _compiled(name, stage)
            model.set_weights(weights)  # In bfloat16, the same seed gives others.
            hlo.write(path / precision, steps_program(model, images, labels, batch_size, steps), model, {}, steps)
    return path


@contextmanager
def computed_in(precision: str):
    """Models that are made, and steps that are traced, compute in this precision."""
    before = keras.config.dtype_policy(), tf.config.experimental.tensor_float_32_execution_enabled()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    tf.config.experimental.enable_tensor_float_32_execution(precision != "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before[0])
        tf.config.experimental.enable_tensor_float_32_execution(before[1])


def _compiled(name, stage):
    """A model in its stage."""
    keras.utils.set_random_seed(0)
    shape = (SIDES[name], SIDES[name], 1)
    if name == "paper":
        model = GlimpseClassifier(10, num_glimpses=2)
        model.build((None, *shape))
    else:
        model = training.glimpses(training.rows()[name]["ours"], shape, 10)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), stage=stage)
    model.optimizer.build(model.trainable_variables)
    return model


def _digits(side):
    """The digits that the package brings, each at a random place of an image of this side."""
    digits = data.embedded_digits()
    return next(iter(data.jittered(digits, len(digits.train_labels), canvas=side, copies=1).train))


def steps_program(model: keras.Model, images: tf.Tensor, labels: tf.Tensor, batch_size: int, steps: int):
    """A function that trains on random batches, the same every time, and returns the values of all variables."""

    def program():
        def step(i):
            chosen = tf.random.stateless_uniform([batch_size], tf.stack([0, i]), 0, len(images), tf.int32)
            model.train_step((tf.gather(images, chosen), tf.gather(labels, chosen)))
            return [i + 1]

        tf.while_loop(lambda i: i < steps, step, [0])
        return [variable.value.read_value() for variable in hlo.variables(model)]

    return program


if __name__ == "__main__":
    main()
