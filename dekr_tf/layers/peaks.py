"""Moves keypoints to peaks of their heatmaps, inside a graph; in NumPy see `inference.peaks`."""

from keras import ops

from dekr_tf.geometry import OUTPUT_STRIDE, PEAK_MIN_SIDE, PEAK_THRESHOLD
from dekr_tf.layers.backend import gather_rows
from dekr_tf.layers.top_k import top_k


def move_to_peaks(x, y, heatmap, peak_distance, max_peaks):
    """The arithmetic of `inference.peaks.move_to_peaks`.

    Args:
        x, y: (B, N, K) keypoints in pixels of the network's input.
        heatmap: (B, h, w, K).
        peak_distance, max_peaks: see there.

    Returns:
        x and y (B, N, K).
    """
    images, people, count = ops.shape(x)
    columns, rows, heights = _find_peaks(heatmap, max_peaks)
    sides = [ops.maximum(ops.max(each, axis=2) - ops.min(each, axis=2), PEAK_MIN_SIDE) for each in (x, y)]
    spread = 2.0 * peak_distance**2 * sides[0] * sides[1]
    # (B, N, K, M)
    squared = ops.square(x[..., None] - columns[:, None]) + ops.square(y[..., None] - rows[:, None])
    weights = heights[:, None] * ops.exp(-squared / spread[..., None, None])
    # `ops.argmax` treats zeros with signs in a way that LiteRT cannot express.
    highest, best = (ops.reshape(each, (images, people, count)) for each in top_k(weights, 1, 0.0))
    channel = ops.arange(images, dtype="int32")[:, None, None] * count + ops.arange(count, dtype="int32")
    index = ops.reshape(channel * max_peaks + best, (-1,))
    moves = highest > PEAK_THRESHOLD

    def chosen(positions, stays):
        read = gather_rows(ops.reshape(positions, (images * count * max_peaks, 1)), index)
        return ops.where(moves, ops.reshape(read, (images, people, count)), stays)

    return chosen(columns, x), chosen(rows, y)


def _find_peaks(heatmap, max_peaks):
    """x, y in input pixels and height of the highest peaks, (B, K, M) each; heights are zero after the last one."""
    images, height, width, count = ops.shape(heatmap)
    pooled = ops.max_pool(heatmap, 3, 1, "same", data_format="channels_last")
    heights = ops.where(heatmap == pooled, heatmap, PEAK_THRESHOLD)
    heights = ops.reshape(ops.transpose(heights, (0, 3, 1, 2)), (images, count, height * width))
    heights, cells = top_k(heights, max_peaks, PEAK_THRESHOLD)
    found = heights > PEAK_THRESHOLD
    cells = ops.where(found, cells, 0)
    rows = ops.floor_divide(cells, width)
    columns = cells - rows * width

    values = ops.reshape(heatmap, (images * height * width * count, 1))
    first = ops.arange(images, dtype="int32")[:, None, None] * (height * width * count)
    first = first + ops.arange(count, dtype="int32")[:, None]

    def position(place, step, side):
        """Where the parabola along one axis has its vertex, in input pixels."""

        def read(neighbor):
            index = (cells + (neighbor - place) * step) * count + first
            return ops.reshape(gather_rows(values, ops.reshape(index, (-1,))), ops.shape(index))

        before, after = read(ops.maximum(place - 1, 0)), read(ops.minimum(place + 1, side - 1))
        curvature = 2.0 * heights - before - after
        inside = ops.logical_and(ops.logical_and(place > 0, place < side - 1), curvature > 0.0)
        vertex = ops.where(inside, (after - before) / ops.where(inside, 2.0 * curvature, 1.0), 0.0)
        return (ops.cast(place, "float32") + vertex) * float(OUTPUT_STRIDE)

    return position(columns, 1, width), position(rows, width, height), ops.where(found, heights, 0.0)
