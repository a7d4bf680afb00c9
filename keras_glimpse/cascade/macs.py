"""Multiply-accumulate counts as in the paper's tables: products with learned weights, "valid" convolutions, nothing else."""

import contextlib
from math import prod

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_built_classifier


class Uncountable(ValueError):
    """The cost of a network cannot be read from its graph."""


def count_macs(net, *input_shapes) -> int:
    """Counts the multiply-accumulates per image of products with learned weights: dense layers, convolutions and the like.

    The products are counted in the traced graph, so any Keras layer or model and any function of tensors can be counted.
    Weights are all tensors computed from variables only, also after LoRA, quantization or normalisation of the weights. As in
    the paper, operations without weights cost nothing (downsampling, cropping, activations, pooling; in attention, the products
    of queries, keys and values), nor do operations independent of the inputs (weights times weights) and elementwise products,
    as in batch normalisation, except those that are summed along axes of the weights.

    Args:
        net: A Keras layer or model, or any function of tensors. For a `GlimpseClassifier`, the cost of all active glimpses.
        *input_shapes: For each argument of `net`, the shape of one float input without the batch axis. Not needed for a model
            that was built for a fixed input shape.

    Returns:
        Integer, the number of multiply-accumulates.

    Raises:
        ValueError: If `net` is not built and no shape is given, or its cost cannot be read from the graph: weights in loops,
            branches or unknown operations, Python functions, or dynamic shapes.

    Example:
    >>> import keras
    >>> dense = keras.Sequential([keras.layers.Dense(500, "relu"), keras.layers.Dense(10)])
    >>> count_macs(dense, (48 * 48,))  # "fully connected on high resolution images" of table 1
    1157000
    """
    specs = [_one((None, *shape)) for shape in input_shapes] or _built_for(net)
    if isinstance(net, keras.Layer) and not net.built:
        net(*(keras.KerasTensor(spec.shape, "float32") for spec in specs))  # Keras makes weights outside of graphs only.
    return _macs(_trace(net, *specs), specs)


def stage_macs(model) -> np.ndarray:
    """Cumulative multiply-accumulates per image after 0, 1, ... glimpses.

    The location head of a glimpse is counted with that glimpse: an image that stops does not predict a next location.

    Thumbnails and patches are of the same size in all images, and so are the counts: a model of images that differ in size has
    them too, unless one of its networks sees whole images.

    Args:
        model: A built `GlimpseClassifier`.

    Returns:
        Int64 array `[active_glimpses + 1]`.

    Raises:
        ValueError: If the model is not built, or `count_macs` cannot count its networks.
        TypeError: If `model` is not a `GlimpseClassifier`.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10, num_glimpses=2)
    >>> model.build((None, 48, 48, 1))
    >>> stage_macs(model)
    array([ 77000, 227020, 377040])
    """
    check_built_classifier("stage_macs", model)
    images = _one((None, *model.image_shape))
    prepared = _trace(model.prepare, images)
    specs = [_specs(prepared)]
    look = _trace(model.first_look, *specs)
    macs = [_macs(prepared, [images]) + _macs(look, specs)]
    for _ in range(model.active_glimpses):
        specs = [specs[0], _specs(look)]
        look = _trace(model.look_again, *specs)
        macs.append(_macs(look, specs))
    return np.cumsum(macs, dtype=np.int64)


def known_stage_macs(model) -> np.ndarray | None:
    """`stage_macs`, or `None` for networks that cannot be counted; counted once, as long as the model stays as it is."""

    def count():
        try:
            return stage_macs(model)
        except Uncountable:
            return None

    return model.cached("macs", count)


# ---- Networks as graphs ----


def _one(shape, dtype=tf.float32):
    """Spec of a batch of one."""
    return tf.TensorSpec((1, *shape[1:]), dtype)


def _specs(traced):
    """Specs of what a traced function returns."""
    return tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), traced.structured_outputs)


