"""Many training or test steps in one call from Python, while Keras counts every one of them.

Keras's loops call a train function once a step. With networks as small as ours such a call costs a third of the step. So
a call runs as many steps as it may, and the calls after it return at once until Keras has counted those too. All counts
are exact (`steps_per_epoch=10` is ten steps), and nothing can tell the difference but a callback that looks at the model
between two steps. Where there is one, a call runs one step.
"""

from collections.abc import Callable
from math import ceil, prod

import keras
import tensorflow as tf

from keras_glimpse._compat import profiles_steps

STEPS_PER_CALL = 32
LARGE_IMAGE_BYTES = 2**18  # Images above this size are not stacked.
STACK_BYTES = 2**26  # Upper bound of a stack of batches.
HELD_BYTES = 2**28  # Upper bound of the batches that a call of `predict` holds.
LIKELY_BATCH = 512  # Images of a batch, where that is not known: more are rare.

HOOKS = {
    "train": ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
    "predict": ("on_predict_batch_begin", "on_predict_batch_end"),
}
FREQUENCY = {  # Callbacks of Keras that do nothing between two steps if this attribute is "epoch".
    keras.callbacks.ModelCheckpoint: "save_freq",
    keras.callbacks.BackupAndRestore: "save_freq",
    keras.callbacks.TensorBoard: "update_freq",
}


def watches_steps(callbacks, phase: str) -> bool:
    """Whether one of the callbacks of `fit`, `evaluate` or `predict` acts between two steps.

    Args:
        callbacks: None, a callback, a list of them or a `keras.callbacks.CallbackList`.
        phase: "train", "test" or "predict".
    """
    callbacks = getattr(callbacks, "callbacks", None) or keras.tree.flatten(callbacks or [])
    return any(_watches(callback, HOOKS[phase]) for callback in callbacks)


def plan(phase: str, callbacks, steps: int | None, steps_per_execution: int | str) -> dict:
    """How the steps of a phase are to be called: arguments of `StepFunction.begin`.

    Args:
        phase: "train" or "test".
        callbacks: as in `watches_steps`.
        steps: of an epoch; None if it has all that there are.
        steps_per_execution: of `compile`.
    """
    if steps_per_execution != "auto":
        return {"per_call": steps_per_execution, "counted": steps_per_execution}
    most = keras.config.max_steps_per_epoch()
    steps = min(steps, most) if steps and most else steps or most or None
    return {"steps": steps, "per_call": 1 if watches_steps(callbacks, phase) else STEPS_PER_CALL}


def _watches(callback, hooks):
    if type(callback) in FREQUENCY:
        return profiles_steps(callback) or getattr(callback, FREQUENCY[type(callback)]) != "epoch"
    if type(callback) is keras.callbacks.ProgbarLogger:
        return False
    base = keras.callbacks.Callback
    return any(getattr(getattr(callback, hook), "__func__", None) is not getattr(base, hook) for hook in hooks)


class StepFunction:
    """A train or test function, as Keras calls it for every step.

    Args:
        run: `run(iterator, limit, room)` runs steps on the next batches: `limit` of them, or as many as there are. It
            returns their number and the measures so far. `room` is the capacity of a stack, at
            least `limit`, and constant over an epoch, so that XLA compiles once.
        run_one: the same for a single batch, in a tuple; returns the measures only.
    """

    def __init__(self, run: Callable, run_one: Callable):
        self._run, self._run_one = run, run_one
        self.begin()

    def begin(self, steps: int | None = None, per_call: int = STEPS_PER_CALL, counted: int = 1) -> None:
        """Resets the counters before an epoch.

        Args:
            steps: of an epoch; None if it lasts as long as there are data.
            per_call: the most steps that a call may run.
            counted: number of steps that Keras counts for each call.
        """
        self._steps, self._counted = steps, counted
        self._room = per_call if steps is None else ceil(steps / ceil(steps / per_call))  # No call with a few steps only.
        self._left, self._ahead, self._logs = steps, 0, None

    def __call__(self, iterator):
        if not isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            return self._run_one(keras.utils.pack_x_y_sample_weight(*next(iterator)))  # Without parts that are None.
        if self._ahead <= 0:
            limit = min(self._room, self._left or self._room)
            self._ahead, self._logs = self._run(iterator, limit, self._room)
            is_end = self._ahead < limit or self._left == limit  # of the data, or of the epoch
            self._left = self._steps if is_end or self._steps is None else self._left - limit
            if not self._ahead:
                raise StopIteration
        self._ahead -= self._counted
        return self._logs


