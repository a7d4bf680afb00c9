"""A count of multiply-accumulates is right or it is refused: against formulas written out, layer by layer."""

from math import prod

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_glimpse
from keras_glimpse import GlimpseClassifier, cascade_curve, cascade_predict, count_macs, stage_macs

FIRST = {"data_format": "channels_first"}
UNROLLED = {"unroll": True}
LAYERS = {  # A layer, the shapes of its inputs, and: places x inputs of each x outputs of each
    "dense": (layers.Dense(3), [(5,)], 5 * 3),
    "dense, rank 3": (layers.Dense(3), [(4, 5)], 4 * 5 * 3),
    "dense, rank 4": (layers.Dense(3), [(2, 4, 5)], 2 * 4 * 5 * 3),
    "dense, float16": (layers.Dense(3, dtype="mixed_float16"), [(4, 5)], 4 * 5 * 3),
    "einsum": (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), [(4, 5)], 4 * 5 * 2 * 3),
    "einsum, ellipsis": (layers.EinsumDense("...x,xy->...y", (7,)), [(4, 5)], 4 * 5 * 7),
    "einsum, axis of both": (layers.EinsumDense("abc,bcd->abd", (4, 7)), [(4, 5)], 4 * 5 * 7),
    "einsum, sum of an axis": (layers.EinsumDense("abc,bd->ad", (7,)), [(4, 5)], 4 * 5 * 7),
    "attention": (layers.MultiHeadAttention(2, 3), [(4, 6), (5, 6)], (4 + 5 + 5) * 6 * (2 * 3) + 4 * (2 * 3) * 6),
    "grouped queries": (layers.GroupQueryAttention(3, 4, 2), [(4, 6), (5, 6)], 2 * 4 * 6 * 12 + 2 * 5 * 6 * 6),
    "conv 1d": (layers.Conv1D(3, 4), [(9, 2)], 6 * (4 * 2) * 3),
    "conv 1d, causal": (layers.Conv1D(3, 4, padding="causal", dilation_rate=2), [(9, 2)], 9 * (4 * 2) * 3),
    "conv 2d": (layers.Conv2D(6, 3, strides=2), [(9, 8, 4)], (4 * 3) * (9 * 4) * 6),
    "conv 2d, same": (layers.Conv2D(6, 3, padding="same"), [(9, 8, 4)], (9 * 8) * (9 * 4) * 6),
    "conv 2d, dilated": (layers.Conv2D(6, 3, dilation_rate=2), [(9, 8, 4)], (5 * 4) * (9 * 4) * 6),
    "conv 2d, groups": (layers.Conv2D(6, 3, groups=2), [(9, 8, 4)], (7 * 6) * (9 * 2) * 6),
    "conv 2d, first": (layers.Conv2D(6, 3, **FIRST), [(4, 9, 8)], (7 * 6) * (9 * 4) * 6),
    "conv 3d": (layers.Conv3D(3, 2), [(4, 4, 4, 2)], 27 * (8 * 2) * 3),
    "conv 3d, groups": (layers.Conv3D(4, 2, groups=2), [(4, 4, 4, 2)], 27 * 8 * 4),
    "conv 3d, dilated": (layers.Conv3D(3, 2, dilation_rate=2), [(5, 5, 5, 2)], 27 * (8 * 2) * 3),
    "conv 3d, first": (layers.Conv3D(3, 2, **FIRST), [(2, 4, 4, 4)], 27 * (8 * 2) * 3),
    "transposed 1d": (layers.Conv1DTranspose(3, 4, strides=2), [(9, 2)], 9 * 2 * (4 * 3)),
    "transposed 2d": (layers.Conv2DTranspose(3, 5, strides=2), [(4, 6, 2)], (4 * 6) * 2 * (25 * 3)),
    "transposed 2d, dilated": (layers.Conv2DTranspose(3, 5, dilation_rate=2), [(4, 6, 2)], (4 * 6) * 2 * (25 * 3)),
    "transposed 2d, first": (layers.Conv2DTranspose(3, 5, **FIRST), [(2, 4, 6)], (4 * 6) * 2 * (25 * 3)),
    "transposed 3d": (layers.Conv3DTranspose(3, 2, strides=2), [(4, 4, 4, 2)], 64 * 2 * (8 * 3)),
    "depthwise 1d": (layers.DepthwiseConv1D(3, depth_multiplier=2), [(9, 2)], 7 * 3 * (2 * 2)),
    "depthwise 1d, dilated": (layers.DepthwiseConv1D(3, dilation_rate=2), [(9, 2)], 5 * 3 * 2),
    "depthwise 2d": (layers.DepthwiseConv2D(3), [(9, 8, 2)], (7 * 6) * 9 * 2),
    "depthwise 2d, dilated": (layers.DepthwiseConv2D(3, dilation_rate=2), [(9, 8, 2)], (5 * 4) * 9 * 2),
    "depthwise 2d, both": (layers.DepthwiseConv2D(3, 2, dilation_rate=2), [(9, 8, 2)], (5 * 4) * 9 * 2),  # Then strides.
    "depthwise 2d, first": (layers.DepthwiseConv2D(3, **FIRST), [(2, 9, 8)], (7 * 6) * 9 * 2),
    "separable 1d": (layers.SeparableConv1D(5, 3), [(9, 2)], 7 * (3 * 2 + 2 * 5)),
    "separable 2d": (layers.SeparableConv2D(5, 3), [(9, 8, 2)], (7 * 6) * (9 * 2 + 2 * 5)),
    "unrolled": (layers.LSTM(3, **UNROLLED), [(5, 2)], 4 * (5 * 2 * 3 + 4 * 3 * 3)),  # The first state is 0.
    "at each time": (layers.TimeDistributed(layers.Conv2D(3, 2)), [(5, 4, 4, 2)], 5 * 9 * (4 * 2) * 3),
    "spectral norm": (layers.SpectralNormalization(layers.Dense(3)), [(5,)], 5 * 3),
    "embedding": (layers.Embedding(9, 4), [(5,)], 0),
    "batch norm": (layers.BatchNormalization(), [(5, 5, 4)], 0),
    "layer norm": (layers.LayerNormalization(), [(5, 5, 4)], 0),
    "group norm": (layers.GroupNormalization(2), [(5, 5, 4)], 0),
    "scale, then pool": (keras.Sequential([layers.RMSNormalization(), layers.GlobalAveragePooling1D()]), [(5, 4)], 0),
    "norm after norm": (keras.Sequential([layers.RMSNormalization(), layers.LayerNormalization()]), [(5, 4)], 0),
    "pooling": (keras.Sequential([layers.Resizing(4, 4), layers.MaxPooling2D(), layers.PReLU()]), [(8, 8, 3)], 0),
}


