"""Speed and memory, each beside what a user would otherwise run.

    pip install -e ".[benchmark]"
    python recipes/benchmarks/benchmark.py train         # about 15 minutes on two cores; PyTorch only if it is installed
    python recipes/benchmarks/benchmark.py size          # about 3 minutes, as inference; memory: 1 minute

What is compared runs in turn, again and again, in one process: ratios of medians hold on a noisy machine, times do not.
Tables go to `recipes/results/benchmark_*.csv`.
"""

import argparse
import importlib.util
import itertools
import multiprocessing
import resource
import sys
import timeit
from collections.abc import Callable
from csv import DictWriter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import contenders
import keras
import numpy as np
import tensorflow as tf
from arguments import at_least, in_one_line, refuse
from console import show_table
from runs import RESULTS, commit
from tables import networks
from tables.digits import mnist_digits

import keras_glimpse
from keras_glimpse import GlimpseClassifier, cascade_predict, count_macs, data, stage_macs

THRESHOLD = 0.95


def main():
    commands = {"train": train, "inference": inference, "size": size, "memory": memory}
    parser = benchmark_parser(__doc__)
    parser.add_argument("command", choices=commands)
    args = parser.parse_args()
    if args.command == "memory":
        refuse(parser, args, "memory is measured once", "rounds")
    if args.command != "size":
        with in_one_line():
            digits_for(args.smoke)
    keras.utils.set_random_seed(0)
    commands[args.command](args.rounds, args.smoke)


