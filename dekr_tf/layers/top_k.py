"""The highest values of an axis, in a form that LiteRT's GPU delegates run."""

from keras import ops


def top_k(values, k, filler):
    """The `k` highest values of the last axis, in descending order.

    Args:
        values: (..., L) on at least three axes; L may be less than `k`.
        k: number of values.
        filler: what follows the values; not above any that matter.

    Returns:
        (..., k) values and int32 indices; those of fillers are L and above.
    """
    # GPU delegates pad three or four axes, and sort wrongly what is no multiple of four. Maps of a size that is known
    # only at run time have a multiple of four cells.
    fillers = k + -(k + (values.shape[-1] or 0)) % 4
    padding = [(0, 0)] * (len(values.shape) - 1) + [(0, fillers)]
    values, indices = ops.top_k(ops.pad(values, padding, constant_values=filler), k)
    return values, ops.cast(indices, "int32")
