"""Which digit lies somewhere in 40,000 x 40,000 pixels? Trained on images that nobody stores, tested on files.

    python recipes/files/gigapixel.py --out /tmp/giga             # 15 minutes on two busy cores, 11 to train
    python recipes/files/gigapixel.py --out /tmp/smoke --smoke   # a minute: small images, digits that need no download

The digit is enlarged to 224 pixels, less than two of the thumbnail's 256x256, which shows that something is there, as it does
of strokes that are no digits: see `scenes.py`. A glimpse sees 384x384 pixels. Of the places that a step of training tries in
such an image, one in some thousands shows the digit. So the glimpse network is first trained on close-ups; then, where to look
is learned from labels alone, in images of 5,000 pixels and, with the same weights, in those of 40,000. Training resumes.

Then two images are written as TIFF files, one of 40,000 pixels (a GB) and one of 4,000, and looked at: see `looking.py`. The
small one tells how time grows with the side; the model was not trained for it. Leaves the files and the model in --out, and in
`recipes/results/` the error and how often the glimpse finds the digit (`gigapixel.json`), what looking costs
(`gigapixel.csv`), and a picture (`figures/gigapixel.png`). It needs Linux, MNIST and
`pip install -e ".[recipes,maps,pyramids]"`.
"""

import argparse
import csv
import os
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import runs
from arguments import folder_to_write, in_one_line
from console import show_table
from files import looking
from files.pyramid import write
from files.scenes import Scenes, scenes
from images.digits import digit_sets

from keras_glimpse import ConvLowResNet, GlimpseClassifier, open_image

THUMBNAIL, PATCH, SCALE, GLIMPSES = 256, 48, 8, 2
FOR_TRAINING, FOR_VALIDATION, FOR_TEST, FOR_FILES, FOR_CLOSE_UPS = range(5)  # Seeds.


class Lesson(NamedTuple):
    """Images of one size to learn where to look in, and how many places a step tries in each."""

    side: int
    images: int
    epochs: int
    samples: int
    batch_size: int
    learning_rate: float


class Sizes(NamedTuple):
    """Of all that is done: close-ups, lessons, images to validate and test on, and the sides of the files."""

    close_ups: int
    lessons: tuple[Lesson, ...]
    validation: int
    test: int
    files: tuple[int, ...]


WHOLE = Sizes(
    close_ups=12_000,
    lessons=(
        Lesson(5_000, images=3_000, epochs=2, samples=16, batch_size=16, learning_rate=1e-3),
        Lesson(40_000, images=2_000, epochs=1, samples=16, batch_size=16, learning_rate=5e-4),
    ),
    validation=200,
    test=1_000,
    files=(40_000, 4_000),
)
SMOKE = Sizes(16, (Lesson(1_250, 16, 1, 4, 8, 1e-3), Lesson(2_500, 16, 1, 4, 8, 1e-3)), 8, 8, (2_500, 1_250))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the files and the model")
    parser.add_argument("--data-dir", type=Path, help="folder where TFDS keeps MNIST")
    parser.add_argument("--smoke", action="store_true", help="as little of everything as shows that it works")
    args = parser.parse_args()
    with in_one_line():
        sizes, out = SMOKE if args.smoke else WHOLE, folder_to_write(args.out)
        results = out if args.smoke else runs.RESULTS
        digits = digit_sets(args.data_dir, args.smoke)
        model = trained(sizes, digits, out)
        runs.write_json(results / "gigapixel.json", tested(model, sizes, digits[-1]))
        files = [written(out, digits[-1], side) for side in sizes.files]
        draw(model, files[0][0], results / "figures/gigapixel.png")
        keep(results / "gigapixel.csv", compared(files, out / "model.keras"))


# ---- Training and test ----


def untrained(side: int, samples: int) -> GlimpseClassifier:
    """The model for images of a side. A pixel of the thumbnail is always as wide, so the weights do not depend on the side."""
    thumbnail = round(side * THUMBNAIL / WHOLE.files[0])
    model = GlimpseClassifier.for_large_images(
        10,
        GLIMPSES,
        low_res_size=thumbnail,
        low_res_net=ConvLowResNet(10, thumbnail, filters=(8, 16, 24, 32), pooled=(0,)),
        patch_size=PATCH,
        scales=(SCALE,),
        share_weights=True,
        search_samples=samples,
    )
    model.build((None, None, None, 3))
    return model


