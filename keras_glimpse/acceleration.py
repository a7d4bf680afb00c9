"""What differs between CPU, GPU and distribution strategies is decided here, and only here."""

import contextlib
import warnings

import tensorflow as tf

STEPS_PER_EXECUTION = 32


def scope_of(model):
    """The scope of the strategy that the model was built under, wherever we are now."""
    strategy = model.distribute_strategy
    return contextlib.nullcontext() if strategy is tf.distribute.get_strategy() else strategy.scope()


def compile_fast(compile_, optimizer, jit_compile: bool | str, steps_per_execution: int | str, **kwargs) -> None:
    """Calls Keras's `compile` with every "auto" replaced by what is fastest and works.

    On one device the step is compiled by XLA, on a CPU too (Keras's own "auto" does so on a GPU only), and 32 steps run for
    each call from Python. With several replicas neither is possible: Keras raises for more than one step an execution
    (keras#19246), and a step that sums over replicas cannot be one XLA program.
    """
    single = tf.distribute.get_strategy().num_replicas_in_sync == 1
    automatic = jit_compile == "auto"
    if automatic:
        jit_compile = single and not kwargs.get("run_eagerly")
    if steps_per_execution == "auto":
        steps_per_execution = STEPS_PER_EXECUTION if single else 1
    with warnings.catch_warnings():
        if automatic:  # Keras turns XLA off where a layer or deterministic ops rule it out. Nobody asked for it: no warning.
            warnings.filterwarnings("ignore", message="Model doesn't support `jit_compile=True`")
        compile_(optimizer, jit_compile=jit_compile, steps_per_execution=steps_per_execution, **kwargs)
