"""The offset head in training, evaluated only where offsets are asked for.

That is a few squares of cells per image; on the whole map the head would take half of a small network's step. The
values are those of the dense head at these cells, but for batch statistics.
"""

import re

import keras
from keras import ops

from dekr_tf.layers.adaptive_conv import GRID, map_table, sample_and_convolve_at, tap_cells
from dekr_tf.layers.branch_conv import to_branches
from dekr_tf.layers.cells import add_rows_at, compact, moments_at, rows_at

MAX_BLOCKS = 2


class SupervisedOffsets:
    """The offset head of a network, evaluated at cells with a loss weight.

    The last block and the final convolution run at these cells only. Where there are two blocks, the first runs at the
    cells which the second reads: on the 3x3 cells around, which tell it where its taps lie, and at the four cells
    around each tap. Each distinct cell is computed once.

    Batch statistics of the last block are those of the cells with a weight, statistics of the first block those of
    the 3x3 cells around them: which other cells there are depends on the statistics themselves.

    Args:
        network: of `build_dekr`, with one or two adaptive blocks.
    """

    def __init__(self, network: keras.Model):
        self.features = keras.Model(
            network.input,
            {
                "heatmap": network.get_layer("heatmap").output,
                "features": network.get_layer("offset_transition_relu").output,
            },
        )
        self.groups = []
        names = {layer.name for layer in network.layers}
        start = 0
        for layer in network.layers:
            found = re.fullmatch(r"(offset_g\d+)_final", layer.name)
            if found is None:
                continue
            group = found[1]
            blocks = []
            while f"{group}_block{len(blocks)}_conv" in names:
                name = f"{group}_block{len(blocks)}"
                blocks.append((network.get_layer(f"{name}_conv"), network.get_layer(f"{name}_bn")))
            channels = layer.branches * blocks[0][0].filters
            self.groups.append((slice(start, start + channels), blocks, layer))
            start += channels
        self.order = network.get_layer("offset_order") if "offset_order" in names else None

    def __call__(self, features, targets, training: bool = True):
        """Offsets at the cells where any has a loss weight, as whole maps have them there.

        Args:
            features: (B, h, w, C) of `self.features`.
            targets: `offset` and `offset_weight` (B, h, w, 2 K).
            training: whether batch normalisation takes, and its moving averages follow, the statistics of the batch.

        Returns:
            predicted, target and weight (N, 2 K) for `losses.offset_loss`; rows beyond the last cell have no weight.
        """
        target, weight = targets["offset"], targets["offset_weight"]
        grid = Grid(*ops.shape(target)[:3])
        mask = grid.table(ops.any(weight > 0, axis=-1))
        cells, valid = compact(mask, grid.filler)
        features = ops.cast(features, "float32")
        predicted = []
        for channels, blocks, final in self.groups:
            table = map_table(to_branches(features[..., channels], final.branches))
            y = _evaluate(table, [_Block(*layers, grid) for layers in blocks], grid, mask, cells, valid, training)
            kernel = ops.convert_to_tensor(final.kernel)[:, 0, 0]
            y = ops.transpose(ops.matmul(y, kernel), (1, 0, 2))
            y = ops.reshape(y, (-1, kernel.shape[0] * kernel.shape[2])) + final.bias
            predicted.append(y * final.output_scale)
        predicted = ops.concatenate(predicted, axis=-1)
        if self.order is not None:
            predicted = self.order(predicted)
        rows = grid.map_rows(cells)
        target, weight = (rows_at(ops.reshape(each, (1, -1, each.shape[-1])), rows)[0] for each in (target, weight))
        return predicted, target, weight * ops.cast(valid, weight.dtype)[0, :, None]


