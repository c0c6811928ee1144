import json

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.evaluation.coco import evaluate_coco
from dekr_tf.evaluation.crowdpose import area_of_box
from dekr_tf.evaluation.error_analysis import KINDS, analyze_errors
from dekr_tf.files.coco_format import read_labels
from dekr_tf.keypoints import COCO, KeypointSchema

# (2 sigma)^2 = 1 and areas of 10,000: the similarity at a distance d is exp(-d^2 / 20,000), 0.85 at 57.0 pixels and 0.5
# at 117.7. Keypoints lie 1000 pixels apart, people 5000.
BODY = KeypointSchema(
    name="body", names=("nose", "left", "right", "tail"), flip_pairs=((1, 2),), oks_sigmas=(0.5, 0.5, 0.5, 0.5)
)
NOSE, LEFT, RIGHT, TAIL = range(4)
FIRST, SECOND = np.array([[1000, 0], [2000, 0], [3000, 0], [4000, 0]]), [[1000 * k, 5000] for k in range(1, 5)]


def similarity(distance):
    return np.exp(-(distance**2) / 20_000)


def labels(*people, hidden=(), **changes):
    """People of one image; `hidden` are (person, keypoint) without a label."""
    annotations = []
    for number, person in enumerate(people):
        keypoints = [[*point, 0 if (number, index) in hidden else 2] for index, point in enumerate(person)]
        annotations.append({"image_id": 1, "category_id": 1, "keypoints": np.ravel(keypoints).tolist(), "area": 10_000})
        annotations[-1] |= {"bbox": [0, 0, 100, 100]} | changes
    return read_labels({"images": [{"id": 1}], "annotations": annotations}, BODY)


def pose(points, score=0.5):
    keypoints = np.concatenate([np.array(points, float), np.full((4, 1), 0.5)], axis=1)
    return {"image_id": 1, "keypoints": keypoints.ravel().tolist(), "score": score}


def right_of(point, distance):
    return [point[0] + distance, point[1]]


def counts(**kinds):
    """(K, kinds) with the given kind for each keypoint; those not given are not labeled."""
    table = np.zeros((4, 5), int)
    for name, kind in kinds.items():
        table[BODY.names.index(name), KINDS.index(kind)] += 1
    return table


def test_every_kind_of_error_as_planted():
    first = [
        right_of(FIRST[NOSE], 50),  # similarity 0.88
        right_of(FIRST[LEFT], 100),  # 0.61
        right_of(FIRST[LEFT], 100),  # 0.61 to the other side's label
        right_of(SECOND[TAIL], 50),  # 0.88 to the other person's label
    ]
    second = [right_of(SECOND[NOSE], 30), right_of(SECOND[LEFT], 500), FIRST[LEFT], SECOND[TAIL]]
    results = [pose(first, 0.9), pose(second, 0.8)]
    analysis = analyze_errors(labels(FIRST, SECOND), results, BODY)

    expected = counts(nose="good", left="jitter", right="inversion", tail="swap")
    expected += counts(nose="good", left="miss", right="swap", tail="good")
    np.testing.assert_array_equal(analysis.counts, expected)
    assert (analysis.people, analysis.poses, analysis.matched) == (2, 2, 2)
    assert analysis.shares == {"good": 3 / 8, "jitter": 1 / 8, "inversion": 1 / 8, "swap": 2 / 8, "miss": 1 / 8}

    # The OKS of the two as they are, and what each correction adds to them.
    good, jitter, near = similarity(50), similarity(100), similarity(30)
    oks = np.array([good + jitter, near + 1]) / 4
    added = {
        "jitter": [0.85 - jitter, 0],
        "inversion": [jitter, 0],
        "swap": [good, 1],
        "miss": [0, 0.5],
        "all": [0.85 + good, 1.5],
    }
    thresholds = np.linspace(0.5, 0.95, 10)

    def precision(oks):
        # The first pose alone: precision 1 up to recall 0.5; the second alone: 1/2.
        found = oks >= thresholds[:, None]
        return np.select([found.all(axis=1), found[:, 0], found[:, 1]], [1.0, 51 / 101, 51 / 101 / 2], 0.0).mean()

    assert analysis.precision == pytest.approx(precision(oks))
    assert analysis.corrected == {
        name: pytest.approx(precision(oks + np.array(gain) / 4)) for name, gain in added.items()
    }
    # What was planted has a different effect for each kind, so that none can stand for another.
    assert len(set(analysis.corrected.values())) == 5
    assert analysis.precision == 0 == analysis.corrected["jitter"]


