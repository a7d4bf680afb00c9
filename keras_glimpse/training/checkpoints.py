"""Checkpoints after every epoch, from which an interrupted training resumes bit-identically."""

import hashlib
import io
import json
import os
import random
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._compat import keras_random_state
from keras_glimpse.training.replicas import scope_of

INFINITE = tf.data.INFINITE_CARDINALITY
KEPT = 2  # The last one, and the one before it in case that the last is corrupt.


class Checkpoints(keras.callbacks.Callback):
    """Callback that saves the state of training after every epoch: weights, optimizer, random generators, history.

    `GlimpseClassifier.fit` and `fit_greedy` use it if `checkpoint` is given; for other Keras models, pass it as a callback.
    After SIGKILL or a crash of the machine, running the same program again resumes after the last finished epoch. In contrast
    to `keras.callbacks.BackupAndRestore`, weights and epoch are written in one atomic write, the states of random generators
    are saved too, and finished training is recorded as finished.

    Saved are the random generators of the model's layers (dropout, augmentation in `preprocess`), `keras.random`,
    `tf.random.get_global_generator()`, NumPy (`np.random`) and Python (`random`). Not saved are your own generators
    (`np.random.default_rng()`, `tf.random.Generator`), those of layers used only in a dataset (pass such layers as `preprocess`
    instead), and those of stateful operations in a dataset (use stateless ones with a seed that depends on the epoch, see
    `keras_glimpse.data.Epoch`). The states of other callbacks are not saved either.

    The last two checkpoints are kept. The file name contains part of the SHA-256 of the content; a corrupt file is skipped.
    With several workers only the chief writes, and all must be able to read the folder.

    Args:
        folder: String or path of the folder for one training run, or one stage; created if missing.

    Example:
    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> saved = Checkpoints(tempfile.mkdtemp())
    >>> start = saved.restore(model)
    >>> history = model.fit(np.ones((8, 2)), np.ones(8), epochs=2, initial_epoch=start, callbacks=[saved], verbose=0)
    >>> saved.restore(model)
    2
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__()
        self.folder = Path(folder)
        self.history = {}
        self.epochs = 0

    def restore(self, model: keras.Model) -> int:
        """Restores the last intact checkpoint, if there is one.

        Args:
            model: A built and compiled `keras.Model`.

        Returns:
            Integer, the `initial_epoch` for `fit`: 0 without a checkpoint, `sys.maxsize` if a callback had stopped the
            training.

        Raises:
            ValueError: If all checkpoints are corrupt, or the last intact one is of another model or optimizer.

        Warns:
            UserWarning: If a checkpoint is corrupt, and the one before it is used.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        keras_random_state()  # It is made when it is first used, from Python's generator: here, whether or not a file follows.
        with scope_of(model):
            model.optimizer.build(model.trainable_variables)
        return self._take(model, *self._last_intact()) if self._paths() else 0

    def _paths(self):
        return sorted(self.folder.glob("checkpoint-*.npz"))

    def _last_intact(self):
        for path in reversed(self._paths()):
            content = path.read_bytes()
            if _digest(content) == path.stem.split("-")[-1]:
                return path, content
            warnings.warn(f"Corrupt checkpoint, passed over: {path}", stacklevel=3)
        raise ValueError(f"All checkpoints in {self.folder} are corrupt. Move them away to train from the start.")

    def _take(self, model, path, content):
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            about = json.loads(str(found["about"]))
            variables = _variables(model)
            values = [found[f"{n}"] for n in range(len(found.files) - 1)]
        expected = [tuple(variable.shape) for variable in variables]
        if [value.shape for value in values] != expected:
            raise ValueError(f"{path} is of another model, or has another optimizer: expected variables of shapes {expected}.")
        for variable, value in zip(variables, values):
            variable.assign(value.view(variable.dtype) if value.dtype.kind == "V" else value)  # NumPy has no bfloat16.
        version, state, gauss = about["python"]
        random.setstate((version, tuple(state), gauss))
        np.random.set_state(about["numpy"])
        for name, variable in _generators().items():
            now = keras.ops.convert_to_numpy(variable)
            variable.assign(np.asarray(about.get(name, now), now.dtype))
        self.history, self.epochs = about["history"], about["epochs"]
        return sys.maxsize if about["stopped"] else self.epochs

    def on_epoch_end(self, epoch, logs=None):
        self.epochs = epoch + 1
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(np.asarray(value).tolist())
        self._save()

    def on_train_end(self, logs=None):
        if self.model.stop_training:
            self._save()  # By now, callbacks before this one may have put back the best weights.

    def _save(self):
        if not self.model.distribute_strategy.extended.should_checkpoint:
            return
        about = {"epochs": self.epochs, "stopped": self.model.stop_training, "history": self.history}
        about |= {"python": random.getstate(), "numpy": np.random.get_state()}
        about |= {name: keras.ops.convert_to_numpy(variable) for name, variable in _generators().items()}
        values = {f"{n}": keras.ops.convert_to_numpy(variable) for n, variable in enumerate(_variables(self.model))}
        buffer = io.BytesIO()
        np.savez(buffer, about=json.dumps(about, default=np.ndarray.tolist), **values)
        paths = self._paths()
        number = int(paths[-1].stem.split("-")[1]) + 1 if paths else 1
        content = buffer.getvalue()
        self._write(self.folder / f"checkpoint-{number:06}-{_digest(content)}.npz", content)
        for path in paths[: 1 - KEPT]:
            path.unlink()

    def _write(self, path, content):
        """An atomic write: if the process is killed, the file is complete or absent."""
        scratch = self.folder / "unfinished"
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            scratch.unlink(missing_ok=True)
            why = f"{error.strerror}. The checkpoint after epoch {self.epochs} was not written; those before it are intact"
            raise OSError(error.errno, why, str(path)) from error
        os.replace(scratch, path)


