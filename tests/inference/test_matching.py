"""Peaks, the Gaussian fit on blobs whose middle is known and beside SciPy's, and which keypoints move."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dekr_tf.inference.matching import find_peaks, fit_gaussians, match_keypoints
from dekr_tf.poses import Poses

SIDE = 13


def blob(size, x, y, sigma, height=0.8):
    columns, rows = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    return height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def fit(*patches):
    count = len(patches)
    return fit_gaussians(np.stack(patches), np.full((count, 2), SIDE), np.full((count, 2), SIDE // 2))


def test_peaks_of_a_small_map():
    heatmap = np.zeros((9, 12), np.float32)
    heatmap[0, 0], heatmap[4, 5], heatmap[4, 7], heatmap[8, 11], heatmap[8, 8] = 0.5, 0.9, 0.8, 0.3, 0.3
    # 0.8 is two pixels from 0.9; the last two are three pixels apart.
    assert find_peaks(heatmap, 30).tolist() == [[5, 4], [0, 0], [8, 8], [11, 8]]
    assert find_peaks(heatmap, 2).tolist() == [[5, 4], [0, 0]]
    assert find_peaks(np.zeros((9, 12), np.float32), 30).shape == (0, 2)
    assert find_peaks(np.full((9, 12), -1, np.float32), 30).shape == (0, 2)


@given(st.floats(3.5, 8.5), st.floats(3.5, 8.5), st.floats(1.5, 12), st.floats(0.01, 2))
def test_a_blob_is_found_where_it_is(x, y, sigma, height):
    tops, converged = fit(blob((SIDE, SIDE), x, y, sigma, height))
    assert converged.all()
    np.testing.assert_allclose(tops, [[y, x]], atol=1e-4)


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_fits_do_not_depend_on_each_other(count, seed):
    rng = np.random.default_rng(seed)
    patches = [blob((SIDE, SIDE), *rng.uniform(4, 8, 2), rng.uniform(2, 9)) for _ in range(count)]
    patches += [rng.random((SIDE, SIDE)) for _ in range(count)]
    tops, converged = fit(*patches)
    for patch, top, one_converged in zip(patches, tops, converged, strict=True):
        (alone,), (alone_converged,) = fit(patch)
        assert one_converged == alone_converged
        if one_converged:
            np.testing.assert_allclose(top, alone, atol=1e-6)


@pytest.mark.parametrize("rows", [7, 10, 13])
@pytest.mark.parametrize("columns", [7, 12])
def test_what_lies_beyond_the_extent_does_not_count(rows, columns):
    patch = blob((SIDE, SIDE), 4.3, 5.2, 5)
    patch[rows:], patch[:, columns:] = 7, -3
    tops, converged = fit_gaussians(patch[None], np.array([[rows, columns]]), np.array([[6, 5]]))
    assert converged.all()
    np.testing.assert_allclose(tops, [[5.2, 4.3]], atol=1e-4)


def test_flat_and_noisy_patches_have_no_top():
    rng = np.random.default_rng(0)
    patches = [np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), 0.3), np.full((SIDE, SIDE), np.nan)]
    patches += [0.3 + 1e-8 * rng.standard_normal((SIDE, SIDE)), np.full((SIDE, SIDE), np.inf)]
    patches += list(rng.random((200, SIDE, SIDE))) + list(0.3 + 0.01 * rng.standard_normal((200, SIDE, SIDE)))
    patches += list(rng.standard_normal((200, SIDE, SIDE)))
    assert fit(*patches)[1].sum() <= 3


def test_the_same_tops_as_scipy():
    """On blobs with noise and on smooth surfaces of random numbers, as heatmaps are."""
    curve_fit = pytest.importorskip("scipy.optimize").curve_fit
    rng = np.random.default_rng(0)
    cells = np.mgrid[:SIDE, :SIDE].reshape(2, -1).astype(float)

    def gaussian(cells, height, y, x, sigma):
        return height * np.exp(-((cells[1] - x) ** 2 + (cells[0] - y) ** 2) / (2 * sigma**2))

    patches = [
        blob((SIDE, SIDE), *rng.uniform(3, 9, 2), rng.uniform(2, 10), rng.uniform(0.1, 1))
        + 0.05 * rng.standard_normal((SIDE, SIDE))
        for _ in range(60)
    ]
    grid = np.arange(SIDE) / 4
    for values in rng.random((60, 5, 5)):
        across = np.stack([np.interp(grid, np.arange(5), row) for row in values])
        patches.append(np.stack([np.interp(grid, np.arange(5), column) for column in across.T], axis=1))
    both = 0
    for patch, top, converged in zip(patches, *fit(*patches), strict=True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = curve_fit(gaussian, cells, patch.ravel(), p0=(patch[6, 6], 6, 6, 2), maxfev=300)[0]
        except RuntimeError:
            # Where SciPy does not get to an end, neither do these.
            assert not converged
            continue
        if converged:
            both += 1
            np.testing.assert_allclose(top, found[1:3], atol=0.02)
    assert both > 80


def people(*rows):
    keypoints = np.array(rows, np.float32)[:, None]
    return Poses(keypoints, keypoints[:, 0, 2])


def match(poses, heatmap, **options):
    return match_keypoints(poses, [heatmap.astype(np.float32)], max_peaks=30, **options).keypoints[:, 0]


def test_keypoints_go_to_the_closest_peak_that_is_near():
    heatmap = np.zeros((200, 300))
    heatmap[20, 30], heatmap[100, 200] = 0.9, 0.5
    # Scores too low for a fit.
    poses = people([31, 22, 0.05], [40, 94, 0.04], [190, 120, 0.01], [200, 174.9, 0.01], [200, 175, 0.01], [-5, -9, 0])
    expected = [[30, 20], [30, 20], [200, 100], [200, 100], [200, 175], [30, 20]]
    np.testing.assert_allclose(match(poses, heatmap)[:, :2], expected)
    np.testing.assert_array_equal(match(poses, heatmap)[:, 2], poses.scores)


@pytest.mark.parametrize(("x", "y"), [(40.3, 30.8), (2.2, 30.4), (75.1, 1.7), (0.4, 58.2), (79, 59)])
def test_refined_to_the_top_of_the_blob(x, y):
    """Also where the map's border cuts the patch."""
    poses = people([x + 5, y - 6, 0.3], [x, y, 0.06], [x - 1, y + 2, 0.05])
    keypoints = match(poses, blob((60, 80), x, y, 8))
    np.testing.assert_allclose(keypoints[:2, :2], [[x, y]] * 2, atol=0.02)
    # A score of 0.05 is not enough: it is on the peak's pixel.
    np.testing.assert_array_equal(keypoints[2, :2], np.round([x, y]))