def _built_for(net):
    """Specs of what a network was built for, one for each argument."""
    if isinstance(net, keras.Model) and getattr(net, "outputs", None):  # Functional and Sequential: types are known too.
        inputs = net.inputs[0] if isinstance(net, keras.Sequential) else net.input
        specs = [keras.tree.map_structure(lambda tensor: _one(tensor.shape, tensor.dtype), inputs)]
    else:
        config = getattr(net, "built", False) and net.get_build_config() or {}
        shapes = config.get("shapes_dict", {0: config.get("input_shape")}).values()
        specs = [keras.tree.map_shape_structure(_one, shape) for shape in shapes if shape is not None]
    if not specs or not all(spec.shape.is_fully_defined() for spec in tf.nest.flatten(specs)):
        raise ValueError(
            "count_macs needs the shape of an image for a network that is not built, or for any size: count_macs(net, shape)."
        )
    return specs


def _trace(net, *specs):
    """A function of tensors as a graph; what it calls is part of it, where that can be."""
    trace = lambda: tf.function(lambda *inputs: net(*inputs), autograph=False).get_concrete_function(*specs)  # noqa: E731
    traced, eagerly = trace(), tf.config.functions_run_eagerly()
    if any(operation.type in _CALLS for operation in traced.graph.get_operations()):  # Keras's grouped convolutions are.
        try:
            tf.config.run_functions_eagerly(True)  # This has a `tf.function` traced as if it were a plain function.
            with contextlib.suppress(Exception):  # One that needs AutoGraph, say, stays a call.
                return trace()
        finally:
            tf.config.run_functions_eagerly(eagerly)
    return traced


# ---- What depends on the inputs, and what on weights alone ----

_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
_SIZES = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}  # What they give depends on sizes only.


def _macs(traced, specs):
    """Those of all operations that a function needs for what it returns, and that join what it is given with weights."""
    given = {tensor.name for tensor in traced.inputs[: len(tf.nest.flatten(specs))]}  # Or computed from what is given.
    learned = set()  # Weights, or computed from them and from nothing that is given.
    needed, total = _needed(traced), 0
    for operation in needed.values():
        weights = [tensor for tensor in operation.inputs if tensor.name in learned]
        if any(tensor.name in given for tensor in operation.inputs) and (weights or operation.type in _PYTHON):
            total += _products(operation, weights, needed)
        for sources, results in _ways(operation):
            if sources & given:
                given |= results
            elif (sources & learned or _is_variable(operation)) and "Random" not in operation.type:  # Seeds are no weights.
                learned |= results
    return total