def test_layers():
    counted = {name: count_macs(layer, *shapes) for name, (layer, shapes, _) in LAYERS.items()}
    assert counted == {name: by_hand for name, (_, _, by_hand) in LAYERS.items()}
    assert counted == {name: count_macs(layer) for name, (layer, _, _) in LAYERS.items()}  # They are built now.
    assert count_macs(lambda *inputs: layers.Attention()(list(inputs)), (4, 6), (5, 6)) == 0


def test_mobilenet():
    net = keras.applications.MobileNetV3Small((64, 64, 3), weights=None, classes=10)
    by_hand = 0
    for layer in net.layers:
        outputs = prod(layer.output.shape[1:])
        if isinstance(layer, layers.DepthwiseConv2D):
            by_hand += outputs * prod(layer.kernel_size)
        elif isinstance(layer, layers.Conv2D):
            by_hand += outputs * prod(layer.kernel_size) * layer.input.shape[-1]
    assert count_macs(net) == by_hand > 5_000_000


@pytest.mark.slow
def test_kernels_that_are_computed():
    """The image meets a kernel of 8 x 6 at 4 places, whatever that is made of; beside an integer kernel, LoRA's two too."""
    blocks = keras.quantizers.Int4QuantizationConfig(block_size=4)
    changes = {
        "lora": lambda layer: layer.enable_lora(2),
        "int8": lambda layer: layer.quantize("int8"),
        "int4": lambda layer: layer.quantize("int4"),
        "int4 in blocks": lambda layer: layer.quantize("int4", config=blocks),
        "float8": lambda layer: layer.quantize("float8"),
        "int8 and lora": lambda layer: (layer.quantize("int8"), layer.enable_lora(2)),
    }
    for name, change in changes.items():
        for layer in (layers.Dense(6), layers.EinsumDense("abc,cd->abd", (None, 6))):
            layer.build((None, 4, 8))
            change(layer)
            assert count_macs(layer) == 4 * 8 * 6 + (4 * (8 * 2 + 2 * 6) if name == "int8 and lora" else 0), name


