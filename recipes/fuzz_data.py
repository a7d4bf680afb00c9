"""Broken images, labels and arguments for everything that takes them: cases of fuzz.py."""

from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from fuzz_spoil import ODD, Case, Insane

import keras_glimpse
from keras_glimpse import data

SHAPE = (20, 24, 1)
HUGE = 1e30  # Sums of such pixels need not be finite.


def model(**arguments) -> keras_glimpse.GlimpseClassifier:
    """A small one for images of 20x24."""
    made = keras_glimpse.GlimpseClassifier(
        **{"num_classes": 3, "low_res_size": 5, "patch_size": 6, "hidden_units": 8} | arguments
    )
    made.build((None, *SHAPE))
    return made


def conv_net() -> keras.Model:
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential(layers)


def spoiled_data(rng, base, folder, checked) -> Case:
    images, about_images = spoil_images(rng)
    labels, about_labels = spoil_labels(rng, np.shape(images)[0] if np.ndim(images) else 4)
    name, value = rng.choice(ARGUMENTS)
    do = rng.choice(sorted(DOINGS))
    given = {"images": images, "labels": labels, "rng": rng, "folder": folder}
    if rng.random() < 0.5:
        given[name] = value
    return Case(f"{do}: {about_images}, {about_labels}; {name}={str(value)[:40]}", partial(DOINGS[do], **given))


# ---- What is spoiled ----


def spoil_images(rng):
    count = rng.choice([0, 1, 4, 4, 7])
    images = np.random.default_rng(rng.randrange(2**32)).random((count, *SHAPE), dtype=np.float32)
    poison = rng.choice([np.nan, np.inf, -np.inf, 1e38, -1e38])
    where = rng.choice([(0, 3, 4), (0,), ()])
    if rng.random() < 0.3 and count:
        images[where] = poison
        return images, f"{count} images, {poison} at {where}"
    dtypes = ["float16", "float64", "uint8", "uint16", "int8", "int64", "bool", "complex64", "object", "U3"]
    changed = {
        "as they are": lambda: images,
        "rank 3": lambda: images[..., 0],
        "rank 5": lambda: images[..., None],
        "size": lambda: images[:, :-1],
        "channels": lambda: np.repeat(images, rng.choice([0, 2, 3]), axis=-1),
        "dtype": lambda: images.astype(rng.choice(dtypes)),
        "list": lambda: list(images),
        "none": lambda: None,
        "number": lambda: 1.0,
        "tensor": lambda: tf.constant(images),
        "fortran": lambda: np.asfortranarray(images),
        "strided": lambda: images[::-1, :, ::-1],
    }
    how = rng.choice(sorted(changed))
    return changed[how](), f"{count} images, {how}"


def spoil_labels(rng, count):
    labels = np.arange(count) % 3
    changed = {
        "as they are": lambda: labels,
        "bytes": lambda: labels.astype(np.uint8),
        "column": lambda: labels[:, None],
        "one more": lambda: np.append(labels, 0),
        "large": lambda: labels + 2,
        "negative": lambda: labels - 1,
        "huge": lambda: labels + 2**40,
        "floats": lambda: labels.astype(float),
        "nan": lambda: np.full(count, np.nan),
        "one-hot": lambda: np.eye(3)[labels],
        "words": lambda: labels.astype(str),
        "objects": lambda: labels.astype(object),
        "none": lambda: None,
        "number": lambda: 1,
        "list": lambda: labels.tolist(),
    }
    how = rng.choice([*sorted(changed), *["as they are"] * 10])
    return changed[how](), f"labels {how}"


ARGUMENTS = [(name, value) for name in ("threshold", "batch_size", "quantize") for value in (*ODD, 0.5, 2, 10**4, "int8")]
MODEL_ARGUMENTS = ["num_classes", "num_glimpses", "low_res_size", "patch_size", "scales", "hidden_units", "search_size"]
MODEL_ARGUMENTS += ["search_stride", "location_weight", "diversity_weight", "diversity_variance", "contrastive", "parallel"]
MODEL_ARGUMENTS += ["share_weights", "averaging", "location_input", "gated_location", "gated_glimpse", "downsample"]
MODEL_ARGUMENTS += ["low_res_net", "glimpse_net", "name", "dtype"]


# ---- What is done, and what must come of it ----


def predict(images, **_):
    classifier = model()
    return sane(images, classifier.predict(images, batch_size=4, verbose=0), (3,))


def look(images, **_):
    seen = {name: values.numpy() for name, values in model().look(images).items()}
    sane(images, seen["locations"], (2, 2))
    sane(images, seen["patches"], (2, 6, 6, 2))
    return sane(images, seen["logits"], (3, 3))


def cascade(images, threshold=0.5, batch_size=4, **_):
    probabilities, stages, macs = keras_glimpse.cascade_predict(model(), images, threshold, batch_size)
    if not ((stages >= 0) & (stages <= 2) & (macs > 0)).all():
        raise Insane(f"stages {stages}, macs {macs}")
    return sane(images, probabilities, (3,))


