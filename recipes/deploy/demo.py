"""A page to look at: give the model a picture, and watch where it looks and where it stops, in the browser.

    python recipes/quickstart.py && python recipes/deploy/demo.py                   # the model that the quick start leaves
    python recipes/deploy/demo.py deeppcb-defects --class-names clean defective --examples ../DeepPCB/PCBData/group20085/20085
    python recipes/deploy/demo.py MODEL.keras --size 480 640                        # for images of any size: which one here
    python recipes/deploy/demo.py MODEL.keras --build FOLDER                        # static files, for any web server

Then open http://127.0.0.1:8000, and choose, drop or paste a picture, take one with the camera, or draw one if it is small and
grey. Nothing leaves this machine: the server answers only it, and the page's content security policy allows requests to where
the page came from only. The page runs files by LiteRT.js (WebAssembly, one thread): for each threshold that of `export_litert`,
whose cascade skips the work that it does not need, and one that looks at everything and tells what it saw. LiteRT.js comes from
npm, once; afterwards no network is needed. The camera needs https, or this machine.

Tried with LiteRT.js 2.5.3 in Chromium 156 on 400 digits of jittered MNIST: with one thread, with threads and with JSPI the file
stops where `cascade_predict` does, and its probabilities are within 2e-6. With one thread, of two busy cores, the median run
takes 0.07 ms when it stops at the thumbnail, 0.23 ms after one glimpse and 0.30 ms after two.
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tensorflow as tf
from arguments import at_least, in_one_line, threshold
from trained import HELP, load

import keras_glimpse
from keras_glimpse import ConvGlimpseNet, ConvLowResNet, LowResNet, count_macs

VERSION = "2.5.3"  # Of LiteRT.js, and the only one tried.
CACHE = Path.home() / ".cache" / "keras_glimpse" / f"litertjs-{VERSION}"
PACKAGES = Path("node_modules", "@litertjs")
USED = ("*/package.json", "*/dist/index.js", "core/wasm/litert_wasm_internal.*", "core/wasm/litert_wasm_compat_internal.*")
PAGE = Path(__file__).with_name("page")
THRESHOLDS = (0.8, 0.9, 0.95, 0.99, 0.999)  # The page starts with the one in the middle.
PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")  # What every browser reads.
EXAMPLES = 8  # Of a folder, at most.
DRAWN = 64  # The longer side of the largest images to draw.


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart/model.keras", help=f"{HELP}; default %(default)s")
    parser.add_argument("--size", type=at_least(1), nargs=2, metavar=("HEIGHT", "WIDTH"), help="for a model of any size")
    parser.add_argument("--thresholds", type=threshold, nargs="+", default=THRESHOLDS, help="default %(default)s")
    parser.add_argument("--class-names", nargs="+", metavar="NAME", help="instead of those that the model has")
    parser.add_argument("--examples", type=Path, help=f"folder, of which the first {EXAMPLES} pictures can be tried by a click")
    parser.add_argument("--build", type=Path, metavar="FOLDER", help="write the page as static files, and serve nothing")
    parser.add_argument("--port", type=int, default=8000, help="to listen at, on this machine only; default %(default)s")
    parser.add_argument("--litertjs", type=Path, default=CACHE, help="folder to keep LiteRT.js in; default %(default)s")
    args = parser.parse_args()
    with in_one_line(OverflowError), contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as scratch:
        model, examples = load(args.model), pictures_in(args.examples) if args.examples else []
        if args.class_names:
            model.class_names = args.class_names
        image_shape(model, args.size)  # Raises before LiteRT.js is fetched.
        folder = args.build or Path(scratch) / "page"
        build(model, folder, litertjs(args.litertjs), args.size, args.thresholds, examples)
        if args.build:
            print(f"Wrote {folder}/")
            return
        with server(folder, args.port) as pages:
            print(f"Open http://127.0.0.1:{pages.server_port} in a browser; Ctrl+C ends the server.", flush=True)
            pages.serve_forever()


def build(model, folder: Path, packages: Path | None, size=None, thresholds=THRESHOLDS, examples: Sequence[Path] = ()) -> None:
    """Writes the page, all of it static files with relative addresses.

    Args:
        model: A built `GlimpseClassifier` of images with one channel or three.
        folder: Path, a folder that does not exist or is empty.
        packages: Path, the folder that `litertjs` returns; or `None`, for a page without the runtime.
        size: Tuple `(height, width)` of the images, for a model of images that differ in size. Defaults to `None`.
        thresholds: Sequence of floats in (0, 1], for each of which a file is exported.
        examples: Sequence of paths of pictures. Models of digits have embedded ones if there are none.
    """
    shape = image_shape(model, size)
    with complete(folder) as scratch:
        shutil.copytree(PAGE, scratch)
        copied = write_examples(model, shape, examples, scratch / "examples")
        for value in thresholds:
            keras_glimpse.export_litert(model, scratch / cascade(value), value, image_shape=size and tuple(size))
        (scratch / "explaining.tflite").write_bytes(explaining_file(model, shape))
        (scratch / "about.json").write_text(json.dumps(about(model, shape, thresholds, copied)) + "\n")
        for file in (file for pattern in USED for file in packages.glob(pattern)) if packages else ():
            target = scratch / "litertjs" / file.relative_to(packages)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


def image_shape(model, size) -> tuple[int, int, int]:
    """`(height, width, channels)` of the images that the page makes of pictures."""
    *sides, channels = model.image_shape
    if channels not in (1, 3):
        raise ValueError(f"Expected a model of images with one channel or three; got images {model.image_shape}.")
    if any(variable.dtype == "int8" for variable in model.variables):
        raise ValueError("Expected a model that was not quantized; export_litert(quantize=...) makes the small files.")
    if (None in sides) == (size is None):
        raise ValueError(f"--size HEIGHT WIDTH is for models of images of any size, and needed there; got {model.image_shape}.")
    return *(size or sides), channels


@contextlib.contextmanager
def complete(folder: Path) -> Iterator[Path]:
    """Where to write a folder that is there when it is complete, and not before."""
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"The folder to write to does not exist: {folder.parent}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"Expected a new or an empty folder to write to; got {folder}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        yield Path(scratch) / "page"
        os.replace(Path(scratch) / "page", folder)


def cascade(value: float) -> str:
    """The name of the file for a threshold."""
    return f"cascade-{float(value)}.tflite"


# ---- What the page is told ----


def about(model, shape: tuple, thresholds: Sequence[float], examples: list[dict]) -> dict:
    """What the page cannot know from the model's files."""
    height, width, channels = shape
    prepared = model.prepare(tf.zeros((1, *shape))).shape[1:]
    return {
        "class_names": model.class_names or [str(n) for n in range(model.num_classes)],
        "image": {"height": height, "width": width, "channels": channels, "largest": 255 if model.preprocess else 1},
        "prepared": {"height": prepared[0], "width": prepared[1], "channels": prepared[2]},
        "scales": model.crop.scales,
        "drawable": channels == 1 and max(height, width) <= DRAWN,
        "cascades": [{"threshold": float(value), "file": cascade(value)} for value in sorted(set(thresholds))],
        "examples": examples,
        "macs": costs(model, prepared),
    }