WEIGHTS, SEED = tf.Variable(tf.ones((3, 4))), keras.random.SeedGenerator(0)
PRODUCTS = {  # Each of 3 x 4, but where it says so.
    "matmul": (lambda x: x @ WEIGHTS, 12),
    "transposed": (lambda x: tf.matmul(tf.transpose(WEIGHTS), x, transpose_a=False, transpose_b=True), 12),
    "both transposed": (lambda x: tf.matmul(WEIGHTS, x, transpose_a=True, transpose_b=True), 12),
    "adjoint": (lambda x: tf.matmul(tf.stack([WEIGHTS] * 2), tf.stack([x] * 2), adjoint_a=True, adjoint_b=True), 24),
    "broadcast": (lambda x: tf.matmul(x, tf.stack([WEIGHTS] * 5)), 60),
    "einsum, broadcast": (lambda x: tf.einsum("...i,...ij->...j", x, tf.stack([WEIGHTS] * 5)), 60),
    "weights only": (lambda x: x[0, 0] * (WEIGHTS @ tf.transpose(WEIGHTS)), 0),
    "learned queries": (lambda x: tf.matmul(WEIGHTS, tf.transpose(x), transpose_a=True), 12),
    "weights made of weights": (lambda x: x @ (WEIGHTS @ tf.transpose(WEIGHTS)), 9),
    "weight normalisation": (lambda x: x @ tf.nn.l2_normalize(tf.clip_by_norm(WEIGHTS, 1.0), axis=0), 12),
    "images only": (lambda x: tf.matmul(x, x, transpose_b=True), 0),
    "constants only": (lambda x: x @ tf.ones((3, 4)), 0),
    "noise": (lambda x: tf.reduce_sum(x * keras.random.normal((1, 3), seed=SEED)), 0),
    "summed": (lambda x: tf.reduce_sum(x[:, :, None] * WEIGHTS, axis=1), 12),
    "averaged, in half precision": (lambda x: tf.reduce_mean(tf.cast(WEIGHTS * x[:, :, None], tf.float16), axis=-2), 12),
    "summed elsewhere": (lambda x: tf.reduce_sum(tf.reshape(tf.transpose(x[:, :, None] * WEIGHTS), (4, 3)), axis=1), 12),
    "summed over other axes": (lambda x: tf.reduce_sum(x[:, :, None] * WEIGHTS[:1, 0], axis=1), 0),
    "divided and summed": (lambda x: tf.reduce_sum(x[:, :, None] / WEIGHTS, axis=1), 12),
    "scaled": (lambda x: x[:, :, None] * WEIGHTS, 0),
    "not used": (lambda x: (x @ WEIGHTS, x)[1], 0),
    "function in a function": (tf.function(lambda x: tf.function(lambda y: y @ WEIGHTS)(x)), 12),
    "in each of a map": (lambda x: tf.vectorized_map(lambda row: tf.linalg.matvec(WEIGHTS, row, transpose_a=True), x), 12),
    "loop without weights": (lambda x: tf.map_fn(lambda row: 2 * row, x) @ WEIGHTS, 12),
}


def test_products():
    counted = {name: count_macs(function, (3,)) for name, (function, _) in PRODUCTS.items()}
    assert counted == {name: by_hand for name, (_, by_hand) in PRODUCTS.items()}


@tf.function
def branches(x):
    return x @ WEIGHTS if tf.reduce_sum(x) > 0 else -x @ WEIGHTS


COMPUTED_ALREADY = tf.function(lambda x: x @ WEIGHTS).get_concrete_function(tf.TensorSpec((1, 3)))
UNKNOWN = {
    "While": lambda x: tf.map_fn(
        lambda row: tf.linalg.matvec(WEIGHTS, row, transpose_a=True), x, fn_output_signature=tf.float32
    ),
    "PartitionedCall": branches,
    "StatefulPartitionedCall": lambda x: COMPUTED_ALREADY(x),
    "If": lambda x: tf.cond(x[0, 0] > 0, lambda: x @ WEIGHTS, lambda: -x @ WEIGHTS),
    "PyFunc": lambda x: tf.numpy_function(np.negative, [x], tf.float32),
    "EagerPyFunc": lambda x: tf.py_function(lambda y: y @ WEIGHTS, [x], tf.float32),
    "MatrixTriangularSolve": lambda x: tf.linalg.triangular_solve(WEIGHTS[:, :3], tf.transpose(x)),
    r"MatMul .*, whose sizes are not known: \(1, None\), \(3, 4\)": lambda x: tf.boolean_mask(x, x[0] > 0, axis=1) @ WEIGHTS,
}


def test_what_cannot_be_counted_is_named():
    for name, function in UNKNOWN.items():
        with pytest.raises(ValueError, match=f"count_macs cannot tell what .*{name}"):
            count_macs(function, (3,))
    assert not tf.config.functions_run_eagerly()


