"""Draws where a model looks at test images of a task, and where it would look.

    python recipes/images/pictures.py board --model deeppcb-defects --data-dir ../DeepPCB     # the pictures of the guide
    python recipes/images/pictures.py kind --data-dir ../DeepPCB --out runs/pictures          # of a row that run.py has trained

The images are drawn at random: three that have objects, and one that has none, if there is one. Boxes of objects are framed in
green. Leaves TASK-glimpses.png and TASK-map.png.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import trained
from arguments import folder_to_write, in_one_line
from arguments import seed as seed_type
from PIL import Image
from runs import RESULTS

import keras_glimpse
from images import tasks
from images.dataset import Images, Task

WITH, WITHOUT = 3, 1  # Objects.
ENLARGED = 1.15  # So that titles with names of classes do not touch.
DPI, COLOURS = 100, 128
GUIDE = RESULTS.parent.parent / "docs/guide"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=list(tasks.TASKS))
    parser.add_argument("--data-dir", type=Path, help="DeepPCB or GTSDB, where the task needs it")
    parser.add_argument("--model", help=f"{trained.HELP}; default what run.py keeps in runs/images")
    parser.add_argument("--seed", type=seed_type, default=0, help="of the choice of images; default 0")
    parser.add_argument("--out", type=Path, default=GUIDE, help="folder to write to; default docs/guide")
    args = parser.parse_args()
    with in_one_line():
        model = trained.load(args.model or f"runs/images/{args.task}/ours-seed0/model.keras")
        task = tasks.load(args.task, args.data_dir)
        draw(model, task, args.seed, folder_to_write(args.out))
    print(f"Wrote {args.task}-glimpses.png and {args.task}-map.png to {args.out}/")


def draw(model: keras_glimpse.GlimpseClassifier, task: Task, seed: int, folder: Path) -> None:
    """Draws both pictures."""
    chosen = choose(task.test, seed)
    images, boxes = [task.test[n] for n in chosen], [task.test.boxes[n] for n in chosen]
    looks = keras_glimpse.draw_glimpses(model, images, task.test.labels[chosen], class_names=task.class_names, boxes=boxes)
    for name, figure in (("glimpses", looks), ("map", keras_glimpse.draw_map(model, images, boxes=boxes))):
        path = folder / f"{task.name}-{name}.png"
        figure.set_size_inches(ENLARGED * figure.get_size_inches())
        figure.savefig(path, dpi=DPI)
        Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)  # A third of the bytes.


def choose(images: Images, seed: int) -> list[int]:
    """Numbers of images."""
    order = np.random.default_rng(seed).permutation(len(images))
    some, none = ([n for n in order if bool(len(images.boxes[n])) == has] for has in (True, False))
    return [*some[:WITH], *none[:WITHOUT]]


if __name__ == "__main__":
    main()