@pytest.mark.parametrize(
    ("points", "kind"),
    [
        (right_of(FIRST[LEFT], 57.0), "good"),
        (right_of(FIRST[LEFT], 57.1), "jitter"),
        (right_of(FIRST[LEFT], 117.7), "jitter"),
        (right_of(FIRST[LEFT], 117.8), "miss"),
        (right_of(FIRST[RIGHT], 117.7), "inversion"),
        (right_of(FIRST[RIGHT], 117.8), "miss"),
        (right_of(SECOND[LEFT], 117.7), "swap"),
        (right_of(SECOND[RIGHT], 117.7), "swap"),
        (right_of(SECOND[LEFT], 117.8), "miss"),
        # Keypoints that are not alike are not confused.
        (FIRST[TAIL], "miss"),
        (SECOND[NOSE], "miss"),
    ],
)
def test_kinds_by_the_nearest_label(points, kind):
    found = [FIRST[NOSE], points, FIRST[RIGHT], FIRST[TAIL]]
    analysis = analyze_errors(labels(FIRST, SECOND), [pose(found)], BODY)
    np.testing.assert_array_equal(analysis.counts, counts(nose="good", left=kind, right="good", tail="good"))


def test_its_own_label_comes_before_nearer_ones():
    crowded = [[1000, 0], [2000, 0], [2100, 0], [4000, 0]]
    found = [[1000, 0], [2100, 0], [2100, 0], [4000, 0]]
    analysis = analyze_errors(labels(crowded), [pose(found)], BODY)
    np.testing.assert_array_equal(analysis.counts, counts(nose="good", left="jitter", right="good", tail="good"))


@pytest.mark.parametrize(("to_side", "to_other", "kind"), [(20, 30, "inversion"), (30, 20, "swap")])
def test_of_two_wrong_labels_the_nearer_decides(to_side, to_other, kind):
    middle = np.array([3000, 0])
    first = [FIRST[NOSE], FIRST[LEFT], middle - [to_side, 0], FIRST[TAIL]]
    second = [SECOND[NOSE], right_of(middle, to_other), SECOND[RIGHT], SECOND[TAIL]]
    found = [FIRST[NOSE], middle, middle - [to_side, 0], FIRST[TAIL]]
    analysis = analyze_errors(labels(first, second), [pose(found)], BODY)
    np.testing.assert_array_equal(analysis.counts, counts(nose="good", left=kind, right="good", tail="good"))


def test_a_keypoint_without_a_mirrored_one_is_not_inverted():
    found = [right_of(FIRST[NOSE], 500), *FIRST[1:]]
    analysis = analyze_errors(labels(FIRST), [pose(found)], BODY)
    np.testing.assert_array_equal(analysis.counts, counts(nose="miss", left="good", right="good", tail="good"))


def test_unlabeled_keypoints_are_nothing_and_nobody_is_confused_with_them():
    found = [FIRST[NOSE], FIRST[RIGHT], FIRST[RIGHT], SECOND[TAIL]]
    hidden = [(0, RIGHT), (1, TAIL)]
    analysis = analyze_errors(labels(FIRST, SECOND, hidden=hidden), [pose(found)], BODY)
    np.testing.assert_array_equal(analysis.counts, counts(nose="good", left="miss", tail="miss"))


def test_only_poses_of_a_person_count():
    # An OKS of 1/4 x 0.41 = 0.10 is enough, 1/4 x 0.39 is not; each person takes one pose, the best scored.
    for distance, matched in ((133, 1), (138, 0)):
        far = [right_of(FIRST[NOSE], distance), *(FIRST[1:] + 1500)]
        analysis = analyze_errors(labels(FIRST), [pose(far)], BODY)
        assert (analysis.matched, analysis.counts.sum()) == (matched, 4 * matched)
    twice = [pose(FIRST, 0.5), pose([right_of(point, 100) for point in FIRST], 0.6)]
    analysis = analyze_errors(labels(FIRST), twice, BODY)
    jitter = counts(nose="jitter", left="jitter", right="jitter", tail="jitter")
    np.testing.assert_array_equal(analysis.counts, jitter)
    assert (analysis.people, analysis.poses, analysis.matched) == (1, 2, 1)


def test_crowds_are_not_looked_at():
    crowd = {"image_id": 1, "category_id": 1, "iscrowd": 1, "area": 10_000, "bbox": [0, 4000, 9000, 2000]}
    crowd["keypoints"] = np.concatenate([SECOND, np.full((4, 1), 2)], axis=1).ravel().tolist()
    person = crowd | {"iscrowd": 0, "keypoints": np.insert(FIRST, 2, 2, axis=1).ravel().tolist()}
    both = read_labels({"images": [{"id": 1}], "annotations": [person, crowd]}, BODY)
    found = [FIRST[NOSE], SECOND[LEFT], FIRST[RIGHT], FIRST[TAIL]]
    analysis = analyze_errors(both, [pose(found), pose(SECOND)], BODY)
    np.testing.assert_array_equal(analysis.counts, counts(nose="good", left="miss", right="good", tail="good"))
    assert (analysis.people, analysis.matched) == (1, 1)


