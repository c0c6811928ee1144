"""The branches of the offset head, evaluated at a few cells only, with the result that they have there on whole maps.

Two adaptive convolutions see a finite surrounding of a cell, though a different one for each cell. A block at a cell
needs the features before it on the 3x3 cells around (they say where the nine taps lie) and on the 2x2 cells around
each tap. Those are again outputs of a block, or the features that enter the head.
"""

import keras
import numpy as np
from keras import ops

from dekr_tf.layers.adaptive_conv import GRID
from dekr_tf.layers.backend import gather_rows

#: Channels of a branch are padded with zeros to whole vector registers.
CHANNEL_MULTIPLE = 16


def padded_channels(channels: int) -> int:
    """Channels of a branch in the features that enter `SparseOffsetHead`."""
    return channels + -channels % CHANNEL_MULTIPLE


@keras.saving.register_keras_serializable("dekr_tf")
class SparseOffsetHead(keras.layers.Layer):
    """The blocks and the last convolution of G branches of one size, at chosen cells.

    Nothing but gathers of rows, matrix products and arithmetic of at most four axes, for runtimes that have little
    more. The work grows 45 times with each block, so this is for the paper's two.

    Args:
        branches: G.
        channels: C, a multiple of CHANNEL_MULTIPLE.
        outputs: of one branch: x and y for each of its keypoints, F.
        blocks: number of blocks.
        dilation: distance of the taps of plain blocks; zero for adaptive ones.

    Input: features (B, h, w, G C) with h and w of at least 2, rows and columns (B, N) float32 of cells of the map.
    Output (B, N, G F), as the dense branches have it at these cells.
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

        corners = 4 if not self.dilation else 1
        self.kernels = [add(f"kernel{i}", 9 * corners * self.channels, self.channels) for i in range(self.blocks)]
        self.biases = [add(f"bias{i}", 1, self.channels) for i in range(self.blocks)]
        # By names, since TensorFlow exports no objects in dictionaries of other keys.
        self.offset_kernels, self.offset_biases = {}, {}
        for index, sides in enumerate(_window_sides(self.blocks) if not self.dilation else ()):
            for side in sides:
                shape = (side + 2) ** 2 * self.channels, side**2 * 6
                self.offset_kernels[f"{index}_{side}"] = add(f"offset_kernel{index}_{side}", *shape)
            self.offset_biases[str(index)] = add(f"offset_bias{index}", 1, 6)
        self.final_kernel = add("final_kernel", self.channels, self.outputs)
        self.final_bias = add("final_bias", 1, self.outputs)

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Takes the weights of the built layer.

        Args:
            weights: as `models.pose_model.fold_offset_head` gives them for one size of branches: `kernel{i}`
                (G, 9, c, c), `bias{i}` (G, c), `offset_kernel{i}` (G, 9, c, 6), `offset_bias{i}` (G, 6) for each
                block, `final_kernel` (G, c, F) and `final_bias` (G, F), with c <= C channels.
        """
        extra = (0, self.channels - weights["final_kernel"].shape[1])
        none = (0, 0)
        for index in range(self.blocks):
            kernel = np.pad(weights[f"kernel{index}"], (none, none, extra, extra))
            # The four cells around a tap share its kernel.
            kernel = kernel if self.dilation else np.repeat(kernel, 4, axis=1)
            self.kernels[index].assign(kernel.reshape(self.kernels[index].shape))
            self.biases[index].assign(np.pad(weights[f"bias{index}"], (none, extra))[:, None])
            if not self.dilation:
                self.offset_biases[str(index)].assign(weights[f"offset_bias{index}"][:, None])
        for name, variable in self.offset_kernels.items():
            index, side = map(int, name.split("_"))
            kernel = np.pad(weights[f"offset_kernel{index}"], (none, none, extra, none))
            variable.assign(_kernel_of_window(kernel, side).reshape(variable.shape))
        self.final_kernel.assign(np.pad(weights["final_kernel"], (none, extra, none)))
        self.final_bias.assign(weights["final_bias"][:, None])

    def call(self, features, rows, columns):
        images, height, width, _ = ops.shape(features)
        people = ops.shape(rows)[1]
        table = ops.reshape(features, (images * height * width * self.branches, self.channels))
        first = ops.arange(images, dtype="int32") * (height * width * self.branches)
        first = ops.reshape(ops.repeat(first[:, None], people, axis=1), (1, images * people))
        first = first + ops.arange(self.branches, dtype="int32")[:, None]
        y, x = (ops.broadcast_to(ops.reshape(each, (1, -1)), ops.shape(first)) for each in (rows, columns))
        outputs = self._window(_Map(table, height, width, self.branches), self.blocks - 1, y, x, first, 1, True)
        outputs = ops.matmul(ops.reshape(outputs, (self.branches, images * people, self.channels)), self.final_kernel)
        outputs = ops.transpose(outputs + self.final_bias, (1, 0, 2))
        return ops.reshape(outputs, (images, people, self.branches * self.outputs))

    def _window(self, source, block, y, x, first, side, inside):
        """The output of a block, or the features where `block` is -1, on square windows; zero outside the map.

        Args:
            source: the map.
            block: index.
            y, x: (G, Q) float32 whole numbers, the windows' first cells.
            first: (G, Q) int32, row of the map's first cell.
            side: of the windows.
            inside: no window reaches beyond the map.

        Returns:
            (G, Q, side side, C).
        """
        steps_y, steps_x = _steps(side)
        y, x = y[..., None] + steps_y, x[..., None] + steps_x
        near_y, near_x = (y, x) if inside else source.clip(y, x)
        if block < 0:
            values = source.cells(near_y, near_x, first)
        elif not self.dilation:
            values = self._adaptive(source, block, y, x, first, side)
        else:
            values = self._plain(source, block, y, x, first)
        if inside:
            return values
        # Zero from a distance of one cell on.
        return values * ops.relu(1.0 - ops.abs(y - near_y) - ops.abs(x - near_x))[..., None]

    def _adaptive(self, source, block, y, x, first, side):
        branches, windows, cells = ops.shape(y)
        channels = self.channels
        before = self._window(source, block - 1, y[..., 0] - 1.0, x[..., 0] - 1.0, first, side + 2, False)
        offsets = ops.reshape(before, (branches, windows, (side + 2) ** 2 * channels))
        offsets = ops.matmul(offsets, self.offset_kernels[f"{block}_{side}"])
        offsets = ops.reshape(offsets, (branches, windows * cells, 6)) + self.offset_biases[str(block)]
        to_y, to_x = _taps_of_offsets()
        y = ops.reshape(y, (branches, windows * cells, 1)) + ops.matmul(offsets, to_y)
        x = ops.reshape(x, (branches, windows * cells, 1)) + ops.matmul(offsets, to_x)
        y, x = (ops.reshape(each, (branches, windows * cells * 9)) for each in (y, x))
        # Of two cells inside the map the tap reads by its distance from each: those further than one cell count
        # nothing, so the first and last cells serve for taps beyond them too.
        top, left = source.first_of_four(y, x)
        weights = _corner_weights(y - top, x - left)
        first = ops.reshape(ops.repeat(first[..., None], cells * 9, axis=2), (branches, windows * cells * 9))
        corners = self._window(source, block - 1, top, left, first, 2, True) * weights[..., None]
        outputs = ops.matmul(ops.reshape(corners, (branches, windows * cells, 36 * channels)), self.kernels[block])
        outputs = ops.reshape(outputs + self.biases[block], (branches, windows, cells, channels))
        line = side + 2
        middle = [before[:, :, row * line + 1 : row * line + 1 + side] for row in range(1, side + 1)]
        return ops.relu(outputs + (ops.concatenate(middle, axis=2) if side > 1 else middle[0]))

    def _plain(self, source, block, y, x, first):
        branches, windows, cells = ops.shape(y)
        steps_y, steps_x = (ops.convert_to_tensor(axis, "float32") * self.dilation for axis in zip(*GRID, strict=True))
        y, x = (
            ops.reshape(each[..., None] + steps, (branches, windows * cells * 9))
            for each, steps in ((y, steps_y), (x, steps_x))
        )
        first = ops.reshape(ops.repeat(first[..., None], cells * 9, axis=2), (branches, windows * cells * 9))
        before = self._window(source, block - 1, y, x, first, 1, False)
        before = ops.reshape(before, (branches, windows * cells, 9 * self.channels))
        outputs = ops.matmul(before, self.kernels[block]) + self.biases[block]
        outputs = ops.relu(outputs + before[..., 4 * self.channels : 5 * self.channels])
        return ops.reshape(outputs, (branches, windows, cells, self.channels))

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

    def __init__(self, table, height, width, branches):
        self.table = table
        self.branches = branches
        self.width = ops.cast(width, "float32")
        self.last_y = ops.cast(height, "float32") - 1.0
        self.last_x = self.width - 1.0

    def clip(self, y, x):
        """The nearest cells."""
        return ops.clip(y, 0.0, self.last_y), ops.clip(x, 0.0, self.last_x)

    def first_of_four(self, y, x):
        """The first of the four cells around a position, or of those next to it at a border."""
        return ops.clip(ops.floor(y), 0.0, self.last_y - 1.0), ops.clip(ops.floor(x), 0.0, self.last_x - 1.0)

    def cells(self, y, x, first):
        """Features (G, Q, S, C) of cells y, x (G, Q, S), all inside; `first` (G, Q) are the rows of cell (0, 0)."""
        # Cells are counted exactly in float32 (up to 2^24 of them), rows of a batch and all branches are not.
        rows = ops.cast(y * self.width + x, "int32") * self.branches + first[..., None]
        values = gather_rows(self.table, ops.reshape(rows, (-1,)))
        return ops.reshape(values, (*ops.shape(rows), self.table.shape[-1]))


