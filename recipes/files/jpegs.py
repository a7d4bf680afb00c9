"""Photographs in JPEG files: `cascade_predict` on their paths, beside decoding all of each and predicting the array.

    python recipes/files/jpegs.py --data-dir ../GTSDB             # about 8 minutes on two cores
    python recipes/files/jpegs.py --smoke                         # few and small ones of made-up scenes; keeps nothing

The files have 12 megapixels, 4:2:0, quality 90, 2 to 4 MB: enlarged street scenes with noise as of a sensor. Few differ; they
are linked under many names, and the operating system keeps them in memory. The networks have random weights. The place where
they look is pseudo-random: random weights look into a corner, where a window takes hardly any time or the most.

What is compared runs in turn, on one core, then on all: ratios hold on a busy machine, times do not. Then all files are
predicted on all cores, in turn with reading them alone and computing alone on one core. Tables go to
`recipes/results/jpegs.csv` and `jpegs_cores.csv`.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing.pool import Pool
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "benchmarks")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from arguments import at_least, in_one_line
from benchmark import in_turn, report
from images import stand_ins

from keras_glimpse import GlimpseClassifier, ImageSource, cascade_predict, open_image

SIZE, SMALL = (3000, 4000), (600, 800)
THUMBNAIL, PATCH = (96, 128), 96
SHARES = (0.0, 0.3, 1.0)  # Of the images that take the glimpse.
CONTENTS = 20
PART = 2 * CONTENTS  # Files of a round of the first table.


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with the scenes of GTSDB, .jpg")
    parser.add_argument("--count", type=at_least(PART), default=1000, help="files (default: %(default)s)")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="times that everything is run (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="few and small files")
    args = parser.parse_args()
    count, rounds = (PART, 1) if args.smoke else (args.count, args.rounds)
    with in_one_line(), tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), args.data_dir, count, args.smoke)
        cores = len(os.sched_getaffinity(0))
        with process_on(1) as one, process_on(cores) as all_cores:
            rows = [row for process in (one, all_cores) for row in process.apply(compare, (paths[:PART], rounds))]
            report("jpegs", f"JPEGs of {paths[0].stat().st_size / 1e6:.1f} MB, images a second", rows, args.smoke)
            rows = [busy(paths, one, all_cores, cores) for _ in range(rounds)]
            report("jpegs_cores", f"{count:,} JPEGs, {SHARES[1]:.0%} of them with a glimpse", rows, args.smoke)


@contextmanager
def process_on(cores: int) -> Iterator[Pool]:
    """A process that runs on so many cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])  # The new process inherits it.
    pool = multiprocessing.get_context("spawn").Pool(1, tf.config.threading.set_intra_op_parallelism_threads, [cores])
    os.sched_setaffinity(0, allowed)
    with pool:
        yield pool


# ---- Photographs ----


def photographs(folder: Path, data_dir: Path | None, count: int, smoke: bool) -> list[Path]:
    """Writes `CONTENTS` files, and links to them up to `count`, one after another."""
    scenes = sorted((stand_ins.streets() if smoke and not data_dir else data_dir or Path()).glob("*.jpg"))
    if not scenes:
        raise FileNotFoundError(f"No scenes were found: --data-dir must be a folder with those of GTSDB; got {data_dir}.")
    rng = np.random.default_rng(0)
    paths = [folder / f"{n:06}.jpg" for n in range(count)]
    for n, path in enumerate(paths):
        if n < CONTENTS:
            photograph = _photograph(rng, rng.choice(scenes, 4), SMALL if smoke else SIZE)
            path.write_bytes(tf.io.encode_jpeg(photograph, quality=90, chroma_downsampling=True).numpy())
        else:
            path.hardlink_to(paths[n % CONTENTS])
    return paths