def test_a_fit_that_finds_nothing_leaves_the_point():
    rng = np.random.default_rng(3)
    noise = rng.random((60, 80))
    noise[30, 40] = 1
    np.testing.assert_array_equal(match(people([40.4, 30.2, 0.9]), noise)[0, :2], [40, 30])
    # No peak, and nothing to fit.
    np.testing.assert_array_equal(
        match(people([40.4, 30.2, 0.9]), np.full((60, 80), -0.3))[0, :2], np.float32([40.4, 30.2])
    )


def test_the_reference_reads_cut_patches_the_wrong_way():
    heatmap = blob((60, 80), 2.2, 30.4, 8)
    poses = people([3, 30, 0.5], [40, 30, 0])
    assert np.linalg.norm(match(poses, heatmap, border="reference")[0, :2] - [2.2, 30.4]) > 1
    # Where the border does not cut, or cuts a corner to a square, it reads them as they are.
    for x, y in [(40.3, 30.8), (2.2, 1.7)]:
        heatmap = blob((60, 80), x, y, 8)
        np.testing.assert_allclose(match(people([x, y, 0.5]), heatmap, border="reference")[0, :2], [x, y], atol=0.02)


def test_nobody_stays_nobody():
    assert match(Poses.empty(1), np.ones((60, 80))).shape == (0, 3)
