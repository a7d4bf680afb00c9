"""Speed and memory, each beside what a user would otherwise run.

    pip install -e ".[benchmark]"
    python recipes/benchmarks/benchmark.py train         # about 15 minutes on two cores; PyTorch only if it is installed
    python recipes/benchmarks/benchmark.py inference     # about 3 minutes
    python recipes/benchmarks/benchmark.py size          # about 3 minutes
    python recipes/benchmarks/benchmark.py memory        # about 1 minute

What is compared runs in turn, again and again, in one process: ratios of medians hold on a noisy machine, times do not.
Tables go to `recipes/results/benchmark_*.csv`.
"""

import argparse
import csv
import importlib.util
import multiprocessing
import os
import resource
import sys
import tempfile
import timeit
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported: its C++ logs are not for readers.
sys.path.insert(0, str(Path(__file__).parent.parent))

import contenders
import keras
import numpy as np
import tensorflow as tf
from arguments import at_least, in_one_line, refuse
from console import show_table
from tables import networks
from tables.config import RESULTS, commit
from tables.digits import mnist_digits

import keras_glimpse
from keras_glimpse import GlimpseClassifier, cascade_predict, count_macs, data, stage_macs

THRESHOLD = 0.95


def main():
    commands = {"train": train, "inference": inference, "size": size, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=commands)
    parser.add_argument("--rounds", type=at_least(1), help="times that everything is run; default 5, with --smoke 1")
    parser.add_argument("--smoke", action="store_true", help="as little of everything as shows that it works; keeps nothing")
    args = parser.parse_args()
    if args.command == "memory":
        refuse(parser, args, "memory is measured once", "rounds")
    if args.command != "size":
        with in_one_line():
            digits_for(args.smoke)
    keras.utils.set_random_seed(0)
    commands[args.command](args.rounds or (1 if args.smoke else 5), args.smoke)


