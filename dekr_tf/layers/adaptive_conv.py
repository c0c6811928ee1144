"""The adaptive convolution of DEKR (paper section 3.1) for all branches together."""

import keras
from keras import ops

from dekr_tf.geometry import GRID
from dekr_tf.layers.backend import compiled, for_each_branch, gather_rows, scatter_add_rows
from dekr_tf.layers.branch_conv import branch_channels, branch_conv, branch_initializer, from_branches, to_branches

# Channels are padded with zeros to whole vector registers; gathers and products of 15 channels take twice the time.
CHANNEL_MULTIPLE = 8


@ops.custom_gradient
def sample_and_convolve(x, offsets, kernel):
    """A 3x3 convolution whose nine taps lie on an affine image of the regular grid, a different one at each pixel.

    At pixel q tap i reads the feature map at `q + A g_i + t` by bilinear interpolation, with g_i the (y, x) positions
    of the regular 3x3 grid, row-major, A the 2x2 matrix and t the translation of pixel q. Corners outside the map
    count as zero, each on its own; a position whose four corners are all outside has no gradient.

    No sampled values are kept for the gradient: the backward pass samples again.

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


def sample_and_convolve_at(table, cells, map_size, offsets, kernel):
    """`sample_and_convolve` at chosen cells.

    Args:
        table: (G, R, C) float32 of `map_table`.
        cells: (G, N) or (1, N) int32 rows of the table, of cells inside the maps.
        map_size: (H, W).
        offsets: (G, N, 6) float32, as for `sample_and_convolve`.
        kernel: (G, 9, C, F) float32.

    Returns:
        (G, N, F) float32.
    """

    @ops.custom_gradient
    def run(table, offsets, kernel):
        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return _convolve_gradients_at(table, kernel, upstream, *_taps(offsets, cells, *map_size), map_size[1])

        rows, fy, fx, _ = _taps(offsets, cells, *map_size)
        return _convolve_at(table, kernel, rows, fy, fx, map_size[1]), grad

    return run(table, offsets, kernel)


def tap_cells(offsets, cells, map_size):
    """The first of the four cells that each tap of `sample_and_convolve_at` reads.

    The other three are 1, W + 3 and W + 4 rows further on.

    Args:
        offsets: (G, N, 6).
        cells: (G, N) or (1, N) int32.
        map_size: (H, W).

    Returns:
        (9, G, N) int32 rows of a `map_table`.
    """
    return _taps(offsets, cells, *map_size)[0]


def map_table(x):
    """Maps as rows, with a border of zeros wide enough for every corner that a tap reads.

    Each map gets one row and one column before it and two after it.

    Args:
        x: (G, B, H, W, C).

    Returns:
        (G, B (H + 3) (W + 3), C).
    """
    padded = ops.pad(x, ((0, 0), (0, 0), (1, 2), (1, 2), (0, 0)))
    return ops.reshape(padded, (x.shape[0], -1, x.shape[-1]))


@for_each_branch
def _forward(x, offsets, kernel):
    branches, batch, height, width, _ = ops.shape(x)
    total = _convolve(x, kernel, *_taps(*_at_every_cell(offsets)))
    return ops.reshape(total, (branches, batch, height, width, kernel.shape[-1]))


@for_each_branch
def _gradients(x, offsets, kernel, upstream):
    """Gradients of the sum of `upstream` times the output, for x, offsets and kernel."""
    d_x, d_offsets, d_kernel = _convolve_gradients(x, kernel, upstream, *_taps(*_at_every_cell(offsets)))
    return d_x, ops.reshape(d_offsets, ops.shape(offsets)), d_kernel


def _at_every_cell(offsets):
    """Arguments of `_taps` for the offsets (G, B, H, W, 6) of whole maps."""
    branches, batch, height, width, _ = ops.shape(offsets)
    image, y, x = (ops.arange(size, dtype="int32") for size in (batch, height, width))
    cells = (image[:, None, None] * (height + 3) + y[:, None] + 1) * (width + 3) + x + 1
    return ops.reshape(offsets, (branches, -1, 6)), ops.reshape(cells, (1, -1)), height, width


# Each step is compiled on its own: fused with the convolution that makes the offsets, or with the positions, XLA would
# compute each of them again for every channel.
@compiled
def _convolve(x, kernel, rows, fy, fx, inside):
    del inside
    x, kernel = _pad_channels(x, kernel)
    read = _map_reader(x, rows)
    total = 0.0
    for tap in range(len(GRID)):
        sampled = ops.reshape(_interpolate(read(tap), fy[tap], fx[tap]), (x.shape[0], -1, x.shape[-1]))
        total += ops.matmul(sampled, kernel[:, tap])
    return total


@compiled
def _convolve_gradients(x, kernel, upstream, rows, fy, fx, inside):
    real_channels = x.shape[-1]
    x, kernel = _pad_channels(x, kernel)
    branches, batch, height, width, channels = ops.shape(x)
    padded_height, padded_width = height + 3, width + 3
    size = batch * padded_height * padded_width
    upstream = ops.reshape(upstream, (branches, batch * height * width, kernel.shape[-1]))
    upstream_by_filter = ops.transpose(upstream, (0, 2, 1))
    scattered = ops.zeros((branches * size, 4 * channels), x.dtype)
    read = _map_reader(x, rows)
    rows = _table_rows(rows, size)
    d_kernel = []
    d_positions = []
    for tap in range(len(GRID)):
        maps = read(tap)
        sampled = ops.reshape(_interpolate(maps, fy[tap], fx[tap]), (branches, -1, channels))
        d_kernel.append(ops.matmul(upstream_by_filter, sampled))
        d_sampled = ops.matmul(upstream, ops.transpose(kernel[:, tap], (0, 2, 1)))
        d_sampled = ops.reshape(d_sampled, (-1, channels))
        corners, d_position = _interpolation_gradients(d_sampled, maps, fy[tap], fx[tap], inside[tap])
        d_positions += d_position
        scattered = scatter_add_rows(scattered, rows[tap], ops.concatenate(corners, axis=1))
    scattered = ops.reshape(scattered, (branches, batch, padded_height, padded_width, 4, channels))
    # Row r of the padded map is row r - 1 of the map. Each cell holds the gradients of four corners: itself, and its
    # neighbors to the right and below.
    d_x = sum(
        scattered[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width, 2 * down + right]
        for down in (0, 1)
        for right in (0, 1)
    )
    d_offsets = ops.reshape(_offset_gradients(d_positions), (branches, -1, 6))
    d_kernel = ops.transpose(ops.stack(d_kernel, axis=1), (0, 1, 3, 2))
    return d_x[..., :real_channels], d_offsets, d_kernel[:, :, :real_channels]


# At few cells, the nine taps fit into the cache together, and reading four corners is faster than computing the
# differences of whole maps.
@compiled
def _convolve_at(table, kernel, rows, fy, fx, width):
    table, kernel = _pad_channels(table, kernel)
    branches, taps, channels, filters = kernel.shape
    fy, fx = (_by_cell(each) for each in (fy, fx))
    sampled = _interpolate(_read_corners(table, _rows_by_cell(rows, table.shape[1]), width), fy, fx)
    sampled = ops.reshape(sampled, (branches, -1, taps * channels))
    return ops.matmul(sampled, ops.reshape(kernel, (branches, taps * channels, filters)))


@compiled
def _convolve_gradients_at(table, kernel, upstream, rows, fy, fx, inside, width):
    real_channels = table.shape[-1]
    table, kernel = _pad_channels(table, kernel)
    branches, taps, channels, filters = kernel.shape
    size = table.shape[1]
    fy, fx, inside = (_by_cell(each) for each in (fy, fx, inside))
    rows = _rows_by_cell(rows, size)
    maps = _read_corners(table, rows, width)
    sampled = ops.reshape(_interpolate(maps, fy, fx), (branches, -1, taps * channels))
    d_kernel = ops.matmul(ops.transpose(upstream, (0, 2, 1)), sampled)
    kernel = ops.reshape(kernel, (branches, taps * channels, filters))
    d_sampled = ops.reshape(ops.matmul(upstream, ops.transpose(kernel, (0, 2, 1))), (-1, channels))
    corners, d_position = _interpolation_gradients(d_sampled, maps, fy, fx, inside)
    d_table = ops.zeros((branches * size, channels), table.dtype)
    for step, corner in zip(_corner_steps(width), corners, strict=True):
        d_table = scatter_add_rows(d_table, rows + step, corner)
    d_table = ops.reshape(d_table, (branches, size, channels))
    d_positions = ops.reshape(ops.concatenate(d_position, axis=1), (-1, 2 * taps))
    d_offsets = ops.reshape(_offset_gradients([d_positions]), (branches, -1, 6))
    d_kernel = ops.reshape(ops.transpose(d_kernel, (0, 2, 1)), (branches, taps, channels, filters))
    return d_table[..., :real_channels], d_offsets, d_kernel[:, :, :real_channels]


def _interpolate(maps, fy, fx):
    """Bilinear interpolation between pixels; `maps` are what `_map_reader` reads."""
    value, right, down, cross = maps
    return value + fx * right + fy * (down + fx * cross)


def _interpolation_gradients(d_sampled, maps, fy, fx, inside):
    """Gradients for the four corners, each (M, C), and for y and x, each (M, 1)."""
    _, right, down, cross = maps
    # Summed over channels by a product with ones, which is vectorized.
    ones = ops.ones((d_sampled.shape[-1], 1), d_sampled.dtype)
    steps = down + fx * cross, right + fy * cross
    d_position = [ops.matmul(d_sampled * step, ones) * inside for step in steps]
    lower = fy * d_sampled
    upper = d_sampled - lower
    return (upper - fx * upper, fx * upper, lower - fx * lower, fx * lower), d_position


def _offset_gradients(d_positions):
    """Gradients (M, 6) for offsets, from arrays that make (M, 18) together: those for y and x of each tap in turn."""
    # A product with the grid instead of sums of multiples: XLA would repeat each tap's work for every multiple.
    to_offsets = [row for y, x in GRID for row in ((y, x, 0, 0, 1, 0), (0, 0, y, x, 0, 1))]
    d_positions = ops.concatenate(d_positions, axis=1)
    return ops.matmul(d_positions, ops.convert_to_tensor(to_offsets, d_positions.dtype))


def _pad_channels(x, kernel):
    """Adds zero channels to (..., C) features and a (G, 9, C, F) kernel, up to a multiple of CHANNEL_MULTIPLE."""
    extra = (0, -x.shape[-1] % CHANNEL_MULTIPLE)
    none = (0, 0)
    return ops.pad(x, [none] * (len(x.shape) - 1) + [extra]), ops.pad(kernel, (none, none, extra, none))


def _map_reader(x, rows):
    """Reads what a tap needs from whole maps: (G N, C) value, step to the right, step down, and their cross term.

    With fractions fy, fx the value between pixels is `value + fx right + fy (down + fx cross)`: half the products of
    weighting four corners, and one index for all four, in maps of differences.

    Args:
        x: (G, B, H, W, C).
        rows: (9, G, N) of `_taps`.

    Returns:
        A function of the tap's number.
    """
    padded = ops.pad(x, ((0, 0), (0, 0), (1, 3), (1, 3), (0, 0)))
    right = padded[:, :, :, 1:] - padded[:, :, :, :-1]
    down = padded[:, :, 1:, :-1] - padded[:, :, :-1, :-1]
    cross = right[:, :, 1:] - right[:, :, :-1]
    maps = padded[:, :, :-1, :-1], right[:, :, :-1], down, cross
    maps = [ops.reshape(each, (-1, x.shape[-1])) for each in maps]
    _, batch, height, width, _ = ops.shape(x)
    rows = _table_rows(rows, batch * (height + 3) * (width + 3))
    return lambda tap: [gather_rows(each, rows[tap]) for each in maps]


def _read_corners(table, rows, width):
    """What `_map_reader` reads, but from rows (M,) of the tables (G, R, C) of all branches together."""
    table = ops.reshape(table, (-1, table.shape[-1]))
    value, right, down, cross = (gather_rows(table, rows + step) for step in _corner_steps(width))
    return value, right - value, down - value, cross - down - right + value


def _corner_steps(width):
    """Steps from the first of four corners to each of them, in rows of a `map_table`."""
    return 0, 1, width + 3, width + 4


def _table_rows(rows, size):
    """Rows (9, G, N) of each branch's own table as rows (9, G N) of all tables together, each of `size` rows."""
    branches = rows.shape[1]
    return ops.reshape(rows + ops.arange(branches, dtype="int32")[:, None] * size, (len(GRID), -1))


