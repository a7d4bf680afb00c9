"""A stack of small convolutions, which both convolutional networks have: 3x3, batch normalisation, ReLU, pooling."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_glimpse._validation.arguments import check_one_of, integers
from keras_glimpse.attributes import Fixed
from keras_glimpse.layers.inner import KeepsInner


@keras.saving.register_keras_serializable(package="keras_glimpse")
class Convolutions(KeepsInner, keras.layers.Layer):
    """Blocks of convolution 3x3, batch normalisation and ReLU, with maximum pooling 2x2 after some of them.

    Args:
        filters: Positive integer or sequence of them, the filters of each block.
        pooled: Sequence of integers, the indices (from 0) of the blocks that pooling follows. Defaults to `(0, 1)`.
        padding: `"same"` or `"valid"`. With `"valid"` the output at a place depends on a window of the input only, so that the
            outputs for all windows of an image are parts of one pass over it. Defaults to `"same"`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        pixels: Tensor `[batch, height, width, channels]`.

    Returns:
        Tensor `[batch, rows, columns, filters[-1]]` (see `output_side`).

    Example:
    >>> Convolutions((16, 32))(ops.zeros((2, 64, 64, 3))).shape
    TensorShape([2, 16, 16, 32])
    """

    inner = ("kernels", "norms")
    filters, pooled, padding = Fixed(), Fixed(), Fixed()

    def __init__(self, filters: int | Sequence[int], pooled: Sequence[int] = (0, 1), padding: str = "same", **kwargs):
        super().__init__(**kwargs)
        check_one_of(("same", "valid"), padding=padding)
        self.filters, self.pooled, self.padding = integers("filters", filters), tuple(pooled), padding
        if not {*self.pooled} <= {*range(len(self.filters))} or len({*self.pooled}) < len(self.pooled):
            raise ValueError(f"pooled must name blocks from 0 to {len(self.filters) - 1}, each once; got {self.pooled}.")
        policy = self.dtype_policy
        options = {"use_bias": False, "data_format": "channels_last", "dtype": policy}  # Whatever Keras's default is.
        self.kernels = [keras.layers.Conv2D(n, 3, padding=padding, **options) for n in self.filters]
        # A short memory: the search sees the network in inference, from the first steps on.
        self.norms = [keras.layers.BatchNormalization(momentum=0.9, dtype=policy) for _ in self.filters]

    @property
    def stride(self) -> int:
        """Input pixels from one output to the next."""
        return 2 ** len(self.pooled)

    def output_side(self, side: int) -> int:
        """Side of the output for an input of `side` pixels."""
        for block in range(len(self.filters)):
            side -= 2 * (self.padding == "valid")
            side //= 1 + (block in self.pooled)
        return side

    def build(self, shape):
        for block, (kernel, norm) in enumerate(zip(self.kernels, self.norms)):
            kernel.build(shape)
            shape = kernel.compute_output_shape(shape)
            norm.build(shape)
            if block in self.pooled:
                shape = (shape[0], *(side and side // 2 for side in shape[1:3]), shape[3])

    def call(self, pixels, training=False):
        for block, (kernel, norm) in enumerate(zip(self.kernels, self.norms)):
            pixels = ops.relu(norm(kernel(pixels), training=training))
            if block in self.pooled:
                pixels = ops.max_pool(pixels, 2, padding="valid", data_format="channels_last")
        return pixels

    def compute_output_shape(self, shape):
        return (shape[0], *(side and self.output_side(side) for side in shape[1:3]), self.filters[-1])

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "pooled": self.pooled, "padding": self.padding}