def step_function(strategy, step: Callable, results: Callable, *, jit_compile: bool, eager: bool) -> StepFunction:
    """A `StepFunction` that runs `step` on every batch.

    Args:
        strategy: the `tf.distribute.Strategy` of the model.
        step: what a replica does with its share of a batch.
        results: gives the measures so far; called where all replicas can be summed over.
        jit_compile: whether XLA compiles the step. Small images then share a launch.
        eager: run everything eagerly, for debugging.
    """
    jit_compile = jit_compile and not eager
    loop, run_one = _one_by_one(strategy, step, results, jit_compile, eager)
    if not jit_compile:
        return StepFunction(loop, run_one)
    stacked, run_one = _stacked(step, results)

    def run(iterator, limit, room):
        return (stacked if _can_be_stacked(iterator.element_spec) else loop)(iterator, limit, room)

    return StepFunction(run, run_one)


def predict_function(step: Callable, jit_compile: bool) -> Callable:
    """A predict function, as Keras calls it: `step` on each batch in a list, and the results in one."""
    one = tf.function(step, jit_compile=jit_compile, reduce_retracing=True, autograph=False)
    each = one if jit_compile else step  # In one graph, TensorFlow runs parts of several batches at a time.
    many = tf.function(lambda batches: _in_one([each(batch) for batch in batches]), autograph=False)

    def function(batches):
        if len(batches) < STEPS_PER_CALL or len({batch[0].shape[0] for batch in batches}) > 1:
            return _in_one([one(batch) for batch in batches])  # Nothing is traced for a remainder.
        return many(batches)

    return function


def _in_one(outputs):
    return keras.tree.map_structure(lambda *parts: tf.concat(parts, axis=0), *outputs)


class PredictProgress(keras.callbacks.ProgbarLogger):
    """The progress bar of `predict`, which ends where the data end: Keras counts the last call for as many steps as others."""

    def on_predict_batch_end(self, batch, logs=None):
        super().on_predict_batch_end(batch if self.target is None else min(batch, self.target - 1), logs)


def _one_by_one(strategy, step, results, jit_compile, eager):
    """Batches stay where they are: on several replicas, of large images, without XLA.

    Keras's own loop averages every measure over the replicas after every step. Across hosts it cannot (keras#20585), and
    with more than one step a call it raises (keras#19246). Here what the replicas have counted is summed once a call: the
    measures are those of all images, and alike on all hosts, so that callbacks decide alike.
    """
    in_graph = (lambda function: function) if eager else tf.function(reduce_retracing=True, autograph=False)
    if jit_compile:
        step = tf.function(step, jit_compile=True, reduce_retracing=True, autograph=False)

    @in_graph
    def loop(iterator, limit):
        def has_more(done, batch):
            return (done < limit) & batch.has_value()

        def run(done, batch):
            strategy.run(step, args=(batch.get_value(),))
            return done + 1, tf.cond(done + 1 < limit, iterator.get_next_as_optional, nothing)

        def nothing():
            return tf.experimental.Optional.empty(iterator.element_spec)

        done, _ = tf.while_loop(has_more, run, [0, iterator.get_next_as_optional()])
        return done, results()

    @in_graph
    def on_one(batch):
        strategy.run(step, args=(batch,))
        return results()

    def run(iterator, limit, room):
        done, logs = loop(iterator, tf.constant(limit))
        return int(done), logs

    def run_one(batch):
        if strategy.num_replicas_in_sync == 1:
            return on_one(batch)
        shares = tf.data.Dataset.from_tensors(batch).unbatch().batch(len(batch[0]))  # Which can be split over replicas.
        return run(iter(strategy.experimental_distribute_dataset(shares)), 1, 1)[1]

    return run, run_one