def test_whom_the_file_does_not_count_is_no_match_but_may_be_swapped_with():
    person = {"image_id": 1, "area": 10_000, "bbox": [0, 0, 100, 100]}
    first, second = (
        person | {"keypoints": np.insert(points, 2, 2, axis=1).ravel().tolist()} for points in (FIRST, SECOND)
    )
    content = {"images": [{"id": 1}], "annotations": [first, second | {"num_keypoints": 0}]}
    found = [FIRST[NOSE], SECOND[LEFT], FIRST[RIGHT], FIRST[TAIL]]
    analysis = analyze_errors(read_labels(content, BODY), [pose(found), pose(SECOND)], BODY)
    np.testing.assert_array_equal(analysis.counts, counts(nose="good", left="swap", right="good", tail="good"))
    assert (analysis.people, analysis.matched) == (1, 1)


def test_without_poses_there_is_nothing_to_tell():
    analysis = analyze_errors(labels(FIRST), [], BODY)
    assert analysis.shares == dict.fromkeys(KINDS, 0.0)
    assert (analysis.matched, analysis.precision, set(analysis.corrected.values())) == (0, 0.0, {0.0})
    with pytest.raises(InputError, match=r"no person in .* has labeled keypoints"):
        analyze_errors(labels(FIRST, hidden=[(0, index) for index in range(4)]), [], BODY)


def test_crowdpose_measures_people_by_their_box():
    # 0.53 x 200 x 100 = 10,600 pixels: 58.7 pixels are good.
    person = labels(FIRST, area=1.0, bbox=[0, 0, 200, 100])
    found = [right_of(point, 58.6) for point in FIRST]
    analysis = analyze_errors(person, [pose(found)], BODY, area=area_of_box)
    assert analysis.shares["good"] == 1
    found = [right_of(point, 58.8) for point in FIRST]
    assert analyze_errors(person, [pose(found)], BODY, area=area_of_box).shares["jitter"] == 1


def test_all_numbers_by_name():
    analysis = analyze_errors(labels(FIRST), [pose([right_of(FIRST[NOSE], 500), *FIRST[1:]])], BODY)
    content = json.loads(json.dumps(analysis.to_dict()))
    assert content == {
        "people": 1,
        "poses": 1,
        "matched": 1,
        "shares": {"good": 0.75, "jitter": 0.0, "inversion": 0.0, "swap": 0.0, "miss": 0.25},
        "counts": {name: dict.fromkeys(KINDS, 0) | {"miss" if name == "nose" else "good": 1} for name in BODY.names},
        "AP": pytest.approx(0.6),
        "AP_corrected": {
            "jitter": pytest.approx(0.6),
            "inversion": pytest.approx(0.6),
            "swap": pytest.approx(0.6),
            "miss": pytest.approx(0.8),
            "all": pytest.approx(0.8),
        },
    }


def test_correcting_never_makes_a_matched_keypoint_worse():
    """On random people: precision as the metric has it, and every correction at least as good."""
    random = np.random.default_rng(3)
    annotations, results = [], []
    for image in range(6):
        for _ in range(4):
            corner, size = random.uniform(0, 200, 2), random.uniform(60, 200)
            points = np.concatenate([corner + size * random.random((17, 2)), np.full((17, 1), 2)], axis=1)
            points[random.random(17) < 0.2] = 0
            box = [*corner, size, size]
            entry = {"image_id": image, "category_id": 1, "keypoints": points.ravel().tolist(), "bbox": box}
            annotations.append(entry)
            noisy = points + random.normal(0, size * random.choice([0.01, 0.04]), (17, 3))
            noisy = np.where(random.random((17, 1)) < 0.2, noisy[list(COCO.flip_indices)], noisy)
            results.append({"image_id": image, "keypoints": noisy.ravel().tolist(), "score": random.random()})
    people = read_labels({"images": [{"id": image} for image in range(6)], "annotations": annotations}, COCO)
    analysis = analyze_errors(people, results, COCO)
    assert analysis.precision == evaluate_coco(people, results, COCO)["AP"]
    assert analysis.counts.sum() == sum(
        (person.keypoints[:, 2] > 0).sum() for image in people for person in image.people
    )
    assert min(analysis.counts.sum(axis=0)[:3]) > 10
    gains = {name: precision - analysis.precision for name, precision in analysis.corrected.items()}
    assert min(gains.values()) >= 0
    assert gains["all"] > max(gains["jitter"], gains["inversion"]) > 0.05
