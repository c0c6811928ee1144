"""Moves regressed keypoints to peaks of their heatmaps, in NumPy.

An offset head says whose keypoint it is, a heatmap says where exactly it is. `matching` follows the paper's Table 6
for the same end, with a fixed reach and a fit by iteration; here the reach grows with the person, peaks are weighed by
their heights, and the arithmetic fits a graph. MoveNet (Google, 2021) weighs its heatmaps likewise.
"""

import numpy as np

from dekr_tf.geometry import OUTPUT_STRIDE, PEAK_MIN_SIDE, PEAK_THRESHOLD


def move_to_peaks(keypoints: np.ndarray, heatmap: np.ndarray, peak_distance: float, max_peaks: int) -> np.ndarray:
    """Moves each keypoint to the peak with the highest product of its height and of a Gaussian of its distance.

    Args:
        keypoints: (N, K, 2) x, y in pixels of the network's input.
        heatmap: (h, w, K), cell i at pixel 4 i.
        peak_distance: standard deviation of the Gaussian, as a fraction of the root of the area of the box around the
            pose's keypoints.
        max_peaks: of each heatmap, this many peaks count, the highest.

    Returns:
        (N, K, 2). A keypoint stays where it is if no product is above `PEAK_THRESHOLD`.
    """
    if not len(keypoints):
        return keypoints
    positions, heights = find_peaks(heatmap, max_peaks)
    if not heights.size:
        return keypoints
    sides = np.maximum(keypoints.max(axis=1) - keypoints.min(axis=1), np.float32(PEAK_MIN_SIDE))
    spread = np.float32(2 * peak_distance**2) * sides.prod(axis=1)
    squared = np.square(positions[None] - keypoints[:, :, None]).sum(axis=-1)
    weights = heights * np.exp(-squared / spread[:, None, None])
    best = weights.argmax(axis=2)[..., None]
    chosen = np.take_along_axis(np.broadcast_to(positions, (len(keypoints), *positions.shape)), best[..., None], axis=2)
    moves = np.take_along_axis(weights, best, axis=2) > PEAK_THRESHOLD
    return np.where(moves, chosen[:, :, 0], keypoints)


def find_peaks(heatmap: np.ndarray, max_peaks: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest peaks of each heatmap, as far as above `PEAK_THRESHOLD`.

    A peak is a cell with the maximum of its 3x3 neighborhood. The vertices of the parabolas through it and its
    neighbors, one across and one down, say where in the cell it lies; on the map's border, its middle.

    Args:
        heatmap: (h, w, K).
        max_peaks: of each heatmap.

    Returns:
        Positions (K, M, 2), x and y in pixels of the network's input, and heights (K, M), in descending order, equal
        ones in row-major order. Both are zero after the last peak of a heatmap; M is the largest number of peaks.
    """
    padded = np.pad(heatmap, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    by_row = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    pooled = np.maximum(np.maximum(by_row[:, :-2], by_row[:, 1:-1]), by_row[:, 2:])
    rows, columns, channels = np.nonzero((heatmap == pooled) & (heatmap > PEAK_THRESHOLD))
    order = np.lexsort((-heatmap[rows, columns, channels], channels))
    rows, columns, channels = rows[order], columns[order], channels[order]
    rank = np.arange(len(channels)) - np.searchsorted(channels, channels)
    kept = rank < max_peaks
    rows, columns, channels, rank = rows[kept], columns[kept], channels[kept], rank[kept]

    peaks = rank.max(initial=-1) + 1
    positions, heights = (np.zeros((heatmap.shape[-1], peaks, *shape), np.float32) for shape in ((2,), ()))
    heights[channels, rank] = heatmap[rows, columns, channels]
    positions[channels, rank] = np.stack(
        [
            columns + _vertex(padded[rows + 1, columns + np.arange(3)[:, None], channels]),
            rows + _vertex(padded[rows + np.arange(3)[:, None], columns + 1, channels]),
        ],
        axis=-1,
    ) * np.float32(OUTPUT_STRIDE)
    return positions, heights


def _vertex(values):
    """Where the parabola through three values (3, P), the middle one the highest, has its vertex: -0.5 to 0.5."""
    before, middle, after = values
    curvature = 2 * middle - before - after
    # Next to the border, a neighbor is minus infinity; on a plateau, the curvature is zero.
    inside = np.isfinite(curvature) & (curvature > 0)
    with np.errstate(invalid="ignore"):
        shift = (after - before) / np.where(inside, 2 * curvature, 1)
    return np.where(inside, shift, 0)