def _rows_by_cell(rows, size):
    """As `_table_rows`, with the nine of a cell together: (G N 9,)."""
    return ops.reshape(ops.transpose(_table_rows(rows, size)), (-1,))


def _by_cell(values):
    """(9, G N, 1) as (G N 9, 1)."""
    return ops.reshape(ops.transpose(values, (1, 0, 2)), (-1, 1))


@compiled
def _taps(offsets, cells, height, width):
    """Where the nine taps read.

    Args:
        offsets: (G, N, 6).
        cells: (G, N) or (1, N) int32, rows of a `map_table`.
        height, width: of the maps.

    Returns:
        rows (9, G, N) int32 of the first of four corners, fractions fy and fx (9, G N, 1) in [0, 1), and a mask
        (9, G N, 1) float32 that is 0 where the position is so far out that it reads nothing.
    """
    dtype = offsets.dtype
    grid_y, grid_x = (ops.reshape(ops.convert_to_tensor(axis, dtype), (-1, 1, 1)) for axis in zip(*GRID, strict=True))
    yy, yx, xy, xx, ty, tx = (offsets[..., index] for index in range(6))
    line, column = cells // (width + 3), cells % (width + 3)
    image, row = line // (height + 3), line % (height + 3)
    y = grid_y * yy + grid_x * yx + ty + ops.cast(row - 1, dtype)
    x = grid_y * xy + grid_x * xx + tx + ops.cast(column - 1, dtype)
    end_y, end_x = ops.cast(height, dtype), ops.cast(width, dtype)
    inside = ops.cast((y > -1) & (y < end_y) & (x > -1) & (x < end_x), dtype)
    y, x = ops.clip(y, -1, end_y), ops.clip(x, -1, end_x)
    top, left = ops.floor(y), ops.floor(x)
    rows = (image * (height + 3) + ops.cast(top, "int32") + 1) * (width + 3) + ops.cast(left, "int32") + 1
    return rows, *(ops.reshape(each, (len(GRID), -1, 1)) for each in (y - top, x - left, inside))


@compiled
def _branches_and_offsets(x, offset_kernel, offset_bias):
    """(B, H, W, G C) features as (G, B, H, W, C), and the offsets (G, B, H, W, 6) that they predict."""
    x = to_branches(x, offset_kernel.shape[0])
    return x, branch_conv(x, offset_kernel) + ops.reshape(offset_bias, (-1, 1, 1, 1, 6))


@keras.saving.register_keras_serializable("dekr_tf")
class AdaptiveConv2D(keras.layers.Layer):
    """Adaptive 3x3 convolutions of G branches, no bias (paper section 3.1; `sample_and_convolve` has the arithmetic).

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
        # Without `autocast=False` here, Keras rounds variables to the compute dtype if the model around the layer has
        # another policy than the layer, as a model saved in mixed precision does.
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
