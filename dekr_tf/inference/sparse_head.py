"""The sparse head in NumPy, which runs after a network that ends at the heatmap and the offset head's features.

`layers.sparse_offset_head` does the same inside a network that ends at the poses.
"""

from collections.abc import Mapping

import numpy as np

from dekr_tf.geometry import GRID

GRID_Y, GRID_X = np.array(GRID, np.intp).T


def sparse_offsets(
    features: np.ndarray, rows: np.ndarray, columns: np.ndarray, weights: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Evaluates the offset head at the given cells, with the result of the dense head there.

    A block at a cell reads its input on the 3x3 cells around, and with adaptive convolution (paper section 3.1) on the
    four cells around each of nine taps. Cells that are needed several times are computed once.

    Args:
        features: (h, w, C) float32 that enter the head's branches.
        rows, columns: (N,) cells of the map.
        weights: from `models.folding.fold_offset_head`; an opened `.npz` file will do.

    Returns:
        (N, 2 K): x and y of (cell minus keypoint) in map pixels.
    """
    offsets = []
    start = 0
    for size in weights["sizes"]:
        arrays = {
            name.partition("/")[2]: value for name, value in weights.items() if name.startswith(f"branches{size}/")
        }
        branches, channels, _ = arrays["final_kernel"].shape
        for branch in range(branches):
            part = features[..., start : start + channels]
            head = _Branch(part, {name: value[branch] for name, value in arrays.items()}, int(weights["dilation"]))
            offsets.append(head.offsets(rows, columns))
            start += channels
    pairs = np.concatenate(offsets, axis=1).reshape(len(rows), len(weights["order"]), 2)
    return pairs[:, np.argsort(weights["order"])].reshape(len(rows), 2 * len(weights["order"]))


class SparseOffsetMap:
    """An offset map (h, w, 2 K) that computes only the cells that are read: `map[rows, columns]`.

    Args:
        features: (h, w, C) float32 that enter the head's branches.
        weights: from `models.folding.fold_offset_head`.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, features: np.ndarray, weights: Mapping[str, np.ndarray]):
        self.shape = (*features.shape[:2], 2 * len(weights["order"]))
        self._features = features
        self._weights = weights

    def __getitem__(self, cells: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return sparse_offsets(self._features, *cells, self._weights)


class _Branch:
    """One branch on its own features (h, w, C)."""

    def __init__(self, features, weights, dilation):
        self.height, self.width, self.channels = features.shape
        self.table = features.reshape(-1, self.channels)
        self.weights = weights
        self.dilation = dilation

    def offsets(self, rows, columns):
        """The offsets (N, 2 k) of the branch's k keypoints at the given cells."""
        last = sum(name.startswith("kernel") for name in self.weights) - 1
        values = self._block(last, rows * self.width + columns)
        return values @ self.weights["final_kernel"] + self.weights["final_bias"]

    def _block(self, block, cells):
        """The output (N, C) of a block, or the features where `block` is -1, at cells (N,) of the flat map."""
        if block < 0:
            return self.table[cells]
        cells, inverse = np.unique(cells, return_inverse=True)
        y, x = np.divmod(cells, self.width)
        residual = self._block(block - 1, cells)
        if f"offset_kernel{block}" in self.weights:
            taps = self._adaptive_taps(block, y, x)
        else:
            taps = self._neighbors(block, y, x, self.dilation)
        kernel = self.weights[f"kernel{block}"].reshape(-1, self.channels)
        values = taps.reshape(len(cells), len(kernel)) @ kernel
        return np.maximum(values + self.weights[f"bias{block}"] + residual, 0)[inverse.reshape(-1)]

    def _neighbors(self, block, y, x, distance):
        """A block's input at nine neighbors of (N,) cells, zero outside the map: (N, 9, C)."""
        y, x = y[:, None] + distance * GRID_Y, x[:, None] + distance * GRID_X
        inside = (y >= 0) & (y < self.height) & (x >= 0) & (x < self.width)
        return self._where(inside, block - 1, y, x)

    def _adaptive_taps(self, block, y, x):
        """A block's input at its nine taps, interpolated, zero outside the map: (N, 9, C)."""
        kernel = self.weights[f"offset_kernel{block}"].reshape(-1, 6)
        offsets = (
            self._neighbors(block, y, x, 1).reshape(len(y), len(kernel)) @ kernel + self.weights[f"offset_bias{block}"]
        )
        yy, yx, xy, xx, ty, tx = offsets.T[..., None]
        # Positions more than one cell outside the map read nothing, so they may be clipped to that distance.
        y = np.clip(y[:, None] + yy * GRID_Y + yx * GRID_X + ty, -1, self.height)
        x = np.clip(x[:, None] + xy * GRID_Y + xx * GRID_X + tx, -1, self.width)
        top, left = np.floor(y), np.floor(x)
        y, x = y - top, x - left
        corner_y = top[..., None].astype(np.intp) + np.array([0, 0, 1, 1])
        corner_x = left[..., None].astype(np.intp) + np.array([0, 1, 0, 1])
        shares = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], axis=-1).astype(np.float32)
        inside = (corner_y >= 0) & (corner_y < self.height) & (corner_x >= 0) & (corner_x < self.width)
        corners = self._where(inside & (shares > 0), block - 1, corner_y, corner_x)
        return (shares[..., None, :] @ corners)[..., 0, :]

    def _where(self, needed, block, y, x):
        """The output of a block at the cells (...,) that are needed, zero at the others: (..., C)."""
        values = np.zeros((*needed.shape, self.channels), np.float32)
        values[needed] = self._block(block, y[needed] * self.width + x[needed])
        return values