def _needed(traced):
    """The operations that outputs depend on, by name, each after those that it depends on."""
    names, waiting = set(), [tensor.op for tensor in traced.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name not in names:
            names.add(operation.name)
            waiting += [tensor.op for tensor in operation.inputs]
    return {operation.name: operation for operation in traced.graph.get_operations() if operation.name in names}


def _ways(operation):
    """Names of the tensors of an operation: which results depend on which sources."""
    sources, results = ([tensor.name for tensor in tensors] for tensors in (operation.inputs, operation.outputs))
    if operation.type in _SIZES:
        return []
    if operation.type == "IdentityN":  # Custom gradients pass all that they are given through one.
        return [({source}, {result}) for source, result in zip(sources, results)]
    return [(set(sources), set(results))]


def _is_variable(operation):
    return operation.type == "Placeholder" and operation.outputs[0].dtype == tf.resource


# ---- What one operation costs ----

# Operations that join an image with weights and sum no products: elementwise, or from one place to another.
_FREE = """
    Add AddV2 AddN Sub FloorDiv FloorMod Mod TruncateDiv TruncateMod Pow Maximum Minimum
    SquaredDifference Xdivy Xlogy Xlog1py Atan2 Complex Equal NotEqual Less LessEqual Greater GreaterEqual ApproximateEqual
    LogicalAnd LogicalOr BitwiseAnd BitwiseOr BitwiseXor LeftShift RightShift ClipByValue BiasAdd BiasAddV1
    FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
    Select SelectV2 Concat ConcatV2 Pack Reshape Transpose ExpandDims Squeeze BroadcastTo Tile Fill Pad PadV2 MirrorPad
    Slice StridedSlice Split SplitV Roll Reverse ReverseV2 OneHot Range LinSpace LinSpaceV2 Where
    Gather GatherV2 GatherNd ResourceGather ResourceGatherNd ScatterNd TensorScatterUpdate TensorScatterAdd TensorScatterMax
    TensorScatterMin TensorScatterSub DynamicStitch SearchSorted UpperBound LowerBound LookupTableFind LookupTableFindV2
    CropAndResize Snapshot EnsureShape IdentityN
"""

# What may come between an elementwise product and its sum.
_MOVES = {"Sum", "Mean", "Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "Transpose"}


def _products(operation, weights, needed):
    """Multiply-accumulates of one operation: elements of its result times what each is a sum of."""
    if operation.type in _FREE.split():
        return 0
    shapes, result = [tensor.shape for tensor in operation.inputs], operation.outputs[0].shape
    known = all(shape.is_fully_defined() for shape in (*shapes, result))
    if known:
        match operation.type:
            case "MatMul":
                return prod(result) * shapes[0][-2 if operation.get_attr("transpose_a") else -1]
            case "BatchMatMul" | "BatchMatMulV2" | "BatchMatMulV3":
                return prod(result) * shapes[0][-2 if operation.get_attr("adj_x") else -1]
            case "Einsum":
                return _einsum(operation.get_attr("equation").decode(), shapes)
            case "Conv" | "Conv2D" | "Conv3D":
                return prod(_undilated(operation)) * prod(shapes[1][:-1])
            case "DepthwiseConv2dNative":
                return prod(_undilated(operation)) * prod(shapes[1][:2])
            case "Conv2DBackpropInput" | "Conv3DBackpropInputV2":  # Transposed: each input element meets the whole kernel.
                return prod(shapes[2]) * prod(shapes[1][:-1])
            case "Mul" | "MulNoNan" | "RealDiv":
                return prod(result) if _is_summed(operation, weights[0], needed) else 0
    sizes = "" if known else f", whose sizes are not known: {', '.join(map(str, shapes))} -> {result}"
    raise Uncountable(f"count_macs cannot tell what {operation.type} ({operation.name}) costs{sizes}.")


def _einsum(equation, shapes):
    """The product of the sizes of all axes: `"...ab,bc->...ac"`."""
    sizes = {}
    for labels, shape in zip(equation.split("->")[0].split(","), shapes):
        before, _, after = labels.partition("...")
        broadcast = range(len(before) + len(after) - len(shape), 0)  # Axes under an ellipsis, counted from its end.
        for axis, size in zip((*before, *broadcast, *after), shape):
            sizes[axis] = max(size, sizes.get(axis, 1))
    return prod(sizes.values())


def _undilated(convolution):
    """The shape of a result: TensorFlow has some dilated convolutions on blocks of an image, which it then puts together."""
    result = convolution.outputs[0]
    while [user.type for user in result.consumers()] in (["Squeeze"], ["BatchToSpaceND"]):
        result = result.consumers()[0].outputs[0]
    return result.shape


def _is_summed(multiply, weights, needed):
    """Whether only the sum of an elementwise product is used, along axes on which the weights differ."""
    moves, product = [], multiply.outputs[0]
    while not moves or moves[-1].type not in ("Sum", "Mean"):
        users = [user for user in product.consumers() if user.name in needed]
        if len(users) != 1 or users[0].type not in _MOVES:
            return False
        moves.append(users[0])
        product = users[0].outputs[0]
    *moves, add = moves
    which = np.broadcast_to(np.arange(prod(weights.shape)).reshape(weights.shape), multiply.outputs[0].shape)
    for move in moves:
        which = which.transpose(_static(move.inputs[1])) if move.type == "Transpose" else which.reshape(move.outputs[0].shape)
    return bool(np.ptp(which, axis=tuple(np.ravel(_static(add.inputs[1])))).any())


def _static(tensor):
    """Axes, which must be known before there is an image."""
    value = tf.get_static_value(tensor)
    if value is None:
        raise Uncountable(f"count_macs cannot tell which axes {tensor.name} are.")
    return value
