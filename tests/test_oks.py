import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval

from dekr_tf.keypoints import COCO, CROWDPOSE
from dekr_tf.oks import expected_similarity, object_keypoint_similarity


def test_a_hand_computed_table():
    # sigma 0.5: (2 sigma)^2 = 1, so a distance of d counts exp(-d^2 / (2 area)).
    labels = np.array([[[0, 0, 2], [10, 0, 1], [5, 5, 0]]])
    poses = np.array(
        [
            [[0, 0], [10, 0], [99, 99]],
            [[3, 4], [10, 0], [5, 5]],
            [[0, 5], [10, -5], [5, 5]],
        ]
    )
    similarity = object_keypoint_similarity(poses, labels, [50.0], [[0, 0, 10, 5]], [0.5, 0.5, 0.5])
    near = np.exp(-25 / 100)
    np.testing.assert_allclose(similarity, [[1], [(near + 1) / 2], [near]], atol=1e-12)


def test_a_person_without_labels_is_measured_by_twice_the_box():
    # The box 10..20 x 30..50 grows to 0..30 x 10..70.
    labels = np.zeros((1, 2, 3))
    poses = np.array([[[0, 10], [30, 70]], [[-3, 6], [15, 40]], [[33, 74], [-3, 74]]])
    similarity = object_keypoint_similarity(poses, labels, [50.0], [[10, 30, 10, 20]], [0.5, 0.5])
    near = np.exp(-25 / 100)
    np.testing.assert_allclose(similarity, [[1], [(near + 1) / 2], [near]], atol=1e-12)


def test_wider_sigmas_and_larger_people_forgive_more():
    labels = np.array([[[0, 0, 2]]] * 2)
    pose = np.array([[[6, 8]]])
    boxes = np.zeros((2, 4))
    similarity = object_keypoint_similarity(pose, labels, [100.0, 400.0], boxes, [0.1])
    np.testing.assert_allclose(similarity, [np.exp([-100 / 0.04 / 200, -100 / 0.04 / 800])])
    np.testing.assert_allclose(
        object_keypoint_similarity(pose, labels[:1], [100.0], boxes[:1], [0.2]), similarity[:, 1:]
    )


@pytest.mark.parametrize(("poses", "people"), [(0, 3), (2, 0), (0, 0)])
def test_empty(poses, people):
    similarity = object_keypoint_similarity(
        np.zeros((poses, 17, 3)), np.zeros((people, 17, 3)), np.zeros(people), np.zeros((people, 4)), COCO.oks_sigmas
    )
    assert similarity.shape == (poses, people)


@given(
    seed=st.integers(0, 2**32 - 1),
    schema=st.sampled_from([COCO, CROWDPOSE]),
    poses=st.integers(1, 6),
    people=st.integers(1, 5),
    labeled=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    spread=st.floats(0.1, 300),
)
def test_equals_pycocotools(seed, schema, poses, people, labeled, spread):
    random = np.random.default_rng(seed)
    count = len(schema)
    labels = np.concatenate([random.uniform(0, 500, (people, count, 2)), random.integers(1, 3, (people, count, 1))], -1)
    labels[random.random((people, count)) >= labeled] = 0
    found = labels[random.integers(people, size=poses)] + random.normal(0, spread, (poses, count, 3))
    areas = random.uniform(0, 40000, people)
    boxes = random.uniform(0, 300, (people, 4))

    scorer = COCOeval(iouType="keypoints")
    scorer.params.kpt_oks_sigmas = np.array(schema.oks_sigmas)
    scorer._gts[0, 1] = [
        {"keypoints": points.ravel().tolist(), "bbox": box.tolist(), "area": area}
        for points, box, area in zip(labels, boxes, areas, strict=True)
    ]
    scorer._dts[0, 1] = [{"keypoints": pose.ravel().tolist(), "score": -rank} for rank, pose in enumerate(found)]
    expected = scorer.computeOks(0, 1)

    ours = object_keypoint_similarity(found, labels, areas, boxes, schema.oks_sigmas)
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-14)


def test_expected_similarity_of_a_hand_computed_table():
    # A box of 10 x 20 pixels: area 0.53 * 200 = 106; sigma 0.5 gives s^2 = 106, sigma 1 gives 424.
    keypoints = np.array([[[5, 5, 0.1], [15, 25, 0.9]], [[3, 3, 1], [3, 9, 1]]])
    similarity = expected_similarity(keypoints, 2, [0.5, 1])
    np.testing.assert_allclose(similarity, [[106 / 110, 424 / 428], [0, 0]], rtol=1e-12)


def test_expected_similarity_is_the_mean_over_random_errors():
    truth = np.array([[0, 0, 2], [40, 60, 2], [20, 30, 2]], float)
    sigmas = [0.05, 0.1, 0.2]
    errors = np.random.default_rng(0).normal(0, 5, (40_000, 3, 2))
    area = 0.53 * 40 * 60
    similarity = [
        object_keypoint_similarity(truth[None, [k], :2] + errors[:, [k]], truth[None, [k]], [area], [[0, 0, 1, 1]], [s])
        for k, s in enumerate(sigmas)
    ]
    expected = expected_similarity(truth[None], 5, sigmas)[0]
    np.testing.assert_allclose(np.mean(similarity, axis=(1, 2)), expected, rtol=0.02)