def _photograph(rng, scenes, size):
    """Four scenes, each enlarged to a quarter, with more noise where there is more light."""
    quarter = [side // 2 for side in size]
    pixels = [tf.io.decode_jpeg(tf.io.read_file(str(scene)), channels=3) for scene in scenes]
    a, b, c, d = (tf.image.resize(each, quarter, "bicubic").numpy() for each in pixels)
    light = np.clip(np.block([[[a], [b]], [[c], [d]]]), 0, 255)
    noise = rng.standard_normal(light.shape, np.float32) * np.sqrt(light) * rng.uniform(0.3, 0.6)
    return np.clip(np.round(light + noise), 0, 255).astype(np.uint8)


# ---- What is compared, in a process of its own ----


class Anywhere(keras.Layer):
    """A location head that looks anywhere, by what digits of the logits are."""

    def call(self, hidden, logits):
        return tf.math.floormod(1e4 * logits[:, :2], 1)


@cache
def network() -> GlimpseClassifier:
    keras.utils.set_random_seed(0)
    options = {"low_res_size": THUMBNAIL, "patch_size": PATCH, "scales": (1,), "location_head": Anywhere()}
    model = GlimpseClassifier.for_large_images(10, **options)
    model.build((None, None, None, 3))
    return model


def decoded(paths: list[Path], threshold: float):
    """Decodes all of each file, and predicts the arrays one by one: batches of more, of 36 MB each, take longer."""
    read = lambda path: tf.io.decode_jpeg(tf.io.read_file(path), channels=3)  # noqa: E731
    images = tf.data.Dataset.from_tensor_slices([*map(str, paths)]).map(read, tf.data.AUTOTUNE).batch(1).prefetch(2)
    return cascade_predict(network(), images, threshold)


def in_parts(paths: list[Path], threshold: float):
    return cascade_predict(network(), paths, threshold)


def threshold_for(share: float, predict: Callable, paths: list[Path]) -> float:
    """At which such a share of images takes the glimpse."""
    sure = np.sort(predict(paths[:CONTENTS], 1e-9).probabilities.max(axis=-1))
    unsure = round(share * CONTENTS)
    return float(np.mean([0, *sure, 2][unsure : unsure + 2])) if unsure < CONTENTS else 1.0


def compare(paths: list[Path], rounds: int) -> list[dict]:
    """Rows of the first table."""
    rows, cores = [], len(os.sched_getaffinity(0))
    for share in SHARES:
        ways = {way: partial(way, paths, threshold_for(share, way, paths)) for way in (decoded, in_parts)}
        taken = [way().exit_stage.mean() for way in ways.values()]
        np.testing.assert_allclose(taken, share, err_msg="Other images take the glimpse than were to.")
        seconds = in_turn({way: partial(spent, call) for way, call in ways.items()}, rounds)
        elapsed, of_cores = np.transpose([seconds[decoded], seconds[in_parts]])
        speeds = dict(zip(("decoded", "in parts"), (len(paths) / elapsed).tolist()))
        ratios = {"ratio": float(elapsed[0] / elapsed[1]), "by CPU time": float(of_cores[0] / of_cores[1])}
        rows.append({"cores": cores, "glimpses": share, **speeds, **ratios})
    return rows


def spent(call: Callable) -> tuple[float, float]:
    """Seconds that passed, and those that this process had of the cores: fewer where others are at work."""
    start = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start[0], time.process_time() - start[1]


# ---- How busy the cores are ----


class InMemory(ImageSource):
    """What was read of an image before."""

    def __init__(self, image: ImageSource, location: np.ndarray):
        super().__init__(image.name, image.levels, image.channels, image.dtype)
        self._thumbnail, self._patches = image.thumbnail(THUMBNAIL), image.patches(location, PATCH)

    def read_level(self, *box):
        raise NotImplementedError

    def thumbnail(self, size):
        return self._thumbnail

    def patches(self, locations, size, scales=(1,)):
        return self._patches


def busy(paths: list[Path], one: Pool, all_cores: Pool, cores: int) -> dict:
    """A row of the second table: predicting all files on all cores, beside the two parts of it on one."""
    alone = {what.__name__: one.apply(what, (paths,))[0] for what in (reading, computing)}
    elapsed, of_cores = all_cores.apply(predicting, (paths,))
    had = {f"on {cores} cores": elapsed, "CPU time": of_cores, "load": os.getloadavg()[0]}
    return {**alone, **had, "busy": sum(alone.values()) / (cores * elapsed)}


def predicting(paths: list[Path]) -> tuple[float, float]:
    """`spent` on predicting files."""
    threshold, _ = _looked_at(paths)
    return spent(partial(in_parts, paths, threshold))


def reading(paths: list[Path]) -> tuple[float, float]:
    """`spent` on reading what is looked at, one file after another."""
    _, locations = _looked_at(paths)

    def read():
        for n, path in enumerate(paths):
            image, location = open_image(path, 3), locations[n % CONTENTS]
            image.thumbnail(THUMBNAIL)
            if np.isfinite(location).all():
                image.patches(location, PATCH)

    return spent(read)


def computing(paths: list[Path]) -> tuple[float, float]:
    """`spent` on predicting what was read before."""
    threshold, locations = _looked_at(paths)
    images = [InMemory(open_image(path, 3), location) for path, location in zip(paths[:CONTENTS], locations)]
    return spent(partial(in_parts, [images[n % CONTENTS] for n in range(len(paths))], threshold))


@cache
def _of_contents(contents):
    threshold = threshold_for(SHARES[1], in_parts, contents)
    return threshold, in_parts(contents, threshold).locations


def _looked_at(paths):
    """The threshold, and where it looks in each of the contents."""
    return _of_contents(tuple(paths[:CONTENTS]))


if __name__ == "__main__":
    main()
