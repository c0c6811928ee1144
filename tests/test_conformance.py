"""Every decoder of the project gives what the files of tests/conformance say; docs/decoding.md explains them."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from converters import to_tflite
from converters.final_poses import FinalPoses, final_poses, select_poses
from converters.to_onnx import write_onnx
from dekr_tf.config import Config, DecoderConfig
from dekr_tf.inference import decoder
from dekr_tf.inference.engines import FINAL, LiteRTEngine, OnnxEngine
from dekr_tf.layers.find_centers import FindCenters
from dekr_tf.layers.read_poses import ReadPoses
from dekr_tf.sidecar import Sidecar

FILES = sorted((Path(__file__).parent / "conformance").glob("*.json"))
#: Pixels, scores.
COORDINATES, SCORES = 1e-4, 1e-6
#: For people in files of final poses.
PLACES = 30


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
    read_poses = ReadPoses(case.flip_indices, case.config.peak_distance)
    return read_poses(heatmap, at_centers, rows, columns, scores), rows, columns


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
    kept = selected["center_scores"].numpy()[0]
    np.testing.assert_array_equal(kept[kept != 0], case.centers[case.kept, 2])
    poses = final_poses(selected, None)
    assert poses["num_poses"].numpy() == [count]
    case.check(poses["keypoints"][0, :count].numpy(), poses["scores"][0, :count].numpy())


@pytest.fixture(scope="module")
def final_layers(tmp_path_factory):
    """The last layer of a file of final poses, in LiteRT and ONNX Runtime; cases with the same settings share it.

    In place of an image (1, H, W, 3) the engines take candidates (1, N, K + 1, 3): the keypoints with their scores, and
    last the center score.
    """
    made = {}

    def make(case):
        count = case.num_keypoints
        settings = case.config.model_dump(include={"nms_distance", "nms_keypoints", "peak_distance"})
        key = f"{count} {settings}"
        if key not in made:
            config = Config(keypoints={"names": list(map(str, range(count)))}, decoder=settings)
            image = keras.Input((PLACES, count + 1, 3), name="image")
            keypoints, scores, centers = image[:, :, :count, :2], image[:, :, :count, 2], image[:, :, count, 0]
            candidates = {"keypoints": keypoints, "keypoint_scores": scores, "center_scores": centers}
            network = keras.Model(image, FinalPoses(Sidecar.from_config(config), None)(candidates))
            folder = tmp_path_factory.mktemp("final")
            tflite, onnx = folder / "final.tflite", folder / "final.onnx"
            tflite.write_bytes(to_tflite.convert(network, [(PLACES, count + 1)], "float32"))
            write_onnx(network, (PLACES, count + 1), "float32", onnx)
            made[key] = LiteRTEngine(tflite, FINAL), OnnxEngine(onnx, FINAL)
        return made[key]

    return make


@pytest.mark.slow
def test_files_of_final_poses_give_the_same_poses(case, final_layers):
    kept = len(case.kept)
    packed = np.zeros((1, PLACES, case.num_keypoints + 1, 3), np.float32)
    keypoints, scores, centers = numpy_candidates(case)
    found = np.s_[0, : len(centers)]
    packed[found][:, :-1, :2], packed[found][:, :-1, 2], packed[found][:, -1, 0] = keypoints, scores, centers
    for engine in final_layers(case):
        keypoints, scores, num_poses = engine.run(packed)
        assert num_poses.tolist() == [kept]
        assert num_poses.dtype == np.int32
        case.check(keypoints[0, :kept], scores[0, :kept])
        assert scores.shape == (1, PLACES)
        assert not keypoints[0, kept:].any()
        assert not scores[0, kept:].any()
