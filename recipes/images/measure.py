"""The figures of a trained network: errors, cost, milliseconds an image, and where it looks."""

import csv
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_glimpse
from images import speed
from images.dataset import Images, Task

DETECTIONS = (1, 3, 8)  # Glimpses at which places are measured as detections.


def of_network(model: keras.Model, task: Task) -> dict:
    """Of an alternative."""
    logits = model.predict(task.test.dataset(), verbose=0)
    return {
        "error": _percent(np.mean(logits.argmax(axis=-1) != task.test.labels)),
        "macs": keras_glimpse.count_macs(model),
        "details": {"milliseconds": milliseconds(model, task)},
    }


def of_glimpses(model: keras_glimpse.GlimpseClassifier, task: Task, calibrated: bool = False) -> dict:
    """Of ours: of all glimpses that the model was trained for, and of the cascade at a threshold of the validation set.

    If `calibrated`, its temperatures are of the validation set too.
    """
    logits, locations = looks(model, task.test)
    macs = keras_glimpse.stage_macs(model)
    errors = errors_of(logits, task.test.labels)
    details = {"errors": errors, "stage_macs": macs.tolist()}
    if calibrated:
        temperatures = keras_glimpse.fit_temperatures(model, task.validation.dataset(32))
        details["temperatures"] = [round(each, 3) for each in temperatures]
    details["cascade"] = cascade(model, task)
    if task.test.boxes is not None:
        details |= {"pointing": pointing(locations, task.test), "by chance": by_chance(task.test)}
        if model.num_glimpses >= max(DETECTIONS):
            details["detections"] = detections(model, task.test)
    details["milliseconds"] = milliseconds(model, task, details["cascade"]["threshold"])
    return {"error": errors[-1], "macs": int(macs[-1]), "details": details}


def looks(model, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[n, stages, classes]` and locations `[n, glimpses, 2]`."""
    seen = [model.look(batch) for batch, _ in images.dataset(32)]
    return tuple(np.concatenate([each[name] for each in seen]) for name in ("logits", "locations"))


def errors_of(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """The error after each stage, of logits `[n, stages, classes]`."""
    return [_percent(np.mean(each.argmax(axis=-1) != labels)) for each in np.moveaxis(logits, 1, 0)]


def cascade(model, task: Task) -> dict:
    """Error, mean cost and exits at the cheapest threshold whose error is within 0.1 points on the validation set."""
    threshold = keras_glimpse.cascade_curve(model, task.validation.dataset(32)).cheapest(default=1.0)
    results = [keras_glimpse.cascade_predict(model, images, threshold) for images, _ in task.test.dataset(32)]
    probabilities, stages, macs = (
        np.concatenate([getattr(each, name) for each in results]) for name in ("probabilities", "exit_stage", "macs")
    )
    exits = np.bincount(stages, minlength=model.active_glimpses + 1) / len(stages)
    return {
        "threshold": round(threshold, 4),
        "error": _percent(np.mean(probabilities.argmax(axis=-1) != task.test.labels)),
        "macs": round(float(macs.mean())),
        "exits": [_percent(share) for share in exits],
    }


# ---- Where it looks ----


def pointing(locations: np.ndarray, images: Images) -> list[float]:
    """How often glimpse n lies in a box, in percent of the images that have one; `locations` are those of the first images."""
    points = locations * (np.array(images.shape[:2]) - 1)
    hits = [_inside(points, boxes).any(axis=1) for points, boxes in zip(points, images.boxes) if len(boxes)]
    return [_percent(share) for share in np.mean(hits, axis=0)]


def by_chance(images: Images) -> float:
    """`pointing` of a place drawn from the whole image: the mean share of the image that is in boxes."""
    shares = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum() for boxes in images.boxes if len(boxes)]
    return _percent(np.mean(shares) / np.prod(images.shape[:2]))


def detections(model, images: Images) -> dict:
    """Precision and recall of the first n places as detections of boxes, in images that have some: a box counts once."""
    before, model.active_glimpses = model.active_glimpses, max(DETECTIONS)
    _, locations = looks(model, images)
    model.active_glimpses = before
    points, found = locations * (np.array(images.shape[:2]) - 1), {}
    for count in DETECTIONS:
        hit = [_inside(points[n, :count], boxes).any(axis=0).sum() for n, boxes in enumerate(images.boxes) if len(boxes)]
        boxes = sum(map(len, images.boxes))
        found[str(count)] = {"precision": _percent(sum(hit) / (count * len(hit))), "recall": _percent(sum(hit) / boxes)}
    return found


def _inside(points, boxes):
    """Which of the points `[glimpses, 2]` lie in which of the boxes `[objects, 4]`: `[glimpses, objects]`."""
    return ((points[:, None] >= boxes[None, :, :2]) & (points[:, None] <= boxes[None, :, 2:] - 1)).all(axis=-1)


class Pointing(keras.callbacks.Callback):
    """Writes after each epoch how often the predicted place, and the one that the search chooses, lies in a box."""

    def __init__(self, images: Images, path: Path, count: int = 200):
        super().__init__()
        self._images, self._path, self._count = images, path, count

    def on_epoch_end(self, epoch, logs=None):
        glimpse, places = self.model.stage.glimpse, {"predicted": [], "chosen": []}
        for images, labels in self._images.dataset(20).take(self._count // 20):
            places["predicted"].append(self.model.look(images)["locations"][:, glimpse])
            if self.model.stage.searches:
                places["chosen"].append(self.model.best_places(images, labels))
        shares = {name: pointing(np.concatenate(found)[:, None], self._images)[0] for name, found in places.items() if found}
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerow([epoch, *(f"{name} {share}" for name, share in shares.items())])


# ---- Milliseconds ----


def milliseconds(model: keras.Model, task: Task, threshold: float | None = None) -> dict:
    """Of an image on one core, measured in a process of its own: see `images/speed.py`."""
    images = np.stack([task.test[n] for n in range(min(32, len(task.test)))])
    with tempfile.TemporaryDirectory() as folder:
        model.save(path := Path(folder) / "model.keras")
        return speed.milliseconds(path, images, threshold)


def _percent(share):
    return round(100 * float(share), 2)
