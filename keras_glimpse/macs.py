"""Counting multiply-accumulates the way the paper's tables do: learned matrices and filters, "valid", and nothing else."""

from math import isqrt, prod

import keras
import numpy as np
import tensorflow as tf


def count_macs(net, *input_shapes) -> int:
    """Multiply-accumulates that one image costs in the dense and convolutional layers of a network.

    The operations are counted in the traced graph, so that any Keras model or layer can be counted. What has no learned
    weights (shrinking, cropping, activations, pooling) counts nothing, as in the paper.

    Args:
        net: a Keras layer or model, or any callable on tensors. For a `GlimpseClassifier`: the cost of all its glimpses.
        *input_shapes: shape of one image (or other input), without the batch axis, for each argument of `net`. Not needed
            for a model that is built.

    Returns:
        The number of multiply-accumulates.

    Raises:
        ValueError: a network that is not built and no shape, or one with loops or branches, whose cost is not in its graph.

    Example:
    >>> import keras
    >>> dense = keras.Sequential([keras.layers.Dense(500, "relu"), keras.layers.Dense(10)])
    >>> count_macs(dense, (48 * 48,))  # "fully connected on high resolution images" of table 1
    1157000
    """
    if not input_shapes:
        input_shapes = [shape[1:] for shape in _built_shapes(net)]
    specs = [tf.TensorSpec((1, *shape), tf.float32) for shape in input_shapes]
    if isinstance(net, keras.Layer) and not net.built:
        net(*(tf.zeros(spec.shape) for spec in specs))  # Keras makes weights outside of graphs only.
    graph = tf.function(lambda *inputs: net(*inputs), autograph=False).get_concrete_function(*specs).graph
    return sum(_macs(operation) for operation in graph.get_operations())


def stage_macs(model) -> np.ndarray:
    """Multiply-accumulates that an image has cost after 0, 1, ... glimpses, `[num_glimpses + 1]`, int64.

    The location head of a glimpse counts with that glimpse: where an image stops, no next place is predicted.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10, num_glimpses=2)
    >>> model.build((None, 48, 48, 1))
    >>> stage_macs(model)
    array([ 77000, 227020, 377040])
    """
    shape = model.image_shape
    evidence = model.first_look(tf.zeros((1, *shape)))
    total = [count_macs(model.low_res_net, shape)]
    for _ in range(model.active_glimpses):
        total.append(total[-1] + count_macs(lambda images, evidence=evidence: model.look_again(images, evidence), shape))
        evidence = model.look_again(tf.zeros((1, *shape)), evidence)
    return np.asarray(total, np.int64)


def _built_shapes(net):
    config = net.get_build_config() if getattr(net, "built", False) else None
    if not config:
        raise ValueError("count_macs needs the shape of an image for a network that is not built: count_macs(net, shape).")
    return [config["input_shape"]] if "input_shape" in config else list(config["shapes_dict"].values())


def _macs(operation):
    """Multiply-accumulates of one operation on learned weights: elements of its result times what each is a sum of."""
    if operation.type in ("While", "StatelessWhile", "If", "StatelessIf", "PartitionedCall", "StatefulPartitionedCall"):
        raise ValueError(f"count_macs cannot look into {operation.type} ({operation.name}).")
    weights = [tensor for tensor in operation.inputs if _is_learned(tensor)]
    if not weights:
        return 0
    result, weight = operation.outputs[0].shape, weights[0].shape
    if operation.type in ("Conv2D", "Conv3D"):
        return prod(result) * prod(weight[:-1])
    if operation.type == "Conv2DBackpropInput":  # a transposed convolution: each input pixel meets the whole kernel
        return prod(operation.inputs[2].shape[:-1]) * prod(weight)
    if operation.type == "DepthwiseConv2dNative":
        return prod(result) * prod(weight[:2])
    if operation.type in ("MatMul", "BatchMatMulV2", "Einsum"):  # (m k) (k n) (m n) = (m k n)^2
        return isqrt(prod(prod(tensor.shape) for tensor in (*operation.inputs, operation.outputs[0])))
    return 0


def _is_learned(tensor):
    while tensor.op.type in ("Identity", "Cast", "Reshape", "Transpose", "ExpandDims"):
        tensor = tensor.op.inputs[0]
    return tensor.op.type == "ReadVariableOp"
