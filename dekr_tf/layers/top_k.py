"""The highest values of an axis, in a form that LiteRT's GPU delegates run."""

from keras import ops


def top_k(values, k, filler):
    """The `k` highest values of the last axis, in descending order.

    Args:
        values: (..., L) on at least three axes; L may be less than `k`.
        k: number of values.
        filler: padding that follows the values, no higher than those that matter.

    Returns:
        (..., k) values and int32 indices; those of fillers are L and above.
    """
    # LiteRT's GPU delegates support pads of three or four axes, and return wrong values if the length is not a multiple
    # of four. Maps whose size is known only at run time have a multiple of four cells.
    fillers = k + -(k + (values.shape[-1] or 0)) % 4
    padding = [(0, 0)] * (len(values.shape) - 1) + [(0, fillers)]
    values, indices = ops.top_k(ops.pad(values, padding, constant_values=filler), k)
    return values, ops.cast(indices, "int32")
