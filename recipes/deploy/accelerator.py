"""Run what `export_accelerator` writes: networks of integers on an accelerator, with the early exit between them on the CPU.

    pip install -e ".[litert]"                              # or only ai-edge-litert and numpy: no TensorFlow, no Keras
    python recipes/deploy/accelerator.py FOLDER IMAGES.npy  # unsigned bytes, or floats scaled as in training

Prints the class, its probability and the number of glimpses of each image. Here the networks of integers run on the CPU. For an
accelerator, let its compiler translate `first_look.tflite` and each `glimpse_*.tflite`, and give `Cascade` its delegate, by
`load_delegate` of `ai_edge_litert.interpreter`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Cascade:
    """A folder of `export_accelerator`, called with one image.

    Args:
        folder: Path of the folder.
        delegates: List of LiteRT delegates for the networks. Defaults to `None`, the CPU.
    """

    def __init__(self, folder: Path, delegates: list | None = None):
        self.about = json.loads((folder / "assets.extra" / "keras_glimpse.json").read_text())
        self.threshold = self.about["threshold"] or np.inf
        self.cpu = Interpreter(str(folder / "cpu.tflite"), num_threads=1)
        self.between = {name: self.cpu.get_signature_runner(name) for name in self.cpu.get_signature_list()}
        self.first_look, *self.glimpses = (Network(folder / name, delegates) for name in self.about["networks"])

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, int]:
        """The probabilities `[classes]` and the number of glimpses, of an image `[height, width, channels]`, float32."""
        known = {"images": image[None]}
        seen = self.first_look(self._on_cpu("thumbnail", known))
        known |= {"hidden": seen["hidden"], "logits": seen["logits"][:, None], "locations": np.zeros((1, 0, 2), np.float32)}
        probabilities, exit_stage = self._on_cpu("answer_0", known)["probabilities"][0], 0
        while exit_stage < len(self.glimpses) and not probabilities.max() >= self.threshold:
            seen = self._on_cpu(f"look_{exit_stage + 1}", known)
            seen |= self.glimpses[exit_stage](seen)
            known["logits"] = np.concatenate([known["logits"], seen["logits"][:, None]], axis=1)
            known["locations"] = np.concatenate([known["locations"], seen["location"][:, None]], axis=1)
            exit_stage += 1
            probabilities = self._on_cpu(f"answer_{exit_stage}", known)["probabilities"][0]
        return probabilities, exit_stage

    def _on_cpu(self, signature: str, known: dict) -> dict:
        run = self.between[signature]
        return run(**{name: known[name] for name in run.get_input_details()})


class Network:
    """A file of integers, called with floats by name; gives floats by name."""

    def __init__(self, path: Path, delegates: list | None):
        self.interpreter = Interpreter(str(path), num_threads=1, experimental_delegates=delegates)
        self.run = self.interpreter.get_signature_runner()
        self.inputs, self.outputs = self.run.get_input_details(), self.run.get_output_details()

    def __call__(self, floats: dict) -> dict:
        integers = self.run(**{name: quantized(floats[name], each) for name, each in self.inputs.items()})
        return {name: dequantized(integers[name], each) for name, each in self.outputs.items()}


def quantized(floats: np.ndarray, tensor: dict) -> np.ndarray:
    (scale, zero), limits = tensor["quantization"], np.iinfo(tensor["dtype"])
    return np.clip(np.rint(floats / scale) + zero, limits.min, limits.max).astype(tensor["dtype"])


def dequantized(integers: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero = tensor["quantization"]
    return (integers.astype(np.float32) - zero) * np.float32(scale)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="written by keras_glimpse.export_accelerator")
    parser.add_argument("images", type=Path, help="NumPy file of images [n, height, width, channels]")
    args = parser.parse_args()
    cascade, images = Cascade(args.folder), np.load(args.images)
    names = cascade.about.get("class_names") or range(cascade.about["num_classes"])
    for image in images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32):
        probabilities, glimpses = cascade(image)
        print(names[probabilities.argmax()], f"{probabilities.max():.4f}", glimpses)


if __name__ == "__main__":
    main()
