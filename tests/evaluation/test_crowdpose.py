import json
from pathlib import Path

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.evaluation.crowdpose import METRICS, evaluate_crowdpose
from dekr_tf.files.coco_format import read_labels
from dekr_tf.keypoints import CROWDPOSE, KeypointSchema

GOLDEN = Path(__file__).parents[1] / "goldens" / "metric_crowdpose.json"
STICK = KeypointSchema(name="stick", names=("top", "end"), oks_sigmas=(0.5, 0.5))


def evaluate(content, results, schema=STICK):
    return evaluate_crowdpose(read_labels(content, schema), results, schema)


def stick(image, **changes):
    """A person of two keypoints on the diagonal of a box of 100 x 100."""
    person = {"image_id": image, "category_id": 1, "keypoints": [0, 0, 2, 100, 100, 2], "bbox": [0, 0, 100, 100]}
    return person | changes


def found(image, score, shift=0.0):
    return {"image_id": image, "category_id": 1, "keypoints": [shift, 0, 1, 100 + shift, 100, 1], "score": score}


def images(*crowd_indices):
    return [{"id": number, "file_name": "a", "crowdIndex": index} for number, index in enumerate(crowd_indices)]


def test_images_are_easy_medium_or_hard_by_the_limits_of_the_toolkit():
    # One image at each limit and beside it. Only those of the right kind are found.
    indices = (0, 0.1999, 0.2, 0.5, 0.7999, 0.8, 1)
    content = {"images": images(*indices), "annotations": [stick(number) for number in range(len(indices))]}
    for name, numbers in {"APE": (0, 1), "APM": (2, 3, 4), "APH": (5, 6)}.items():
        metrics = evaluate(content, [found(number, 0.9) for number in numbers])
        assert {key: metrics[key] for key in ("APE", "APM", "APH")} == {"APE": 0, "APM": 0, "APH": 0} | {name: 1}
        assert tuple(metrics) == METRICS
    assert evaluate(content, [found(number, 0.9) for number in range(7)]) == pytest.approx(dict.fromkeys(METRICS, 1))


def test_a_kind_without_images_or_people_is_minus_one():
    content = {"images": images(0.1, 0.5), "annotations": [stick(0)]}
    metrics = evaluate(content, [found(0, 0.9), found(1, 0.1)])
    assert (metrics["APE"], metrics["APM"], metrics["APH"]) == (1, -1, -1)


def test_the_area_is_that_of_the_box():
    # (2 sigma)^2 = 1, so the OKS is exp(-d^2 / (2 area)): this shift gives 0.72 for an area of 0.53 x 100 x 100, which
    # the thresholds .50 to .70 count, and next to nothing or nearly 1 for the areas that the labels claim.
    shift = (-2 * 5300 * np.log(0.72)) ** 0.5
    for area in (1, 1e7):
        metrics = evaluate({"images": images(0.5), "annotations": [stick(0, area=area)]}, [found(0, 0.9, shift)])
        expected = {"AP": 0.5, "AP50": 1, "AP75": 0, "APE": -1, "APM": 0.5, "APH": -1, "AR": 0.5, "AR50": 1, "AR75": 0}
        assert metrics == pytest.approx(expected)


def test_a_person_with_an_empty_box_is_missed():
    content = {"images": images(0, 0), "annotations": [stick(0), stick(1, bbox=[0, 0, 0, 100], area=5)]}
    assert evaluate(content, [found(0, 0.9), found(1, 0.8, 0.5)])["AR"] == pytest.approx(0.5)


def test_precision_by_difficulty_has_four_places():
    # Of three people two are found: precision 1 up to recall 2/3, which are 67 of the 101 recalls.
    content = {"images": images(0, 0, 0), "annotations": [stick(number) for number in range(3)]}
    metrics = evaluate(content, [found(0, 0.9), found(1, 0.8)])
    assert metrics["APE"] == 0.6634
    assert metrics["AP"] == pytest.approx(67 / 101, abs=1e-12)


def test_only_the_best_twenty_results_of_an_image_count():
    content = {"images": images(0), "annotations": [stick(0)]}
    false = [found(0, 0.5, 10_000)] * 20
    assert evaluate(content, [found(0, 0.1), *false])["AR"] == 0
    assert evaluate(content, [found(0, 0.1), *false[1:]])["AR"] == pytest.approx(1)


@pytest.fixture
def golden():
    """Made people, and what the toolkit's own code says of them.

    Of 50 people 11 have `num_keypoints` 0 and are no crowd: 6 without labels, and 5 with head and neck alone, which
    CrowdPose's files leave out of the count. The metrics are those of xtcocotools 1.14.3, `iouType="keypoints_crowd"`,
    CrowdPose's sigmas, `use_area=False`.
    """
    return json.loads(GOLDEN.read_text())


def test_numbers_are_those_of_the_toolkit(golden):
    metrics = evaluate(golden["annotations"], golden["results"], CROWDPOSE)
    assert metrics == pytest.approx(golden["metrics"], abs=1e-12)