def test_inputs_of_models():
    image, words = keras.Input((6, 6, 1), name="image"), keras.Input((3,), dtype="int32", name="words")
    outputs = layers.Dense(2)(layers.Flatten()(image)), layers.Dense(7)(layers.Embedding(9, 4)(words))
    by_hand = 36 * 2 + 3 * 4 * 7
    for inputs in ([image, words], {"image": image, "words": words}):
        assert count_macs(keras.Model(inputs, outputs)) == by_hand
    bytes_ = keras.Sequential([keras.Input((5,), dtype="uint8"), layers.Lambda(tf.bitwise.invert), layers.Dense(3)])
    assert count_macs(bytes_) == 5 * 3
    any_size = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3)])
    assert count_macs(any_size, (5, 6, 3)) == (3 * 4) * (9 * 3) * 2
    with pytest.raises(ValueError, match="needs the shape of an image for a network that is not built, or for any size"):
        count_macs(any_size)


def test_inputs_of_subclassed_models():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.other = layers.Dense(2), layers.Dense(3)

        def call(self, inputs):
            return self.one(inputs["one"]), self.other(inputs["other"])

    model = Two()
    model({"one": tf.zeros((1, 5)), "other": tf.zeros((1, 4))})
    assert count_macs(model) == 5 * 2 + 4 * 3


def test_classifiers(make_model):
    """Their own networks: a convolution from 6x6x2 to 4x4x4, and a dense layer of 64 x 3; the low-resolution network's too."""
    net = keras.Sequential([layers.Conv2D(4, 3, groups=2), layers.Flatten(), layers.Dense(3)])
    image = keras.Input((20, 24, 1))
    hidden = layers.Dense(7, "relu")(layers.Flatten()(layers.AveragePooling2D(4)(image)))
    low_res_net = keras.Model(image, (hidden, layers.Dense(3)(hidden)))
    model = make_model(num_glimpses=2, glimpse_net=net, low_res_net=low_res_net)
    first, glimpse = 30 * 7 + 7 * 3, (7 + 3) * 2 + (4 * 4) * 9 * 4 + 64 * 3
    by_hand = [first, first + glimpse, first + 2 * glimpse]
    assert stage_macs(model).tolist() == by_hand and count_macs(model) == by_hand[-1]
    for each in (*model.glimpse_nets, model.low_res_net):
        each.layers[-1].enable_lora(1)
    assert stage_macs(model).tolist() == by_hand
    head = model.location_heads[0]  # For 8 bits it multiplies elementwise, and sums.
    assert count_macs(lambda h, o: head(h, o, runtime="litert_quantized"), (7,), (3,)) == (7 + 3) * 2


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_classifiers(make_model):
    model = make_model(num_glimpses=1)
    by_hand = [25 * 8 + 8 * 3, 25 * 8 + 8 * 3 + (8 + 3) * 2 + 72 * 8 + 8 * 3]
    assert stage_macs(model).tolist() == by_hand
    model.quantize("int8")
    assert stage_macs(model).tolist() == by_hand


def test_stages_are_of_a_model_that_is_built():
    with pytest.raises(ValueError, match="stage_macs needs a model that is built"):
        stage_macs(GlimpseClassifier(3))
    with pytest.raises(TypeError, match="stage_macs needs a GlimpseClassifier; got Sequential"):
        stage_macs(keras.Sequential())


@pytest.fixture
def unknown(make_model):
    """A model with a network that cannot be counted."""
    return make_model(glimpse_net=keras.Sequential([layers.Reshape((6, 12)), layers.LSTM(4), layers.Dense(3)]))


def test_the_cascade_works_all_the_same(unknown, rng):
    images, labels = rng.random((60, 20, 24, 1), dtype=np.float32), rng.integers(0, 3, 60)
    with pytest.raises(ValueError, match="cannot tell what While"):
        stage_macs(unknown)
    unknown.compile(jit_compile=False)
    found = cascade_predict(unknown, images, 1.0)
    assert found.macs is None and (found.exit_stage == 2).all()
    np.testing.assert_allclose(found.probabilities, tf.nn.softmax(unknown.predict(images, verbose=0)), atol=1e-5)
    curve = cascade_curve(unknown, images, labels, thresholds=[0.2, 0.9, 1.0])
    assert curve.macs is None and curve.full_error == np.mean(found.probabilities.argmax(axis=-1) != labels)
    with pytest.raises(ValueError, match=r"not known: stage_macs\(model\) says why"):
        curve.within(1e6)


def test_the_cheapest_threshold_is_the_lowest_that_is_good():
    curve = keras_glimpse.CascadeCurve(np.array([0.9, 0.5, 0.7]), np.array([0.02, 0.04, 0.021]), None, 0.02)
    for each in (curve, curve._replace(macs=np.array([3, 1, 2]))):
        assert [each.cheapest(extra) for extra in (0.0, 0.0011, 1.0)] == [0.9, 0.7, 0.5]
