"""LiteRT on one thread: what the early exit saves, and what a glimpse costs in images of other sizes.

    pip install -e ".[recipes,litert]"
    python recipes/benchmarks/on_device.py                                 # about two minutes on two cores
    python recipes/benchmarks/on_device.py --model jittered-mnist-best     # any model of digits, by its name or its file

One image at a time, for the first table all test images of jittered MNIST, or of MNIST for a model of 28x28 images; what is
compared runs in turn, in one process. Leaves `recipes/results/benchmark_litert.csv` and `benchmark_litert_size.csv` of the
default model, and files with their names of other models of the package; the tables of a model of yours are printed only.

"Networks alone" is the limit of the cascade: the thumbnail network, and each glimpse network as often as the cascade comes to
it, measured in files of their own, without anything between them.
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

from keras_glimpse import GlimpseClassifier, LowResNet, cascade_predict, export_litert, pretrained_names

DEFAULT, THRESHOLD = "jittered-mnist", 0.95
CALIBRATION, HARDEST = 400, 20  # Images; and how many need every glimpse, at least.
SIDES = (256, 1024, 4096)  # Beside that of the model.


def main():
    parser = benchmark.benchmark_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT, help=f"{HELP}; of digits; default %(default)s")
    args = parser.parse_args()
    with in_one_line():
        model, digits = load_of_digits(args.model), benchmark.digits_for(args.smoke)
    test = splits_for(model.image_shape, digits).test.unbatch().batch(200 if args.smoke else 30_000)
    images = next(test.as_numpy_iterator())[0].astype(np.float32) / 255
    report = partial(benchmark.report, smoke=args.smoke or args.model not in pretrained_names())
    suffix = "" if args.model == DEFAULT else f"_{args.model}"
    report(f"benchmark_litert{suffix}", f"LiteRT, one thread, {len(images):,} images", early_exit(model, images, args.rounds))
    rows = sizes(model, images[0], SIDES[:1] if args.smoke else SIDES, args.rounds)
    report(f"benchmark_litert_size{suffix}", "LiteRT, one thread, strided thumbnails, the image already in memory", rows)


def early_exit(model, images, rounds):
    """Mean latency over the test set."""
    shape, exit_stage = images.shape[1:], cascade_predict(model, images, THRESHOLD).exit_stage
    image, patches = keras.Input(shape), keras.Input((model.crop.size, model.crop.size, shape[2] * len(model.crop.scales)))
    stages = [
        keras.Model(image, model.low_res_net(image)[1]),
        *(keras.Model(patches, net(patches)) for net in model.glimpse_nets),
    ]
    dense, conv = f"dense {np.prod(shape)}-500-10", "conv"
    others = {dense: networks.dense(), conv: networks.conv()}
    for net in others.values():
        net.build((None, *shape))
    harder_first = np.argsort(-exit_stage, kind="stable")
    cascade = {"threshold": THRESHOLD}
    some = np.concatenate([harder_first[:HARDEST], harder_first[:: -(-len(images) // CALIBRATION)]])
    in_8_bits = cascade | {"quantize": "int8", "calibration": images[some]}
    exports = {f"stage {n}": partial(export_plainly, net) for n, net in enumerate(stages)}
    exports |= {"all glimpses": partial(export_litert, model)}
    exports |= {
        "cascade": partial(export_litert, model, **cascade),
        "cascade, int8": partial(export_litert, model, **in_8_bits),
    }
    exports |= {name: partial(export_plainly, net) for name, net in others.items()}
    inputs = {f"stage {n}": np.zeros((1000, *net.input_shape[1:]), np.float32) for n, net in enumerate(stages)}
    inputs[conv] = images[::30]  # It takes as long for every image.
    timers = {
        name: partial(litert.mean_seconds, litert.opened(export), inputs.get(name, images)) for name, export in exports.items()
    }
    median = benchmark.in_turn(timers, rounds)
    alone = [median.pop(f"stage {n}") for n in range(len(stages))]
    median = {"networks alone": np.dot(alone, [(exit_stage >= n).mean() for n in range(len(stages))])} | median
    return [
        {"what": name, "µs, mean": 1e6 * each}
        | {f"times as fast as {other}": median[full] / each for other, full in (("dense", dense), ("conv", conv))}
        for name, each in median.items()
    ]


def export_plainly(net, path):
    """As Keras does it."""
    signature = [keras.InputSpec(shape=(1, *net.input_shape[1:]), dtype="float32")]
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    net.export(path, format="litert", input_signature=signature, target_spec=builtins, verbose=False)


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