def test_visibilities_decide_where_a_file_has_no_num_keypoints(golden):
    # The toolkit's numbers with num_keypoints set to the number of labeled keypoints; it cannot do without.
    expected = {"AP": 0.19121642498739524, "APE": 0.2409, "APM": 0.1817, "APH": 0.202, "AR": 0.39459459459459467}
    for person in golden["annotations"]["annotations"]:
        del person["num_keypoints"]
    metrics = evaluate(golden["annotations"], golden["results"], CROWDPOSE)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("index", "message"), [({}, "none"), ({"crowdIndex": "0.3"}, "'0.3'")])
def test_every_image_needs_a_crowd_index(index, message):
    content = {"images": [{"id": 4, "file_name": "a", **index}], "annotations": [stick(4)]}
    with pytest.raises(InputError, match=f"image 4: expected a finite number as crowdIndex. Received: {message}$"):
        evaluate(content, [])


def average_precision(people, poses, crowd_indices, sigmas, threshold):
    """Straight from the definition, without pycocotools: one OKS threshold, images as given by `crowd_indices`."""
    outcomes, total = [], 0
    for image in sorted(crowd_indices):
        here = [person for person in people if person["image_id"] == image]
        ordinary = [person for person in here if person["num_keypoints"] and not person["iscrowd"]]
        total += len(ordinary)
        free = list(ordinary)
        ranked = sorted((pose for pose in poses if pose["image_id"] == image), key=lambda pose: -pose["score"])[:20]
        for pose in ranked:

            def oks(person, pose=pose):
                label = np.reshape(person["keypoints"], (-1, 3))
                distance = np.reshape(pose["keypoints"], (-1, 3))[:, :2] - label[:, :2]
                seen = label[:, 2] > 0
                left, top, width, height = person["bbox"]
                if not seen.any():
                    corner, size = np.array([left, top]), np.array([width, height])
                    point = np.reshape(pose["keypoints"], (-1, 3))[:, :2]
                    distance = point - np.clip(point, corner - size, corner + 2 * size)
                    seen[:] = True
                scale = 2 * 0.53 * width * height * (2 * np.array(sigmas)) ** 2
                return np.exp(-(distance**2).sum(axis=1) / scale)[seen].mean()

            best = max(free, key=oks, default=None)
            if best is not None and oks(best) >= threshold:
                free.remove(best)
                outcomes.append((pose["score"], True))
                continue
            # Who is not counted may be found: a crowd any number of times, others once.
            ignored = [person for person in here if person not in ordinary and oks(person) >= threshold]
            if ignored:
                taken = max(ignored, key=oks)
                if not taken["iscrowd"]:
                    here.remove(taken)
                continue
            outcomes.append((pose["score"], False))
    outcomes.sort(key=lambda outcome: -outcome[0])
    right = np.cumsum([outcome[1] for outcome in outcomes])
    precision, recall = right / np.arange(1, len(right) + 1), right / total
    return np.mean([precision[recall >= level].max(initial=0) for level in np.linspace(0, 1, 101)])


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_an_independent_calculation_on_random_people(seed):
    random = np.random.default_rng(seed)
    content = {"images": images(*random.random(20)), "annotations": []}
    results = []
    for image in range(20):
        for _ in range(random.integers(0, 5)):
            corner, size = random.uniform(0, 300, 2), random.uniform(20, 250, 2)
            points = np.concatenate([corner + size * random.random((14, 2)), np.full((14, 1), 2)], axis=1)
            points[random.random(14) < random.choice([0.1, 0.6, 1.0])] = 0
            content["annotations"].append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [*corner, *size],
                    "area": random.uniform(10, 1e5),
                    "keypoints": points.ravel().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                    "iscrowd": int(random.random() < 0.1),
                }
            )
            for _ in range(random.integers(0, 4)):
                noise = random.normal(0, size.mean() * random.choice([0.01, 0.05, 0.2]), (14, 3))
                results.append({"image_id": image, "keypoints": (points + noise).ravel().tolist()})
                results[-1]["score"] = random.random()
    metrics = evaluate(content, results, CROWDPOSE)

    indices = {image["id"]: image["crowdIndex"] for image in content["images"]}

    def expected(low, high):
        chosen = {image: index for image, index in indices.items() if low <= index < high}
        people = content["annotations"]
        return np.array(
            [
                average_precision(people, results, chosen, CROWDPOSE.oks_sigmas, threshold)
                for threshold in np.linspace(0.5, 0.95, 10)
            ]
        )

    overall = expected(0, 2)
    assert metrics["AP"] == pytest.approx(overall.mean(), abs=1e-9)
    assert metrics["AP50"] == pytest.approx(overall[0], abs=1e-9)
    assert metrics["AP75"] == pytest.approx(overall[5], abs=1e-9)
    for name, low, high in (("APE", 0, 0.2), ("APM", 0.2, 0.8), ("APH", 0.8, 2)):
        assert metrics[name] == pytest.approx(expected(low, high).mean(), abs=0.50001e-4)
    assert 0.1 < metrics["AP"] < 0.9
