"""The people of one image: order, selection, and the forms that other programs take."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.keypoints import COCO, KeypointSchema
from dekr_tf.poses import Poses

PAIR = KeypointSchema("pair", ("head", "foot"))


def make(count=3, num_keypoints=2):
    keypoints = np.arange(count * num_keypoints * 3).reshape(count, num_keypoints, 3)
    return Poses(keypoints, 0.2 - np.arange(count) / 10)


def test_arrays_become_float32():
    poses = make()
    assert poses.keypoints.dtype == poses.scores.dtype == np.float32
    assert len(poses) == 3


def test_empty_knows_its_skeleton():
    poses = Poses.empty(17)
    assert len(poses) == 0
    assert poses.keypoints.shape == (0, 17, 3)
    assert list(poses) == []


def test_iteration_gives_one_person_at_a_time():
    people = list(make())
    assert len(people) == 3
    np.testing.assert_array_equal(people[1][0], [[6, 7, 8], [9, 10, 11]])
    assert people[1][1] == np.float32(0.1)


@pytest.mark.parametrize(
    ("index", "kept"),
    [(slice(1), [0]), ([2, 0], [0, 2]), (np.array([False, True, True]), [1, 2]), (np.zeros(0, int), [])],
)
def test_indexing_chooses_people(index, kept):
    poses = make()
    chosen = poses[index]
    np.testing.assert_array_equal(chosen.keypoints, poses.keypoints[kept])
    np.testing.assert_array_equal(chosen.scores, poses.scores[kept])


def test_people_are_best_first_and_equal_ones_stay_in_order():
    keypoints = np.arange(5 * 3).reshape(5, 1, 3)
    poses = Poses(keypoints, [0.25, 0.5, 0.25, 0.75, 0.5])
    np.testing.assert_array_equal(poses.scores, [0.75, 0.5, 0.5, 0.25, 0.25])
    np.testing.assert_array_equal(poses.keypoints, keypoints[[3, 1, 4, 0, 2]])


@pytest.mark.parametrize(
    ("keypoints", "scores"),
    [((2, 17, 2), (2,)), ((17, 3), (17,)), ((2, 17, 3), (3,)), ((2, 17, 3), (2, 1)), ((0, 17, 3), (1,))],
)
def test_shapes_that_do_not_fit(keypoints, scores):
    with pytest.raises(InputError, match=r"expected keypoints \(N, K, 3\) and scores \(N,\)") as error:
        Poses(np.zeros(keypoints), np.zeros(scores))
    assert str(error.value).endswith(f"Received: keypoints {keypoints}, scores {scores}")


def test_poses_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().scores = np.zeros(3)


def test_one_person():
    poses = make()
    for index in (1, np.int64(1), -2):
        keypoints, score = pose = poses[index]
        np.testing.assert_array_equal(keypoints, [[6, 7, 8], [9, 10, 11]])
        np.testing.assert_array_equal(pose.xy, [[6, 7], [9, 10]])
        assert pose.score == score == np.float32(0.1)
    with pytest.raises(IndexError):
        poses[3]


def test_the_columns():
    poses = make()
    np.testing.assert_array_equal(poses.xy[0], [[0, 1], [3, 4]])
    np.testing.assert_array_equal(poses.keypoint_scores, [[2, 5], [8, 11], [14, 17]])
    np.testing.assert_array_equal(poses.boxes(), [[0, 1, 3, 4], [6, 7, 9, 10], [12, 13, 15, 16]])
    assert Poses.empty(2).boxes().shape == (0, 4)


def test_skeleton_and_track_ids_go_with_the_people():
    poses = Poses(np.zeros((3, 2, 3)), [0.25, 0.75, 0.5], PAIR, [7, 8, 0])
    assert poses.track_ids.tolist() == [8, 0, 7]
    for chosen, ids in ((poses.filter(0.5), [8, 0]), (poses[1:], [0, 7]), (poses[[2, 0]], [8, 7])):
        assert (chosen.schema, chosen.track_ids.tolist()) == (PAIR, ids)
    assert make()[:1].track_ids is None
    with pytest.raises(InputError, match=r"^expected track ids \(3,\)\. Received: \(2,\)$"):
        dataclasses.replace(poses, track_ids=[1, 2])


def test_poses_of_another_skeleton_are_refused():
    with pytest.raises(InputError, match=r"^expected poses of the 17 keypoints of coco\. Received: poses of 2$"):
        dataclasses.replace(make(), schema=COCO)
    assert dataclasses.replace(make(0), schema=COCO).schema == COCO


def test_coco_results():
    poses = Poses([[[1, 2, 0.5], [3, 4.00049, 0.4]], [[5, 6, 1], [7, -8, 1.2345678e-5]]], [0.75, 0.4])
    results = poses.to_coco(7, "7.jpg", category_id=3)
    assert json.loads(json.dumps(results)) == [
        {
            "image_id": 7,
            "file_name": "7.jpg",
            "category_id": 3,
            "keypoints": [1, 2, 0.5, 3, 4.0, 0.4],
            "score": 0.75,
        },
        {
            "image_id": 7,
            "file_name": "7.jpg",
            "category_id": 3,
            "keypoints": [5, 6, 1, 7, -8, 1.234568e-5],
            "score": 0.4,
        },
    ]
    assert [list(each) for each in poses[:1].to_coco()] == [["category_id", "keypoints", "score"]]
    followed = dataclasses.replace(poses, track_ids=[4, 0]).to_coco(7)
    assert json.loads(json.dumps([each["track_id"] for each in followed])) == [4, None]
    assert Poses.empty(2).to_coco() == []


def test_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(KeyPoints=lambda **values: values))
    poses = dataclasses.replace(make(), track_ids=[5, 6, 0])
    values = poses.to_supervision()
    np.testing.assert_array_equal(values["xy"], poses.xy)
    np.testing.assert_array_equal(values["keypoint_confidence"], poses.keypoint_scores)
    np.testing.assert_array_equal(values["detection_confidence"], poses.scores)
    assert values["class_id"].tolist() == [0, 0, 0]
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install 'supervision"):
        poses.to_supervision()
