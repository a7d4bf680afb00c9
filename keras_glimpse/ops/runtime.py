"""What will run the operations, which decides their form.

A graph that somebody traces may go anywhere: to LiteRT, to ONNX, into a SavedModel that is converted some day. So the default
is operations that all of those have. TensorFlow's own, which are faster there, are for eager calls and for graphs that no
other runtime will see: those of `fit`, `evaluate`, `predict`, `look`, the cascade and a SavedModel's serving signatures.
"""

from inspect import signature

import tensorflow as tf

from keras_glimpse._compat import is_compiled_by_xla

ANY = "any"
TENSORFLOW = "tensorflow"
LITERT_INT8 = "litert_int8"  # Its converter turns every matrix product and convolution into 8 bits.


def is_portable(runtime: str) -> bool:
    """Whether what is computed now must be made of operations that every runtime has.

    Args:
        runtime: `ANY`, `TENSORFLOW` or `LITERT_INT8`. What is computed eagerly, or compiled by XLA, runs in TensorFlow anyway.
    """
    return runtime != TENSORFLOW and not tf.executing_eagerly() and not is_compiled_by_xla()


def known_arguments(layer, **arguments) -> dict:
    """Those of the arguments that the layer's `call` has: `runtime`, say. Ours do; a user's own need not."""
    parameters = signature(layer.call).parameters
    return {name: value for name, value in arguments.items() if name in parameters}