def benchmark_parser(doc: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--rounds", type=at_least(1), default=5, help="times that everything is run; default %(default)s")
    parser.add_argument("--smoke", action="store_true", help="as little of everything as shows that it works; keeps nothing")
    return parser


def timer(call: Callable, parts: int = 1, repeats: int = 1) -> Callable[[], float]:
    """A function that tells the seconds that a call takes for each of its parts, in the mean over `repeats`."""
    return lambda: timeit.timeit(call, number=repeats) / (repeats * parts)


def in_turn(timers: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median of what each function tells. All run once before, to be compiled and warm."""
    seconds = [[seconds() for seconds in timers.values()] for _ in range(1 + rounds)]
    return dict(zip(timers, np.median(seconds[1:], axis=0).tolist()))


def report(name: str, title: str, rows: list[dict], smoke: bool) -> None:
    """Prints a table, and keeps it as a CSV file with the commit, unless it is one of a smoke test."""
    rows = [{name: float(f"{each:.4g}") if isinstance(each, float) else each for name, each in row.items()} for row in rows]
    show_table(title, rows)
    if not smoke:
        with (RESULTS / f"{name}.csv").open("w", newline="") as file:
            writer = DictWriter(file, [*rows[0], "commit"])
            writer.writeheader()
            writer.writerows(row | {"commit": commit()} for row in rows)


def digits_for(smoke: bool) -> data.Digits:
    return data.embedded_digits() if smoke else mnist_digits()


# ---- train ----


def train(rounds, smoke):
    digits, rows = digits_for(smoke), []
    for stage, batch in itertools.product((1, 2), (50,) if smoke else (50, 500, 5000)):
        steps = 4 if smoke else 100_000 // batch
        dataset = data.jittered(digits, batch, fresh_places=True).train.repeat().take(2 * steps)
        images, labels = (np.stack(parts) for parts in zip(*dataset.take(steps).as_numpy_iterator()))
        trainers = _trainers(stage)
        if batch == 50:
            _check_alike(trainers, images, labels)
        # A sweep of the protocol has 600,000 images: fit is timed over a third, so that its start weighs as it does there.
        counts = dict.fromkeys(trainers, max(1, steps // 8)) | {"fit": 2 * steps, "fused XLA loop": steps}
        timers = {name: timer(trainers[name](images[:n], labels[:n], dataset.take(n)), n) for name, n in counts.items()}
        timers["its matrix products"] = timer(contenders.matrix_products(batch, stage, steps), steps)
        seconds = in_turn(timers, rounds)
        for name, each in seconds.items():
            row = {"stage": stage, "batch": batch, "what": name, "ms a step": 1000 * each, "images/s": round(batch / each)}
            rows.append(row | {"fit / this": seconds["fit"] / each})
    report("benchmark_train", "Training, 48x48, 500 hidden units, 3x3 search", rows, smoke)
    _pipeline(digits, rounds, smoke)


def _trainers(stage):
    """Functions of images `[steps, batch, ...]`, labels and a dataset of the same; each gives a call that trains on these
    from the same weights, and returns the loss of the last step."""
    model = GlimpseClassifier(10, 2)
    model.build((None, 48, 48, 1))
    model.compile(keras.optimizers.SGD(contenders.RATE, contenders.MOMENTUM), stage=stage)
    weights = contenders.weights_of(model)
    loop, plain = (contenders.Contender(weights, stage, look) for look in (contenders.slices, contenders.crops))

    def by_fit(model, images, labels, dataset):
        return lambda: model.fit(dataset, shuffle=False, verbose=0).history["loss"][0]

    def by_loop(images, labels, dataset):
        images, labels = tf.constant(images), tf.constant(labels)
        return lambda: float(loop.fused(images, labels))

    trainers = {"fit": partial(by_fit, model), "fused XLA loop": by_loop, "straightforward Keras": partial(by_fit, plain)}
    if importlib.util.find_spec("torch"):
        import torch
        from contender_torch import TorchGlimpses

        def by_torch(trainer, images, labels, dataset):
            return partial(trainer.train, torch.from_numpy(images), torch.from_numpy(labels).long())

        for name, compiled in {"PyTorch": False, "PyTorch, torch.compile": True}.items():
            trainers[name] = partial(by_torch, TorchGlimpses(weights, stage, compiled))
    return trainers


def _check_alike(trainers, images, labels):
    """All of them are to do the same: the losses of three first steps, the second and third after updates."""
    losses = {}
    for name, prepare in trainers.items():
        steps = [(images[n : n + 1], labels[n : n + 1]) for n in range(3)]
        losses[name] = [prepare(*step, tf.data.Dataset.from_tensor_slices(step))() for step in steps]
        print(f"{name}: losses {losses[name]}")
        np.testing.assert_allclose(losses[name], losses["fit"], rtol=1e-5, err_msg=f"{name} does not do what fit does.")


def _pipeline(digits, rounds, smoke):
    """A sweep of the paper's protocol, and the input pipeline alone."""
    train = data.jittered(digits).train.take(10 if smoke else 12_000)
    model = GlimpseClassifier(10, 2)
    model.compile(keras_glimpse.paper_sgd())
    timers = {
        "fit": timer(lambda: model.fit(train, verbose=0)),
        "input pipeline alone": timer(lambda: train.reduce(0, lambda n, batch: n + 1).numpy()),
        "input pipeline, iterated from Python": timer(lambda: [None for _ in train]),
    }
    seconds, images = in_turn(timers, rounds), 50 * len(train)
    rows = [
        {"what": name, "seconds": each, "images/s": round(images / each), "times fit": seconds["fit"] / each}
        for name, each in seconds.items()
    ]
    report("benchmark_pipeline", f"A sweep of {images:,} images, batches of 50", rows, smoke)


# ---- inference ----


def inference(rounds, smoke):
    """In Keras; `on_device.py` has the same in LiteRT."""
    images = np.concatenate([images for images, _ in data.jittered(digits_for(smoke)).test.take(200)])
    model, one = keras_glimpse.load_pretrained("jittered-mnist"), GlimpseClassifier(10, 1)
    nets = {"dense": networks.dense(), "conv": networks.conv(), "1 glimpse": one, "2 glimpses": model}
    for name, net in nets.items():
        net.build((None, 48, 48, 1))
        net.compile(jit_compile={"dense": True, "conv": False}.get(name, "auto"))
    macs = {name: count_macs(nets[name]) for name in ("dense", "conv")}
    macs |= zip(("1 glimpse", "2 glimpses"), stage_macs(model)[1:])
    rows = []
    for size in (1, 100) if smoke else (1, 100, 10_000):
        batches = [tf.constant(images[start : start + size]) for start in range(0, max(size, 200), size)]
        cascade = partial(cascade_predict, model, threshold=THRESHOLD, batch_size=size)
        calls = {name: net.predict_on_batch for name, net in nets.items()} | {"cascade": cascade}
        if size > 1000:
            del calls["conv"]  # Its first layer alone would give 5 GB.
        timers = {name: timer(partial(_each, call, batches), len(batches)) for name, call in calls.items()}
        macs["cascade"] = np.mean([cascade(batch).macs for batch in batches])
        for name, each in (seconds := in_turn(timers, rounds)).items():
            row = {"batch": size, "what": name, "images/s": round(size / each), "ms": 1000 * each}
            gained = {"speed-up over dense": seconds["dense"] / each, "by MACs": float(macs["dense"] / macs[name])}
            rows.append(row | gained)
    report("benchmark_inference", "Inference in Keras, jittered MNIST", rows, smoke)


def _each(call, batches):
    for batch in batches:
        call(batch)


# ---- size ----


def size(rounds, smoke):
    rows = []
    for side in (48, 128) if smoke else (48, 128, 256, 512, 1024, 2048, 4096):
        images = tf.random.stateless_uniform([4, side, side, 1], [0, side])
        nets = {f"{method} thumbnail": GlimpseClassifier(10, 2, downsample=method) for method in ("area", "strided")}
        if side <= 1024:  # Beyond, its fully connected layer alone has more than 8 GB of weights.
            nets["conv"] = networks.conv()
        for net in nets.values():
            net.build(images.shape)
        macs = {name: count_macs(net) if name == "conv" else int(stage_macs(net)[-1]) for name, net in nets.items()}
        calls = {"tf.reduce_mean": lambda images: tf.reduce_mean(images, axis=[1, 2])} | nets
        # What takes long is run once at a time; what does not, often enough that its own data is what the caches hold.
        repeats = dict.fromkeys(calls, max(2, 1024 // side)) | {"conv": 1, "strided thumbnail": 50}
        timers = {name: timer(partial(tf.function(call), images), len(images), repeats[name]) for name, call in calls.items()}
        for name, each in (seconds := in_turn(timers, rounds)).items():
            first = next((row["ms an image"] for row in rows if row["what"] == name), 1000 * each)
            row = {"side": side, "what": name, "ms an image": 1000 * each, "MACs": macs.get(name)}
            rows.append(row | {"over 48": 1000 * each / first, "over tf.reduce_mean": each / seconds["tf.reduce_mean"]})
    report("benchmark_size", "Inference, two glimpses, one image of float32 in memory", rows, smoke)


# ---- memory ----


def memory(_, smoke):
    """Peaks of processes that each do one thing."""
    side, rows = 256 if smoke else 4096, []
    jobs = {"import only": int, "a sweep of jittered images": partial(_sweep, smoke)}
    jobs[f"inference at {side}x{side}"] = partial(_large, side)
    for name, job in jobs.items():
        with multiprocessing.get_context("spawn").Pool(1) as process:
            rows.append({"what": name, "peak resident MB": process.apply(_peak, [job])})
    report("benchmark_memory", "Peak resident memory of a process", rows, smoke)


def _peak(job):
    job()
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _sweep(smoke):
    model = GlimpseClassifier(10, 2)
    model.compile(keras_glimpse.paper_sgd())
    model.fit(data.jittered(digits_for(smoke)).train, verbose=0)


def _large(side):
    model = GlimpseClassifier(10, 2, downsample="strided")
    model.build((None, side, side, 1))
    model.predict_on_batch(tf.zeros([1, side, side, 1], tf.uint8))


if __name__ == "__main__":
    main()
