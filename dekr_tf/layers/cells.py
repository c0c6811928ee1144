"""Lists of cells from masks, and layer operations at the listed cells only, in place of whole maps.

A cell is a row of `adaptive_conv.map_table`, which has B (H + 3) (W + 3) = R of them for each branch.
"""

from typing import Any, NamedTuple

from keras import ops

from dekr_tf.geometry import GRID
from dekr_tf.layers.backend import compiled, gather_rows, room_for, scatter_add_rows, sum_over_replicas


class Cells(NamedTuple):
    """The marked cells of a mask, in lists of one length for all branches; G is 1 for a mask that they share."""

    #: (G, R) bool.
    mask: Any
    #: (G, N) int32, in order; placeholders after a branch's last cell.
    rows: Any
    #: (G, N) bool, false for placeholders.
    valid: Any

    def valid_only(self, values):
        """Values (G, N, C) of the cells, with those of placeholders set to zero."""
        return values * ops.cast(self.valid, values.dtype)[..., None]


class Grid:
    """The cells of a batch of maps.

    Args:
        batch: B.
        height: of a map, H.
        width: of a map, W.
    """

    def __init__(self, batch, height, width):
        self.map_size = height, width
        self._width = width + 3
        self._inside = self.table(ops.ones((batch, height, width), "bool"))

    def table(self, mask):
        """A mask (B, H, W) as (1, R), false on the border."""
        return ops.reshape(ops.pad(mask, ((0, 0), (1, 2), (1, 2))), (1, -1))

    def list(self, mask):
        """The marked cells of (G, R)."""
        rows, valid = compact(mask)
        # Placeholders are the first cell of the first map, since every listed cell must have neighbors.
        return Cells(mask, ops.where(valid, rows, self._width + 1), valid)

    def map_rows(self, rows):
        """Cells as row numbers of maps (B H W, ...) without a border."""
        height, width = self.map_size
        line, column = rows // self._width, rows % self._width
        image, row = line // (height + 3), line % (height + 3)
        return (image * height + row - 1) * width + column - 1

    def around(self, mask):
        """Marks (G, R) the marked cells and their 3x3 neighbors, as far as they lie inside the maps."""
        steps = [y * self._width + x for y in range(3) for x in range(3)]
        return _spread(mask, steps, self._width + 1) & self._inside

    def read_by(self, taps, valid):
        """Marks (G, R) the cells of the maps that taps read.

        Args:
            taps: (9, G, N) of `adaptive_conv.tap_cells`.
            valid: (1, N) bool, the cells whose taps count.
        """
        branches = taps.shape[1]
        taps = ops.reshape(ops.transpose(taps, (1, 0, 2)), (branches, -1))
        valid = ops.cast(ops.tile(valid, (branches, 9)), "int32")[..., None]
        counts = add_rows_at(ops.zeros((branches, self._inside.shape[1], 1), "int32"), taps, valid)
        return _spread(counts[..., 0] > 0, (0, 1, self._width, self._width + 1), 0) & self._inside


def _spread(mask, steps, back: int):
    """Marks (G, R) what lies `step - back` rows after a marked cell, for each of `steps`."""
    size = mask.shape[1]
    padded = ops.pad(mask, ((0, 0), (max(steps) - back, back)))
    starts = [max(steps) - step for step in steps]
    return ops.any(ops.stack([padded[:, start : start + size] for start in starts]), axis=0)


def neighbors(rows, map_size):
    """The 3x3 cells around each cell, row-major: (G, N) -> (G, 9 N)."""
    steps = ops.convert_to_tensor([int(y) * (map_size[1] + 3) + int(x) for y, x in GRID], "int32")
    return ops.reshape(rows[..., None] + steps, (rows.shape[0], -1))


def compact(mask):
    """The marked places of each row of a mask, in order.

    Args:
        mask: (G, R) bool.

    Returns:
        places (G, N) int32 and valid (G, N) bool, which is false after a row's last place, where the places mean
        nothing. N is at least the largest number of places in a row, see `backend.room_for`.
    """
    rows, size = ops.shape(mask)
    counts = ops.cumsum(ops.reshape(ops.cast(mask, "int32"), (-1,)))
    ends = ops.reshape(counts, (rows, size))[:, -1]
    starts = ops.concatenate([ops.zeros((1,), "int32"), ends[:-1]])
    slots = ops.arange(room_for(ops.max(ends - starts), size), dtype="int32")
    # The n-th place is where the count reaches n.
    wanted = starts[:, None] + slots + 1
    places = ops.reshape(ops.searchsorted(counts, ops.reshape(wanted, (-1,))), ops.shape(wanted))
    places = ops.cast(places, "int32") - ops.arange(rows, dtype="int32")[:, None] * size
    return places, slots < (ends - starts)[:, None]


def rows_at(table, rows):
    """Rows (G, N, C) of a table (G, R, C) at (G, N) or (1, N) int32."""

    @ops.custom_gradient
    def run(table):
        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return _add_rows(ops.zeros_like(table), rows, upstream)

        return _read_rows(table, rows), grad

    return run(table)


def add_rows_at(table, rows, values):
    """Adds values (G, N, C) to a table (G, R, C) at rows (G, N) or (1, N) int32."""

    @ops.custom_gradient
    def run(table, values):
        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return upstream, _read_rows(upstream, rows)

        return _add_rows(table, rows, values), grad

    return run(table, values)


@compiled
def _read_rows(table, rows):
    branches, size, channels = ops.shape(table)
    values = gather_rows(ops.reshape(table, (-1, channels)), _in_one_table(rows, branches, size))
    return ops.reshape(values, (branches, -1, channels))


@compiled
def _add_rows(table, rows, values):
    branches, size, channels = ops.shape(table)
    flat = scatter_add_rows(
        ops.reshape(table, (-1, channels)), _in_one_table(rows, branches, size), ops.reshape(values, (-1, channels))
    )
    return ops.reshape(flat, (branches, size, channels))


def _in_one_table(rows, branches, size):
    return ops.reshape(rows + ops.arange(branches, dtype="int32")[:, None] * size, (-1,))


def moments_at(x, valid, synchronized: bool = False):
    """Mean and biased variance of each channel over the valid cells.

    Args:
        x: (G, N, C).
        valid: (1, N) bool.
        synchronized: count the cells of all replicas.

    Returns:
        mean and variance (G, 1, C), zero where no cell is valid, and the number of valid cells.
    """

    def total(values):
        values = ops.sum(values, axis=1, keepdims=True)
        return sum_over_replicas(values) if synchronized else values

    shares = ops.cast(valid, x.dtype)[..., None]
    count = total(shares)
    divisor = ops.maximum(count, 1)
    mean = total(x * shares) / divisor
    variance = total(ops.square(x - mean) * shares) / divisor
    return mean, variance, ops.squeeze(count)
