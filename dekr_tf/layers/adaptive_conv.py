"""The adaptive convolution of DEKR (paper section 3.2) for all branches together."""

import keras
from keras import ops

from dekr_tf.layers.backend import compiled, for_each_branch, gather_rows, scatter_add_rows
from dekr_tf.layers.branch_conv import branch_channels, branch_conv, branch_initializer, from_branches, to_branches

# Channels are padded with zeros to whole vector registers; gathers and products of 15 channels take twice the time.
CHANNEL_MULTIPLE = 8

# (y, x) of the nine taps on the regular grid.
GRID = tuple((y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0))


@ops.custom_gradient
def sample_and_convolve(x, offsets, kernel):
    """A 3x3 convolution whose nine taps lie on an affine image of the regular grid, another one at each pixel.

    At pixel q tap i reads the feature map at `q + A g_i + t` by bilinear interpolation, with g_i the (y, x) positions
    of the regular 3x3 grid, row-major, A the 2x2 matrix and t the translation of pixel q. Corners outside the map
    count as zero, each on its own; a position further out than that has no gradient.

    Nothing that was sampled is kept for the gradient: it is sampled again.

    Args:
        x: (G, B, H, W, C) float32, G branches.
        offsets: (G, B, H, W, 6) float32: A row-major (y row first), then t as (y, x), in map pixels.
        kernel: (G, 9, C, F) float32.

    Returns:
        (G, B, H, W, F) float32.
    """

    def grad(*args, upstream=None):
        if upstream is None:
            (upstream,) = args
        return _gradients(x, offsets, kernel, upstream)

    return _forward(x, offsets, kernel), grad


# Each step is compiled apart from what is around it: fused with the convolution that makes the offsets, or with the
# positions, it would compute each of them again for every channel.
@for_each_branch
def _forward(x, offsets, kernel):
    return _convolve(x, kernel, *_taps(offsets))


@for_each_branch
def _gradients(x, offsets, kernel, upstream):
    """Gradients of the sum of `upstream` times the output, for x, offsets and kernel."""
    return _convolve_gradients(x, kernel, upstream, *_taps(offsets))


@compiled
def _convolve(x, kernel, rows, fy, fx, inside):
    del inside
    x, kernel = _pad_channels(x, kernel)
    branches, batch, height, width, channels = ops.shape(x)
    maps = _difference_maps(x)
    total = 0.0
    for tap in range(len(GRID)):
        value, right, down, cross = (gather_rows(each, rows[tap]) for each in maps)
        sampled = value + fx[tap] * right + fy[tap] * (down + fx[tap] * cross)
        sampled = ops.reshape(sampled, (branches, batch * height * width, channels))
        total += ops.matmul(sampled, kernel[:, tap])
    return ops.reshape(total, (branches, batch, height, width, kernel.shape[-1]))


@compiled
def _convolve_gradients(x, kernel, upstream, rows, fy, fx, inside):
    real_channels = x.shape[-1]
    x, kernel = _pad_channels(x, kernel)
    branches, batch, height, width, channels = ops.shape(x)
    pixels = batch * height * width
    upstream = ops.reshape(upstream, (branches, pixels, kernel.shape[-1]))
    upstream_by_filter = ops.transpose(upstream, (0, 2, 1))
    maps = _difference_maps(x)
    padded_height, padded_width = height + 3, width + 3
    scattered = ops.zeros((branches * batch * padded_height * padded_width, 4 * channels), x.dtype)
    ones = ops.ones((channels, 1), x.dtype)
    d_kernel = []
    d_positions = []
    for tap in range(len(GRID)):
        value, right, down, cross = (gather_rows(each, rows[tap]) for each in maps)
        step_right, step_down = right + fy[tap] * cross, down + fx[tap] * cross
        sampled = ops.reshape(value + fx[tap] * right + fy[tap] * step_down, (branches, pixels, channels))
        d_kernel.append(ops.matmul(upstream_by_filter, sampled))
        d_sampled = ops.matmul(upstream, ops.transpose(kernel[:, tap], (0, 2, 1)))
        d_sampled = ops.reshape(d_sampled, (branches * pixels, channels))
        # Summed over channels by a product with ones, which is vectorised.
        d_positions += [ops.matmul(d_sampled * each, ones) * inside[tap] for each in (step_down, step_right)]
        lower = fy[tap] * d_sampled
        upper = d_sampled - lower
        corners = (upper - fx[tap] * upper, fx[tap] * upper, lower - fx[tap] * lower, fx[tap] * lower)
        scattered = scatter_add_rows(scattered, rows[tap], ops.concatenate(corners, axis=1))
    scattered = ops.reshape(scattered, (branches, batch, padded_height, padded_width, 4, channels))
    # Row r of the padded map is row r - 1 of the map; what was put on a cell belongs to the cell and its neighbours.
    d_x_map = sum(
        scattered[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width, 2 * down + right]
        for down in (0, 1)
        for right in (0, 1)
    )
    # A product with the grid, and not sums of multiples: a compiler would repeat each tap's work for every multiple.
    to_offsets = [row for y, x in GRID for row in ((y, x, 0, 0, 1, 0), (0, 0, y, x, 0, 1))]
    d_offsets = ops.matmul(ops.concatenate(d_positions, axis=1), ops.convert_to_tensor(to_offsets, upstream.dtype))
    d_offsets = ops.reshape(d_offsets, (branches, batch, height, width, 6))
    d_kernel = ops.transpose(ops.stack(d_kernel, axis=1), (0, 1, 3, 2))
    return d_x_map[..., :real_channels], d_offsets, d_kernel[:, :, :real_channels]


