"""LiteRT on one thread: what the early exit saves, and what a glimpse costs in images of other sizes.

    pip install -e ".[recipes,litert]"
    python recipes/benchmarks/on_device.py                                 # about two minutes on two cores
    python recipes/benchmarks/on_device.py --model jittered-mnist-best     # any model of digits, by its name or its file

One image at a time, for the first table all test images of jittered MNIST, or of MNIST for a model of 28x28 images; what is
compared runs in turn, in one process. Leaves `recipes/results/benchmark_litert.csv` and `benchmark_litert_size.csv` of the
default model; the tables of others are printed only.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import benchmark
import keras
import numpy as np
from arguments import at_least, in_one_line
from tables import networks
from tables.digits import splits_for
from trained import HELP, load_of_digits

import keras_glimpse

DEFAULT = "jittered-mnist"
SIDES = (256, 1024, 4096)  # Beside that of the model.


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT, help=f"{HELP}; of digits; default %(default)s")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="times that everything is run; default %(default)s")
    parser.add_argument("--smoke", action="store_true", help="as little as shows that it works; keeps nothing")
    args = parser.parse_args()
    with in_one_line():
        model, digits = load_of_digits(args.model), benchmark.digits_for(args.smoke)
    test = splits_for(model.image_shape, digits).test.unbatch().batch(200 if args.smoke else 30_000)
    images = next(test.as_numpy_iterator())[0].astype(np.float32) / 255
    report = partial(benchmark.report, smoke=args.smoke or args.model != DEFAULT)
    report("litert", f"LiteRT, one thread, {len(images):,} images", early_exit(model, images, args.rounds))
    rows = sizes(model, images[0], SIDES[:1] if args.smoke else SIDES, args.rounds)
    report("litert_size", "LiteRT, one thread, strided thumbnails, the image already in memory", rows)


def early_exit(model, images, rounds):
    """Mean latency over the test set."""
    shape = images.shape[1:]
    thumbnail = keras.Input(shape)
    nets = {
        "thumbnail network alone": keras.Model(thumbnail, model.low_res_net(thumbnail)[1]),
        (dense := f"dense {np.prod(shape)}-500-10"): networks.dense(),
        "conv": networks.conv(),
    }
    for net in nets.values():
        net.build((None, *shape))
    runs = {name: opened(partial(benchmark.export_plainly, net, image_shape=shape)) for name, net in nets.items()}
    runs["all glimpses"] = opened(partial(keras_glimpse.export_litert, model))
    runs["cascade at 0.95"] = opened(partial(keras_glimpse.export_litert, model, threshold=0.95))
    seconds = {name: [] for name in ("thumbnail network alone", "all glimpses", "cascade at 0.95", dense, "conv")}
    for _ in range(rounds):
        for name, each in seconds.items():
            some = images[:: 30 if name == "conv" else 1]  # It takes as long for every image.
            each.append(sum(map(runs[name], some)) / len(some))
    median = {name: float(np.median(each)) for name, each in seconds.items()}
    others = {"dense": dense, "conv": "conv"}
    return [
        {"what": name, "µs, mean": benchmark.short(1e6 * each)}
        | {f"times as fast as {other}": benchmark.short(median[full] / each) for other, full in others.items()}
        for name, each in median.items()
    ]


def sizes(model, digit, sides, rounds):
    """Median latency of the same weights for images of other sizes, with a thumbnail that reads a fixed number of pixels."""
    own, runs = len(digit), {}
    for side in (own, *sides):
        large = enlarged(model, side)
        image = np.zeros((side, side, 1), np.float32)
        image[:own, :own] = digit
        for what, threshold in (("all glimpses", None), ("cascade at 0.95", 0.95)):
            run = opened(partial(keras_glimpse.export_litert, large, threshold=threshold))
            runs[what, side] = partial(run, image, copy=False)
            run(image)
    seconds = {name: [] for name in runs}
    for _ in range(200 * rounds):
        for name, run in runs.items():
            seconds[name].append(run())
    return [
        {"what": what, "side": side, "µs, median": benchmark.short(1e6 * np.median(each))}
        | {f"over {own}": benchmark.short(np.median(each) / np.median(seconds[what, own]))}
        for (what, side), each in seconds.items()
    ]


def enlarged(model, side):
    """The same networks for images of this side. A thumbnail network of the user's own sees every so many pixels of them."""
    config = model.get_config()
    if isinstance(model.low_res_net, keras_glimpse.LowResNet):
        config["downsample"] = "strided"
    else:
        images = keras.Input((side, side, 1))
        strided = keras.layers.Resizing(*model.image_shape[:2], interpolation="nearest")(images)
        config["low_res_net"] = keras.saving.serialize_keras_object(keras.Model(images, model.low_res_net(strided)))
    large = keras_glimpse.GlimpseClassifier.from_config(config)
    large.build((None, side, side, 1))
    large.set_weights(model.get_weights())
    return large


def opened(export):
    """A function that runs an exported file on one image and tells the seconds, without those of copying the image in."""
    interpreter, source, _ = benchmark.interpreter(export)

    def run(image, copy=True):
        if copy:
            interpreter.set_tensor(source, image[None])
        start = time.perf_counter()
        interpreter.invoke()
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
