"""A stack of small convolutions, which both convolutional networks have: 3x3, batch normalisation, ReLU, pooling."""

from collections.abc import Sequence

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_glimpse")
class Convolutions(keras.layers.Layer):
    """Blocks of convolution 3x3, batch normalisation and ReLU, with maximum pooling 2x2 after some of them.

    Args:
        filters: of each block.
        pooled: numbers of the blocks, from 0, that are followed by pooling.
        padding: "same", or "valid": then what comes out at a place depends on a window of the input alone, so that all
            windows of an image are parts of one pass over it.

    Call arguments:
        pixels: `[batch, height, width, channels]`.

    Returns:
        `[batch, rows, columns, filters[-1]]`; see `output_side`.
    """

    def __init__(self, filters: Sequence[int], pooled: Sequence[int] = (0, 1), padding: str = "same", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.pooled, self.padding = tuple(filters), tuple(pooled), padding
        policy = self.dtype_policy
        self.kernels = [keras.layers.Conv2D(n, 3, padding=padding, use_bias=False, dtype=policy) for n in self.filters]
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
                pixels = ops.max_pool(pixels, 2, padding="valid")
        return pixels

    def compute_output_shape(self, shape):
        return (shape[0], *(side and self.output_side(side) for side in shape[1:3]), self.filters[-1])

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "pooled": self.pooled, "padding": self.padding}
