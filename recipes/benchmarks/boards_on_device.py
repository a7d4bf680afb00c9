"""LiteRT on one thread: the cascade of `deeppcb-defects` beside the same convolutions over the whole board.

    pip install -e ".[recipes,litert]"
    python recipes/benchmarks/boards_on_device.py --data-dir ../DeepPCB     # some two minutes on two cores
    python recipes/benchmarks/boards_on_device.py --smoke                   # two images of noise; keeps nothing

Test boards of 640x640 pixels, one at a time, at the threshold of the model's card. The whole-image network, alternative `whole`
of `recipes/images`, has random weights: it takes as long. Leaves `recipes/results/benchmark_boards.csv`.
"""

import json
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import benchmark
import litert
import numpy as np
from arguments import in_one_line
from images import alternatives
from images.boards import defective
from on_device import export_plainly

from keras_glimpse import cascade_predict, count_macs, export_litert, load_pretrained, pretrained_folder

MODEL, BOARDS = "deeppcb-defects", 100


def main():
    parser = benchmark.benchmark_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder with DeepPCB's PCBData")
    args = parser.parse_args()
    model = load_pretrained(MODEL)
    threshold = json.loads((pretrained_folder() / MODEL / "card.json").read_text())["threshold"]
    with in_one_line():
        images = np.random.default_rng(0).random((2, *model.image_shape), np.float32) if args.smoke else boards(args.data_dir)
    whole = alternatives.whole(model.image_shape, model.num_classes)
    macs = {"whole image": count_macs(whole), "cascade": cascade_predict(model, images, threshold).macs.mean()}
    exports = {"whole image": partial(export_plainly, whole), "cascade": partial(export_litert, model, threshold=threshold)}
    some = {"whole image": images[:: max(1, len(images) // 5)]}  # It takes as long for every image.
    files = {name: litert.opened(export) for name, export in exports.items()}
    timers = {name: partial(litert.mean_seconds, file, some.get(name, images)) for name, file in files.items()}
    seconds = benchmark.in_turn(timers, args.rounds)
    rows = [
        {
            "what": name,
            "ms": 1e3 * each,
            "MACs": float(macs[name]),
            "times as fast": seconds["whole image"] / each,
            "times fewer MACs": float(macs["whole image"] / macs[name]),
        }
        for name, each in seconds.items()
    ]
    benchmark.report("benchmark_boards", f"LiteRT, one thread, {len(images)} boards", rows, args.smoke)


def boards(data_dir):
    """Test boards with and without defects, in [0, 1]."""
    test = defective(data_dir).test
    return np.stack([test[n] for n in range(0, len(test), len(test) // BOARDS)]).astype(np.float32) / 255


if __name__ == "__main__":
    main()
