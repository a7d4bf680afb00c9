"""Milliseconds an image of all networks on large images, ours and the alternatives, on one core.

    pip install -e ".[recipes,litert]"
    python recipes/benchmarks/milliseconds.py --rounds 3 # about 10 minutes

The networks of `recipes/images/rows.toml` have random weights, and take as long as trained ones: ours looks with all glimpses.
They are measured one after another, in a process that has one core, and all of them again in each round. Medians go to
`recipes/results/benchmark_milliseconds.csv`, from which the guide, "How large images are learned", has them.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
from benchmark import benchmark_parser, report
from images import speed, training

SHAPES = {  # Of an image, and the number of classes.
    "kind": ((256, 256, 1), 6),
    "board": ((640, 640, 1), 2),
    "streets": ((480, 816, 3), 2),
    "translated-60": ((60, 60, 1), 10),
    "clutter-60": ((60, 60, 1), 10),
    "clutter-100": ((100, 100, 1), 10),
    "megapixel": ((1500, 1500, 1), 10),
}


def main():
    args = benchmark_parser(__doc__).parse_args()
    tasks = ["translated-60"] if args.smoke else SHAPES
    networks = [training.rows()[task][name] for task in tasks for name in training.ROWS]
    rounds = [[milliseconds(row) for row in networks] for _ in range(args.rounds)]
    rows = [
        {"task": row.task, "row": row.name} | {what: float(np.median([one[what] for one in found])) for what in found[0]}
        for row, found in zip(networks, zip(*rounds))
    ]
    report("benchmark_milliseconds", "Milliseconds an image, one core", rows, args.smoke)


def milliseconds(row: training.Row) -> dict[str, float]:
    """Of one image at a time, of a batch of 32 (of 4, if they have a megapixel or more), and in LiteRT."""
    shape, classes = SHAPES[row.task]
    keras.utils.set_random_seed(0)
    model = training.untrained(row, shape, classes)
    if row.name == "ours":
        model.compile(stage=1)
        model.active_glimpses = row.glimpses
    batch = 32 if np.prod(shape) < 1e6 else 4
    images = np.random.default_rng(0).integers(256, size=(batch, *shape), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        found = speed.milliseconds(path, images)
    found["keras, batch"] = found.pop(f"keras, batch {batch}")
    return {"batch": batch} | {what: found[what] for what in ("keras, batch 1", "keras, batch", "litert")}


if __name__ == "__main__":
    main()
