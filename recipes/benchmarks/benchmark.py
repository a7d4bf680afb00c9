"""Speed and memory, each beside what a user would otherwise run.

    pip install -e ".[benchmark]"
    python recipes/benchmark.py train         # about 15 minutes on two cores; beside PyTorch only if it is installed
    python recipes/benchmark.py inference     # about 3 minutes
    python recipes/benchmark.py size          # about 3 minutes
    python recipes/benchmark.py memory        # about 1 minute

What is compared runs in turn, again and again, in one process: ratios of medians hold on a noisy machine, times do not.
Tables go to `recipes/results/benchmark_*.csv`.
"""

import argparse
import csv
import importlib.util
import multiprocessing
import os
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported: what its C++ says is not for readers.

import keras
import networks
import numpy as np
import tensorflow as tf
from arguments import at_least, in_one_line, refuse
from rich.console import Console
from rich.table import Table
from row_data import mnist_digits
from row_run import RESULTS, commit

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


def in_turn(contenders: dict, rounds: int) -> dict[str, float]:
    """Median seconds of each function; all are run once before, to be compiled and warm."""
    for run in contenders.values():
        run()
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(each)) for name, each in seconds.items()}


def report(name: str, title: str, rows: list[dict], smoke: bool) -> None:
    """Prints a table, and keeps it as a CSV file, unless it is one of a smoke test."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=max(110, Console().width)).print(table)
    if smoke:
        return
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"benchmark_{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "commit"])
        writer.writeheader()
        now = commit()
        writer.writerows(row | {"commit": now} for row in rows)


def short(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")


def digits_for(smoke: bool) -> data.Digits:
    return data.embedded_digits() if smoke else mnist_digits()


# ---- train ----


def train(rounds, smoke):
    import contenders

    digits, rows = digits_for(smoke), []
    for stage in (1, 2):
        for batch in (50,) if smoke else (50, 500, 5000):
            steps = 4 if smoke else 100_000 // batch
            dataset = data.jittered(digits, batch, fresh_places=True).train.repeat().take(2 * steps)
            images, labels = (np.stack(parts) for parts in zip(*dataset.take(steps).as_numpy_iterator()))
            model = GlimpseClassifier(10, 2)
            model.build((None, 48, 48, 1))
            model.compile(keras.optimizers.SGD(contenders.RATE, contenders.MOMENTUM), stage=stage)
            weights = contenders.weights_of(model)
            runs = _trainers(contenders, model, weights, stage)
            if batch == 50:
                _check_alike(runs, images, labels)
            few = max(1, steps // 8)
            # A sweep of the protocol has 600,000 images: fit is timed over a third, so that its start weighs as it does there.
            timed = {"fit": 2 * steps, "fused XLA loop": steps, "its matrix products": steps}
            timed |= dict.fromkeys([name for name in runs if name not in timed], few)
            runs["its matrix products"] = contenders.matrix_products(batch, stage, steps)
            calls = {name: _call(name, runs[name], images[:n], labels[:n], dataset.take(n)) for name, n in timed.items()}
            seconds = in_turn(calls, rounds)
            milliseconds = {name: 1000 * seconds[name] / timed[name] for name in timed}
            fit = milliseconds["fit"]
            rows += [
                {
                    "stage": stage,
                    "batch": batch,
                    "what": name,
                    "ms a step": short(ms, 4),
                    "images/s": round(1000 * batch / ms),
                    "fit / this": short(fit / ms),
                }
                for name, ms in milliseconds.items()
            ]
            print(f"stage {stage}, batch {batch}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in milliseconds.items()))
    report("train", "Training, 48x48, 500 hidden units, 3x3 search", rows, smoke)
    _pipeline(digits, rounds, smoke)


def _trainers(contenders, model, weights, stage):
    """Functions of images `[steps, batch, ...]`, labels and a dataset of the same; they give the loss of the last step."""
    plain = contenders.Straightforward(stage, weights)
    plain.compile(keras.optimizers.SGD(contenders.RATE, contenders.MOMENTUM), steps_per_execution=1)
    runs = {
        "fit": lambda images, labels, dataset: model.fit(dataset, verbose=0).history["loss"][0],
        "fused XLA loop": _on_tensors(contenders.fused(weights, stage)),
        "straightforward Keras": lambda images, labels, dataset: plain.fit(dataset, verbose=0, shuffle=False).history["loss"][
            0
        ],
    }
    if importlib.util.find_spec("torch"):
        from contender_torch import TorchGlimpses

        for name, compiled in {"PyTorch": False, "PyTorch, torch.compile": True}.items():
            runs[name] = _on_torch(TorchGlimpses(weights, stage, compiled))
    return runs


def _on_tensors(loop):
    return lambda images, labels, dataset: float(loop(images, labels))


def _on_torch(trainer):
    return lambda images, labels, dataset: trainer.train(images, labels)


def _call(name, run, images, labels, dataset):
    if name == "its matrix products":
        return lambda: run()[0].numpy()
    if name == "fused XLA loop":
        images, labels = tf.constant(images), tf.constant(labels)
    if name.startswith("PyTorch"):
        import torch

        images, labels = torch.from_numpy(images), torch.from_numpy(labels).long()
    return lambda: run(images, labels, dataset)


def _check_alike(runs, images, labels):
    """All of them are to do the same: the losses of three first steps, the second and third after updates."""
    losses = {name: [] for name in runs}
    for step in range(3):
        one = slice(step, step + 1)
        dataset = tf.data.Dataset.from_tensors((images[step], labels[step]))
        for name, run in runs.items():
            losses[name].append(_call(name, run, images[one], labels[one], dataset)())
    for name, each in losses.items():
        print(f"{name}: losses {each}")
        np.testing.assert_allclose(each, losses["fit"], rtol=1e-5, err_msg=f"{name} does not do what fit does.")


def _pipeline(digits, rounds, smoke):
    """The input pipeline alone, and a sweep of the paper's protocol with what it takes of it."""
    rows, steps = [], 10 if smoke else 2000
    train = data.jittered(digits).train

    def drain():
        for _ in train.take(steps):
            pass

    def reduce():
        train.take(steps).reduce(0, lambda n, batch: n + 1).numpy()

    model = GlimpseClassifier(10, 2)
    model.compile(keras_glimpse.paper_sgd())
    fit = lambda: model.fit(train.take(steps), verbose=0)  # noqa: E731
    seconds = in_turn({"fit": fit, "input pipeline alone": reduce, "input pipeline, iterated from Python": drain}, rounds)
    for name, each in seconds.items():
        rows.append({"what": name, "images/s": round(50 * steps / each), "times fit": short(seconds["fit"] / each)})
    start = time.perf_counter()
    model.fit(train if not smoke else train.take(10), verbose=0)
    sweep = time.perf_counter() - start
    rows.append(
        {"what": f"a sweep of {600_000 if not smoke else 500:,} images: {sweep:.1f} s", "images/s": None, "times fit": None}
    )
    report("pipeline", "Input pipeline, batches of 50", rows, smoke)


