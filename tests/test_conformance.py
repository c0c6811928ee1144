"""Every decoder of the project gives what the files of tests/conformance say; docs/decoding.md explains them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from converters.serving_graph import final_poses, select_poses
from dekr_tf.config import DecoderConfig
from dekr_tf.inference import decoder
from dekr_tf.layers.find_centers import FindCenters
from dekr_tf.layers.read_poses import ReadPoses

FILES = sorted((Path(__file__).parent / "conformance").glob("*.json"))
#: Pixels, scores.
COORDINATES, SCORES = 1e-4, 1e-6


def dense(sparse):
    array = np.zeros(sparse["shape"], np.float32)
    for row, column, channel, value in sparse["cells"]:
        array[row, column, channel] = value
    return array


class Case:
    """The content of a file, with arrays in place of sparse cells."""

    def __init__(self, path):
        content = json.loads(path.read_text(encoding="utf-8"))
        self.config = DecoderConfig(**content.get("settings", {}))
        views = [content, *([content["mirrored"]] if "mirrored" in content else [])]
        self.maps = [(dense(view["heatmap"]), dense(view["offset"])) for view in views]
        self.flip_indices = content.get("flip_indices")
        self.num_keypoints = content["heatmap"]["shape"][-1] - 1
        self.centers = np.array(content["centers"], np.float32).reshape(-1, 3)
        self.kept = content["kept"]
        self.keypoints = np.array([pose["keypoints"] for pose in content["poses"]], np.float32)
        self.keypoints = self.keypoints.reshape(-1, self.num_keypoints, 3)
        self.scores = np.array([pose["score"] for pose in content["poses"]], np.float32)

    def check(self, keypoints, scores):
        assert np.shape(keypoints) == self.keypoints.shape
        np.testing.assert_allclose(keypoints[..., :2], self.keypoints[..., :2], rtol=0, atol=COORDINATES)
        np.testing.assert_allclose(keypoints[..., 2], self.keypoints[..., 2], rtol=0, atol=SCORES)
        np.testing.assert_allclose(scores, self.scores, rtol=0, atol=SCORES)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def case(request):
    return Case(request.param)


def numpy_candidates(case):
    mirrored = case.maps[1] if case.flip_indices else None
    return decoder.find_candidates(*case.maps[0], case.config, mirrored=mirrored, flip_indices=case.flip_indices)


def graph_candidates(case):
    """Of the layers of the pose model, batch axis and empty places included; rows and columns besides."""
    heatmap, offset = (np.stack(maps) for maps in zip(*case.maps, strict=True))
    flip = case.flip_indices is not None
    rows, columns, scores = FindCenters(case.config.max_people, case.config.center_threshold, flip)(heatmap)
    rows, columns = (np.asarray(each) for each in (rows, columns))
    image = np.arange(len(offset))[:, None]
    at_centers = offset[image, rows.astype(int), columns.astype(int)]
    return ReadPoses(case.flip_indices)(heatmap, at_centers, rows, columns, scores), rows, columns


def test_numpy_finds_the_centers(case):
    heatmap = case.maps[0][0]
    if case.flip_indices:
        heatmap = decoder.average_heatmaps(heatmap, case.maps[1][0], case.flip_indices)
    centers = decoder.find_centers(
        heatmap[..., -1], max_people=case.config.max_people, threshold=case.config.center_threshold
    )
    np.testing.assert_array_equal(np.stack(centers, axis=-1), case.centers)


def test_numpy_keeps_the_same_candidates(case):
    assert decoder.kept_candidates(*numpy_candidates(case), case.config).tolist() == case.kept


def test_numpy_decodes(case):
    poses = decoder.select_poses(*numpy_candidates(case), case.config)
    case.check(poses.keypoints, poses.scores)


def test_layers_of_the_pose_model_find_the_same_candidates(case):
    candidates, rows, columns = graph_candidates(case)
    count = len(case.centers)
    scores = candidates["center_scores"][0]
    np.testing.assert_array_equal(np.stack([rows[0], columns[0], scores], axis=-1)[:count], case.centers)
    assert not np.any(scores[count:])
    expected = numpy_candidates(case)
    for name, wanted in zip(("keypoints", "keypoint_scores", "center_scores"), expected, strict=True):
        np.testing.assert_allclose(candidates[name][0, :count], wanted, rtol=0, atol=SCORES)
    poses = decoder.select_poses(*(np.asarray(candidates[name][0]) for name in candidates), case.config)
    case.check(poses.keypoints, poses.scores)


def test_tensorflow_selects_the_same_poses(case):
    candidates, _, _ = graph_candidates(case)
    selected = select_poses({name: tf.convert_to_tensor(value) for name, value in candidates.items()}, case.config)
    count = len(case.kept)
    np.testing.assert_array_equal(selected["center_scores"][0, :count], case.centers[case.kept, 2])
    poses = final_poses(selected, None)
    assert poses["num_poses"].numpy() == [count]
    case.check(poses["keypoints"][0, :count].numpy(), poses["scores"][0, :count].numpy())
