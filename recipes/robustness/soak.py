"""A million requests to an exported SavedModel, as a server gets them: does one fail, is an answer wrong, does memory grow?

    python recipes/robustness/soak.py                # the model that is shipped; three minutes on two cores
    python recipes/robustness/soak.py EXPORTED/1 --threads 4  # any SavedModel of digits that export_saved_model wrote
    python recipes/robustness/soak.py --replace 5000          # two versions, of which one replaces the other under load
    python recipes/robustness/soak.py EXPORTED/1 EXPORTED/2 --replace 5000 --warm-up 0   # without warm-up requests

The server is `serve.c`: TensorFlow's C API, one session shared by all threads, no Python. Every answer is compared with that
of a single call for the same image; where versions are replaced, all answers of a request must be those of one version. Leaves
soak.json and soak.png (or soak_versions, or soak_versions_cold), memory against requests, in --out; the exit status is 1 if a
request failed or an answer was wrong. The first tenth of the requests are warm-up: latencies and growth of memory are of
the rest. Of memory, runs of fewer than 200,000 requests say little, for its warm-up is longer than theirs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tensorflow as tf
from arguments import at_least, folder_to_write, in_one_line, seed
from console import show_table
from google.protobuf.message import DecodeError
from matplotlib.figure import Figure
from runs import commit
from serve import Served, build, serve, signature
from tables.digits import splits_for
from trained import check_shape

import keras_glimpse
from keras_glimpse import data

POOL = 4096  # images
WARM_UP = 0.1  # Of the requests.
THRESHOLD = 0.95  # Of the version that is made here, as of the one that is shipped.
TOLERANCE = 5e-5  # Float32: products of matrices of other sizes round differently.


def main():
    args = parse_args()
    name = "soak" if not args.replace else "soak_versions" if args.warm_up else "soak_versions_cold"
    with in_one_line(RuntimeError, DecodeError, tf.errors.OpError, subprocess.CalledProcessError):
        folder_to_write(args.out)  # All that can be known before the requests, first.
        with tempfile.TemporaryDirectory() as scratch:
            versions = args.saved_models or [shipped(), *([another(Path(scratch))] if args.replace else [])]
            images = pool(versions[0], args.seed)
            asked = plan(len(images), args.requests, args.batch_sizes, args.seed)
            glimpses = deepest(versions[0], images, asked)
            expected, served = run(build(Path(scratch)), versions, images, asked, args.threads, args.replace, args.warm_up)
    result = {each: getattr(args, each) for each in ("threads", "batch_sizes", "seed")} | figures(asked, expected, served)
    if args.replace:
        result |= {"replaced_every": args.replace, "warm_up_of_versions": args.warm_up}
    result |= {"saved_models": ["/".join(version.resolve().parts[-3:]) for version in versions], "cores": os.cpu_count()}
    result |= {"commit": commit(), "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX"), "tensorflow": tf.__version__}
    result |= {"requests_by_glimpses": glimpses, "samples": served.samples.tolist()}
    lines = (f"  {json.dumps(each)}: {json.dumps(value)}" for each, value in result.items())
    (args.out / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    draw(served.samples, result, args.out / f"{name}.png")
    show(result)
    print(f"Wrote {name}.json and {name}.png to {args.out}/")
    if result["failures"] or result["answers_that_differ"]:
        sys.exit(f"soak: {served.complaints or 'answers differ from those of single calls'}")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("saved_models", type=Path, nargs="*", help="default: jittered-mnist, as shipped")
    parser.add_argument("--requests", type=at_least(1), default=1_000_000, help="how many; default %(default)s")
    parser.add_argument("--threads", type=at_least(1), default=8, help="that ask at the same time; default %(default)s")
    sizes = "images in a request, separated by commas; each size gets as many images; default 1,2,3,5,8,16,32"
    parser.add_argument("--batch-sizes", type=integers, default=[1, 2, 3, 5, 8, 16, 32], help=sizes)
    replace = "requests after which the next version replaces the one that is served; default 0, never"
    parser.add_argument("--replace", type=at_least(0), default=0, help=replace)
    warm_up = "requests that a version computes before it is served; default %(default)s"
    parser.add_argument("--warm-up", type=at_least(0), default=20, help=warm_up)
    parser.add_argument("--seed", type=seed, default=0, help="of images and requests; default 0")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder to write to; default %(default)s")
    args = parser.parse_args()
    if args.saved_models and (len(args.saved_models) > 1) != (args.replace > 0):
        parser.error(f"argument --replace: is for two SavedModels or more, and needed with them; got {len(args.saved_models)}")
    return args


def shipped() -> Path:
    return keras_glimpse.pretrained_folder() / "jittered-mnist" / "saved_model" / "1"


def another(scratch: Path) -> Path:
    """A version to replace the one that is shipped by, whose networks call every digit by the next."""
    model, folder = keras_glimpse.load_pretrained("jittered-mnist"), scratch / "jittered-mnist" / "saved_model" / "2"
    for net in (model.low_res_net, *model.glimpse_nets):
        *hidden, kernel, bias = net.get_weights()
        net.set_weights([*hidden, np.roll(kernel, 1, axis=-1), np.roll(bias, 1)])
    folder.parent.mkdir(parents=True)
    keras_glimpse.export_saved_model(model, folder, THRESHOLD)
    return folder


def integers(text: str) -> list[int]:
    """The `type` of sizes, separated by commas."""
    return [at_least(1)(size) for size in text.split(",")]


def pool(saved_model: Path, seed: int) -> np.ndarray:
    """The images that are asked for, uint8: test digits of MNIST if it is found, else the embedded ones."""
    shape = tuple(side.size for side in signature(saved_model, "explain").inputs["images"].tensor_shape.dim[1:])
    check_shape(shape)
    try:
        digits = data.mnist_digits()
    except FileNotFoundError:
        digits = data.embedded_digits()
    images = np.concatenate([images for images, _ in splits_for(shape, digits).test.as_numpy_iterator()])
    return np.random.default_rng(seed).permutation(images)[:POOL]


def plan(images: int, requests: int, sizes: list[int], seed: int) -> np.ndarray:
    """First image and number of images of each request, `[requests, 2]`. Small requests are the many: 1 / size of each."""
    if max(sizes) > images:
        raise ValueError(f"batch sizes must be at most {images}, the number of images; got {max(sizes)}.")
    rng, share = np.random.default_rng(seed), 1 / np.array(sizes)
    counts = rng.choice(sizes, requests, p=share / share.sum())
    return np.column_stack([rng.integers(0, images - counts + 1), counts])


def run(
    program: Path, versions: list[Path], images: np.ndarray, asked: np.ndarray, threads: int, replace: int = 0, warm_up: int = 0
) -> tuple[np.ndarray, Served]:
    """The answers of single calls to each version, `[versions, images, classes]`, and what came of the requests."""
    singles = [serve(program, [version], images, [(image, 1) for image in range(len(images))]) for version in versions]
    for single in singles:
        if np.isnan(single.seconds).any():
            raise RuntimeError(f"single calls fail: {single.complaints}")
    served = serve(program, versions, images, asked, threads, replace, warm_up)
    return np.stack([single.answers for single in singles]), served


def figures(asked: np.ndarray, expected: np.ndarray, served: Served) -> dict:
    """What is to be said of a run."""
    answered, (count, seconds) = ~np.isnan(served.seconds), served.samples[-1, :2]
    kept = np.repeat(answered, asked[:, 1])
    found, right = served.answers[kept], expected[:, image_of_each_answer(asked)[kept]]
    version, difference = by_one_version(np.abs(found - right).max(axis=-1, initial=0), asked[answered, 1])
    right = np.take_along_axis(right, np.repeat(version, asked[answered, 1])[None, :, None], axis=0)[0]
    warm = int(WARM_UP * len(asked))
    latencies = 1000 * np.nanquantile(served.seconds[warm:], [0.5, 0.99, 1])
    return {
        "requests": int(count),
        "images": int(asked[:, 1].sum()),
        "different_images": expected.shape[1],
        "failures": int(np.sum(~answered)),
        "answers_that_differ": int(np.sum(~(difference <= TOLERANCE))),  # Nor is what is not a number an answer.
        "labels_that_differ": int(np.sum(found.argmax(axis=1) != right.argmax(axis=1))),
        "largest_difference": float(difference.max(initial=0)),
        "tolerance": TOLERANCE,
        "seconds": seconds,
        "requests_per_second": round(count / seconds),
        "images_per_second": round(asked[:, 1].sum() / seconds),
        "latency_ms": dict(zip(("p50", "p99", "max"), latencies.round(3).tolist())),
        "requests_by_version": np.bincount(version, minlength=len(expected)).tolist(),
        "times_replaced": int(served.samples[-1, 4]),
        "warm_up_requests": warm,
        "memory": {name: growth(served.samples[:, [0, column]], warm) for column, name in ((2, "resident"), (3, "in use"))},
    }


def by_one_version(differences: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The version that each request was answered by, and how much each answer differs from that version's.

    Args:
        differences: `[versions, answers]`, of each answer from that of each version.
        counts: `[requests]`, how many answers each request has.
    """
    worst = np.maximum.reduceat(differences, np.cumsum(counts) - counts, axis=1)
    version = worst.argmin(axis=0)
    return version, np.take_along_axis(differences, np.repeat(version, counts)[None], axis=0)[0]