def costs(model, shape: tuple) -> dict | None:
    """Multiply-accumulates after each stage and of looking everywhere; None for networks that cannot be counted."""
    try:
        everywhere, how = macs_everywhere(model, shape)
        return {"stages": keras_glimpse.stage_macs(model).tolist(), "everywhere": everywhere, "how": how}
    except ValueError:
        return None


def macs_everywhere(model, shape: tuple) -> tuple[int, str]:
    """What the first glimpse's network would cost on all of an image at the finest scale, and how that is counted.

    Convolutions go over the image once. Other networks look at patches side by side, as many as cover the image.
    """
    height, width, channels = shape
    net, finest, side = model.glimpse_nets[0], min(model.crop.scales), model.crop.size
    if isinstance(net, ConvGlimpseNet) and net.shares_pass:
        whole = ConvGlimpseNet(net.num_classes, 1, net.filters, net.pooled, net.hidden_units)
        level = height // finest, width // finest
        return count_macs(whole, (*level, channels)), f"the convolutions of one scale over all {level[0]}×{level[1]} pixels"
    rows, columns = (-(-length // (finest * side)) for length in (height, width))
    location = [(2,)] if model.gated_glimpse else []
    each = count_macs(net, (side, side, channels * len(model.crop.scales)), *location)
    return rows * columns * each, f"{rows}×{columns} glimpses side by side, each {each:,}"


def pictures_in(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not found:
        raise ValueError(f"Expected a folder with pictures ({' '.join(PICTURES)}); {folder} has none.")
    return found[:EXAMPLES]


def write_examples(model, shape: tuple, pictures: Sequence[Path], folder: Path) -> list[dict]:
    """Copies pictures, or writes embedded digits for a model of digits; returns names and files, as the page wants them."""
    folder.mkdir()
    height, width, channels = shape
    if not pictures and channels == 1 and model.num_classes == 10 and 28 <= min(height, width) <= max(height, width) <= DRAWN:
        digits = keras_glimpse.data.embedded_digits().test_images[:EXAMPLES]
        for n, digit in enumerate(digits):
            whole = tf.image.pad_to_bounding_box(digit, (height - 28) // 2, (width - 28) // 2, height, width)
            tf.io.write_file(str(folder / f"{n}.png"), tf.io.encode_png(whole))
        return [{"name": f"Digit {n + 1}", "file": f"examples/{n}.png"} for n in range(len(digits))]
    files = [f"{n}{path.suffix.lower()}" for n, path in enumerate(pictures)]
    for file, path in zip(files, pictures):
        shutil.copy(path, folder / file)
    return [{"name": path.stem, "file": f"examples/{file}"} for file, path in zip(files, pictures)]


# ---- The file that tells what was seen ----


def explaining_file(model, shape: tuple) -> bytes:
    """A LiteRT file that looks at everything and tells what was seen where: `stage_probabilities`, `[1, num_glimpses + 1,
    num_classes]`, `locations` and `patches` as in `GlimpseClassifier.look`, and `thumbnail` `[1, rows, columns, channels]`."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((1, *shape), name="images")])
    def look(images):
        seen, prepared = model.look(images), model.prepare(images)
        visible = functools.partial(in_unit_range, prepared) if model.preprocess else tf.identity
        return {
            "stage_probabilities": tf.nn.softmax(seen["logits"]),
            "locations": seen["locations"],
            "patches": visible(seen["patches"]),
            "thumbnail": visible(thumbnail(model, prepared)),
        }

    converter = tf.lite.TFLiteConverter.from_concrete_functions([look.get_concrete_function()], model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The converter warns of its own internals.
        return converter.convert()


def in_unit_range(images, values):
    """Values in the units of some images, which can be any after `preprocess`, as shares of these images' range."""
    darkest, brightest = tf.reduce_min(images), tf.reduce_max(images)
    return (values - darkest) / tf.maximum(brightest - darkest, 1e-6)


def thumbnail(model, images):
    """What the low-resolution network sees; all of the image, where that is a network of the user's own."""
    net = model.low_res_net
    if not isinstance(net, LowResNet | ConvLowResNet):
        return images
    if net.downsample != "area":
        return tf.image.resize(images, net.size, {"strided": "nearest", "bilinear": "bilinear"}[net.downsample])
    rows, columns = (shares(side, parts) for side, parts in zip(images.shape[1:3], net.size))
    return tf.einsum("rh,bhwc,qw->brqc", rows, images, columns)


def shares(side: int, parts: int) -> np.ndarray:
    """`[parts, side]`: the share of each pixel of a side in each of `parts` equal parts of it."""
    edges, pixels = np.linspace(0, side, parts + 1)[:, None], np.arange(side)
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (overlap.clip(0) * parts / side).astype(np.float32)


# ---- LiteRT.js, and a server ----


def litertjs(folder: Path) -> Path:
    """The folder with the packages of LiteRT.js, by npm if they are not there."""
    if (folder / PACKAGES).is_dir():
        return folder / PACKAGES
    npm = shutil.which("npm")
    if not npm:
        raise FileNotFoundError(f"LiteRT.js is not in {folder}, and there is no npm to install it by: see https://nodejs.org.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:  # Moved when whole: an interrupted one is not taken for it.
        wanted = [f"@litertjs/{name}@{VERSION}" for name in ("core", "wasm-utils")]
        command = [npm, "install", "--prefix", scratch, "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        print(f"Installing {' and '.join(wanted)} into {folder}, once ...", flush=True)
        done = subprocess.run([*command, *wanted], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"npm could not install {' and '.join(wanted)}:\n{done.stderr.strip()}")
        folder.mkdir(exist_ok=True)
        os.replace(Path(scratch) / PACKAGES.parent, folder / PACKAGES.parent)
    return folder / PACKAGES


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """An HTTP server of a folder, for this machine only."""

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript", ".wasm": "application/wasm"}

        def log_message(self, *args):
            """Says nothing of requests that went well, or not."""

    return ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=folder))


if __name__ == "__main__":
    main()
