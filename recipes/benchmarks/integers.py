"""Error of the files of integers that `export_accelerator` writes, beside Keras in float32.

    pip install -e ".[benchmark]"
    python recipes/benchmarks/integers.py --data-dir ../DeepPCB     # about 5 minutes on two cores

All test images of each model in `saved_models/`, one at a time through `recipes/deploy/accelerator.py`, at the threshold of the
model's card; calibrated by 500 training images, of boards 200. The table goes to `recipes/results/integers.csv`.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

RECIPES = Path(__file__).parent.parent
sys.path[:0] = [str(RECIPES), str(RECIPES / "deploy")]

import numpy as np
import tensorflow as tf
from accelerator import Cascade
from arguments import in_one_line
from benchmark import digits_for, report
from images import tasks
from rich.console import Console
from rich.progress import track
from tables.digits import splits_for

import keras_glimpse


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="DeepPCB")
    parser.add_argument("--smoke", action="store_true", help="one model and few images; keeps nothing")
    args = parser.parse_args()
    of_digits = partial(digits, smoke=args.smoke)
    models = {"mnist": of_digits, "jittered-mnist": of_digits, "jittered-mnist-best": of_digits}
    models |= {"deeppcb-defects": partial(boards, args.data_dir)}
    rows = []
    with in_one_line():
        for name, images in [*models.items()][: 1 if args.smoke else None]:
            model = keras_glimpse.load_pretrained(name)
            calibration, test = images(model)
            kinds = ("int8",) if args.smoke else ("int8", "uint8")
            rows += [compare(name, model, calibration, *test, integers) for integers in kinds]
    report("integers", "Cascade of integers, beside Keras in float32", rows, args.smoke)


def digits(model, smoke: bool) -> tuple:
    """Images to calibrate by; and test images, unsigned bytes, with their labels."""
    splits = splits_for(model.image_shape, digits_for(smoke))
    train, test = (split.unbatch().batch(size) for split, size in ((splits.train, 500), (splits.test, 50 if smoke else 30_000)))
    return next(train.as_numpy_iterator())[0], next(test.as_numpy_iterator())


def boards(data_dir: Path | None, model) -> tuple:
    """The same; those to calibrate by are half with defects and half without."""
    task = tasks.load("board", data_dir)
    train = task.train(tf.zeros([2], tf.int64))
    calibration = np.stack([train[n] for n in np.linspace(0, len(train) - 1, 200, dtype=int)])
    return calibration, (np.stack([task.test[n] for n in range(len(task.test))]), task.test.labels)


def compare(name: str, model, calibration, images, labels, integers: str) -> dict:
    """A line of the table."""
    card = json.loads((keras_glimpse.pretrained_folder() / name / "card.json").read_text())
    threshold = next(file["threshold"] for file in card["files"] if file["threshold"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        keras_glimpse.export_accelerator(model, folder, threshold, calibration=calibration, integers=integers)
        cascade, size = Cascade(folder), sum(path.stat().st_size for path in folder.glob("*.tflite"))
        seen = [cascade(image / np.float32(255)) for image in track(images, name, console=Console(stderr=True))]
    probabilities, stages = map(np.array, zip(*seen))
    expected = keras_glimpse.cascade_predict(model, images, threshold, batch_size=50)
    found, wanted = probabilities.argmax(axis=-1), expected.probabilities.argmax(axis=-1)
    errors = [100 * float(np.mean(answers != labels)) for answers in (wanted, found)]
    return {
        "model": name,
        "integers": integers,
        "images": len(images),
        "Keras, %": errors[0],
        "error, %": errors[1],
        "points": errors[1] - errors[0],
        "differ": int(np.sum(found != wanted)),
        "Keras, glimpses": float(expected.exit_stage.mean()),
        "glimpses": float(stages.mean()),
        "bytes": size,
    }


if __name__ == "__main__":
    main()
