"""Runs what `images/programs.py` wrote, on JAX's first device: training without TensorFlow.

pip install -e ".[programs]"     # here; where it is to run, it needs jax, numpy and pillow, and no other file of the project
python recipes/images/run_programs.py PROGRAMS/kind-ours --data-dir ../DeepPCB --out TRAINED

Each row is trained with its seeds one after another; TRAINED gets weights, and the measures and seconds of each epoch.
"""

import argparse
import json
import os
import pickle
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["JAX_ENABLE_X64"] = "1"  # Iterations are counted with 64 bits.

import jax
import numpy as np
from jax._src import xla_bridge
from jax._src.lib import xla_client

DEVICE = jax.devices()[0]


def compiled(program):
    """A function of arrays on the device that runs a program and returns what it gives."""
    backend, library = xla_bridge.get_backend(), xla_client._xla
    module = library.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(program))
    devices = library.DeviceList((DEVICE,))
    executable = backend.compile_and_load(module, devices, xla_client.CompileOptions())
    return lambda inputs: [
        each[0] if isinstance(each, list | tuple) else each
        for each in executable.execute_sharded(inputs).disassemble_into_single_device_arrays()
    ]


def decoded(files, channels):
    """The pixels of files, as TensorFlow decodes them."""
    from PIL import Image

    def open_one(file):
        image = Image.open(file)
        image.decodermaxblock = 2**24  # All of it at a time: what is coded arithmetically cannot be decoded in parts.
        return np.asarray(image.convert("L" if channels == 1 else "RGB"))

    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(open_one, files)))
    return images[..., None] if channels == 1 else images


def load(path):
    """The arrays of a file."""
    with np.load(path) as content:
        return list(content.values())


def shared_arrays(folder):
    """On the device, by their names: what the programs of this folder share with others."""
    return {path.name: jax.device_put(load(path)[0], DEVICE) for path in folder.absolute().parent.glob("*.npz")}


class Stage:
    """An epoch's program, and its inputs."""

    def __init__(self, path, arrays):
        content = pickle.loads(zlib.decompress(path.with_suffix(".pkl").read_bytes()))
        self.name = path.stem
        self.epochs, self.weights, self.measured = content["epochs"], content["weights"], content["measured"]
        self._inputs, self._values, self._arrays = content["inputs"], content["values"], arrays
        start = time.perf_counter()
        self._run = compiled(zlib.decompress(path.with_suffix(".hlo").read_bytes()))
        print(f"{path}: compiled in {time.perf_counter() - start:.1f} s", flush=True)

    def on_device(self, weights=None):
        """The values of all variables before the first epoch, with other weights if they are given."""
        rest = self._values[self.weights :]
        return [jax.device_put(value, DEVICE) for value in [*(weights or self._values[: self.weights]), *rest]]

    def run(self, values):
        """The values of all variables after the program, of those before it."""
        return self._run([self._arrays[i] if isinstance(i, str) else values[i] for i in self._inputs])[: len(values)]

    def train(self, weights, seed, log, most=None):
        """Trains, adds the measures and seconds of each epoch to `log`, and now and then yields the weights."""
        values = self.on_device(weights)
        epochs = self.epochs if most is None else min(most, self.epochs)
        for epoch in range(epochs):
            start = time.perf_counter()
            self._arrays["at"] = jax.device_put(np.array([seed, epoch], np.int32), DEVICE)
            values = self.run(values)
            measures = [np.asarray(value).tolist() for value in values[len(values) - self.measured :]]
            log.append({"seconds": round(time.perf_counter() - start, 2), "measures": measures})
            if epoch < 2 or epoch + 1 == epochs or epoch % 10 == 9:
                yield [np.asarray(value) for value in values[: self.weights]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--data-dir", type=Path, default=Path())
    parser.add_argument("--epochs", type=int, help="of each stage at most")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for folder in args.folder:
        train(folder, args)


def train(folder, args):
    """Trains a row with each of its seeds."""
    about, arrays = json.loads((folder / "about.json").read_text()), shared_arrays(folder)
    if about["files"]:
        paths = [args.data_dir / file for file in about["files"]]
        arrays["pixels"] = jax.device_put(decoded(paths, about["channels"]), DEVICE)
    # One after another: jaxlib 0.11.2 crashed now and then when several threads compiled.
    stages = [Stage(path, arrays) for path in sorted(folder.glob("*.hlo"))]
    for first in sorted(folder.glob("seed*.npz")):
        path, logs, weights = args.out / f"{folder.name}-{first.stem}", {}, load(first)
        for stage in stages:
            logs[stage.name] = []
            for values in stage.train(weights, int(first.stem.removeprefix("seed")), logs[stage.name], args.epochs):
                weights = values
                np.savez_compressed(path.with_suffix(".npz"), *weights)
                path.with_suffix(".json").write_text(json.dumps({"device": DEVICE.device_kind, "logs": logs}))
                total = sum(epoch["seconds"] for epoch in logs[stage.name])
                last = logs[stage.name][-1]
                print(f"{path.name} {stage.name} epoch {len(logs[stage.name])}: {total:.1f} s, {last}", flush=True)


if __name__ == "__main__":
    main()
