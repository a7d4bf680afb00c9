"""LiteRT files on one thread, by either of its APIs."""

import hashlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel, CpuKernelMode, CpuOptions, Options
from ai_edge_litert.interpreter import Interpreter


class File:
    """A `.tflite` file for one image at a time: called with `[1, height, width, channels]`, it gives `[1, classes]`.

    Subclasses define `put` (an image), `probabilities`, `exit_stage` and, when they are made, the function `run`.
    """

    run: Callable[[], None]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.put(image)
        self.run()
        return self.probabilities()

    def seconds(self) -> float:
        """The time that the image which was put in takes, without that of copying it."""
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start


class LiteRT(File):
    """By LiteRT's interpreter."""

    def __init__(self, path: Path):
        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        outputs = {len(each["shape"]): each["index"] for each in self._interpreter.get_output_details()}
        self._output, self._stage = outputs[2], outputs.get(1)
        self.run = self._interpreter.invoke

    def probabilities(self) -> np.ndarray:
        return self._interpreter.get_tensor(self._output)

    def exit_stage(self) -> int | None:
        """After how many glimpses it stopped; None of a file without a cascade."""
        return None if self._stage is None else int(self._interpreter.get_tensor(self._stage)[0])

    def put(self, image: np.ndarray) -> None:
        self._interpreter.set_tensor(self._input, image)


class Compiled(File):
    """By LiteRT's `CompiledModel`.

    Args:
        path: Path of the file.
        cache: Folder for XNNPACK's packed weights, which the next process then need not pack. XNNPACK does not notice that a
            cache is another model's, and answers with its weights: so here each file has its own, named by its checksum.
            Defaults to `None`, no cache.
        xnnpack: Boolean, whether LiteRT delegates to XNNPACK, as it does by default, or runs its own kernels.
    """

    def __init__(self, path: Path, cache: Path | None = None, xnnpack: bool = True):
        packed = str(cache / f"{hashlib.sha256(path.read_bytes()).hexdigest()}.xnnpack") if cache else ""
        kernels = CpuKernelMode.XNNPACK if xnnpack else CpuKernelMode.BUILTIN
        cpu = CpuOptions(num_threads=1, kernel_mode=kernels, xnnpack_weight_cache_path=packed)
        self._model = CompiledModel.from_file(str(path), options=Options(cpu_options=cpu))
        self._inputs, self._outputs = self._model.create_input_buffers(0), self._model.create_output_buffers(0)
        signature = self._model.get_signature_by_index(0)
        self._output = dict(zip(signature["outputs"], self._outputs))
        self._shape = self._model.get_output_tensor_details(signature["key"])["probabilities"]["shape"]
        self.run = partial(self._model.run_by_index, 0, self._inputs, self._outputs)

    def probabilities(self) -> np.ndarray:
        return self._output["probabilities"].read(int(np.prod(self._shape)), np.float32).reshape(self._shape)

    def exit_stage(self) -> int | None:
        """After how many glimpses it stopped; None of a file without a cascade."""
        return int(self._output["exit_stage"].read(1, np.int32)[0]) if "exit_stage" in self._output else None

    def put(self, image: np.ndarray) -> None:
        self._inputs[0].write(image)


def mean_seconds(file: File, images: np.ndarray) -> float:
    """The mean time of an image."""
    total = 0.0
    for image in images:
        file.put(image[None])
        total += file.seconds()
    return total / len(images)


def opened(export: Callable) -> LiteRT:
    """What `export(path=...)` writes."""
    with tempfile.TemporaryDirectory() as folder:
        export(path=(path := Path(folder) / "net.tflite"))
        return LiteRT(path)