def in_turn(calls: dict, rounds: int, repeats: dict | None = None) -> dict[str, float]:
    """Median seconds of a call of each function. All run once before, to be compiled and warm; `repeats` times a round."""
    for call in calls.values():
        call()
    repeats, seconds = repeats or dict.fromkeys(calls, 1), {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(timeit.timeit(call, number=repeats[name]) / repeats[name])
    return {name: float(np.median(each)) for name, each in seconds.items()}


def report(name: str, title: str, rows: list[dict], smoke: bool) -> None:
    """Prints a table, and keeps it as a CSV file, unless it is one of a smoke test."""
    show_table(title, rows)
    if not smoke:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"benchmark_{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], "commit"])
            writer.writeheader()
            writer.writerows(row | {"commit": commit()} for row in rows)


def short(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")


def digits_for(smoke: bool) -> data.Digits:
    return data.embedded_digits() if smoke else mnist_digits()


# ---- train ----


def train(rounds, smoke):
    digits, rows = digits_for(smoke), []
    for stage in (1, 2):
        for batch in (50,) if smoke else (50, 500, 5000):
            steps = 4 if smoke else 100_000 // batch
            dataset = data.jittered(digits, batch, fresh_places=True).train.repeat().take(2 * steps)
            images, labels = (np.stack(parts) for parts in zip(*dataset.take(steps).as_numpy_iterator()))
            trainers = _trainers(stage)
            if batch == 50:
                _check_alike(trainers, images, labels)
            # A sweep of the protocol has 600,000 images: fit is timed over a third, so that its start weighs as it does there.
            timed = dict.fromkeys(trainers, max(1, steps // 8)) | {"fit": 2 * steps, "fused XLA loop": steps}
            calls = {
                name: prepare(images[:n], labels[:n], dataset.take(n))
                for (name, prepare), n in zip(trainers.items(), timed.values())
            }
            products, timed["its matrix products"] = contenders.matrix_products(batch, stage, steps), steps
            calls["its matrix products"] = lambda products=products: products()[0].numpy()
            seconds = in_turn(calls, rounds)
            ms = {name: 1000 * each / timed[name] for name, each in seconds.items()}
            rows += [
                {
                    "stage": stage,
                    "batch": batch,
                    "what": name,
                    "ms a step": short(each, 4),
                    "images/s": round(1000 * batch / each),
                    "fit / this": short(ms["fit"] / each),
                }
                for name, each in ms.items()
            ]
            print(f"stage {stage}, batch {batch}: " + ", ".join(f"{name} {each:.2f} ms" for name, each in ms.items()))
    report("train", "Training, 48x48, 500 hidden units, 3x3 search", rows, smoke)
    _pipeline(digits, rounds, smoke)


def _trainers(stage):
    """Functions of images `[steps, batch, ...]`, labels and a dataset of the same; each gives a call that trains on these
    from the same weights, and returns the loss of the last step."""
    model = GlimpseClassifier(10, 2)
    model.build((None, 48, 48, 1))
    weights, sgd = contenders.weights_of(model), partial(keras.optimizers.SGD, contenders.RATE, contenders.MOMENTUM)
    model.compile(sgd(), stage=stage)
    plain, loop = contenders.Straightforward(weights, stage), contenders.fused(weights, stage)
    plain.compile(sgd(), steps_per_execution=1)

    def by_fit(model, images, labels, dataset):
        return lambda: model.fit(dataset, shuffle=False, verbose=0).history["loss"][0]

    def by_loop(images, labels, dataset):
        images, labels = tf.constant(images), tf.constant(labels)
        return lambda: float(loop(images, labels))

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
    losses = {name: [] for name in trainers}
    for step in range(3):
        one, dataset = slice(step, step + 1), tf.data.Dataset.from_tensors((images[step], labels[step]))
        for name, prepare in trainers.items():
            losses[name].append(prepare(images[one], labels[one], dataset)())
    for name, each in losses.items():
        print(f"{name}: losses {each}")
        np.testing.assert_allclose(each, losses["fit"], rtol=1e-5, err_msg=f"{name} does not do what fit does.")


def _pipeline(digits, rounds, smoke):
    """The input pipeline alone, and a sweep of the paper's protocol with what it takes of it."""
    steps, train = 10 if smoke else 2000, data.jittered(digits).train
    model = GlimpseClassifier(10, 2)
    model.compile(keras_glimpse.paper_sgd())
    calls = {
        "fit": lambda: model.fit(train.take(steps), verbose=0),
        "input pipeline alone": lambda: train.take(steps).reduce(0, lambda n, batch: n + 1).numpy(),
        "input pipeline, iterated from Python": lambda: [None for _ in train.take(steps)],
    }
    seconds = in_turn(calls, rounds)
    rows = [
        {"what": name, "images/s": round(50 * steps / each), "times fit": short(seconds["fit"] / each)}
        for name, each in seconds.items()
    ]
    sweep = timeit.timeit(lambda: model.fit(train.take(10) if smoke else train, verbose=0), number=1)
    what = f"a sweep of {500 if smoke else 600_000:,} images: {sweep:.1f} s"
    report("pipeline", "Input pipeline, batches of 50", [*rows, {"what": what, "images/s": None, "times fit": None}], smoke)


# ---- inference ----


def inference(rounds, smoke):
    digits = digits_for(smoke)
    model, one = _trained(digits, smoke), GlimpseClassifier(10, 1)
    images = np.concatenate([images for images, _ in data.jittered(digits).test.take(200)])
    nets = {"dense": networks.dense(), "conv": networks.conv(), "1 glimpse": one, "2 glimpses": model}
    for name in ("dense", "conv", "1 glimpse"):
        nets[name].build((None, 48, 48, 1))
        nets[name].compile(jit_compile="auto" if name == "1 glimpse" else name == "dense")
    for mine, theirs in zip(_first(one), _first(model)):
        mine.set_weights(theirs.get_weights())
    macs = {name: count_macs(nets[name]) for name in ("dense", "conv")}
    macs |= zip(("1 glimpse", "2 glimpses"), stage_macs(model)[1:])

    rows = []
    for batch in (1, 100) if smoke else (1, 100, 10_000):
        batches = [images[start : start + batch] for start in range(0, max(batch, 200), batch)]
        macs["cascade"] = cascade_predict(model, np.concatenate(batches), THRESHOLD).macs.mean()
        seconds = in_turn(_in_keras(nets, model, batches), rounds)
        rows += _speed_ups("Keras", batch, {name: each / len(batches) for name, each in seconds.items()}, macs)
    litert = {name: _classify(images[:200], partial(export_plainly, net)) for name, net in nets.items()}
    litert["cascade"] = _classify(images[:200], partial(keras_glimpse.export_litert, model, threshold=THRESHOLD))
    macs["cascade"] = cascade_predict(model, images[:200], THRESHOLD).macs.mean()
    seconds = in_turn(litert, rounds)
    rows += _speed_ups("LiteRT, one thread", 1, {name: each / 200 for name, each in seconds.items()}, macs)
    report("inference", "Inference, jittered MNIST", rows, smoke)


def _in_keras(nets, model, batches):
    """Functions that classify batch after batch."""
    batches, size = [tf.constant(batch) for batch in batches], len(batches[0])
    calls = {name: (lambda net=net: [net.predict_on_batch(batch) for batch in batches]) for name, net in nets.items()}
    if size > 1000:
        del calls["conv"]  # Its first layer alone would give 5 GB.
    return calls | {"cascade": lambda: [cascade_predict(model, batch, THRESHOLD, batch_size=size) for batch in batches]}


def _first(model):
    return model.low_res_net, model.location_heads[0], model.glimpse_nets[0]


def _speed_ups(runtime, batch, seconds, macs):
    return [
        {
            "runtime": runtime,
            "batch": batch,
            "what": name,
            "images/s": round(batch / each),
            "ms": short(1000 * each),
            "speed-up over dense": short(seconds["dense"] / each),
            "by MACs": short(macs["dense"] / macs[name]),
        }
        for name, each in seconds.items()
    ]


def _trained(digits, smoke):
    """Two glimpses after one sweep each: good enough for a cascade to stop where it would."""
    path = Path("runs/benchmark/model.keras")
    if path.exists() and not smoke:
        return keras.models.load_model(path)
    model = GlimpseClassifier(10, 2)
    keras_glimpse.fit_greedy(model, data.jittered(digits, copies=1 if smoke else 10).train, verbose=0)
    if not smoke:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model


def export_plainly(net, path, image_shape=(48, 48, 1)):
    signature = [keras.InputSpec(shape=(1, *image_shape), dtype="float32")]
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    net.export(path, format="litert", input_signature=signature, target_spec=builtins, verbose=False)


def interpreter(export):
    """What an export writes, read by LiteRT for one thread; and the indices of its input and its first output."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        export(path=Path(folder) / "net.tflite")
        run = Interpreter(model_path=f"{folder}/net.tflite", num_threads=1)
    run.allocate_tensors()
    return run, run.get_input_details()[0]["index"], run.get_output_details()[0]["index"]


def _classify(images, export):
    """A function that classifies the images by LiteRT, one by one."""
    run, source, target = interpreter(export)
    images = images[:, None].astype("float32") / 255.0

    def classify():
        for image in images:
            run.set_tensor(source, image)
            run.invoke()
            run.get_tensor(target)

    return classify


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
        seconds = in_turn({name: partial(tf.function(call), images) for name, call in calls.items()}, rounds, repeats)
        for name, each in seconds.items():
            ms = short(1000 * each / len(images))
            first = next((row["ms an image"] for row in rows if row["what"] == name), ms)
            mean = short(1000 * seconds["tf.reduce_mean"] / len(images))
            row = {"side": side, "what": name, "ms an image": ms, "MACs": macs.get(name)}
            rows.append(row | {"over 48": short(ms / first), "over tf.reduce_mean": short(ms / mean)})
        print(rows[-len(seconds) :])
    report("size", "Inference, two glimpses, one image of float32 in memory", rows, smoke)


# ---- memory ----


def memory(rounds, smoke):
    """Peaks of processes that each do one thing."""
    images, side = 10 * len(digits_for(smoke).train_images), 256 if smoke else 4096
    jobs = {"import only": (None, None), f"a sweep of {images:,} jittered images": (_sweep, smoke)}
    jobs[f"inference at {side}x{side}"] = (_large, side)
    rows = []
    for name, job in jobs.items():
        with multiprocessing.get_context("spawn").Pool(1) as process:
            rows.append({"what": name, "peak resident MB": process.apply(_peak, job)})
    report("memory", "Peak resident memory of a process", rows, smoke)


def _peak(job, argument):
    if job:
        job(argument)
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
