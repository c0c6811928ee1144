"""Pose NMS on tables worked out by hand, its edges, and properties of groups that lie apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dekr_tf.inference.pose_nms import pose_nms

SQUARE = np.array([[0, 0], [30, 0], [0, 40], [30, 40]], float)  # Diagonal 50.


def candidates(*shifts):
    """Copies of the square, each keypoint moved right by its own number of pixels."""
    return np.stack([SQUARE + np.array([[shift, 0] for shift in np.broadcast_to(moves, 4)]) for moves in shifts])


def kept(poses, scores, distance=0.1, min_keypoints=2):
    return pose_nms(poses, np.array(scores, float), distance=distance, min_keypoints=min_keypoints).tolist()


def test_best_of_a_group_stays_in_the_order_of_the_walk():
    poses = candidates(0, 200, 3, 203)
    assert kept(poses, [0.1, 0.9, 0.5, 0.2]) == [2, 1]


def test_near_means_up_to_the_fraction_of_the_diagonal():
    assert kept(candidates(0, 5), [0.5, 0.4]) == [0]
    assert kept(candidates(0, 5.01), [0.5, 0.4]) == [0, 1]


def test_more_than_min_keypoints_must_be_near():
    two_near, three_near = candidates(0, [0, 0, 20, 20]), candidates(0, [0, 0, 0, 20])
    assert kept(two_near, [0.5, 0.4]) == [0, 1]
    assert kept(three_near, [0.5, 0.4]) == [0]


def test_the_diagonal_is_that_of_the_candidate_walked():
    # Three keypoints 5 px apart: near by the diagonal of 50, not by that of a smaller pose.
    small = np.array([[5, 0], [30, 5], [5, 40], [10, 20]], float)
    assert np.linalg.norm(np.ptp(small, axis=0)) < 50
    poses = np.stack([SQUARE, small])
    assert kept(poses, [0.5, 0.4], min_keypoints=2) == [0]
    assert kept(poses[::-1], [0.4, 0.5], min_keypoints=2) == [0, 1]


def test_a_group_whose_best_was_dropped_keeps_none():
    # 0 keeps itself and drops 1. 2 is near 1 only, which is better: 2 goes as well.
    assert kept(candidates(0, 4, 8), [0.9, 0.5, 0.1]) == [0]


def test_a_chain_may_keep_neighbors_as_the_reference_does():
    # 0 gives way to 1 and is near no other; 2 then finds itself better than 1.
    assert kept(candidates(0, 4, 8), [0.1, 0.5, 0.9]) == [1, 2]


def test_equal_scores_keep_the_first():
    assert kept(candidates(0, 1, 2), [0.5, 0.5, 0.5]) == [0]


@pytest.mark.parametrize("count", [1, 3, 21])
def test_poses_without_extent(count):
    """All keypoints in one place: equal ones are the same person, others are not."""
    poses = np.repeat(np.array([[[5, 5]], [[5, 5]], [[9, 5]]], float), count, axis=1)
    assert kept(poses, [0.1, 0.2, 0.3], min_keypoints=count // 2) == [1, 2]


@pytest.mark.parametrize("count", [1, 3, 21])
@pytest.mark.parametrize("excess", [0, 5])
def test_a_threshold_of_all_keypoints_switches_it_off(count, excess):
    poses = np.zeros((4, count, 2))
    assert kept(poses, [0.1, 0.4, 0.2, 0.3], min_keypoints=count + excess) == [0, 1, 2, 3]


def test_no_candidates():
    assert kept(np.zeros((0, 17, 2)), []) == []


@st.composite
def crowds(draw):
    """Candidates in tight groups far from each other: poses (N, K, 2), scores (N,), group (N,)."""
    count = draw(st.integers(2, 21))
    members = draw(st.lists(st.integers(0, 5), min_size=1, max_size=12))
    shape = draw(arrays(float, (count, 2), elements=st.floats(0, 100)))
    # Two corners give every pose a diagonal of about 141.
    shape[:2] = [[0, 0], [100, 100]]
    jitter = draw(arrays(float, (len(members), count, 2), elements=st.floats(-1, 1)))
    scores = draw(arrays(float, len(members), elements=st.floats(0, 1), unique=True))
    group = np.array(members)
    return shape + jitter + 1000.0 * group[:, None, None], scores, group


@given(crowds())
def test_groups_that_lie_apart_keep_their_best(crowd):
    poses, scores, group = crowd
    survivors = kept(poses, scores, min_keypoints=poses.shape[1] // 2)
    order = list(dict.fromkeys(group.tolist()))
    members = [np.flatnonzero(group == number) for number in order]
    assert survivors == [indices[scores[indices].argmax()] for indices in members]
    # What survived once survives again.
    assert kept(poses[survivors], scores[survivors], min_keypoints=poses.shape[1] // 2) == list(range(len(survivors)))


@given(arrays(float, st.tuples(st.integers(0, 10), st.integers(1, 5), st.just(2)), elements=st.floats(-20, 20)))
def test_any_candidates_leave_at_least_one_and_each_once(poses):
    survivors = kept(poses, np.arange(len(poses)), distance=0.3, min_keypoints=poses.shape[1] // 2)
    assert len(set(survivors)) == len(survivors)
    assert set(survivors) <= set(range(len(poses)))
    # The best of all is the best of whatever group it stands in.
    assert not len(poses) or len(poses) - 1 in survivors