# ---- inference ----


def inference(rounds, smoke):
    digits = digits_for(smoke)
    model = _trained(digits, smoke)
    images = np.concatenate([images for images, _ in data.jittered(digits).test.take(200)])
    one = GlimpseClassifier(10, 1)
    one.build((None, 48, 48, 1))
    for mine, theirs in zip(_first(one), _first(model)):
        mine.set_weights(theirs.get_weights())
    one.compile()
    nets = {"dense": networks.dense(), "conv": networks.conv(), "1 glimpse": one, "2 glimpses": model}
    for name in ("dense", "conv"):
        nets[name].build((None, 48, 48, 1))
        nets[name].compile(jit_compile=name == "dense")
    macs = {name: count_macs(nets[name]) for name in ("dense", "conv")} | dict(
        zip(("1 glimpse", "2 glimpses"), stage_macs(model)[1:])
    )

    rows = []
    for batch in (1, 100) if smoke else (1, 100, 10_000):
        batches = [images[start : start + batch] for start in range(0, max(batch, 200), batch)]
        macs["cascade"] = cascade_predict(model, np.concatenate(batches), THRESHOLD).macs.mean()
        seconds = in_turn(_in_keras(nets, model, batches), rounds)
        rows += _speed_ups("Keras", batch, {name: each / len(batches) for name, each in seconds.items()}, macs)
    litert = {name: _litert(images, partial(export_plainly, net)) for name, net in nets.items()}
    litert["cascade"] = _litert(images, partial(keras_glimpse.export_litert, model, threshold=THRESHOLD))
    macs["cascade"] = cascade_predict(model, images[:200], THRESHOLD).macs.mean()
    seconds = in_turn(litert, rounds)
    rows += _speed_ups("LiteRT, one thread", 1, {name: each / 200 for name, each in seconds.items()}, macs)
    report("inference", "Inference, jittered MNIST", rows, smoke)