def _pad_channels(x, kernel):
    """Adds zero channels to (..., C) features and a (G, 9, C, F) kernel, up to a multiple of CHANNEL_MULTIPLE."""
    extra = (0, -x.shape[-1] % CHANNEL_MULTIPLE)
    none = (0, 0)
    return ops.pad(x, (none, none, none, none, extra)), ops.pad(kernel, (none, none, extra, none))


def _difference_maps(x):
    """The four maps of bilinear interpolation, as rows: value, step to the right, step down, and their cross term.

    With fractions fy, fx the value between pixels is `value + fx right + fy (down + fx cross)`: half the products of
    weighting four corners, and one index for all four. The map is padded by one zero row and column before it and two
    behind it, so that every position clipped to [-1, H] x [-1, W] has its corners inside.

    Args:
        x: (G, B, H, W, C).

    Returns:
        Four arrays (G B (H + 3) (W + 3), C).
    """
    padded = ops.pad(x, ((0, 0), (0, 0), (1, 3), (1, 3), (0, 0)))
    right = padded[:, :, :, 1:] - padded[:, :, :, :-1]
    down = padded[:, :, 1:, :-1] - padded[:, :, :-1, :-1]
    cross = right[:, :, 1:] - right[:, :, :-1]
    maps = padded[:, :, :-1, :-1], right[:, :, :-1], down, cross
    return [ops.reshape(each, (-1, x.shape[-1])) for each in maps]


@compiled
def _taps(offsets):
    """Where the nine taps read.

    Args:
        offsets: (G, B, H, W, 6).

    Returns:
        rows (9, G B H W) int32 into the difference maps, fractions fy and fx (9, G B H W, 1) in [0, 1), and a mask
        (9, G B H W, 1) float32 that is 0 where the position is so far out that it reads nothing.
    """
    branches, batch, height, width, _ = ops.shape(offsets)
    dtype = offsets.dtype
    grid_y, grid_x = (
        ops.reshape(ops.convert_to_tensor(axis, dtype), (-1, 1, 1, 1, 1)) for axis in zip(*GRID, strict=True)
    )
    yy, yx, xy, xx, ty, tx = (offsets[..., index] for index in range(6))
    y = grid_y * yy + grid_x * yx + ty + ops.reshape(ops.cast(ops.arange(height), dtype), (-1, 1))
    x = grid_y * xy + grid_x * xx + tx + ops.cast(ops.arange(width), dtype)
    end_y, end_x = ops.cast(height, dtype), ops.cast(width, dtype)
    inside = ops.cast((y > -1) & (y < end_y) & (x > -1) & (x < end_x), dtype)
    y, x = ops.clip(y, -1, end_y), ops.clip(x, -1, end_x)
    top, left = ops.floor(y), ops.floor(x)
    image = ops.reshape(ops.cast(ops.arange(branches * batch), "int32"), (branches, batch, 1, 1))
    rows = (image * (height + 3) + ops.cast(top, "int32") + 1) * (width + 3) + ops.cast(left, "int32") + 1
    return ops.reshape(rows, (9, -1)), *(ops.reshape(each, (9, -1, 1)) for each in (y - top, x - left, inside))


@compiled
def _branches_and_offsets(x, offset_kernel, offset_bias):
    """(B, H, W, G C) features as (G, B, H, W, C), and the offsets (G, B, H, W, 6) that they predict."""
    x = to_branches(x, offset_kernel.shape[0])
    return x, branch_conv(x, offset_kernel) + ops.reshape(offset_bias, (-1, 1, 1, 1, 6))


@keras.saving.register_keras_serializable("dekr_tf")
class AdaptiveConv2D(keras.layers.Layer):
    """Adaptive 3x3 convolutions of G branches, no bias (paper section 3.2; `sample_and_convolve` has the arithmetic).

    A 3x3 convolution of the branch's own features predicts, at each pixel, the 2x2 matrix and the translation that
    place the nine taps. Positions and interpolation are float32 whatever the compute dtype: float16 cannot place a
    tap to better than 1/16 pixel beyond pixel 64.

    Args:
        branches: G.
        filters: output channels of one branch, F.

    Input (B, H, W, G C), output (B, H, W, G F). Variables: `offset_kernel` (G, 3, 3, C, 6), `offset_bias` (G, 6),
    both zero at first as in the reference, and `kernel` (G, 9, C, F). The six channels are A row-major (y row first),
    then t (y, x).

    Raises:
        ValueError: the input's channels are not a multiple of `branches`.
    """

    def __init__(self, branches, filters, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.branches = branches
        self.filters = filters

    def build(self, input_shape):
        channels = branch_channels(input_shape, self.branches)
        # Without `autocast=False` here, Keras rounds variables to the compute dtype where the model around the layer
        # has another policy than the layer, as a model that was saved in mixed precision has.
        self.offset_kernel = self.add_weight(
            name="offset_kernel", shape=(self.branches, 3, 3, channels, 6), initializer="zeros", autocast=False
        )
        self.offset_bias = self.add_weight(
            name="offset_bias", shape=(self.branches, 6), initializer="zeros", autocast=False
        )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.branches, 9, channels, self.filters),
            initializer=branch_initializer(3, channels, self.filters),
            autocast=False,
        )

    def call(self, inputs):
        offset_kernel, offset_bias, kernel = (
            ops.cast(ops.convert_to_tensor(each), "float32")
            for each in (self.offset_kernel, self.offset_bias, self.kernel)
        )
        x, offsets = _branches_and_offsets(ops.cast(inputs, "float32"), offset_kernel, offset_bias)
        return ops.cast(from_branches(sample_and_convolve(x, offsets, kernel)), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.branches * self.filters)

    def get_config(self):
        return {**super().get_config(), "branches": self.branches, "filters": self.filters}
