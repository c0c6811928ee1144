"""The sparse head of the pose model: the offset head at the centers only, with the result of the dense head there.

It runs inside the network that ends at the poses (`models.pose_model`); after one that ends at the maps,
`inference.sparse_head` does the same in NumPy.

Two adaptive convolutions have a finite receptive field around a cell, though a different one for each cell. A block at
a cell reads its input on the 3x3 cells around, which predict where the nine taps lie, and on the 2x2 cells around each
tap. That input is again the output of a block, or the features that enter the head.
"""

import keras
import numpy as np
from keras import ops

from dekr_tf.geometry import GRID
from dekr_tf.layers.backend import gather_rows

#: Channels of a branch are padded with zeros to whole vector registers.
CHANNEL_MULTIPLE = 16


def padded_channels(channels: int) -> int:
    """Channels of a branch, padded as in the features that enter `SparseOffsetHead`."""
    return channels + -channels % CHANNEL_MULTIPLE


@keras.saving.register_keras_serializable("dekr_tf")
class SparseOffsetHead(keras.layers.Layer):
    """The blocks and the last convolution of G branches of one size, at chosen cells.

    It uses only row gathers, matrix products, and arithmetic on at most four axes, for engines that have little more.
    The work grows 45-fold with each block, so this is for the paper's two.

    Args:
        branches: G.
        channels: C, a multiple of CHANNEL_MULTIPLE.
        outputs: of one branch: x and y for each of its keypoints, F.
        blocks: number of blocks.
        dilation: distance of the taps of plain blocks; zero for adaptive ones.

    Input: features (B, h, w, G C) with h and w of at least 2; rows and columns (B, N) of cells, whole numbers as
    float32. Output (B, N, G F), equal to that of the dense branches at these cells.
    """

    def __init__(self, branches, channels, outputs, blocks, dilation=0, **kwargs):
        super().__init__(**kwargs)
        self.branches = branches
        self.channels = channels
        self.outputs = outputs
        self.blocks = blocks
        self.dilation = dilation

    def build(self, features_shape, rows_shape, columns_shape):
        def add(name, *shape):
            return self.add_weight(name=name, shape=(self.branches, *shape), initializer="zeros", trainable=False)

        self.kernels = [add(f"kernel{i}", 9 * self.channels, self.channels) for i in range(self.blocks)]
        self.biases = [add(f"bias{i}", 1, self.channels) for i in range(self.blocks)]
        adaptive = 0 if self.dilation else self.blocks
        self.tap_kernels = [add(f"tap_kernel{i}", 9 * self.channels, 2 * 9) for i in range(adaptive)]
        self.tap_biases = [add(f"tap_bias{i}", 1, 2 * 9) for i in range(adaptive)]
        self.final_kernel = add("final_kernel", self.channels, self.outputs)
        self.final_bias = add("final_bias", 1, self.outputs)

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Takes the weights of the built layer.

        Args:
            weights: of `models.folding.fold_offset_head` for one size of branches: `kernel{i}` (G, 9, c, c), `bias{i}`
                (G, c) and, for adaptive blocks, `offset_kernel{i}` (G, 9, c, 6), `offset_bias{i}` (G, 6) of block i;
                `final_kernel` (G, c, F) and `final_bias` (G, F), with c <= C channels.
        """
        extra = (0, self.channels - weights["final_kernel"].shape[1])
        none = (0, 0)
        for index in range(self.blocks):
            kernel = np.pad(weights[f"kernel{index}"], (none, none, extra, extra))
            self.kernels[index].assign(kernel.reshape(self.kernels[index].shape))
            self.biases[index].assign(np.pad(weights[f"bias{index}"], (none, extra))[:, None])
        for index, variable in enumerate(self.tap_kernels):
            kernel = np.pad(weights[f"offset_kernel{index}"], (none, none, extra, none))
            variable.assign((kernel @ _taps_of_offsets()).reshape(variable.shape))
            self.tap_biases[index].assign(weights[f"offset_bias{index}"][:, None] @ _taps_of_offsets())
        self.final_kernel.assign(np.pad(weights["final_kernel"], (none, extra, none)))
        self.final_bias.assign(weights["final_bias"][:, None])

    def call(self, features, rows, columns):
        images, height, width, _ = ops.shape(features)
        people = ops.shape(rows)[1]
        source = _Map(ops.reshape(features, (-1, self.channels)), images, height, width, self.branches)
        # All branches read around the same cells.
        y, x = (ops.tile(ops.reshape(each, (1, -1)), (self.branches, 1)) for each in (rows, columns))
        outputs = self._window(source, self.blocks - 1, y, x, source.first_rows(people), 1, True)
        outputs = ops.matmul(outputs, self.final_kernel) + _computed(self.final_bias, y)
        return ops.reshape(ops.transpose(outputs, (1, 0, 2)), (images, people, self.branches * self.outputs))

    def _window(self, source, block, y, x, first, side, inside):
        """The output of a block, or the features where `block` is -1, on square windows; zero outside the map.

        Args:
            source: the map.
            block: index.
            y, x: (G, Q) float32 whole numbers, the windows' first cells.
            first: (G, Q) or (G, 1) int32, row of the map's first cell.
            side: of the windows, in cells.
            inside: whether no window reaches beyond the map.

        Returns:
            (G, Q, side side C).
        """
        steps_y, steps_x = _steps(side)
        cells_y, cells_x = y[..., None] + steps_y, x[..., None] + steps_x
        near_y, near_x = (cells_y, cells_x) if inside else source.clip(cells_y, cells_x)
        if block < 0:
            values = source.cells(source.rows(near_y, near_x, first[..., None]))
        elif not self.dilation:
            values = self._adaptive(source, block, y, x, first, side)
        else:
            values = self._plain(source, block, cells_y, cells_x, first)
        if not inside:
            # The mask is zero from a distance of one cell on.
            mask = ops.relu(1.0 - ops.abs(cells_y - near_y) - ops.abs(cells_x - near_x))
            values = ops.reshape(values, (-1, self.channels)) * ops.reshape(mask, (-1, 1))
        return ops.reshape(values, (self.branches, -1, side * side * self.channels))

    def _adaptive(self, source, block, y, x, first, side):
        before = self._window(source, block - 1, y - 1.0, x - 1.0, first, side + 2, False)
        taps = ops.matmul(self._neighborhoods(before, side), self.tap_kernels[block])
        taps = taps + _computed(self.tap_biases[block], y)
        tap_y, tap_x = (
            ops.reshape(each + ops.reshape(start[..., None] + step, (self.branches, -1, 1)), (self.branches, -1))
            for each, start, step in zip(ops.split(taps, 2, axis=-1), (y, x), _steps(side), strict=True)
        )
        # Along each axis a tap reads two cells of the map, weighted by distance. A cell more than one away has no
        # weight, so the outermost two can serve for taps beyond the border too.
        top, left = source.first_of_four(tap_y, tap_x)
        shares = _corner_shares(tap_y - top, tap_x - left)
        first = _repeat(first, side * side * 9)
        if block:
            corners = ops.split(self._window(source, block - 1, top, left, first, 2, True), 4, axis=-1)
            outputs = self._convolve(corners, shares, self.kernels[block])
        else:
            outputs = self._convolve(source.four_cells(source.rows(top, left, first)), shares, self.kernels[block])
        outputs = outputs + _computed(self.biases[block], y)
        outputs = ops.reshape(outputs, (self.branches, -1, side * side * self.channels))
        # The rows of the window without its border: without their first and last cell.
        starts = [(row * (side + 2) + 1) * self.channels for row in range(1, side + 1)]
        middle = [before[..., start : start + side * self.channels] for start in starts]
        return ops.relu(outputs + (ops.concatenate(middle, axis=-1) if side > 1 else middle[0]))

    def _neighborhoods(self, window, side):
        """The 3x3 cells around each inner cell of windows (G, Q, (side + 2)^2 C): (G, Q side^2, 9 C)."""
        row = (side + 2) * self.channels
        corners = [y * row + x * self.channels for y in range(side) for x in range(side)]
        starts = [corner + step for corner in corners for step in (0, row, 2 * row)]
        parts = [window[..., start : start + 3 * self.channels] for start in starts]
        return ops.reshape(ops.concatenate(parts, axis=-1), (self.branches, -1, 9 * self.channels))

    def _convolve(self, corners, shares, kernel):
        """Nine taps, each of four corners with shares (G, M), times kernel (G, 9 C, C): (G, M / 9, C).

        The corners are (G, M, C), or flat, (G M, C).
        """
        # Corner by corner: putting the features of four corners side by side costs more than reading them.
        sampled = sum(
            corner * ops.reshape(share, (*ops.shape(corner)[:-1], 1))
            for corner, share in zip(corners, shares, strict=True)
        )
        return ops.matmul(ops.reshape(sampled, (self.branches, -1, 9 * self.channels)), kernel)

    def _plain(self, source, block, y, x, first):
        cells = y.shape[-1]
        steps_y, steps_x = (ops.convert_to_tensor(axis, "float32") * self.dilation for axis in zip(*GRID, strict=True))
        y, x = (
            ops.reshape(each[..., None] + steps, (self.branches, -1)) for each, steps in ((y, steps_y), (x, steps_x))
        )
        first = _repeat(first, 9 * cells)
        before = self._window(source, block - 1, y, x, first, 1, False)
        before = ops.reshape(before, (self.branches, -1, 9 * self.channels))
        outputs = ops.matmul(before, self.kernels[block]) + _computed(self.biases[block], y)
        return ops.relu(outputs + before[..., 4 * self.channels : 5 * self.channels])

    def compute_output_shape(self, features_shape, rows_shape, columns_shape):
        return (*rows_shape, self.branches * self.outputs)

    def get_config(self):
        return {
            **super().get_config(),
            "branches": self.branches,
            "channels": self.channels,
            "outputs": self.outputs,
            "blocks": self.blocks,
            "dilation": self.dilation,
        }


class _Map:
    """Features as a table with a row for each cell and branch, the branches of a cell together."""

    def __init__(self, table, images, height, width, branches):
        self.table = table
        self.images = images
        self.cells_of_image = height * width
        self.branches = branches
        self.row_step = width * branches
        self.width = ops.cast(width, "float32")
        self.last_y = ops.cast(height, "float32") - 1.0
        self.last_x = self.width - 1.0

    def first_rows(self, windows):
        """The rows of cell (0, 0), int32: (G, images windows), or (G, 1) where all are of the same image."""
        branches = ops.arange(self.branches, dtype="int32")[:, None]
        if isinstance(self.images, int) and self.images == 1:
            return branches
        first = ops.arange(self.images, dtype="int32") * (self.cells_of_image * self.branches)
        return branches + ops.reshape(ops.repeat(first[:, None], windows, axis=1), (1, self.images * windows))

    def clip(self, y, x):
        """The nearest cells."""
        return ops.clip(y, 0.0, self.last_y), ops.clip(x, 0.0, self.last_x)

    def first_of_four(self, y, x):
        """The first of the four cells around a position, or of those next to it at a border."""
        return ops.clip(ops.floor(y), 0.0, self.last_y - 1.0), ops.clip(ops.floor(x), 0.0, self.last_x - 1.0)

    def rows(self, y, x, first):
        """The rows of cells y, x, all inside; `first` are the rows of cell (0, 0)."""
        # float32 counts the cells of a map exactly, up to 2^24, but not the rows of a batch and all branches.
        return ops.cast(y * self.width + x, "int32") * self.branches + first

    def cells(self, rows):
        """Features (M, C) of the cells in M rows of any shape."""
        # LiteRT's GPU delegates support gathers with one-dimensional indices only.
        return gather_rows(self.table, ops.reshape(rows, (-1,)))

    def four_cells(self, rows):
        """Features of the cells in these rows, of those to their right, below them, and below to the right."""
        steps = self.branches, self.row_step, self.row_step + self.branches
        return [self.cells(each) for each in (rows, *(rows + step for step in steps))]


def _repeat(first, times):
    """The rows `first` (G, Q) or (G, 1), repeated for `times` cells of each window: (G, Q times) or (G, 1)."""
    return first if first.shape[1] == 1 else ops.repeat(first, times, axis=1)


def _computed(bias, y):
    """`bias` (G, 1, C) as a computed tensor: multiplied by a 1 that is derived from `y` (G, Q).

    LiteRT's GPU delegates give all branches the first branch's part of a constant; computed tensors they add correctly.
    """
    one = ops.minimum(ops.abs(y[:, :1, None]) + 1.0, 1.0)
    return ops.matmul(one, bias)


def _steps(side):
    """Steps from a window's first cell to each of its cells, row by row: y and x, (side side,)."""
    y, x = np.divmod(np.arange(side * side), side)
    return ops.convert_to_tensor(y, "float32"), ops.convert_to_tensor(x, "float32")


def _taps_of_offsets():
    """The matrix (6, 18) from (yy, yx, xy, xx, ty, tx) to y, then x, of nine taps relative to their cell."""
    y = [(gy, gx, 0, 0, 1, 0) for gy, gx in GRID]
    x = [(0, 0, gy, gx, 0, 1) for gy, gx in GRID]
    return np.array(y + x, np.float32).T


def _corner_shares(y, x):
    """Bilinear weights of the cells (0, 0), (0, 1), (1, 0) and (1, 1) for positions y, x, each of their shape."""
    top, bottom = (ops.relu(1.0 - ops.abs(y - row)) for row in (0.0, 1.0))
    left, right = (ops.relu(1.0 - ops.abs(x - column)) for column in (0.0, 1.0))
    return top * left, top * right, bottom * left, bottom * right
