"""A page to look at: draw a digit, and watch where the model looks and where it stops, in the browser.

    python recipes/quickstart.py && python recipes/deploy/demo.py  # the model that the quick start leaves
    python recipes/deploy/demo.py MODEL.keras                             # any model of images of one channel

Then open http://127.0.0.1:8000. Nothing leaves this machine: the server answers only it, and the page runs two LiteRT files by
LiteRT.js (WebAssembly, one thread): that of `export_litert`, whose cascade skips the work that it does not need, and one that
looks at everything and tells what it saw. LiteRT.js comes from npm, once; afterwards no network is needed.

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
import threading
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tensorflow as tf
from arguments import in_one_line
from trained import HELP, load

import keras_glimpse

VERSION = "2.5.3"  # Of LiteRT.js, and the only one tried.
CACHE = Path.home() / ".cache" / "keras_glimpse" / f"litertjs-{VERSION}"
PACKAGES = Path("node_modules", "@litertjs")
PAGE = Path(__file__).with_name("demo.html")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart/model.keras", help=f"{HELP}; default %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="to listen at, on this machine only; default %(default)s")
    parser.add_argument("--litertjs", type=Path, default=CACHE, help="folder to keep LiteRT.js in; default %(default)s")
    args = parser.parse_args()
    with in_one_line(OverflowError), contextlib.suppress(KeyboardInterrupt):
        model = load(args.model)
        if (shape := model.image_shape)[-1] != 1:
            raise ValueError(f"Expected a model of images with one channel, which can be drawn; got images {shape}.")
        with server(model, litertjs(args.litertjs), args.port) as pages:
            print(f"Open http://127.0.0.1:{pages.server_port} in a browser; Ctrl+C ends the server.", flush=True)
            pages.serve_forever()


def litertjs(folder):
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


def explaining_file(model) -> bytes:
    """A LiteRT file that looks at everything and tells what was seen where: `stage_probabilities`, `[1, num_glimpses + 1,
    num_classes]`, `locations` and `patches` as in `GlimpseClassifier.look`, and `thumbnail` `[1, rows, columns, 1]`."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((1, *model.image_shape), name="images")])
    def look(images):
        seen = model.look(images)
        probabilities = tf.nn.softmax(seen.pop("logits"))
        return seen | {"stage_probabilities": probabilities, "thumbnail": thumbnail(model, images)}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([look.get_concrete_function()], model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The converter warns of its own internals.
        return converter.convert()


def thumbnail(model, images):
    """What the low-resolution network sees; all of the image, where that is a network of the user's own."""
    net = model.low_res_net
    if not isinstance(net, keras_glimpse.LowResNet):
        return images
    if net.downsample != "area":
        return tf.image.resize(images, net.size, {"strided": "nearest", "bilinear": "bilinear"}[net.downsample])
    rows, columns = (shares(side, parts) for side, parts in zip(model.image_shape, net.size))
    return (rows @ images[..., 0] @ columns.T)[..., None]


def shares(side: int, parts: int) -> np.ndarray:
    """`[parts, side]`: the share of each pixel of a side in each of `parts` equal parts of it."""
    return np.eye(parts, dtype=np.float32).repeat(side, axis=1).reshape(parts, side, parts).mean(axis=2) * parts / side


def cascade_file(model, threshold: float) -> bytes:
    """What `export_litert` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cascade.tflite"
        keras_glimpse.export_litert(model, path, threshold)
        return path.read_bytes()


def server(model, packages, port=0):
    """An HTTP server, for this machine only, of the page, the model's files and LiteRT.js."""
    about = {"scales": model.crop.scales, "macs": None}
    with contextlib.suppress(ValueError):  # Networks that cannot be counted are shown without.
        about["macs"] = keras_glimpse.stage_macs(model).tolist()
    files = {"/": PAGE.read_bytes(), "/about.json": json.dumps(about).encode(), "/explaining.tflite": explaining_file(model)}
    cascade, one_at_a_time = functools.lru_cache(64)(functools.partial(cascade_file, model)), threading.Lock()

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript", ".wasm": "application/wasm"}

        def do_GET(self):
            path, _, threshold = self.path.partition("?threshold=")
            try:
                with one_at_a_time:
                    content = cascade(float(threshold)) if path == "/cascade.tflite" else files.get(path)
            except ValueError as error:
                return self.send_error(400, explain=str(error))
            if content is None:
                return super().do_GET()  # Of LiteRT.js.
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8" if path == "/" else self.guess_type(path))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return self.wfile.write(content)

        def log_message(self, *args):
            """Says nothing of requests that went well, or not."""

    return ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=packages))


if __name__ == "__main__":
    main()