def _in_keras(nets, model, batches):
    """Functions that classify batch after batch."""
    batches = [tf.constant(batch) for batch in batches]
    size = len(batches[0])
    calls = {name: (lambda net=net: [net.predict_on_batch(batch) for batch in batches]) for name, net in nets.items()}
    if size > 1000:
        del calls["conv"]  # Its first layer alone would give 5 GB.
    return calls | {"cascade": lambda: [cascade_predict(model, batch, THRESHOLD, batch_size=size) for batch in batches]}


def _first(model):
    return model.low_res_net, model.location_heads[0], model.glimpse_nets[0]


def _repeat(call, times):
    def run():
        for _ in range(times):
            call()

    return run


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


def _litert(images, export):
    """A function that classifies 200 images, one by one, on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        export(path=f"{folder}/net.tflite")
        run = Interpreter(model_path=f"{folder}/net.tflite", num_threads=1)
    run.allocate_tensors()
    place, result = run.get_input_details()[0]["index"], run.get_output_details()[0]["index"]
    images = images[:200, None].astype("float32") / 255.0

    def classify():
        for image in images:
            run.set_tensor(place, image)
            run.invoke()
            run.get_tensor(result)

    return classify


# ---- size ----


def size(rounds, smoke):
    rows = []
    for side in (48, 128) if smoke else (48, 128, 256, 512, 1024, 2048, 4096):
        count = 4
        images = tf.random.stateless_uniform([count, side, side, 1], [0, side])
        calls = {"tf.reduce_mean": tf.function(lambda images: tf.reduce_mean(images, axis=[1, 2]))}
        macs = {"tf.reduce_mean": None}
        for method in ("area", "strided"):
            model = GlimpseClassifier(10, 2, downsample=method)
            model.build(images.shape)
            calls[f"{method} thumbnail"] = tf.function(model)
            macs[f"{method} thumbnail"] = int(stage_macs(model)[-1])
        if side <= 1024:  # Beyond, its fully connected layer alone has more than 8 GB of weights.
            conv = networks.conv()
            conv.build(images.shape)
            calls["conv"], macs["conv"] = tf.function(conv), count_macs(conv)
        # What takes long is run once at a time; what does not, often enough that its own data is what the caches hold.
        repeats = {name: 1 if name == "conv" else 50 if name.startswith("strided") else max(2, 1024 // side) for name in calls}
        repeated = {name: _repeat(lambda call=call, images=images: call(images), repeats[name]) for name, call in calls.items()}
        seconds = in_turn(repeated, rounds)
        for name, each in seconds.items():
            ms = 1000 * each / repeats[name] / count
            rows.append({"side": side, "what": name, "ms an image": short(ms), "MACs": macs[name]})
        print(rows[-len(seconds) :])
    first = {row["what"]: row["ms an image"] for row in rows if row["side"] == 48}
    for row in rows:
        mean = next(other["ms an image"] for other in rows if other["side"] == row["side"])
        row |= {
            "over 48": short(row["ms an image"] / first[row["what"]]),
            "over tf.reduce_mean": short(row["ms an image"] / mean),
        }
    report("size", "Inference, two glimpses, one image of float32 in memory", rows, smoke)


# ---- memory ----


def memory(rounds, smoke):
    rows, side = [], _large_side(smoke)
    for name, job in {
        "import only": _nothing,
        f"a sweep of {10 * len(digits_for(smoke).train_images):,} jittered images": _sweep,
        f"inference at {side}x{side}": _large,
    }.items():
        process = multiprocessing.get_context("spawn").Pool(1)
        rows.append({"what": name, "peak resident MB": process.apply(_peak, (job, smoke))})
        process.close()
    report("memory", "Peak resident memory of a process", rows, smoke)


def _peak(job, smoke):
    job(smoke)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _nothing(smoke):
    pass


def _sweep(smoke):
    model = GlimpseClassifier(10, 2)
    model.compile(keras_glimpse.paper_sgd())
    model.fit(data.jittered(digits_for(smoke)).train, verbose=0)


def _large_side(smoke):
    return 256 if smoke else 4096


def _large(smoke):
    model, side = GlimpseClassifier(10, 2, downsample="strided"), _large_side(smoke)
    model.build((None, side, side, 1))
    model.predict_on_batch(tf.zeros([1, side, side, 1], tf.uint8))


if __name__ == "__main__":
    main()