class Grid:
    """The cells of a batch of maps as rows of `map_table`, border included.

    Args:
        batch: B.
        height: of a map, H.
        width: of a map, W.
    """

    def __init__(self, batch, height, width):
        self.map_size = height, width
        self.height, self.width = height + 3, width + 3
        self.size = batch * self.height * self.width
        #: The first cell of the first map.
        self.filler = self.width + 1
        self.inside = self.table(ops.ones((batch, height, width), "bool"))

    def table(self, mask):
        """(B, H, W) bool as (1, R), false on the border."""
        return ops.reshape(ops.pad(mask, ((0, 0), (1, 2), (1, 2))), (1, -1))

    def map_rows(self, cells):
        """Cells as rows of maps (B H W, ...) without a border."""
        height, width = self.map_size
        line, column = cells // self.width, cells % self.width
        return (line // self.height * height + line % self.height - 1) * width + column - 1

    def neighbours(self, cells):
        """(..., N) cells -> (..., 9 N), the 3x3 cells around each, row-major."""
        steps = ops.convert_to_tensor([int(y) * self.width + int(x) for y, x in GRID], "int32")
        return ops.reshape(cells[..., None] + steps, (*ops.shape(cells)[:-1], -1))

    def around(self, mask):
        """Marks (1, R) the cells of the maps within the 3x3 cells around those of a mask (1, R)."""
        steps = [y * self.width + x for y in range(3) for x in range(3)]
        return _spread(mask, steps, self.filler) & self.inside

    def read_by(self, taps, valid):
        """Marks (G, R) the cells of the maps at the corners of taps (9, G, N), where valid (G, N)."""
        branches = taps.shape[1]
        counts = ops.zeros((branches, self.size, 1), "int32")
        taps = ops.reshape(ops.transpose(taps, (1, 0, 2)), (branches, -1))
        counts = add_rows_at(counts, taps, ops.cast(ops.tile(valid, (1, 9)), "int32")[..., None])
        return _spread(counts[..., 0] > 0, (0, 1, self.width, self.width + 1), 0) & self.inside


def _spread(mask, steps, back):
    """Marks what lies each of `steps` rows, less `back`, behind the marked rows of (G, R)."""
    size = mask.shape[1]
    padded = ops.pad(mask, ((0, 0), (max(steps) - back, back)))
    spread = False
    for step in steps:
        start = max(steps) - step
        spread = padded[:, start : start + size] | spread
    return spread


def _evaluate(features, blocks, grid, mask, cells, valid, training):
    """The output (G, N, C) of the last block at cells (1, N) of which some are valid (1, N).

    Args:
        features: (G, R, C) that enter the first block.
        blocks: one or two `_Block`.
        grid: of the maps.
        mask: (1, R), the valid cells.
        training: see `SupervisedOffsets`.
    """
    branches = features.shape[0]

    def in_branches(cells, valid):
        return ops.tile(cells, (branches, 1)), ops.tile(valid, (branches, 1))

    last = blocks[-1]
    cells, valid = in_branches(cells, valid)
    table = features
    if len(blocks) == 2:
        first = blocks[0]
        around = grid.around(mask)
        near, near_valid = in_branches(*compact(around, grid.filler))
        own, offsets = first.read(features, near)
        y = first.convolve(features, near, offsets)
        moments = first.moments(y, near_valid, training)
        values = first.finish(own, y, moments)
        table = add_rows_at(ops.zeros_like(features), near, _valid_only(values, near_valid))
    own, offsets = last.read(table, cells)
    if len(blocks) == 2:
        taps = tap_cells(offsets, cells, grid.map_size)
        more, more_valid = compact(grid.read_by(taps, valid) & ~around, grid.filler)
        more_own, more_offsets = first.read(features, more)
        values = first.finish(more_own, first.convolve(features, more, more_offsets), moments)
        table = add_rows_at(table, more, _valid_only(values, more_valid))
    y = last.convolve(table, cells, offsets)
    return last.finish(own, y, last.moments(y, valid, training))


def _valid_only(values, valid):
    return values * ops.cast(valid, values.dtype)[..., None]


class _Block:
    """An adaptive convolution, its batch normalisation, shortcut and ReLU, at cells."""

    def __init__(self, conv, norm, grid):
        self.norm = norm
        self.grid = grid
        offset_kernel, offset_bias, self.kernel, self.gamma, self.beta, self.mean, self.variance = (
            ops.cast(ops.convert_to_tensor(each), "float32")
            for each in (
                conv.offset_kernel,
                conv.offset_bias,
                conv.kernel,
                norm.gamma,
                norm.beta,
                norm.moving_mean,
                norm.moving_variance,
            )
        )
        self.branches, _, channels, self.filters = self.kernel.shape
        self.offset_kernel = ops.reshape(offset_kernel, (self.branches, 9 * channels, 6))
        self.offset_bias = offset_bias[:, None]

    def read(self, table, cells):
        """Features (G, N, C) of the cells, and the offsets (G, N, 6) that their 3x3 neighbours predict."""
        around = ops.reshape(rows_at(table, self.grid.neighbours(cells)), (self.branches, -1, 9 * table.shape[-1]))
        own = around[..., 4 * table.shape[-1] : 5 * table.shape[-1]]
        return own, ops.matmul(around, self.offset_kernel) + self.offset_bias

    def convolve(self, table, cells, offsets):
        """What is to be normalised: (G, N, F)."""
        return sample_and_convolve_at(table, cells, self.grid.map_size, offsets, self.kernel)

    def moments(self, y, valid, training):
        """Mean and variance, each (G, 1, F): of the valid cells in training, which the moving averages follow."""
        norm = self.norm
        if not (training and norm.trainable):
            return self._by_branch(self.mean), self._by_branch(self.variance)
        mean, variance, unbiased = moments_at(y, valid, norm.synchronized)
        for moving, new in ((norm.moving_mean, mean), (norm.moving_variance, unbiased)):
            moving.assign(moving * norm.momentum + ops.reshape(new, (-1,)) * (1.0 - norm.momentum))
        return mean, variance

    def finish(self, own, y, moments):
        """The block's output (G, N, F)."""
        mean, variance = moments
        scale = ops.rsqrt(variance + self.norm.epsilon) * self._by_branch(self.gamma)
        return ops.relu(own + (y - mean) * scale + self._by_branch(self.beta))

    def _by_branch(self, values):
        return ops.reshape(values, (self.branches, 1, self.filters))
