"""LiteRT on one thread: what the early exit saves, and what a glimpse costs in images of other sizes.

    pip install -e ".[recipes,litert]"
    python recipes/benchmarks/on_device.py                                 # about two minutes on two cores
    python recipes/benchmarks/on_device.py --model jittered-mnist-best     # any model of digits, by its name or its file

One image at a time, for the first table all test images of jittered MNIST, or of MNIST for a model of 28x28 images; what is
compared runs in turn, in one process. Leaves `recipes/results/benchmark_litert.csv` and `benchmark_litert_size.csv` of the
default model; the tables of others are printed only.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import benchmark
import keras
import litert
import numpy as np
import tensorflow as tf
from arguments import in_one_line
from tables import networks
from tables.digits import splits_for
from trained import HELP, load_of_digits

from keras_glimpse import GlimpseClassifier, LowResNet, export_litert

DEFAULT = "jittered-mnist"
SIDES = (256, 1024, 4096)  # Beside that of the model.


def main():
    parser = benchmark.benchmark_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT, help=f"{HELP}; of digits; default %(default)s")
    args = parser.parse_args()
    with in_one_line():
        model, digits = load_of_digits(args.model), benchmark.digits_for(args.smoke)
    test = splits_for(model.image_shape, digits).test.unbatch().batch(200 if args.smoke else 30_000)
    images = next(test.as_numpy_iterator())[0].astype(np.float32) / 255
    report = partial(benchmark.report, smoke=args.smoke or args.model != DEFAULT)
    report("benchmark_litert", f"LiteRT, one thread, {len(images):,} images", early_exit(model, images, args.rounds))
    rows = sizes(model, images[0], SIDES[:1] if args.smoke else SIDES, args.rounds)
    report("benchmark_litert_size", "LiteRT, one thread, strided thumbnails, the image already in memory", rows)


def early_exit(model, images, rounds):
    """Mean latency over the test set."""
    shape, thumbnail = images.shape[1:], keras.Input(images.shape[1:])
    nets = [keras.Model(thumbnail, model.low_res_net(thumbnail)[1]), networks.dense(), networks.conv()]
    for net in nets:
        net.build((None, *shape))
    low_res, dense, conv = (partial(export_plainly, net, shape) for net in nets)
    exports = {"thumbnail network alone": low_res}
    exports |= {"all glimpses": partial(export_litert, model), "cascade at 0.95": partial(export_litert, model, threshold=0.95)}
    exports |= {f"dense {np.prod(shape)}-500-10": dense, "conv": conv}
    timers = {}
    for name, export in exports.items():
        some = images[:: 30 if name == "conv" else 1]  # It takes as long for every image.
        timers[name] = partial(mean_seconds, litert.opened(export), some)
    median = benchmark.in_turn(timers, rounds)
    *_, dense, conv = median.values()
    return [
        {"what": name, "µs, mean": 1e6 * each, "times as fast as dense": dense / each, "times as fast as conv": conv / each}
        for name, each in median.items()
    ]


def export_plainly(net, image_shape, path):
    """As Keras does it."""
    signature = [keras.InputSpec(shape=(1, *image_shape), dtype="float32")]
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    net.export(path, format="litert", input_signature=signature, target_spec=builtins, verbose=False)


def mean_seconds(file, images):
    total = 0.0
    for image in images:
        file.put(image[None])
        total += file.seconds()
    return total / len(images)


def sizes(model, digit, sides, rounds):
    """Median latency of the same weights for images of other sizes, with a thumbnail that reads a fixed number of pixels."""
    own, timers = len(digit), {}
    for side in (own, *sides):
        large = enlarged(model, side)
        image = np.zeros((1, side, side, 1), np.float32)
        image[0, :own, :own] = digit
        for what, threshold in (("all glimpses", None), ("cascade at 0.95", 0.95)):
            file = litert.opened(partial(export_litert, large, threshold=threshold))
            file.put(image)
            timers[what, side] = file.seconds
    seconds = benchmark.in_turn(timers, 200 * rounds)
    return [
        {"what": what, "side": side, "µs, median": 1e6 * each, f"over {own}": each / seconds[what, own]}
        for (what, side), each in seconds.items()
    ]


def enlarged(model, side):
    """The same networks for images of this side. A thumbnail network of the user's own sees every so many pixels of them."""
    config = model.get_config()
    if isinstance(model.low_res_net, LowResNet):
        config["downsample"] = "strided"
    else:
        images = keras.Input((side, side, 1))
        strided = keras.layers.Resizing(*model.image_shape[:2], interpolation="nearest")(images)
        config["low_res_net"] = keras.saving.serialize_keras_object(keras.Model(images, model.low_res_net(strided)))
    large = GlimpseClassifier.from_config(config)
    large.build((None, side, side, 1))
    large.set_weights(model.get_weights())
    return large


if __name__ == "__main__":
    main()
