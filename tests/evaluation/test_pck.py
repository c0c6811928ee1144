import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.evaluation.pck import evaluate_pck
from dekr_tf.files.coco_format import read_labels
from dekr_tf.keypoints import KeypointSchema

BODY = KeypointSchema(name="body", names=("left_shoulder", "right_shoulder", "left_hip", "right_hip", "hand"))
#: Left shoulder to right hip is 50 pixels long (30, 40), right shoulder to left hip 100; a hand far off.
PERSON = [[100, 0], [200, 0], [200, 100], [130, 40], [300, 300]]


def labels(*people, images=None):
    """One image for every person, or as said; a person is a list of x, y, or of None where it is not labeled."""
    annotations = [
        {
            "image_id": images[number] if images else number,
            "category_id": 1,
            "keypoints": [value for point in person for value in ([*point, 2] if point else [0, 0, 0])],
        }
        for number, person in enumerate(people)
    ]
    content = {"images": [{"id": number} for number in range(len(people))], "annotations": annotations}
    return read_labels(content, BODY)


def found(image, person, score=0.5):
    return {"image_id": image, "keypoints": [value for point in person for value in (*point, 0.5)], "score": score}


def moved(index, distance, person=PERSON):
    """A person with one keypoint a distance off, in the direction (3, 4)."""
    points = np.array(person, float)
    points[index] += np.array([0.6, 0.8]) * distance
    return points.tolist()


def test_a_keypoint_is_correct_within_a_fifth_of_the_torso():
    # 0.2 x 50 = 10 pixels.
    for distance, share in ((9.99, 1), (10.01, 0.8)):
        metrics = evaluate_pck(labels(PERSON), [found(0, moved(4, distance))], BODY)
        assert metrics == {
            "people": 1,
            "PCK": pytest.approx(share),
            "PCK_left_shoulder": 1,
            "PCK_right_shoulder": 1,
            "PCK_left_hip": 1,
            "PCK_right_hip": 1,
            "PCK_hand": float(share == 1),
        }


@pytest.mark.parametrize("unlabeled", [0, 3])
def test_the_other_diagonal_measures_where_the_first_is_not_labeled(unlabeled):
    person = [None if index == unlabeled else point for index, point in enumerate(PERSON)]
    for distance, share in ((19.99, 1), (20.01, 0.75)):
        metrics = evaluate_pck(labels(person), [found(0, moved(4, distance))], BODY)
        assert metrics["PCK"] == pytest.approx(share)
        assert metrics[f"PCK_{BODY.names[unlabeled]}"] == -1


def test_who_has_neither_diagonal_is_not_measured():
    shoulders = [*PERSON[:2], None, None, PERSON[4]]
    point = [PERSON[0]] * 5
    metrics = evaluate_pck(labels(PERSON, shoulders, point), [found(0, PERSON)], BODY)
    assert (metrics["people"], metrics["PCK"]) == (1, 1)
    with pytest.raises(InputError, match=r"no person has a labeled shoulder and opposite hip"):
        evaluate_pck(labels(shoulders, point), [], BODY)


def test_the_pose_with_the_highest_score_counts_whatever_the_labels_say():
    other = (np.array(PERSON) + 1000).tolist()
    results = [found(0, other, 0.6), found(0, PERSON, 0.7), found(1, other, 0.6), found(1, PERSON, 0.5)]
    metrics = evaluate_pck(labels(PERSON, PERSON), results, BODY)
    assert (metrics["PCK"], metrics["people"]) == (0.5, 2)
    assert evaluate_pck(labels(PERSON, PERSON), results[::-1], BODY) == metrics


def test_keypoints_of_images_without_a_pose_are_wrong():
    without_hand = [*PERSON[:4], None]
    metrics = evaluate_pck(labels(PERSON, without_hand), [found(0, PERSON)], BODY)
    assert metrics["PCK"] == pytest.approx(5 / 9)
    assert (metrics["PCK_hand"], metrics["PCK_left_hip"]) == (1, 0.5)
    assert evaluate_pck(labels(PERSON), [], BODY)["PCK"] == 0


def test_images_with_nobody_labeled_are_passed_over():
    metrics = evaluate_pck(labels(PERSON, [None] * 5), [found(0, PERSON), found(1, PERSON)], BODY)
    assert (metrics["people"], metrics["PCK"]) == (1, 1)


def test_what_cannot_be_measured():
    with pytest.raises(InputError, match=r"image 1: PCK is for one labeled person an image\. Received: 2"):
        evaluate_pck(labels(PERSON, PERSON, images=[1, 1]), [], BODY)
    with pytest.raises(InputError, match=r"no person in .* has labeled keypoints"):
        evaluate_pck(labels([None] * 5), [], BODY)
    stick = KeypointSchema(name="stick", names=("left_shoulder", "left_hip"))
    with pytest.raises(InputError, match=r"needs the shoulders and hips\. Missing: right_hip, right_shoulder$"):
        evaluate_pck([], [], stick)
    with pytest.raises(InputError, match=r"results: entry 1: expected an image_id"):
        evaluate_pck(labels(PERSON), [found(9, PERSON)], BODY)