def trained(sizes: Sizes, digits: list, out: Path) -> GlimpseClassifier:
    """The model after all lessons, trained now if it is not in `out`; there are logs of its training."""
    if (out / "model.keras").exists():
        return keras.models.load_model(out / "model.keras")
    weights = None
    for lesson in sizes.lessons:
        keras.utils.set_random_seed(0)
        model = untrained(lesson.side, lesson.samples)
        if weights:
            model.set_weights(weights)
        else:
            learn_digits(model.glimpse_nets[0], sizes.close_ups, digits[0], out / "close_ups.weights.h5")
        learn(model, lesson, digits, sizes.validation, out)
        weights = model.get_weights()
    model.active_glimpses = GLIMPSES
    runs.write(out / "model.keras", model.save)
    return model


def learn_digits(net: keras.Layer, count: int, digits, path: Path, epochs: int = 3) -> None:
    """Trains a glimpse network on close-ups of digits, and of strokes, which may be any digit; the weights are kept."""
    model = keras.Sequential([keras.Input((PATCH, PATCH, 3)), net])
    if not path.exists():
        patches, shares = close_ups(count, digits)
        rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-len(patches) // 32))
        model.compile(keras.optimizers.AdamW(rate), keras.losses.CategoricalCrossentropy(from_logits=True))
        model.fit(patches, shares, batch_size=32, epochs=epochs, verbose=2)
        runs.write(path, model.save_weights)
    model.load_weights(path)


def close_ups(count: int, digits) -> tuple[np.ndarray, np.ndarray]:
    """Patches of so many scenes at a digit and at a stroke, not quite in the middle, and shares `[n, 10]` of the classes."""
    images, labels = scenes(digits, count, 1_000, FOR_CLOSE_UPS, strokes=1)
    middles = np.array([[np.add(box[:2], box[2:]) / 2 for box in image.boxes] for image in images])
    places = (middles + np.random.default_rng(FOR_CLOSE_UPS).uniform(-150, 150, middles.shape)) / 999
    patches = np.stack([image.patches(at, PATCH, (SCALE,)) for image, at in zip(images, places)], axis=1)
    return np.concatenate(patches), np.concatenate([np.eye(10)[labels], np.full((count, 10), 0.1)])


