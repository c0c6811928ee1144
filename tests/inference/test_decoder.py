"""The decoder against the reference's outputs, against a slow form of itself, and on small maps worked out by hand.

The golden maps are those of the reference, set to zero where decoding looks at nothing, to keep the files small.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dekr_tf.config import DecoderConfig
from dekr_tf.inference.decoder import (
    average_heatmaps,
    decode_maps,
    discount_scores,
    find_centers,
    heat_values,
    mirror_input,
    regress_keypoints,
    select_poses,
)
from dekr_tf.keypoints import COCO, CROWDPOSE

GOLDENS = Path(__file__).parents[1] / "goldens"
COORDINATES, SCORES = 1e-3, 1e-5


def load_golden(name):
    with np.load(GOLDENS / f"decode_{name}.npz") as arrays:
        golden = dict(arrays)
    maps = {
        key.removeprefix("s1.0_"): np.moveaxis(golden[key][0], 0, -1).astype(np.float32)
        for key in golden
        if key.startswith("s1.0_")
    }
    settings = json.loads(str(golden["config"]))
    config = DecoderConfig(
        max_people=settings["MAX_NUM_PEOPLE"],
        center_threshold=settings["KEYPOINT_THRESHOLD"],
        nms_distance=settings["NMS_THRE"],
    )
    # The default follows from the number of keypoints.
    assert maps["offset"].shape[-1] // 2 // 2 == settings["NMS_NUM_THRE"]
    return maps, config, golden["poses"], golden["scores"]


@pytest.mark.parametrize(
    ("name", "schema"),
    [("single", COCO), ("flip", COCO), ("crowdpose_flip", CROWDPOSE), ("large_pool5", COCO), ("empty", COCO)],
)
def test_same_poses_as_the_reference(name, schema):
    maps, config, poses, scores = load_golden(name)
    mirrored = (maps["heatmap_flip"], maps["offset_flip"]) if "heatmap_flip" in maps else None
    decoded = decode_maps(maps["heatmap"], maps["offset"], config, mirrored=mirrored, flip_indices=schema.flip_indices)
    order = np.argsort(-scores, kind="stable")
    poses, scores = poses[order], scores[order]
    assert decoded.keypoints.shape == poses.shape
    np.testing.assert_allclose(decoded.keypoints[..., :2], poses[..., :2], rtol=0, atol=COORDINATES)
    np.testing.assert_allclose(decoded.keypoints[..., 2], poses[..., 2], rtol=0, atol=SCORES)
    np.testing.assert_allclose(decoded.scores, scores, rtol=0, atol=SCORES)


def test_centers_of_a_small_map():
    center_map = np.array(
        [
            [0.9, 0.1, 0.0, 0.0],
            [0.1, 0.0, 0.0, 0.3],
            [0.0, 0.0, 0.0, 0.3],
            [0.5, 0.0, 0.2, 0.0],
        ],
        np.float32,
    )
    rows, columns, scores = find_centers(center_map, max_people=30, threshold=0.01)
    # Of the plateau of 0.3 both cells count; 0.2 has 0.3 beside it.
    assert list(zip(rows, columns, strict=True)) == [(0, 0), (3, 0), (1, 3), (2, 3)]
    np.testing.assert_array_equal(scores, np.float32([0.9, 0.5, 0.3, 0.3]))
    assert find_centers(center_map, max_people=1, threshold=0.01)[0].tolist() == [0]
    # The threshold itself is not enough.
    assert find_centers(center_map, max_people=30, threshold=np.float32(0.5))[0].tolist() == [0]


@pytest.mark.parametrize(("side", "radius"), [(200, 1), (202, 2), (300, 2), (302, 3)])
def test_the_neighborhood_grows_with_the_map(side, radius):
    """Two peaks on a row: the lower one counts as soon as it lies outside the higher one's neighborhood."""
    for gap in (radius, radius + 1):
        center_map = np.zeros((side + 4, side - 4), np.float32)
        center_map[50, 60], center_map[50, 60 + gap] = 0.9, 0.8
        assert len(find_centers(center_map, max_people=30, threshold=0.01)[0]) == 1 + (gap > radius)


