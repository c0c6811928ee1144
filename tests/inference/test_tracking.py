"""Numbers of people in made motion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dekr_tf.errors import InputError
from dekr_tf.inference.tracking import PoseTracker
from dekr_tf.poses import Poses

#: A person of 40 x 120 pixels about the origin.
BODY = np.array([[0, -60], [-20, -30], [20, -30], [-10, 60], [10, 60]], float)
SIGMAS = (0.05,) * len(BODY)


def frame(*positions, scores=None):
    """People standing at (x, y)."""
    keypoints = BODY + np.array(positions, float).reshape(-1, 1, 2)
    keypoints = np.concatenate([keypoints, np.ones((*keypoints.shape[:2], 1))], axis=-1)
    return Poses(keypoints, np.ones(len(keypoints)) if scores is None else np.array(scores))


def test_people_who_cross_keep_their_numbers():
    tracker = PoseTracker(SIGMAS)
    for step in range(41):
        # They pass each other 100 pixels apart, and are found in another order after they did.
        left, right = (100 + 10 * step, 200), (500 - 10 * step, 300)
        if step < 20:
            assert tracker.update(frame(left, right, scores=[0.9, 0.8])).track_ids.tolist() == [1, 2]
        else:
            assert tracker.update(frame(right, left, scores=[0.9, 0.8])).track_ids.tolist() == [2, 1]
    assert tracker.people == 2


def test_someone_who_is_not_found_for_a_while_keeps_the_number():
    tracker = PoseTracker(SIGMAS, max_missed=2)
    assert tracker.update(frame((100, 100), (400, 100), scores=[0.9, 0.8])).track_ids.tolist() == [1, 2]
    assert tracker.update(frame((100, 100))).track_ids.tolist() == [1]
    assert tracker.update(frame((100, 100))).track_ids.tolist() == [1]
    assert tracker.update(frame((400, 100), (100, 100))).track_ids.tolist() == [2, 1]
    for _ in range(3):
        assert tracker.update(frame((100, 100))).track_ids.tolist() == [1]
    assert tracker.update(frame((400, 100), (100, 100))).track_ids.tolist() == [3, 1]


def test_everyone_gone_and_back():
    tracker = PoseTracker(SIGMAS)
    assert tracker.update(Poses.empty(len(BODY))).track_ids.tolist() == []
    assert tracker.update(frame((100, 100))).track_ids.tolist() == [1]
    assert tracker.update(Poses.empty(len(BODY))).track_ids.tolist() == []
    assert tracker.update(frame((103, 100), (300, 100), scores=[0.9, 0.5])).track_ids.tolist() == [1, 2]


def test_new_people_are_numbered_best_first():
    tracker = PoseTracker(SIGMAS)
    tracker.update(frame((100, 0), (300, 0), (500, 0), scores=[0.2, 0.9, 0.5]))
    assert [tracker.update(frame((x, 0))).track_ids.tolist() for x in (100, 300, 500)] == [[3], [1], [2]]


def test_the_best_pair_is_joined_first():
    tracker = PoseTracker(SIGMAS)
    tracker.update(frame((100, 100), (110, 100), scores=[0.9, 0.8]))
    # The first pose is near to both, but the second is 2's, who stands where it was.
    assert tracker.update(frame((107, 100), (110, 100))).track_ids.tolist() == [1, 2]


def test_the_threshold_is_a_similarity():
    # Half of the square with the diagonal of a box of 40 x 120: 16000 / 4 pixels.
    distance = 20.0
    similarity = np.exp(-(distance**2) / (2 * (2 * 3 * 0.05) ** 2 * 4000))
    for threshold, number in ((similarity - 1e-6, 1), (similarity + 1e-6, 2)):
        tracker = PoseTracker(SIGMAS, threshold=threshold)
        tracker.update(frame((100, 100)))
        assert tracker.update(frame((100 + distance, 100))).track_ids.tolist() == [number]


def test_one_keypoint_has_no_size():
    with pytest.raises(InputError, match=r"two keypoints or more\. Received: 1"):
        PoseTracker((0.05,))


@given(st.data())
def test_the_order_of_the_poses_does_not_matter(data):
    position = st.tuples(st.integers(0, 300), st.integers(0, 300))
    person = st.tuples(position, st.sampled_from([0.3, 0.5]))
    people = st.lists(person, max_size=4, unique_by=lambda each: each[0])
    one, other = PoseTracker(SIGMAS), PoseTracker(SIGMAS)
    for _ in range(4):
        found = data.draw(people)
        numbers = []
        for tracker, order in ((one, found), (other, data.draw(st.permutations(found)))):
            poses = frame(*(each[0] for each in order), scores=[each[1] for each in order])
            places = map(tuple, poses.keypoints[:, 0, :2].tolist())
            numbers.append(dict(zip(places, tracker.update(poses).track_ids.tolist(), strict=True)))
        assert len(set(numbers[0].values())) == len(found)
        assert numbers[0] == numbers[1]


def test_people_with_a_low_score_are_not_followed():
    tracker = PoseTracker(SIGMAS, min_score=0.5)
    poses = tracker.update(frame((100, 100), (400, 100), (700, 100), scores=[0.5, 0.4, 0.6]))
    assert poses.track_ids.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(poses.xy[:, 0, 0], [700, 100, 400])
    assert tracker.people == 2
