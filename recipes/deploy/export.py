"""Write a trained model for every runtime, and measure what came of it.

    pip install -e ".[recipes,litert,onnx]"
    python recipes/deploy/export.py MODEL.keras --out runs/export     # about two minutes, for models of digits (48x48 or 28x28)

For each file: size, largest difference from Keras on 1,000 test images and how many labels differ there; error and latency
of one image on one thread over the whole test set. Leaves the files and export.json in --out.
"""

import argparse
import json
import sys
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import onnxruntime
import tensorflow as tf
from arguments import folder_to_write, in_one_line, threshold
from console import show_table
from litert import LiteRT
from rich.console import Console
from rich.progress import track
from tables.digits import mnist_digits, splits_for
from trained import HELP, load_of_digits

import keras_glimpse
from keras_glimpse import data

COMPARED, CALIBRATION, BATCH = 1000, 2000, 100  # images


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help=f"{HELP}; of digits")
    parser.add_argument("--out", type=Path, default=Path("runs/export"), help="folder to write to; default %(default)s")
    parser.add_argument("--threshold", type=threshold, default=0.95, help="of the cascade; default %(default)s, the paper's")
    args = parser.parse_args()
    one_thread()
    with in_one_line():
        model, digits = load_of_digits(args.model), mnist_digits()
        results = export_all(model, args.threshold, *images_of(model, digits), folder_to_write(args.out))
    about = {"model": args.model, "threshold": args.threshold, "keras_glimpse": keras_glimpse.__version__}
    (args.out / "export.json").write_text(json.dumps(about | {"files": results}, indent=2) + "\n")
    show_table(f"{args.model}, cascade at {args.threshold}", results)
    print(f"Wrote them and export.json to {args.out}/")


def one_thread():
    """Before TensorFlow does anything: a latency on one thread is what can be compared."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def images_of(model, digits: data.Digits, count: int = CALIBRATION) -> tuple:
    """Test images and their labels, and so many training images to calibrate by."""
    splits = splits_for(model.image_shape, digits)
    test = [np.concatenate(parts) for parts in zip(*splits.test.as_numpy_iterator())]
    return test, next(splits.train.unbatch().batch(count).as_numpy_iterator())[0]


def export_all(model, threshold: float, test, calibration, folder: Path, wanted=None) -> list[dict]:
    """Writes the files, or the `wanted` ones, into a folder; what was measured of each on `test`, unsigned bytes and labels."""
    files = [each for each in formats(model, threshold, calibration) if wanted is None or each[0] in wanted]
    files = track(files, "Exporting and measuring", console=Console(stderr=True))
    return [measure(model, *test, folder, *each) for each in files]


def formats(model, threshold, calibration):
    """Name, threshold, the function that writes it and the one that opens it, of every file."""
    for name, limit in (("full", None), ("cascade", threshold)):
        write = partial(keras_glimpse.export_litert, model, threshold=limit)
        yield f"{name}.tflite", limit, write, LiteRT
        for kind in ("float16", "dynamic", "int8"):
            images = {"calibration": calibration} if kind == "int8" else {}
            yield f"{name}-{kind}.tflite", limit, partial(write, quantize=kind, **images), LiteRT
        yield f"{name}.onnx", limit, partial(keras_glimpse.export_onnx, model, threshold=limit), open_onnx
    # Last: of a model that LiteRT and ONNX refuse, in half precision, nothing is to be left.
    yield "saved_model/1", threshold, partial(keras_glimpse.export_saved_model, model, threshold=threshold), open_saved_model


def open_saved_model(path: Path) -> Callable:
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda image: serve(images=tf.constant(image))["probabilities"].numpy()


def open_onnx(path: Path) -> Callable:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    return lambda image: session.run(["probabilities"], {"images": image})[0]


def measure(model, images, labels, folder, name, threshold, write, open_file) -> dict:
    """Writes a file, reads it again and asks it for every image."""
    path, answers = folder / name, []
    path.parent.mkdir(exist_ok=True)
    write(path=path)
    answer = open_file(path)
    floats = (image[None].astype(np.float32) / 255 for image in images)  # One by one: all boards at once are gigabytes.
    seconds = [timeit.timeit(lambda image=image: answers.append(answer(image)), number=1) for image in floats]
    found, expected = np.concatenate(answers), by_keras(model, images[:COMPARED], threshold)
    return {
        "file": name,
        "threshold": threshold,
        "bytes": sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file()),
        "largest_difference": float(np.abs(found[:COMPARED] - expected).max()),
        "labels_that_differ": int(np.sum(found[:COMPARED].argmax(axis=-1) != expected.argmax(axis=-1))),
        "error_percent": round(100 * float(np.mean(found.argmax(axis=-1) != labels)), 3),
        "median_us": round(1e6 * float(np.median(seconds)), 1),
        "mean_us": round(1e6 * float(np.mean(seconds)), 1),  # Which is what a cascade is about.
    }


def by_keras(model, images, threshold):
    if threshold is None:
        return tf.nn.softmax(model.predict(images, BATCH, verbose=0)).numpy()
    return keras_glimpse.cascade_predict(model, images, threshold, BATCH).probabilities


if __name__ == "__main__":
    main()
