"""Writes the golden files of cases that have none yet, and never changes one: python tests/golden/write.py

For each case of `tests/cases.py` there is a `.keras` file, and in `<case>.npz` what it answered when it was written.
`tests/test_golden.py` holds later versions to that.
"""

import sys
from pathlib import Path

import keras
import numpy as np

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from cases import EVERYTHING, as_model, call, flat, inputs  # noqa: E402


def main():
    for name in EVERYTHING:
        if (FOLDER / f"{name}.npz").exists():
            continue
        keras.utils.set_random_seed(0)
        model, shapes = as_model(name)
        values = inputs(shapes)
        arrays = {f"input_{i}": value for i, value in enumerate(values)}
        arrays |= {f"output_{i}": value for i, value in enumerate(flat(call(model, values)))}
        model.save(FOLDER / f"{name}.keras")
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
