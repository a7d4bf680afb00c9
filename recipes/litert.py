"""LiteRT files on one thread."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class LiteRT:
    """A `.tflite` file for one image at a time: called with `[1, height, width, channels]`, it gives `[1, classes]`."""

    def __init__(self, path: Path):
        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        outputs = self._interpreter.get_output_details()
        self._output = next(each["index"] for each in outputs if len(each["shape"]) == 2)  # Not the stage of the exit.

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.put(image)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)

    def put(self, image: np.ndarray) -> None:
        self._interpreter.set_tensor(self._input, image)

    def seconds(self) -> float:
        """The time that the image which was put in takes, without that of copying it."""
        start = time.perf_counter()
        self._interpreter.invoke()
        return time.perf_counter() - start


def opened(export: Callable) -> LiteRT:
    """What `export(path=...)` writes."""
    with tempfile.TemporaryDirectory() as folder:
        export(path=(path := Path(folder) / "net.tflite"))
        return LiteRT(path)
