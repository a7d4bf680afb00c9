"""The tasks, by the names that results have for them."""

import os
from functools import partial

from images.boards import defective, kind
from images.clutter import clutter
from images.dataset import Task
from images.megapixel import megapixel
from images.streets import streets

TASKS = {
    "translated-60": partial(clutter, 60, 0),
    "clutter-60": partial(clutter, 60, 4),
    "clutter-100": partial(clutter, 100, 8),
    "megapixel": megapixel,
    "board": defective,
    "kind": kind,
    "streets": streets,
}


def load(name: str, data_dir: str | os.PathLike | None = None, smoke: bool = False) -> Task:
    """The task of this name; FileNotFoundError, which says where its data is to be had, if they are not in `data_dir`."""
    return TASKS[name](data_dir=data_dir, smoke=smoke)
