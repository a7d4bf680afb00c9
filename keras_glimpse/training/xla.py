"""Resolves `jit_compile="auto"`: XLA where it works and is faster."""

import logging
import warnings
from functools import partial

import tensorflow as tf

from keras_glimpse._compat import all_layers, deterministic_ops

log = logging.getLogger("keras_glimpse")

# On a CPU, XLA's convolutions are slower than TensorFlow's own: recipes/benchmarks/compilation.py.
CONVOLUTIONS = {"Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2"}


def chooses_xla(model) -> bool:
    """Whether XLA is to compile a built model: `jit_compile="auto"`.

    It is off with several replicas, since a step that sums over them cannot be one XLA program; for images that differ in
    size, since it would compile a program for each; where a layer or deterministic operations rule it out; on a CPU for
    networks with convolutions; and where it cannot compile an operation that the model has in training or in inference. The
    choice depends on the model and on the machine, never on a measurement, so that a program which is run again does the same.
    """
    reason = _against_xla(model)
    log.info("XLA %s", f"is off: {reason}." if reason else "compiles the model.")
    return reason is None


def is_supported(model) -> bool:
    """Whether XLA can compile the model at all: `jit_compile=True`. As Keras, warns if a layer rules it out.

    Raises:
        ValueError: there are several replicas, or images differ in size.
    """
    if model.distribute_strategy.num_replicas_in_sync > 1:
        raise ValueError("jit_compile=True needs a single replica: XLA cannot compile a step that sums over several.")
    check_size_is_known(model.image_shape)
    is_able = all(layer.supports_jit for layer in all_layers(model))
    if not is_able:
        warnings.warn("A layer of the model does not support `jit_compile=True`. Proceeding without.", stacklevel=3)
    return is_able


def check_size_is_known(image_shape: tuple | None) -> None:
    """Raises unless XLA can compile a model for such images once."""
    if None in (image_shape or ()):
        raise ValueError(
            f"jit_compile=True needs images of one size, since XLA compiles a program for each; the model is for {image_shape}."
        )


def _against_xla(model) -> str | None:
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return "a step that sums over several replicas cannot be one XLA program"
    if None in model.image_shape:
        return "it would compile a program for each size of image"
    if model.compiled and model.run_eagerly:
        return "the model runs eagerly"
    unable = [layer.name for layer in all_layers(model) if not layer.supports_jit]
    if unable:
        return f"layer {unable[0]!r} does not support it"
    if deterministic_ops():
        return "not all deterministic operations have XLA kernels"

    images = tf.TensorSpec((2, *model.image_shape), tf.float32)
    function = tf.function(partial(_all_operations, model), jit_compile=True, autograph=False)
    graph = function.get_concrete_function(images).graph
    convolutions = CONVOLUTIONS.intersection(node.op for node in _nodes(graph.as_graph_def()))
    if convolutions and not tf.config.list_physical_devices("GPU"):
        return f"TensorFlow's own {convolutions.pop()} is faster on a CPU"
    try:
        function.experimental_get_compiler_ir(images)(stage="hlo")
    except Exception as error:  # Its type depends on what XLA stumbles on.
        return f"it cannot compile the model: {str(error).splitlines()[0]}"
    return None


def _all_operations(model, images):
    """All that the model does in inference and, if it was compiled for that, in training, forwards and backwards."""
    logits = model(images)
    if not model.compiled:
        return logits
    with tf.GradientTape() as tape:
        in_training = model(images, training=True)
    return logits, tape.gradient(in_training, model.trainable_variables)


def _nodes(graph_def):
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def
