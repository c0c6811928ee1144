"""Keypoints move to the peaks of their heatmaps; tests/conformance has small cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dekr_tf.inference.peaks import find_peaks, move_to_peaks


def gaussians(points, size=(40, 50), sigma=1.0):
    """(h, w, K) with a Gaussian of height 1 at each of the points (K, 2), in map pixels."""
    y, x = np.mgrid[: size[0], : size[1]]
    squared = np.square(x[..., None] - points[:, 0]) + np.square(y[..., None] - points[:, 1])
    return np.exp(-squared / (2 * sigma**2)).astype(np.float32)


@given(st.floats(5, 45), st.floats(5, 35), st.integers(0, 10**6))
def test_the_vertex_is_near_the_top_of_a_gaussian(x, y, seed):
    random = np.random.default_rng(seed)
    others = random.uniform(5, 35, (4, 2))
    tops = np.concatenate([[[x, y]], others])
    keypoints = 4 * tops + random.uniform(-6, 6, tops.shape)
    moved = move_to_peaks(keypoints[None].astype(np.float32), gaussians(tops), 0.5, 30)[0]
    # A parabola instead of a Gaussian is off by at most 0.06 map pixels.
    np.testing.assert_allclose(moved, 4 * tops, rtol=0, atol=0.25)


def test_peaks_are_the_cells_that_no_neighbor_exceeds():
    heatmap = np.random.default_rng(0).uniform(-1, 1, (12, 15, 3)).astype(np.float32)
    positions, heights = find_peaks(heatmap, 10)
    assert positions.shape == (3, 10, 2)
    for channel in range(3):
        expected = {}
        for row, column in np.ndindex(12, 15):
            around = heatmap[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2, channel]
            if heatmap[row, column, channel] == around.max() > 0.02:
                expected[heatmap[row, column, channel]] = (column, row)
        highest = sorted(expected, reverse=True)[:10]
        np.testing.assert_array_equal(heights[channel], highest)
        cells = np.array([expected[value] for value in highest])
        assert np.abs(positions[channel] / 4 - cells).max() <= 0.5
        at_border = (cells == 0) | (cells == [14, 11])
        np.testing.assert_array_equal(positions[channel][at_border], 4 * cells[at_border])


def test_only_the_highest_peaks_count():
    heatmap = gaussians(np.array([[10.0, 10.0]])) / 2 + gaussians(np.array([[30.0, 20.0]]))
    keypoint = np.array([[[41, 42]]], np.float32)
    np.testing.assert_allclose(move_to_peaks(keypoint, heatmap, 1.0, 2), [[[40, 40]]], atol=1e-3)
    # The low peak is not among them, and the high one is too far away.
    np.testing.assert_array_equal(move_to_peaks(keypoint, heatmap, 1.0, 1), keypoint)


@pytest.mark.parametrize("heatmap", [np.zeros((8, 8, 2), np.float32), np.full((8, 8, 2), 0.02, np.float32)])
def test_without_a_peak_keypoints_stay(heatmap):
    keypoints = np.array([[[1, 2], [30, 20]]], np.float32)
    np.testing.assert_array_equal(move_to_peaks(keypoints, heatmap, 0.5, 30), keypoints)


def test_nobody():
    assert move_to_peaks(np.zeros((0, 2, 2), np.float32), np.ones((8, 8, 2), np.float32), 0.5, 30).shape == (0, 2, 2)