def after_epochs(x, epochs: int, steps: int | None, is_finished: bool):
    """Returns `x` positioned after `epochs` epochs of `steps` batches.

    Datasets that reshuffle at each iteration draw a seed whenever an iterator is created, and Keras creates more iterators than
    it reads. The iterator of the result is created when its first batch is read; those of past epochs are created here.
    """
    if not isinstance(x, tf.data.Dataset):
        if hasattr(x, "__next__"):
            for _ in zip(range(epochs * (steps or 0)), x):
                pass
        return x
    length = int(x.cardinality())
    in_parts = steps is not None and not 0 <= length <= steps  # Else every epoch reads them all.
    begun, read = (epochs, 0) if not in_parts else divmod(epochs * steps, length) if length > 0 else (0, epochs * steps)
    for _ in range(begun + (is_finished and in_parts and read > 0)):  # The last of these was not read to its end.
        iter(x)
    if is_finished or not in_parts:
        later = tf.data.Dataset.range(1).flat_map(lambda _: x)
    else:  # One epoch goes on where the last has ended; at the end of the data, Keras begins them again.
        rest = (lambda: x.skip(read).concatenate(x.repeat())) if length >= 0 else (lambda: x.repeat().skip(read))
        later, length = tf.data.Dataset.range(1).flat_map(lambda _: rest()), INFINITE
    return later.apply(tf.data.experimental.assert_cardinality(length)) if length >= 0 or length == INFINITE else later


def check_resumable(x, y, batch_size: int | None, steps: int | None) -> None:
    """Raises if, with `steps` per epoch, the position in the data at the start of an epoch cannot be reconstructed."""
    if steps is None or hasattr(x, "__next__"):
        return
    if isinstance(x, tf.data.Dataset):
        length = int(x.cardinality())
        if length > steps and length % steps:
            raise ValueError(
                f"With a checkpoint, steps_per_epoch must divide the {length} batches of a dataset; got {steps}. Or repeat it."
            )
        return
    length = len(x) if y is None else -(-len(x) // (batch_size or 32))
    if steps != length:
        raise ValueError(
            f"With a checkpoint, epochs of arrays and of a PyDataset must be all of their {length} batches; got "
            f"steps_per_epoch={steps}. Pass a tf.data.Dataset."
        )


def _generators():
    return {"keras.random": keras_random_state(), "tf.random": tf.random.get_global_generator().state}


def _variables(model):
    return [*model.variables, *model.optimizer.variables]


def _digest(content):
    return hashlib.sha256(content).hexdigest()[:16]