def _window_sides(blocks):
    """For each block, the sides of the windows that it is asked for."""
    sides = [{1}]
    for _ in range(blocks - 1):
        sides.append({2, *(side + 2 for side in sides[-1])})
    return [sorted(each) for each in reversed(sides)]


def _kernel_of_window(kernel, side):
    """A 3x3 kernel (G, 9, C, F) for all cells of a window: (G, side + 2, side + 2, C, side, side, F)."""
    branches, _, channels, filters = kernel.shape
    spread = np.zeros((branches, side + 2, side + 2, channels, side, side, filters), kernel.dtype)
    for row in range(side):
        for column in range(side):
            spread[:, row : row + 3, column : column + 3, :, row, column] = kernel.reshape(
                branches, 3, 3, channels, filters
            )
    return spread


def _steps(side):
    """From a window's first cell to all of its cells, row by row: y and x, (side side,)."""
    y, x = np.divmod(np.arange(side * side), side)
    return ops.convert_to_tensor(y, "float32"), ops.convert_to_tensor(x, "float32")


def _taps_of_offsets():
    """What makes the y and the x of nine taps, less those of the cell, of (yy, yx, xy, xx, ty, tx): (6, 9) each."""
    y = np.array([(gy, gx, 0, 0, 1, 0) for gy, gx in GRID]).T
    x = np.array([(0, 0, gy, gx, 0, 1) for gy, gx in GRID]).T
    return ops.convert_to_tensor(y, "float32"), ops.convert_to_tensor(x, "float32")


def _corner_weights(y, x):
    """Bilinear weights (G, Q, 4) of the cells (0, 0), (0, 1), (1, 0) and (1, 1) for positions y, x (G, Q)."""
    top, bottom = (ops.relu(1.0 - ops.abs(y - row)) for row in (0.0, 1.0))
    left, right = (ops.relu(1.0 - ops.abs(x - column)) for column in (0.0, 1.0))
    return ops.stack([top * left, top * right, bottom * left, bottom * right], axis=-1)
