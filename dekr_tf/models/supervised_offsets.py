"""The offset head in training, evaluated only where offsets are supervised.

Those are a few squares of cells per image; on the whole map, the head would take half of a small network's step. The
values are those of the dense head at these cells, except for the batch statistics.
"""

import keras
from keras import ops

from dekr_tf.layers.adaptive_conv import map_table, sample_and_convolve_at, tap_cells
from dekr_tf.layers.backend import branch_parts
from dekr_tf.layers.branch_conv import to_branches
from dekr_tf.layers.cells import Grid, add_rows_at, moments_at, neighbors, rows_at


class SupervisedOffsets:
    """The offset head of a network, evaluated at the cells that have a loss weight.

    The last block and the final convolution run at these cells only. Of two blocks, the first runs at the cells that
    the second reads: the 3x3 cells around, which predict where its taps lie, and the four cells around each tap. Each
    distinct cell is computed once.

    The last block takes its batch statistics from the cells with a weight, the first of two from the 3x3 cells around
    those: which other cells the second block reads depends on the statistics themselves.

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
        names = {layer.name for layer in network.layers}
        self._branches = []
        for final in network.layers:
            group, _, rest = final.name.rpartition("_")
            if rest != "final":
                continue
            blocks = []
            while (name := f"{group}_block{len(blocks)}") + "_conv" in names:
                blocks.append((network.get_layer(f"{name}_conv"), network.get_layer(f"{name}_bn")))
            self._branches.append((blocks, final))
        self._order = network.get_layer("offset_order") if "offset_order" in names else None

    def __call__(self, features, targets, training: bool = True):
        """Offsets, targets and weights of the cells where any offset has a loss weight.

        Args:
            features: (B, h, w, C) of `self.features`.
            targets: `offset` and `offset_weight` (B, h, w, 2 K).
            training: whether batch normalization takes, and its moving averages follow, the statistics of the batch.

        Returns:
            predicted, target and weight (N, 2 K) for `losses.offset_loss`; rows beyond the last cell have no weight.
        """
        target, weight = targets["offset"], targets["offset_weight"]
        grid = Grid(*ops.shape(target)[:3])
        cells = grid.list(grid.table(ops.any(weight > 0, axis=-1)))
        predicted = []
        start = 0
        for layers, final in self._branches:
            channels = final.branches * layers[0][0].filters
            # The gradient of a slice is as large as the whole map, so there is none if one is enough.
            own = features if len(self._branches) == 1 else features[..., start : start + channels]
            y = _evaluate(own, layers, grid, cells, training)
            kernel = ops.convert_to_tensor(final.kernel)[:, 0, 0]
            y = ops.transpose(ops.matmul(y, kernel), (1, 0, 2))
            y = ops.reshape(y, (-1, final.branches * final.filters)) + final.bias
            predicted.append(y * final.output_scale)
            start += channels
        predicted = ops.concatenate(predicted, axis=-1)
        if self._order is not None:
            predicted = self._order(predicted)
        rows = grid.map_rows(cells.rows)
        target, weight = (rows_at(ops.reshape(each, (1, -1, each.shape[-1])), rows) for each in (target, weight))
        return predicted, target[0], cells.valid_only(weight)[0]


def _evaluate(features, layers, grid, cells, training):
    """The output (G, N, F) of the last block.

    Args:
        features: (B, H, W, G C) that enter the first block.
        layers: of each block, adaptive convolution and batch normalization.
        grid: of the maps.
        cells: where the last block is evaluated.
        training: see `SupervisedOffsets`.
    """
    branches = layers[0][0].branches
    parts = branch_parts(branches)
    tables = [
        map_table(to_branches(ops.cast(part, "float32"), branches // parts))
        for part in ops.split(features, parts, axis=-1)
    ]
    blocks = [_Block(*each, parts, grid.map_size) for each in layers]
    if len(blocks) == 1:
        sampled = [blocks[0].sample(part, table, cells.rows) for part, table in enumerate(tables)]
    else:
        sampled = _sample_second_block(*blocks, tables, grid, cells, training)
    moments = blocks[-1].moments([y for _, y in sampled], cells, training)
    outputs = [blocks[-1].finish(part, *each, moments[part]) for part, each in enumerate(sampled)]
    return ops.concatenate(outputs, axis=0)


def _sample_second_block(first, second, tables, grid, cells, training):
    """The result of `_Block.sample` for the second block, a pair for each part of the branches."""
    near = grid.list(grid.around(cells.mask))
    sampled = [first.sample(part, table, near.rows) for part, table in enumerate(tables)]
    moments = first.moments([y for _, y in sampled], near, training)
    results = []
    for part, table in enumerate(tables):
        values = near.valid_only(first.finish(part, *sampled[part], moments[part]))
        outputs = add_rows_at(ops.zeros_like(table), near.rows, values)
        own, offsets = second.read(part, outputs, cells.rows)
        taps = tap_cells(offsets, cells.rows, grid.map_size)
        more = grid.list(grid.read_by(taps, cells.valid) & ~near.mask)
        values = more.valid_only(first.finish(part, *first.sample(part, table, more.rows), moments[part]))
        outputs = add_rows_at(outputs, more.rows, values)
        results.append((own, second.convolve(part, outputs, cells.rows, offsets)))
    return results


class _Block:
    """An adaptive convolution with batch normalization, shortcut and ReLU, at cells; the branches come in parts."""

    def __init__(self, conv, norm, parts, map_size):
        self.norm = norm
        self.map_size = map_size

        def split(values, *shape):
            values = ops.reshape(ops.cast(ops.convert_to_tensor(values), "float32"), (conv.branches, *shape))
            return ops.split(values, parts, axis=0)

        channels = conv.kernel.shape[2]
        self.offset_kernels = split(conv.offset_kernel, 9 * channels, 6)
        self.offset_biases = split(conv.offset_bias, 1, 6)
        self.kernels = split(conv.kernel, 9, channels, conv.filters)
        self.gammas, self.betas, self.means, self.variances = (
            split(values, 1, conv.filters) for values in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        )

    def read(self, part, table, rows):
        """Features (G, N, C) of the cells, and the offsets (G, N, 6) that their 3x3 neighbors predict."""
        branches, _, channels = table.shape
        around = ops.reshape(rows_at(table, neighbors(rows, self.map_size)), (branches, -1, 9 * channels))
        offsets = ops.matmul(around, self.offset_kernels[part]) + self.offset_biases[part]
        return around[..., 4 * channels : 5 * channels], offsets

    def convolve(self, part, table, rows, offsets):
        """The convolution's output (G, N, F)."""
        return sample_and_convolve_at(table, rows, self.map_size, offsets, self.kernels[part])

    def sample(self, part, table, rows):
        """Features of the cells, for the shortcut, and the convolution's output."""
        own, offsets = self.read(part, table, rows)
        return own, self.convolve(part, table, rows, offsets)

    def moments(self, outputs, cells, training):
        """Mean and variance (G, 1, F) for each part: in training those of the cells, which update the averages."""
        norm = self.norm
        if not (training and norm.trainable):
            return list(zip(self.means, self.variances, strict=True))
        mean, variance, count = moments_at(ops.concatenate(outputs, axis=0), cells.valid, norm.synchronized)
        unbiased = variance * count / ops.maximum(count - 1, 1)
        # A batch without people has no cell, and must not change the averages.
        step = ops.where(count > 0, 1.0 - norm.momentum, 0.0)
        for moving, new in ((norm.moving_mean, mean), (norm.moving_variance, unbiased)):
            moving.assign(moving + step * (ops.reshape(new, (-1,)) - moving))
        parts = len(outputs)
        return list(zip(ops.split(mean, parts, axis=0), ops.split(variance, parts, axis=0), strict=True))

    def finish(self, part, own, y, moments):
        """The block's output (G, N, F) from the two results of `sample`."""
        mean, variance = moments
        scale = ops.rsqrt(variance + self.norm.epsilon) * self.gammas[part]
        return ops.relu(own + (y - mean) * scale + self.betas[part])