def _stacked(step, results):
    """A loop over stacked batches inside one XLA program, for small images on one device.

    To launch a compiled step for every batch costs networks as small as ours a third of the step: every launch takes all
    variables in and gives them back. Here a launch is given many batches at once, copied for it.
    """

    @tf.function(jit_compile=True, reduce_retracing=True, autograph=False)
    def on_all(batches, count):
        def body(i):
            step(tf.nest.map_structure(lambda values: tf.gather(values, i), batches))
            return [i + 1]

        tf.while_loop(lambda i: i < count, body, [0])
        return results()

    def on_one(batch):
        return on_all(tf.nest.map_structure(lambda values: tf.convert_to_tensor(values)[None], batch), tf.constant(1))

    @tf.function(reduce_retracing=True, autograph=False)
    def execute(iterator, limit, room):
        batches, count, rest = _collect(iterator, limit, room)
        logs = on_all(batches, count)
        # The last batch of an epoch may be smaller than the others, and cannot be stacked with them.
        return tf.cond(rest.has_value(), lambda: (on_one(rest.get_value()), count + 1), lambda: (logs, count))

    def run(iterator, limit, room):
        logs, done = None, 0
        while done < limit:  # A stack may hold fewer.
            try:
                logs, count = execute(iterator, tf.constant(limit - done), room)
            except tf.errors.OutOfRangeError:
                break
            done += int(count)
        return done, logs

    return run, on_one


def is_small(image_shape, bytes_a_number: int = 4) -> bool:
    """Whether several batches of such images may be held for one call; False if a side is not known, or nothing."""
    return None not in (image_shape or (None,)) and prod(image_shape) * bytes_a_number <= LARGE_IMAGE_BYTES


def holds_several(image_shape, images, batch_size: int | None) -> bool:
    """Whether `predict` may hold `STEPS_PER_CALL` batches at a time.

    Args:
        image_shape: of an image, or None.
        images: an array, or something that yields batches.
        batch_size: of an array; None for 32.
    """
    if isinstance(images, tf.data.Dataset):
        size = tf.nest.flatten(images.element_spec)[0].shape[:1].num_elements() or LIKELY_BATCH
    else:
        size = (batch_size or 32) if hasattr(images, "shape") else LIKELY_BATCH
    return is_small(image_shape) and 4 * prod(image_shape) * size * STEPS_PER_CALL <= HELD_BYTES


def _can_be_stacked(spec):
    parts = tf.nest.flatten(spec)
    if not all(isinstance(part, tf.TensorSpec) and part.shape.rank and None not in part.shape[1:] for part in parts):
        return False
    return is_small(parts[0].shape[1:], parts[0].dtype.size)


def _collect(iterator, limit, room):
    """At the most `limit` next batches of one size, stacked; their number; and the one after them, if it is of another.

    The stack has `room` for more of them, if it is not too large, however few come: XLA compiles one program for each
    size of batch.
    """
    first = iterator.get_next()
    parts = tf.nest.flatten(first)
    size = tf.shape(parts[0], tf.int64)[0]
    image_bytes = prod(parts[0].shape[1:]) * parts[0].dtype.size
    room = tf.cast(tf.clip_by_value(STACK_BYTES // (image_bytes * tf.maximum(size, 1)), 1, room), tf.int32)
    stacks = [tf.TensorArray(part.dtype, room, element_shape=part.shape).write(0, part) for part in parts]

    def following(count):
        empty = tf.experimental.Optional.empty(iterator.element_spec)
        return tf.cond(count < tf.minimum(room, limit), iterator.get_next_as_optional, lambda: empty)

    def same_size(count, stacks, optional):
        found = lambda: tf.equal(tf.shape(tf.nest.flatten(optional.get_value())[0], tf.int64)[0], size)  # noqa: E731
        return tf.cond(optional.has_value(), found, lambda: False)

    def add(count, stacks, optional):
        parts = tf.nest.flatten(optional.get_value())
        return count + 1, [stack.write(count, part) for stack, part in zip(stacks, parts)], following(count + 1)

    count, stacks, rest = tf.while_loop(same_size, add, [1, stacks, following(1)])
    return tf.nest.pack_sequence_as(first, [stack.stack() for stack in stacks]), count, rest
