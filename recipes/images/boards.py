"""Circuit boards with defects: DeepPCB, `git clone https://github.com/tangsanli5201/DeepPCB` (MIT licence).

A board is scanned twice, with 3 to 12 defects and without any, 640x640 pixels, grey. The split is the official one; a tenth of
the boards to train on is held out. Boxes of the defects are for measuring only.
"""

import os
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from images import stand_ins
from images.dataset import Images, Task, decoded, hold_out, integers, squares, with_rows

KINDS = ("open", "short", "mousebite", "spur", "copper", "pinhole")
WINDOWS = 32  # Each epoch takes one at random of at most so many for a defect.
TRIES = 60


class Board(NamedTuple):
    """Files of a board with defects and without; the defects' boxes `[n, 4]`, y1, x1, y2, x2, and kinds `[n]`, from 0."""

    defective: str
    clean: str
    boxes: np.ndarray
    kinds: np.ndarray


def defective(data_dir: str | os.PathLike | None = None, smoke: bool = False) -> Task:
    """Whether a whole board has defects.

    Args:
        data_dir: Folder with `PCBData`.
        smoke: Boolean, whether to take few boards, and without `data_dir` small ones that are made up.
    """
    train, validation, test = map(_whole, _boards(data_dir, smoke))
    return Task("board", ("clean", "defective"), partial(turned, train), validation, test)


def repaired(data_dir: str | os.PathLike | None = None, smoke: bool = False) -> Images:
    """The defective boards to test on, without their defects: in the boxes is what the clean board has there. All labels are 0.

    DeepPCB's clean boards are templates that were retouched by hand. A network may learn how those differ from a scan.

    Args: as `defective`.
    """
    *_, test = _boards(data_dir, smoke)
    boxes = np.zeros((len(test), max(len(board.boxes) for board in test), 4), np.int32)
    for number, board in enumerate(test):
        boxes[number, : len(board.boxes)] = board.boxes

    def make(scan, template, boxes):
        scan, template = decoded(scan, channels=1), decoded(template, channels=1)
        places, (start, end) = squares(tf.zeros(2, tf.int32), tf.shape(scan)[0])[:, :, None], tf.split(boxes, 2, axis=-1)
        in_a_box = tf.reduce_any(tf.reduce_all((places >= start) & (places < end), axis=-1), axis=-1)
        return tf.where(in_a_box[..., None], template, scan)

    files = [np.array(each) for each in zip(*((board.defective, board.clean) for board in test))]
    return Images(np.zeros(len(test), np.int32), (*files, boxes), make)


def kind(data_dir: str | os.PathLike | None = None, smoke: bool = False) -> Task:
    """Which of six kinds the one defect is that a window of 256x256 shows, for each defect that there is such a window of.

    Args: as `defective`.
    """
    train, *fixed = _boards(data_dir, smoke)
    side, size = (128, 320) if smoke and not data_dir else (256, 640)
    which, corners = windows(train, side, size, WINDOWS, np.random.default_rng(0))

    def of_an_epoch(seed):
        seeds = tf.random.split(seed)
        chosen = tf.gather(corners, integers(seeds[0], [len(which)], WINDOWS), axis=1, batch_dims=1)
        return turned(_cut(train, side, which, chosen), seeds[1])

    return Task("kind", KINDS, of_an_epoch, *(_one_each(boards, side, size) for boards in fixed))


def windows(boards: list[Board], side: int, size: int, at_most: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows of `side` pixels in images of `size` pixels that contain one box and touch no other.

    Returns:
        `[n, 2]`, of each defect that there is a window of, the numbers of its board and on its board; and `[n, at_most, 2]`, y
        and x of windows for it, again and again if there are fewer.
    """
    found = []
    for number, board in enumerate(boards):
        for defect in range(len(board.boxes)):
            corners = list(islice(_corners(board.boxes, defect, side, size, rng), at_most))
            if corners:
                found.append(((number, defect), np.resize(np.array(corners, np.int32), (at_most, 2))))
    return tuple(map(np.array, zip(*found)))


def _corners(boxes, defect, side, size, rng):
    """Of random windows that contain a box those that touch no other."""
    box, others = boxes[defect], np.delete(boxes, defect, axis=0)
    low, end = np.maximum(box[2:] - side, 0)[::-1], np.minimum(box[:2], size - side)[::-1] + 1
    for _ in range(TRIES if (low < end).all() else 0):
        x, y = rng.integers(low, end)
        touched = (others[:, :2] < (y + side, x + side)) & (others[:, 2:] > (y, x))
        if not touched.all(axis=1).any():
            yield y, x


def turned(images: Images, seed: tf.Tensor) -> Images:
    """The square images in one of the eight ways to turn and mirror them, at random: a board has no upper side."""

    def turn(image, mirrored):  # Along rows, along columns, along the diagonal.
        forth = tf.range(tf.shape(image)[0])
        ys, xs = (tf.where(mirrored[axis] == 1, forth[::-1], forth) for axis in (0, 1))
        image = tf.gather(tf.gather(image, ys), xs, axis=1)  # Several times as fast as reversing axes.
        return tf.where(mirrored[2] == 1, tf.transpose(image, [1, 0, 2]), image)

    return with_rows(images, (integers(seed, [len(images), 3], 2),), turn)


def _whole(boards):
    files = np.array([board.defective for board in boards] + [board.clean for board in boards])
    labels = np.repeat(np.array([1, 0], np.int32), len(boards))
    boxes = [board.boxes for board in boards] + [np.zeros((0, 4), int)] * len(boards)
    return Images(labels, (files,), partial(decoded, channels=1), boxes)


def _cut(boards, side, which, corners, boxes=None):
    files = np.array([boards[board].defective for board, _ in which])
    labels = np.array([boards[board].kinds[defect] for board, defect in which], np.int32)

    def make(file, corner):
        ys, xs = (start + tf.range(side) for start in tf.unstack(corner))
        return tf.gather(tf.gather(decoded(file, channels=1), ys), xs, axis=1)

    return Images(labels, (files, corners), make, boxes)


def _one_each(boards, side, size):
    which, corners = windows(boards, side, size, 1, np.random.default_rng(1))
    corners = corners[:, 0]
    boxes = [boards[board].boxes[[defect]] - np.tile(corner, 2) for (board, defect), corner in zip(which, corners)]
    return _cut(boards, side, which, corners, boxes)


def _boards(data_dir, smoke):
    """Those of training, validation and testing."""
    folder = Path(stand_ins.boards() if smoke and not data_dir else data_dir or "") / "PCBData"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} was not found: --data-dir must be a clone of github.com/tangsanli5201/DeepPCB.")
    trainval, test = (_listed(folder, name)[: 12 if smoke else None] for name in ("trainval.txt", "test.txt"))
    return *hold_out(trainval), test


def _listed(folder, name):
    lines = [line.split() for line in (folder / name).read_text().splitlines() if line.strip()]
    return [_board(f"{folder / image.removesuffix('.jpg')}", folder / boxes) for image, boxes in lines]


def _board(stem, boxes):
    x1, y1, x2, y2, kinds = np.loadtxt(boxes, int, ndmin=2).T
    return Board(f"{stem}_test.jpg", f"{stem}_temp.jpg", np.stack([y1, x1, y2 + 1, x2 + 1], axis=1), kinds - 1)