def image_of_each_answer(asked):
    first, count = asked.T
    return np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)


def growth(samples: np.ndarray, warm: int) -> dict:
    """Of memory, in KiB, after warm-up: of a straight line, from its end to the highest sample, and in the last half."""
    after = samples[samples[:, 0] >= warm]
    last = after[after[:, 0] >= samples[-1, 0] / 2]
    return {
        "loaded": int(samples[0, 1]),
        "warm": int(after[0, 1]),
        "end": int(after[-1, 1]),
        "growth": int(after[:, 1].max() - after[0, 1]),
        "growth_in_last_half": int(last[:, 1].max() - last[0, 1]),
        "slope_per_100000_requests": round(1e5 * float(np.polyfit(*after.T, 1)[0]), 1),
    }


def deepest(saved_model: Path, images: np.ndarray, asked: np.ndarray) -> list[int]:
    """Requests whose hardest image takes no glimpse, one, ...: the branches of the cascade that they run."""
    explain = tf.saved_model.load(str(saved_model)).signatures["explain"]
    stop = explain(images=tf.constant(images / np.float32(255)))["exit_stage"].numpy()
    starts = np.cumsum(asked[:, 1]) - asked[:, 1]
    return np.bincount(np.maximum.reduceat(stop[image_of_each_answer(asked)], starts)).tolist()


