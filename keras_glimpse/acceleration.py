"""What differs between CPU, GPU and distribution strategies is decided here, and only here."""

import contextlib
import warnings
from math import prod

import tensorflow as tf

STEPS_PER_EXECUTION = 32
LARGE_IMAGE_BYTES = 2**18  # An image of more bytes is not copied to save a launch,
STACK_BYTES = 2**26  # and no more than this is copied for one launch.


def scope_of(model):
    """The scope of the strategy that the model was built under, wherever we are now."""
    strategy = model.distribute_strategy
    return contextlib.nullcontext() if strategy is tf.distribute.get_strategy() else strategy.scope()


def compile_fast(compile_, optimizer, jit_compile: bool | str, steps_per_execution: int | str, **kwargs) -> None:
    """Calls Keras's `compile` with every "auto" replaced by what is fastest and works.

    32 steps run for each call from Python. On one device the step is compiled by XLA, on a CPU too (Keras's own "auto" does
    so on a GPU only). With several replicas it is not: a step that sums over replicas cannot be one XLA program.

    Raises:
        ValueError: `jit_compile=True` with several replicas.
    """
    single = tf.distribute.get_strategy().num_replicas_in_sync == 1
    automatic = jit_compile == "auto"
    if automatic:
        jit_compile = single and not kwargs.get("run_eagerly")
    if jit_compile and not single:
        raise ValueError("jit_compile=True needs a single replica: XLA cannot compile a step that sums over several.")
    if steps_per_execution == "auto":
        steps_per_execution = STEPS_PER_EXECUTION
    with warnings.catch_warnings():
        if automatic:  # Keras turns XLA off where a layer or deterministic ops rule it out. Nobody asked for it: no warning.
            warnings.filterwarnings("ignore", message="Model doesn't support `jit_compile=True`")
        compile_(optimizer, jit_compile=jit_compile, steps_per_execution=steps_per_execution, **kwargs)


def compiles_inference(model) -> bool:
    """Whether inference goes through XLA: as the model was compiled, or if it was not, where all of its layers can."""
    if model.compiled:
        return bool(model.jit_compile)
    return all(layer.supports_jit for layer in model._flatten_layers())


def many_steps(model, otherwise):
    """A train function, as Keras's `fit` calls it, whose steps are one loop inside one XLA program.

    Keras's own loop launches the compiled step anew for every batch. With networks as small as ours that costs a third of
    the step: every launch takes all variables in and gives them back. Here a launch is given many batches at once. They
    are copied for it, so images that are large, and need no such help, are left to `otherwise`, Keras's own.
    """

    @tf.function(jit_compile=True, reduce_retracing=True)
    def train(batches, count):
        def step(i):
            model.train_on(tf.nest.map_structure(lambda values: tf.gather(values, i), batches))
            return [i + 1]

        tf.while_loop(lambda i: i < count, step, [0])
        return model.train_results()

    @tf.function(reduce_retracing=True)
    def execute(iterator, limit):
        batches, count, rest = _collect(iterator, model.steps_per_execution, limit)
        logs = train(batches, count)

        def train_rest():  # The last batch of an epoch may be smaller than the others, and cannot be stacked with them.
            return train(tf.nest.map_structure(lambda values: values[None], rest.get_value()), 1), count + 1

        return tf.cond(rest.has_value(), train_rest, lambda: (logs, count))

    def function(iterator):
        if not isinstance(iterator, tf.data.Iterator) or not _is_small(iterator.element_spec):
            return otherwise(iterator)
        logs, done = None, 0
        while done < model.steps_per_execution:  # As many as Keras counts on, if one stack does not hold them.
            try:
                logs, count = execute(iterator, tf.constant(model.steps_per_execution - done))
            except tf.errors.OutOfRangeError as error:
                if logs is None:
                    raise StopIteration from error
                break
            done += int(count)
        return logs

    return function


def _is_small(spec):
    parts = tf.nest.flatten(spec)
    if not all(isinstance(part, tf.TensorSpec) and part.shape.rank and None not in part.shape[1:] for part in parts):
        return False
    return prod(parts[0].shape[1:]) * parts[0].dtype.size <= LARGE_IMAGE_BYTES


def _collect(iterator, most, limit):
    """At the most `limit` next batches of one size, stacked; their number; and the one after them, if it is of another.

    The stack has room for `most` of them, if that is not too large, however few come: XLA compiles one program for each
    size of batch.
    """
    first = iterator.get_next()
    parts = tf.nest.flatten(first)
    size = tf.shape(parts[0], tf.int64)[0]
    image_bytes = prod(parts[0].shape[1:]) * parts[0].dtype.size
    room = tf.cast(tf.clip_by_value(STACK_BYTES // (image_bytes * tf.maximum(size, 1)), 1, most), tf.int32)
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