def learn(model: GlimpseClassifier, lesson: Lesson, digits: list, validation: int, out: Path) -> None:
    """Trains the glimpse, the thumbnail's network and where to look; resumes in `out`."""
    images, labels = scenes(digits[0], lesson.images, lesson.side, FOR_TRAINING)
    steps = lesson.epochs * -(-lesson.images // lesson.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(lesson.learning_rate, steps)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), stage=1)
    held_out = scenes(digits[1], validation, lesson.side, FOR_VALIDATION)
    name = f"{lesson.side}px"
    model.fit(
        images,
        labels,
        batch_size=lesson.batch_size,
        epochs=lesson.epochs,
        callbacks=[Finding(held_out), runs.Stopwatch(), keras.callbacks.CSVLogger(out / f"{name}.csv", append=True)],
        checkpoint=out / "checkpoints" / name,
        verbose=2,
    )


class Finding(keras.callbacks.Callback):
    """Adds to the log of an epoch the error on images that are held out, and how often the glimpse finds the digit."""

    def __init__(self, held_out: Scenes):
        super().__init__()
        self._held_out = held_out

    def on_epoch_end(self, epoch, logs=None):
        figures = figures_of(self.model, self._held_out)
        logs |= {f"held_out_{name}": each[-1] for name, each in figures.items()}


def figures_of(model: GlimpseClassifier, test: Scenes, batch_size: int = 20) -> dict[str, list[float]]:
    """Percent of images: wrong after each stage; whose digit each glimpse points at; and whose digit's middle it shows."""
    batches = [test.images[start : start + batch_size] for start in range(0, len(test.images), batch_size)]
    looks = [model.look(batch) for batch in batches]
    answers, places = (np.concatenate([np.asarray(each[name]) for each in looks]) for name in ("logits", "locations"))
    digits = np.array([image.boxes[0] for image in test.images])[:, None]
    middles = (digits[..., :2] + digits[..., 2:]) / 2
    away = np.abs(places * (test.images[0].shape[0] - 1) - middles).max(axis=-1)
    figures = {
        "errors": answers.argmax(axis=-1) != test.labels[:, None],
        "pointing": away < (digits[0, 0, 2] - digits[0, 0, 0]) / 2,
        "in_sight": away < PATCH * SCALE / 2,
    }
    return {name: [round(100 * float(share), 2) for share in each.mean(axis=0)] for name, each in figures.items()}


def tested(model: GlimpseClassifier, sizes: Sizes, digits) -> dict:
    """The figures on images of the last lesson's size, of other digits."""
    side = sizes.lessons[-1].side
    figures = figures_of(model, scenes(digits, sizes.test, side, FOR_TEST))
    print(f"{sizes.test} images of {side:,} x {side:,} pixels, in percent: {figures}")
    figures |= {"side": side, "images": sizes.test, "close_ups": sizes.close_ups}
    figures |= {"lessons": [lesson._asdict() for lesson in sizes.lessons]}
    return figures | {"commit": runs.commit(), "versions": runs.versions()}


# ---- Files ----


def written(out: Path, digits, side: int) -> tuple[Path, int]:
    """A file with an image of a side, written now if it is not there, and its label."""
    (image,), (label,) = scenes(digits, 1, side, FOR_FILES)
    path = out / f"gigapixel-{side}.tif"
    if not path.exists():
        runs.write(path, lambda path: write(path, side, image.block))
    return path, int(label)


def compared(files: list[tuple[Path, int]], model: Path) -> list[dict]:
    """The table of what looking costs: at both files ours, and at the large one what reads all of it."""
    (large, label), *_ = files
    jobs = [("two windows", looking.two_windows, path, ()) for path, _ in files]
    jobs += [("two glimpses", looking.ours, path, (model, label)) for path, label in files]
    jobs += [("every pixel", looking.all_of_it, large, ())]
    jobs += [("every tile", looking.tile_by_tile, large, (model, label))]
    return [
        {"what": what, "side": open_image(path).shape[0]} | looking.measured(job, path, *rest) for what, job, path, rest in jobs
    ]


def keep(path: Path, rows: list[dict]) -> None:
    """Prints the table and writes it, with the commit."""
    columns = ["what", "side", "says", "first ms", "opened ms", "warm ms", "Mpx", "MB read", "MB open", "MB peak"]
    rows = [{name: _rounded(row.get(name)) for name in columns} for row in rows]
    show_table("What it takes to look", rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, "commit"])
        writer.writeheader()
        writer.writerows(row | {"commit": runs.commit()} for row in rows)


def _rounded(value):
    if not isinstance(value, float):
        return value
    return round(value) if value >= 100 else float(f"{value:.3g}")


# ---- Picture ----


def draw(model: GlimpseClassifier, path: Path, picture: Path) -> None:
    """The thumbnail, what is around the first glimpse, and the glimpse itself, framed in the one before; twice as bright."""
    from matplotlib.figure import Figure

    source = open_image(path)
    looks = {name: np.asarray(values)[0] for name, values in model.look([source]).items()}
    place, side, glimpse = looks["locations"][0], source.shape[0], PATCH * SCALE
    around = min(8 * glimpse, side)
    answer = looks["logits"][1].argmax()
    panels = [
        (source.thumbnail(model.low_res_net.size), side, around, f"{side:,} pixels: the thumbnail"),
        (source.patches([place], around // 32, (32,))[0], around, glimpse, f"{around:,} pixels around the first glimpse"),
        (source.patches([place], PATCH, (SCALE,))[0], glimpse, None, f"the glimpse, {glimpse} pixels: a {answer}"),
    ]
    figure = Figure((9, 3.3), layout="constrained")
    for axes, (pixels, wide, framed, title), centre in zip(figure.subplots(1, 3), panels, (place, (0.5, 0.5), (0.5, 0.5))):
        axes.imshow(np.minimum(2 * pixels, 1), extent=(0, wide, wide, 0))
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
        if framed:
            y, x = np.multiply(centre, wide) - framed / 2
            axes.add_patch(_frame(x, y, framed))
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def _frame(x, y, side):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), side, side, fill=False, color="tab:red", linewidth=1.2)


if __name__ == "__main__":
    main()
