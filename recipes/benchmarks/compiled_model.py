"""LiteRT's `CompiledModel` beside its interpreter: what a cascade takes, by the glimpse after which it stops.

    pip install -e ".[benchmark]"
    python recipes/benchmarks/compiled_model.py          # about a minute on two cores

Real digits, the first of the test images that stop there, through the files in `saved_models/`, on one thread. What is compared
runs in turn, in one process. Without XNNPACK, `CompiledModel` runs LiteRT's own kernels: where that takes longer, XNNPACK is at
work, in the branches too. The table goes to `recipes/results/benchmark_compiled_model.csv`.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from arguments import in_one_line
from benchmark import benchmark_parser, digits_for, in_turn, report
from litert import Compiled, LiteRT, mean_seconds
from tables.digits import splits_for

import keras_glimpse

MODELS = {"mnist": (28, 28, 1), "jittered-mnist": (48, 48, 1), "jittered-mnist-best": (48, 48, 1)}
IMAGES = 20  # of each stage


def main():
    args = benchmark_parser(__doc__).parse_args()
    with in_one_line():
        digits = digits_for(args.smoke)
    rows = []
    for name, shape in [*MODELS.items()][: 1 if args.smoke else None]:
        test = splits_for(shape, digits, test_copies=1).test.unbatch().batch(10_000)
        images = next(test.as_numpy_iterator())[0].astype(np.float32) / 255
        for file in ("cascade.tflite", "cascade-int8.tflite"):
            rows += compare(name, keras_glimpse.pretrained_folder() / name / file, images, args.rounds)
    report("benchmark_compiled_model", "LiteRT, one thread, microseconds an image", rows, args.smoke)


def compare(name: str, path: Path, images: np.ndarray, rounds: int) -> list[dict]:
    """The lines of the table for one file."""
    run = Interpreter(str(path), num_threads=1).get_signature_runner()
    stages = np.array([int(run(images=image[None])["exit_stage"][0]) for image in images])
    files = {"interpreter": LiteRT(path), "CompiledModel": Compiled(path), "no XNNPACK": Compiled(path, xnnpack=False)}
    rows = []
    for stage in np.unique(stages):
        some = images[stages == stage][:IMAGES]
        seconds = in_turn({what: partial(mean_seconds, file, some) for what, file in files.items()}, 10 * rounds)
        row = {"model": name, "file": path.name, "glimpses": int(stage), "images": len(some)}
        rows.append(row | {what: 1e6 * each for what, each in seconds.items()})
    return rows


if __name__ == "__main__":
    main()
