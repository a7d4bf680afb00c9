"""LiteRT on one thread: what the early exit saves, and what a glimpse costs in images of other sizes.

    python recipes/on_device.py     # about two minutes on two cores

One image at a time, all test images of jittered MNIST for the first table; what is compared runs in turn, in one process.
Leaves `recipes/results/benchmark_litert.csv` and `benchmark_litert_size.csv`.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import benchmark
import networks
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import keras_glimpse
from keras_glimpse import data

SIDES = (48, 256, 1024, 4096)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", default="jittered-mnist", help="name of a pretrained model of 48x48 images; default %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that everything is run; default %(default)s")
    parser.add_argument("--smoke", action="store_true", help="as little as shows that it works; keeps nothing")
    args = parser.parse_args()
    model = keras_glimpse.load_pretrained(args.model)
    test = data.jittered(benchmark.digits_for(args.smoke)).test.unbatch().batch(200 if args.smoke else 30_000)
    images = next(test.as_numpy_iterator())[0].astype(np.float32) / 255
    early_exit(model, images, args)
    sizes(model, images[0], args)


def early_exit(model, images, args):
    """Mean latency over the test set."""
    thumbnail, dense, conv = networks.Thumbnail(model.low_res_net.size[0]), networks.dense(), networks.conv()
    for net in (thumbnail, dense, conv):
        net.build((None, 48, 48, 1))
    runs = {
        "thumbnail network alone": opened(partial(benchmark.export_plainly, thumbnail)),
        "all glimpses": opened(partial(keras_glimpse.export_litert, model)),
        "cascade at 0.95": opened(partial(keras_glimpse.export_litert, model, threshold=0.95)),
        "dense 2304-500-10": opened(partial(benchmark.export_plainly, dense)),
        "conv": opened(partial(benchmark.export_plainly, conv)),
    }
    seconds = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            some = images[:: 30 if name == "conv" else 1]  # It takes as long for every image.
            seconds[name].append(sum(map(run, some)) / len(some))
    median = {name: float(np.median(each)) for name, each in seconds.items()}
    rows = [
        {"what": name, "µs, mean": benchmark.short(1e6 * each)}
        | {f"times as fast as {other}": benchmark.short(median[full] / each) for other, full in OTHERS.items()}
        for name, each in median.items()
    ]
    benchmark.report("litert", f"LiteRT, one thread, {len(images):,} images", rows, args.smoke)


OTHERS = {"dense": "dense 2304-500-10", "conv": "conv"}


def sizes(model, digit, args):
    """The same weights for images of other sizes, with a thumbnail that reads a fixed number of pixels."""
    runs = {}
    for side in SIDES[:2] if args.smoke else SIDES:
        large = keras_glimpse.GlimpseClassifier.from_config(model.get_config() | {"downsample": "strided"})
        large.build((None, side, side, 1))
        large.set_weights(model.get_weights())
        image = np.zeros((side, side, 1), np.float32)
        image[:48, :48] = digit
        for what, threshold in (("all glimpses", None), ("cascade at 0.95", 0.95)):
            run = opened(partial(keras_glimpse.export_litert, large, threshold=threshold))
            runs[what, side] = partial(run, image, copy=False)
            run(image)
    seconds = {name: [] for name in runs}
    for _ in range(200 * args.rounds):
        for name, run in runs.items():
            seconds[name].append(run())
    rows = [
        {"what": what, "side": side, "µs, median": benchmark.short(1e6 * np.median(each))}
        | {"over 48": benchmark.short(np.median(each) / np.median(seconds[what, 48]))}
        for (what, side), each in seconds.items()
    ]
    benchmark.report("litert_size", "LiteRT, one thread, strided thumbnails, the image already in memory", rows, args.smoke)


def opened(export):
    """A function that runs an exported file on one image and tells the seconds, without those of copying the image in."""
    with tempfile.TemporaryDirectory() as folder:
        export(path=Path(folder) / "net.tflite")
        interpreter = Interpreter(model_path=f"{folder}/net.tflite", num_threads=1)
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]["index"]

    def run(image, copy=True):
        if copy:
            interpreter.set_tensor(place, image[None])
        start = time.perf_counter()
        interpreter.invoke()
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