def test_offsets_point_from_the_keypoint_to_the_cell():
    offset = np.zeros((3, 3, 4), np.float32)
    offset[2, 1] = [0.5, -1, -2, 0.25]
    np.testing.assert_array_equal(regress_keypoints(offset, np.array([2]), np.array([1])), [[[0.5, 3], [3, 1.75]]])


def upsample_slowly(heatmap):
    """The whole heatmap at input size: cell i at pixel 4 i, borders replicated."""
    height, width = heatmap.shape
    padded = np.pad(heatmap, ((0, 1), (0, 1)), mode="edge")
    x, y = np.meshgrid(np.arange(4 * width) / 4, np.arange(4 * height) / 4)
    return cv2.remap(padded, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)


def test_heat_values_on_a_small_map():
    heatmap = np.array([[0, 4, 8], [16, 20, 24], [32, 36, 40]], np.float32)[..., None]
    table = {
        (0, 0): 0,
        (4, 4): 20,
        (1, 0): 1,
        (0.99, 0.99): 0,  # Within pixel (0, 0).
        (2.7, 5): 22,  # Half a cell to the right, one cell and a quarter down.
        (8, 8): 40,
        (11.9, 11.9): 40,  # Beyond the last cell the border goes on.
        (400, 5): 28,
        (-3, -0.1): 0,
        (1, 1e9): 33,
    }
    values = heat_values(heatmap, np.array(list(table))[:, None])
    np.testing.assert_allclose(values[:, 0], list(table.values()), atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_heat_values_equal_those_of_the_upsampled_map(height, width, seed):
    rng = np.random.default_rng(seed)
    heatmap = rng.random((height, width, 3), np.float32)
    keypoints = rng.uniform(-10, 50, (5, 3, 2))
    x = np.clip(np.floor(keypoints[..., 0]), 0, 4 * width - 1).astype(int)
    y = np.clip(np.floor(keypoints[..., 1]), 0, 4 * height - 1).astype(int)
    slow = np.stack([upsample_slowly(heatmap[..., k])[y[:, k], x[:, k]] for k in range(3)], axis=1)
    np.testing.assert_allclose(heat_values(heatmap, keypoints), slow, atol=1e-6)


def test_mirrored_input_moves_left_by_three_pixels():
    images = np.arange(8, dtype=np.float32).reshape(1, 1, 8, 1)
    np.testing.assert_array_equal(mirror_input(images).ravel(), [4, 3, 2, 1, 0, 2, 1, 0])


def test_cells_of_the_mirrored_input_sample_the_same_pixels():
    images = np.random.default_rng(0).random((2, 8, 64, 3))
    np.testing.assert_array_equal(mirror_input(images)[:, :, ::4][:, :, ::-1], images[:, :, ::4])


@given(st.integers(0, 2**32 - 1))
def test_averaging_with_the_mirrored_self_changes_nothing(seed):
    heatmap = np.random.default_rng(seed).random((4, 6, len(COCO) + 1), np.float32)
    mirrored = heatmap[:, ::-1, [*COCO.flip_indices, len(COCO)]]
    np.testing.assert_array_equal(average_heatmaps(heatmap, mirrored, COCO.flip_indices), heatmap)
    # Flipped twice, the averages agree from either side.
    other = np.random.default_rng(seed + 1).random(heatmap.shape, np.float32)
    average = average_heatmaps(heatmap, other, COCO.flip_indices)
    np.testing.assert_array_equal(
        average_heatmaps(other, heatmap, COCO.flip_indices), average[:, ::-1, [*COCO.flip_indices, len(COCO)]]
    )


def render(people, size):
    """Maps of people given as a center cell (row, column) and K keypoints in input pixels (multiples of four)."""
    count = len(people[0][1])
    heatmap, offset = np.zeros((*size, count + 1), np.float32), np.zeros((*size, 2 * count), np.float32)
    for rank, ((row, column), keypoints) in enumerate(people):
        heatmap[row, column, -1] = 0.9 - 0.1 * rank
        offset[row, column] = (np.array([column, row]) - np.array(keypoints) / 4).ravel()
        for index, (x, y) in enumerate(keypoints):
            heatmap[int(y) // 4, int(x) // 4, index] = 0.5
    return heatmap, offset


@pytest.mark.parametrize("count", [1, 3, 17, 21])
@pytest.mark.parametrize("flip", [False, True])
def test_people_come_back_from_their_maps(count, flip):
    rng = np.random.default_rng(count)
    people = [((5, 6), 4 * rng.integers(0, 30, (count, 2))), ((20, 25), 4 * rng.integers(0, 30, (count, 2)))]
    flip_indices = list(range(count))
    if count > 2:
        flip_indices[1], flip_indices[2] = 2, 1
    heatmap, offset = render(people, (32, 36))
    mirrored = None
    if flip:
        right = 4 * 35
        images = [((row, 35 - column), [right, 0] + [-1, 1] * points[flip_indices]) for (row, column), points in people]
        mirrored = render(images, (32, 36))
    poses = decode_maps(heatmap, offset, DecoderConfig(), mirrored=mirrored, flip_indices=flip_indices)
    np.testing.assert_allclose(poses.keypoints[..., :2], np.stack([points for _, points in people]), atol=1e-4)
    np.testing.assert_allclose(poses.keypoints[..., 2], [[0.45] * count, [0.4] * count], rtol=1e-6)
    np.testing.assert_allclose(poses.scores, [0.45, 0.4], rtol=1e-6)


def test_scores_are_center_score_times_heat_value_and_their_mean():
    heatmap = np.zeros((4, 4, 2), np.float32)
    heatmap[0, 0, 0], heatmap[2, 1, 1] = 0.8, 0.4
    keypoints = np.array([[[0, 0], [4, 8]], [[12, 12], [4, 10]]], np.float32)
    centers = np.float32([0.5, 0.25])
    poses = select_poses(keypoints, centers[:, None] * heat_values(heatmap, keypoints), centers, DecoderConfig())
    np.testing.assert_allclose(poses.keypoints[..., 2], [[0.4, 0.2], [0, 0.05]], rtol=1e-6)
    np.testing.assert_allclose(poses.scores, [0.3, 0.025], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 17, 21])
@pytest.mark.parametrize("threshold", [None, 0, 50])
def test_offsets_of_zero_give_poses_without_extent(count, threshold):
    heatmap = np.full((8, 8, count + 1), 0.5, np.float32)
    poses = decode_maps(heatmap, np.zeros((8, 8, 2 * count)), DecoderConfig(nms_keypoints=threshold))
    # A plateau: every cell is a center, in reading order.
    assert len(poses) == 30
    np.testing.assert_array_equal(poses.keypoints[9], [[4, 4, 0.25]] * count)


@pytest.mark.parametrize("count", [1, 17])
@pytest.mark.parametrize("value", [0.0, -1.0, 0.005])
def test_nobody(count, value):
    poses = decode_maps(np.full((6, 5, count + 1), value, np.float32), np.zeros((6, 5, 2 * count)), DecoderConfig())
    assert poses.keypoints.shape == (0, count, 3)
    assert poses.scores.shape == (0,)


def test_scores_of_small_people_are_discounted():
    # Boxes of 40 x 40 and 4 x 4 pixels; sigma 0.5: s^2 = 848 and 8.48, so an error of 2 leaves 848/852 and 8.48/12.48.
    keypoints = np.array([[[0, 0], [40, 40]], [[0, 0], [4, 4]]])
    scores = np.array([[0.4, 0.8], [0.6, 1.0]])
    discounted = discount_scores(keypoints, scores, DecoderConfig(keypoint_error=2), (0.5, 0.5))
    np.testing.assert_allclose(discounted, scores * [[848 / 852], [8.48 / 12.48]], rtol=1e-12)
    np.testing.assert_array_equal(discount_scores(keypoints, scores, DecoderConfig(), (0.5, 0.5)), scores)