def draw(samples, result, path):
    """Memory against requests, and once more what was added after warm-up."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    whole, added = figure.subplots(2, sharex=True)
    after = samples[samples[:, 0] >= result["warm_up_requests"]]
    for column, (name, kib) in zip((2, 3), result["memory"].items()):
        whole.plot(samples[:, 0] / 1000, samples[:, column] / 1024, label=name)
        label = f"{name}, {kib['slope_per_100000_requests']:+,.0f} KiB per 100,000 requests"
        added.plot(after[:, 0] / 1000, after[:, column] - after[0, column], label=label)
    whole.axvline(after[0, 0] / 1000, color="gray", linestyle="--", label="end of warm-up")
    whole.set(ylabel="memory, MiB", ylim=(0, None))
    added.set(xlabel=f"requests, thousands, from {result['threads']} threads", ylabel="added after warm-up, KiB")
    for axes in (whole, added):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=150)


def show(result):
    title = f"{result['requests']:,} requests from {result['threads']} threads, {', '.join(result['saved_models'])}"
    apart = ("memory", "samples", "requests", "threads", "saved_models")
    show_table(title, [{"figure": name, "value": value} for name, value in result.items() if name not in apart])
    show_table("Memory after warm-up, KiB", [{"": name} | kib for name, kib in result["memory"].items()])


if __name__ == "__main__":
    main()
