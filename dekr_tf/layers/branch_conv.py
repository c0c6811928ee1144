"""Convolutions of several branches at once, each branch with its own channels and weights."""

import keras
from keras import ops

from dekr_tf.layers.backend import compiled


def to_branches(x, branches: int):
    """(B, H, W, G C) -> (G, B, H, W, C)."""
    batch, height, width, _ = ops.shape(x)
    channels = x.shape[-1] // branches
    return ops.transpose(ops.reshape(x, (batch, height, width, branches, channels)), (3, 0, 1, 2, 4))


def from_branches(x):
    """(G, B, H, W, C) -> (B, H, W, G C)."""
    branches, batch, height, width, channels = ops.shape(x)
    return ops.reshape(ops.transpose(x, (1, 2, 3, 0, 4)), (batch, height, width, branches * channels))


def branch_conv(x, kernel, dilation: int = 1):
    """Convolution with zero padding and stride 1, a kernel for each branch.

    One matrix product computes all taps, then the products are shifted and added. Unlike gathered patches, this keeps
    nothing but `x` for the gradient; unlike a grouped convolution, its gradient is fast on every backend.

    Args:
        x: (G, B, H, W, C).
        kernel: (G, S, S, C, F) with S odd.
        dilation: distance of neighboring taps.

    Returns:
        (G, B, H, W, F).
    """
    branches, batch, height, width, channels = ops.shape(x)
    size, filters = kernel.shape[1], kernel.shape[-1]
    taps = size * size
    weights = ops.reshape(ops.transpose(kernel, (0, 3, 1, 2, 4)), (branches, channels, taps * filters))
    products = ops.matmul(ops.reshape(x, (branches, batch * height * width, channels)), weights)
    products = ops.reshape(products, (branches, batch, height, width, taps * filters))
    margin = size // 2 * dilation
    products = ops.pad(products, ((0, 0), (0, 0), (margin, margin), (margin, margin), (0, 0)))
    total = 0.0
    for tap in range(taps):
        top, left = (step * dilation for step in divmod(tap, size))
        total += products[:, :, top : top + height, left : left + width, tap * filters : (tap + 1) * filters]
    return total


@compiled
def _grouped_conv(x, kernel, dilation):
    """`branch_conv` of (B, H, W, G C) to (B, H, W, G F)."""
    return from_branches(branch_conv(to_branches(x, kernel.shape[0]), kernel, dilation))


@keras.saving.register_keras_serializable("dekr_tf")
class BranchConv2D(keras.layers.Layer):
    """A convolution for each of G branches, stride 1, zero padding; the channels of a branch are contiguous.

    Args:
        branches: G.
        filters: output channels of one branch, F.
        kernel_size: odd side of the kernel, S.
        dilation: distance of neighboring taps.
        use_bias: adds a bias to each output channel.
        kernel_initializer: default: He initialization by the fan-out of one branch.
        output_scale: factor of the outputs, bias included.

    Input (B, H, W, G C), output (B, H, W, G F). Variables: `kernel` (G, S, S, C, F), `bias` (G F,).

    Raises:
        ValueError: the input's channels are not a multiple of `branches`.
    """

    def __init__(
        self,
        branches,
        filters,
        kernel_size=1,
        dilation=1,
        use_bias=False,
        kernel_initializer=None,
        output_scale=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.branches = branches
        self.filters = filters
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_scale = output_scale

    def build(self, input_shape):
        channels = branch_channels(input_shape, self.branches)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.branches, self.kernel_size, self.kernel_size, channels, self.filters),
            initializer=self.kernel_initializer or branch_initializer(self.kernel_size, channels, self.filters),
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.branches * self.filters,), initializer="zeros")

    def call(self, inputs):
        if self.branches == 1:
            outputs = ops.conv(inputs, self.kernel[0], padding="same", dilation_rate=self.dilation)
        else:
            outputs = _grouped_conv(inputs, ops.cast(self.kernel, self.compute_dtype), self.dilation)
        outputs = outputs + self.bias if self.use_bias else outputs
        return outputs * self.output_scale if self.output_scale != 1 else outputs

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.branches * self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "branches": self.branches,
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "dilation": self.dilation,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_scale": self.output_scale,
        }


def branch_channels(input_shape, branches: int) -> int:
    """Input channels of one branch.

    Raises:
        ValueError: the input's channels do not divide evenly.
    """
    channels, rest = divmod(input_shape[-1], branches)
    if rest:
        raise ValueError(f"channels must be a multiple of branches={branches}. Received: input_shape={input_shape}")
    return channels


def branch_initializer(kernel_size: int, channels: int, filters: int):
    """He initialization by the fan-out of one branch.

    Keras would count the leading branch axis as part of the receptive field.
    """
    return keras.initializers.RandomNormal(stddev=(2.0 / (kernel_size * kernel_size * filters)) ** 0.5)