def curve(images, labels, **_):
    found = keras_glimpse.cascade_curve(model(), images, labels, thresholds=[0.4, 0.9])
    return sane(images, found.errors[None], (2,), count=1)


def fit(images, labels, rng, **_):
    """By arrays or by a dataset, all of one stage or of all; or evaluating only."""
    classifier = model()
    classifier.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    before = flat(classifier.get_weights())
    dataset, how = rng.random() < 0.5, rng.choice(["fit", "fit", "evaluate", "greedy", "validation"])
    given = (as_dataset(images, labels),) if dataset else (images, labels)
    good = np.zeros((4, *SHAPE), np.float32), np.arange(4) % 3
    try:
        if how == "fit":
            losses = classifier.fit(*given, batch_size=None if dataset else 4, verbose=0).history["loss"]
        elif how == "validation":
            held_out = given[0] if dataset else given
            losses = classifier.fit(*good, validation_data=held_out, verbose=0).history["val_loss"]
        elif how == "evaluate":
            losses = [classifier.evaluate(*given, verbose=0, return_dict=True)["loss"]]
        else:
            keras_glimpse.fit_greedy(classifier, *given, batch_size=4, compile_args={"jit_compile": False}, verbose=0)
            losses = [0.0]
    except Exception:
        if not np.isfinite(flat(classifier.get_weights())).all() or (how == "evaluate" and not same(classifier, before)):
            raise Insane(f"an error after the weights were spoiled, by {how}") from None
        raise
    answer = np.append(flat(classifier.get_weights()), losses)
    if not np.isfinite(np.asarray(images, float)).all():
        raise Insane(f"{how} takes pixels that are not finite")
    return sane(images, answer[None], answer.shape, count=1)


def as_dataset(images, labels):
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)


def fail(error):
    raise error


def flat(weights):
    return np.concatenate([each.ravel() for each in weights])


def same(classifier, before):
    return np.array_equal(flat(classifier.get_weights()), before)


def export(images, folder, rng, threshold=None, batch_size=1, quantize=None, **_):
    """With these images to calibrate by, where 8 bits are asked for; nothing half written may stay."""
    classifier, path = model(num_glimpses=1), folder / rng.choice(["model.tflite", "1", "missing/model.tflite"])
    calibration = images if rng.random() < 0.5 else None
    try:
        if path.name == "1":
            keras_glimpse.export_saved_model(classifier, path, threshold)
        else:
            quantize = "int8" if calibration is not None else quantize
            options = {"calibration": calibration, "batch_size": batch_size}
            keras_glimpse.export_litert(classifier, path, threshold, quantize, **options)
    except Exception:
        if list(Path(folder).iterdir()):
            raise Insane(f"an error that leaves {list(folder.iterdir())}") from None
        raise
    keras_glimpse.check_file(path)
    return np.zeros(1)


def draw(images, labels, folder, **_):
    keras_glimpse.draw_glimpses(model(), images, labels, folder / "glimpses.png")
    return np.zeros(1)


def digits(images, labels, rng, batch_size=4, **_):
    """As a data set of ours; half of them for training."""
    made = data.Digits(images, labels, images, labels)
    name, value = rng.choice(["canvas", "copies", "validation_split", "seed"]), rng.choice(ODD)
    train = data.jittered(made, batch_size, **{"canvas": 48, name: value}).train
    batch, its_labels = next(train.as_numpy_iterator())
    if batch.ndim != 4 or len(batch) != len(its_labels):
        raise Insane(f"batches of {batch.shape}")
    return np.zeros(1)


def argument(rng, **_):
    name, value = rng.choice(MODEL_ARGUMENTS), rng.choice(ODD)
    if (name, value) in (("num_glimpses", 10**9), ("num_glimpses", 10**30)):
        value = 1  # So many networks would be made, one after another, until the memory is full.
    made = model(**{name: value})
    shape = (made.num_glimpses + 1, made.num_classes)
    images = np.full((2, *SHAPE), 0.5, np.float32)
    return sane(images, made.look(images)["logits"].numpy(), shape)


def sane(images, answer, shape, count=None):
    """The answer, if it is of the right shape and where the images are finite."""
    count = len(images) if count is None else count
    if answer.shape != (count, *shape):
        raise Insane(f"an answer of shape {answer.shape}, not {(count, *shape)}")
    good = (np.abs(np.asarray(images, np.float64)) < HUGE).all(axis=(1, 2, 3))  # What is not a number is not.
    good = good if len(good) == count else np.repeat(good.all(), count)
    if not np.isfinite(answer[good]).all():
        raise Insane("an answer that is not finite, for images that are")
    return answer


DOINGS = {
    "predict": predict,
    "look": look,
    "cascade": cascade,
    "curve": curve,
    "fit": fit,
    "export": export,
    "draw": draw,
    "digits": digits,
    "argument": argument,
}
