"""Lists of cells out of masks, and what layers do on maps, at the listed cells only.

Lists of several branches have one length; what a branch does not need of it is marked as not valid.
"""

from keras import ops

from dekr_tf.layers.backend import (
    compiled,
    for_each_branch,
    gather_rows,
    room_for,
    scatter_add_rows,
    sum_over_replicas,
)


def compact(mask, filler: int):
    """The marked rows of each branch, in order.

    Args:
        mask: (G, R) bool.
        filler: what stands in the list behind a branch's last row.

    Returns:
        rows (G, N) int32 and valid (G, N) bool, N at least the largest number of marked rows of a branch; see
        `backend.room_for`.
    """
    branches, size = ops.shape(mask)
    counts = ops.cumsum(ops.reshape(ops.cast(mask, "int32"), (-1,)))
    ends = ops.reshape(counts, (branches, size))[:, -1]
    starts = ops.concatenate([ops.zeros((1,), "int32"), ends[:-1]])
    own = ends - starts
    slots = ops.arange(room_for(ops.max(own), size), dtype="int32")
    # Row n of the list is where the count gets to n + 1.
    wanted = starts[:, None] + slots + 1
    rows = ops.reshape(ops.searchsorted(counts, ops.reshape(wanted, (-1,))), ops.shape(wanted))
    rows = ops.cast(rows, "int32") - ops.arange(branches, dtype="int32")[:, None] * size
    valid = slots < own[:, None]
    return ops.where(valid, rows, filler), valid


def rows_at(table, rows):
    """Rows (G, N, C) of a table (G, R, C) at (G, N) int32; what is read several times gets the sum of its gradients."""

    @ops.custom_gradient
    def run(table):
        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return _add_rows(ops.zeros_like(table), rows, upstream)

        return _read_rows(table, rows), grad

    return run(table)


def add_rows_at(table, rows, values):
    """Adds values (G, N, C) to a table (G, R, C) at rows (G, N) int32."""

    @ops.custom_gradient
    def run(table, values):
        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return upstream, _read_rows(upstream, rows)

        return _add_rows(table, rows, values), grad

    return run(table, values)


@for_each_branch
@compiled
def _read_rows(table, rows):
    branches, size, channels = ops.shape(table)
    values = gather_rows(ops.reshape(table, (-1, channels)), _in_one_table(rows, size))
    return ops.reshape(values, (branches, -1, channels))


@for_each_branch
@compiled
def _add_rows(table, rows, values):
    branches, size, channels = ops.shape(table)
    flat = scatter_add_rows(
        ops.reshape(table, (-1, channels)), _in_one_table(rows, size), ops.reshape(values, (-1, channels))
    )
    return ops.reshape(flat, (branches, size, channels))


def _in_one_table(rows, size):
    return ops.reshape(rows + ops.arange(rows.shape[0], dtype="int32")[:, None] * size, (-1,))


def moments_at(x, valid, synchronized: bool = False):
    """Mean and variance of each channel over the valid cells.

    Args:
        x: (G, N, C).
        valid: (G, N) bool, equally many in all branches.
        synchronized: over those of all devices.

    Returns:
        mean (G, 1, C), variance (G, 1, C), zero where no cell is valid, and the unbiased variance.
    """

    def total(values):
        values = ops.sum(values, axis=1, keepdims=True)
        return sum_over_replicas(values) if synchronized else values

    shares = ops.cast(valid, x.dtype)[..., None]
    count = ops.maximum(total(shares), 1)
    mean = total(x * shares) / count
    variance = total(ops.square(x - mean) * shares) / count
    return mean, variance, variance * count / ops.maximum(count - 1, 1)
