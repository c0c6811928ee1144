import dataclasses

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.poses import Poses


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
