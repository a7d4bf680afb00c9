"""What stands in for a server: `serve.c`, built against the installed TensorFlow, with no Python in it.

It loads a SavedModel by TensorFlow's C API and answers requests from several threads that share one session.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import track
from tensorflow.core.protobuf import saved_model_pb2

SOURCE = Path(__file__).with_name("serve.c")
SAMPLES = 200  # of memory, in a run


class Served(NamedTuple):
    """What came of requests."""

    answers: np.ndarray  # `[images of all requests, classes]`, in the order of the requests; NaN where there is none.
    seconds: np.ndarray  # `[requests]`, from the request to its answer; NaN where it failed.
    samples: np.ndarray  # `[samples, 5]`: requests done, seconds, KiB resident, KiB allocated by malloc, versions replaced.
    complaints: str  # what the program said of the first failures


def compiler() -> str | None:
    """The C compiler of this system, if it has one."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compiles `serve.c` into a folder, with the headers and libraries of the installed TensorFlow."""
    if not compiler():
        raise FileNotFoundError("Expected a C compiler, cc or gcc; found neither.")
    package, program = Path(tf.__file__).parent, folder / "serve"
    libraries = [next(package.glob(name)) for name in ("libtensorflow_cc.so*", "libtensorflow_framework.so*")]
    command = [compiler(), "-std=gnu11", "-O2", "-Wall", "-Werror", "-pthread", SOURCE, "-I", package / "include", *libraries]
    linker = ["-fuse-ld=gold"] if shutil.which("ld.gold") else []  # Others take seconds to read so large a library.
    subprocess.run([*command, *linker, f"-Wl,-rpath,{package}", "-o", program], check=True)
    return program


def signature(saved_model: Path, name: str):
    """What a SavedModel takes and gives under a name: a `SignatureDef`."""
    content = (saved_model / "saved_model.pb").read_bytes()
    signatures = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].signature_def
    if name not in signatures:
        found = sorted(signatures)
        raise ValueError(f"Expected a SavedModel of export_saved_model, with a signature {name!r}; {saved_model} has {found}.")
    return signatures[name]


def serve(
    program: Path,
    versions: Sequence[Path],
    images: np.ndarray,
    requests: np.ndarray,
    threads: int = 1,
    replace_every: int = 0,
    warm_up: int = 0,
) -> Served:
    """Has `program`, from `build`, compute `probabilities` by a SavedModel's signature for such images.

    Args:
        versions: SavedModels, of which the first is served, or which take turns.
        images: `[n, height, width, channels]`, float32 for `serving_default` or bytes for `uint8`.
        requests: `[requests, 2]`: the first image, and how many.
        threads: how many requests are in work at a time.
        replace_every: requests after which the next version replaces the one that is served; 0 for never.
        warm_up: how many of the requests a version computes before it is served.

    Raises:
        RuntimeError: the program itself ended with an error; the message has what it said.
    """
    requests = np.asarray(requests, np.int64)
    rows = np.cumsum(requests[:, 1]) - requests[:, 1]
    name = "uint8" if images.dtype == np.uint8 else "serving_default"
    names, classes = zip(*(_tensors(version, name) for version in versions))
    if len({*classes}) > 1:
        raise ValueError(f"Expected versions with the same number of classes; got {list(classes)}.")
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / name for name in ("images", "requests", "answers", "seconds")]
        answers = np.full((requests[:, 1].sum(), classes[0]), np.nan, np.float32)
        contents = images, np.column_stack([requests, rows]), answers, np.full(len(requests), np.nan)
        for path, content in zip(files, contents):
            content.tofile(path)
        figures = map(str, [*images.shape[1:], threads, max(1, len(requests) // SAMPLES), replace_every, warm_up])
        of_versions = [each for version in zip(versions, *zip(*names)) for each in version]
        samples, complaints = _run([program, images.dtype.name, *figures, *files, *of_versions])
        answers = np.fromfile(files[2], np.float32).reshape(answers.shape)
        return Served(answers, np.fromfile(files[3]), samples, complaints)


def _tensors(saved_model, name):
    """The names of the tensors that go in and come out, and the number of classes."""
    chosen = signature(saved_model, name)
    target = chosen.outputs["probabilities"]
    return (chosen.inputs["images"].name, target.name), target.tensor_shape.dim[-1].size


def _run(command):
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            lines = track(process.stdout, "Requests", total=SAMPLES, console=Console(stderr=True))
            samples = sorted([float(figure) for figure in line.split()] for line in lines)
        errors.seek(0)
        said = errors.read()
    if process.returncode:
        done = int(samples[-1][0]) if samples else 0
        raise RuntimeError(f"serve ended with {process.returncode} after {done:,} requests or a few more: {said[-2000:]}")
    return np.array(samples), "".join(said.partition("serve: ")[1:])  # What TensorFlow's C++ said is left out.
