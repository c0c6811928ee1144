import copy
import json

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.evaluation.coco import AREA_PER_BOX, METRICS, evaluate_coco, poses_to_results, read_annotations
from dekr_tf.keypoints import COCO, CROWDPOSE, KeypointSchema
from dekr_tf.poses import Poses

STICK = KeypointSchema(name="stick", names=("top", "end"), oks_sigmas=(0.5, 0.5))
# pycocotools keeps a division by zero away with a smallest number, and so stays a hair below 1.
ONES = pytest.approx(dict.fromkeys(METRICS, 1.0), abs=1e-12)


def person(number, image, left, top, size=100):
    """A stick of two labelled keypoints along the diagonal of a square box."""
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "keypoints": [left, top, 2, left + size, top + size, 2],
        "num_keypoints": 2,
        "bbox": [left, top, size, size],
        "area": size * size,
        "iscrowd": 0,
    }


def result(annotation, score, shift=0.0):
    """What finds a person exactly, or a number of pixels to the right."""
    x, y, _, right, bottom, _ = annotation["keypoints"]
    keypoints = [x + shift, y, 0.9, right + shift, bottom, 0.8]
    return {"image_id": annotation["image_id"], "category_id": 1, "keypoints": keypoints, "score": score}


@pytest.fixture
def annotations():
    """Two images; three people of 100 x 100 (large) and one of 50 x 50 (medium)."""
    people = [person(0, 7, 0, 0), person(1, 7, 300, 0, 50), person(2, 8, 0, 0), person(3, 8, 200, 100)]
    return {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": ["top", "end"], "skeleton": []}],
    }


def perfect(annotations):
    return [result(entry, 0.9) for entry in annotations["annotations"]]


def test_perfect_results_score_one(annotations):
    assert evaluate_coco(annotations, perfect(annotations), STICK) == ONES


def test_files_and_contents_score_alike(annotations, tmp_path):
    results = perfect(annotations)[:3]
    (tmp_path / "truth.json").write_text(json.dumps(annotations))
    (tmp_path / "results.json").write_text(json.dumps(results))
    from_files = evaluate_coco(tmp_path / "truth.json", str(tmp_path / "results.json"), STICK)
    assert from_files == evaluate_coco(annotations, results, STICK)


def test_nothing_is_printed_and_nothing_changed(annotations, capfd):
    results = perfect(annotations)
    before = copy.deepcopy((annotations, results))
    evaluate_coco(annotations, results, STICK)
    assert (annotations, results) == before
    assert capfd.readouterr() == ("", "")


def test_a_hand_computed_case(annotations):
    large, medium, found, missed = annotations["annotations"]
    # (2 sigma)^2 = 1: a shift of s pixels gives an OKS of exp(-s^2 / (2 area)); this one is 0.72, so that the
    # thresholds .50 .55 .60 .65 .70 count it and .75 to .95 do not.
    shift = (-2 * large["area"] * np.log(0.72)) ** 0.5
    results = [result(large, 0.9, shift), result(medium, 0.8), result(found, 0.7), result(missed, 0.6, shift=10_000)]
    metrics = evaluate_coco(annotations, results, STICK)
    # At the low thresholds three of four people are found before the first false one: precision 1 up to recall 0.75, at
    # 76 of the 101 recalls. At the high ones the best result is false: precision 2/3 up to recall 0.5, at 51 recalls.
    low, high = 76 / 101, 51 / 101 * 2 / 3
    # Large people alone: results with medium boxes are left out, so 2 of 3, then 1 of 3 at precision 1/2.
    low_large, high_large = 67 / 101, 34 / 101 / 2
    expected = {
        "AP": (low + high) / 2,
        "AP50": low,
        "AP75": high,
        "APM": 1.0,
        "APL": (low_large + high_large) / 2,
        "AR": (0.75 + 0.5) / 2,
        "AR50": 0.75,
        "AR75": 0.5,
        "ARM": 1.0,
        "ARL": (2 / 3 + 1 / 3) / 2,
    }
    assert metrics == pytest.approx(expected, abs=1e-9)


def test_the_sigmas_are_those_of_the_schema(annotations):
    results = [result(entry, 0.9, shift=20) for entry in annotations["annotations"][2:]]
    annotations["annotations"] = annotations["annotations"][2:]
    strict = KeypointSchema(name="strict", names=("top", "end"), oks_sigmas=(0.01, 0.01))
    assert evaluate_coco(annotations, results, STICK)["AP"] == pytest.approx(1)
    assert evaluate_coco(annotations, results, strict)["AP"] == 0.0


def test_no_results_score_zero(annotations):
    assert evaluate_coco(annotations, [], STICK) == dict.fromkeys(METRICS, 0.0)


def test_sizes_that_no_person_has_are_minus_one(annotations):
    annotations["annotations"] = annotations["annotations"][:1]
    metrics = evaluate_coco(annotations, perfect(annotations), STICK)
    assert metrics == pytest.approx(dict.fromkeys(METRICS, 1.0) | {"APM": -1.0, "ARM": -1.0})


def test_only_the_best_twenty_results_of_an_image_count(annotations):
    annotations["annotations"] = annotations["annotations"][:1]
    found = result(annotations["annotations"][0], 0.1)
    false = [result(annotations["annotations"][0], 0.5, shift=10_000) for _ in range(20)]
    assert evaluate_coco(annotations, [found, *false], STICK)["AR"] == 0.0
    assert evaluate_coco(annotations, [found, *false[:19]], STICK)["AR"] == pytest.approx(1)


def test_crowds_and_unlabelled_people_are_neither_found_nor_missed(annotations):
    crowd = person(10, 7, 500, 500) | {"iscrowd": 1}
    unlabelled = person(11, 8, 500, 500) | {"keypoints": [0] * 6, "num_keypoints": 0}
    results = [*perfect(annotations), result(crowd, 0.95), result(person(12, 8, 480, 480), 0.96)]
    annotations["annotations"] += [crowd, unlabelled]
    assert evaluate_coco(annotations, results, STICK)["AP"] == pytest.approx(1)
    assert evaluate_coco(annotations, results[:4], STICK)["AP"] == pytest.approx(1)


def test_images_without_people_count_their_false_results(annotations):
    annotations["images"].append({"id": 9, "file_name": "c.jpg"})
    false = result(person(0, 9, 0, 0), 0.95)
    metrics = evaluate_coco(annotations, [*perfect(annotations), false], STICK)
    assert metrics["AP"] == pytest.approx(4 / 5)
    assert metrics["AR"] == pytest.approx(1)


def test_missing_values_are_filled_in(annotations):
    bare = {"image_id": 7, "keypoints": [10, 20, 2, 40, 60, 1]}
    crowd = {"image_id": 8, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 80, "iscrowd": 1}
    other = {"image_id": 8, "category_id": 2, "bbox": [0, 0, 5, 5]}
    annotations["annotations"] = [bare, crowd, other]
    first, second = read_annotations(annotations, STICK)["annotations"]
    assert first == {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "keypoints": [10, 20, 2, 40, 60, 1],
        "num_keypoints": 2,
        "bbox": [10, 20, 30, 40],
        "area": pytest.approx(AREA_PER_BOX * 1200),
        "iscrowd": 0,
    }
    assert second == crowd | {"id": 2, "keypoints": [0] * 6, "num_keypoints": 0}


def test_a_person_without_any_size_is_not_scored(annotations):
    annotations["annotations"].append({"id": 9, "image_id": 7, "category_id": 1, "keypoints": [900, 900, 2, 0, 0, 0]})
    results = perfect({"annotations": annotations["annotations"][:4]})
    assert evaluate_coco(annotations, results, STICK) == ONES


def test_poses_become_results():
    poses = Poses([[[1, 2, 0.5], [3, 4, 0.25]], [[5, 6, 1], [7, 8, 0]]], [0.75, 0.5])
    results = poses_to_results(poses, image_id=7, category_id=3)
    assert json.loads(json.dumps(results)) == [
        {"image_id": 7, "category_id": 3, "keypoints": [1, 2, 0.5, 3, 4, 0.25], "score": 0.75},
        {"image_id": 7, "category_id": 3, "keypoints": [5, 6, 1, 7, 8, 0], "score": 0.5},
    ]
    assert poses_to_results(Poses.empty(2), 7) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "entry 1: expected an image_id of the annotation file. Received: 9"),
        ({"image_id": None}, "Received: None"),
        ({"score": "high"}, "finite number as score. Received: 'high'"),
        ({"score": float("nan")}, "finite number as score. Received: nan"),
        ({"keypoints": [1, 2, 3]}, "6 finite numbers, 3 for each of the 2 keypoints of stick. Received: 3 values"),
        ({"keypoints": [1, 2, 3, 4, 5, float("inf")]}, "6 finite numbers"),
        ({"keypoints": None}, "Received: None"),
    ],
)
def test_results_that_do_not_fit(annotations, change, message):
    results = [perfect(annotations)[0] | change]
    with pytest.raises(InputError, match=message) as error:
        evaluate_coco(annotations, results, STICK)
    assert str(error.value).startswith("results: entry 1: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "expected a COCO file with lists of images and annotations. Received: "),
        ({"annotations": [1]}, "expected a COCO file with lists"),
        ({"annotations": []}, "expected keypoints in the annotations. Received: 0 without any"),
        ({"annotations": [{"image_id": 7, "bbox": [0, 0, 5, 5]}]}, "Received: 1 without any"),
        ({"images": [{"id": 7}, {"id": 7}]}, r"all different. Received: ids \[7, 7\]"),
        ({"images": [{"file_name": "a.jpg"}]}, r"images with an id each.*Received: ids \[None\]"),
        ({"annotations": [person(3, 7, 0, 0) | {"keypoints": [0] * 51}]}, "annotation 3: .*Received: 51 values"),
        ({"annotations": [person(3, 7, 0, 0) | {"bbox": [1, 2]}]}, r"annotation 3: expected a bbox.*: \[1, 2\]"),
        ({"annotations": [person(3, 7, 0, 0) | {"area": "big"}]}, "annotation 3: expected a number as area.*'big'"),
    ],
)
def test_annotations_that_do_not_fit(annotations, change, message):
    with pytest.raises(InputError, match=message):
        read_annotations(annotations | change, STICK)


@pytest.mark.parametrize("content", [None, "", "{", "[1", "[]"])
def test_files_that_cannot_be_read(annotations, tmp_path, content):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"annotations .*bad\.json") as error:
        evaluate_coco(path, [], STICK)
    assert "\n" not in str(error.value)
    if content != "[]":
        with pytest.raises(InputError, match=r"results .*bad\.json"):
            evaluate_coco(annotations, path, STICK)


@pytest.mark.parametrize("schema", [COCO, CROWDPOSE], ids=lambda schema: schema.name)
def test_equals_plain_pycocotools_on_random_people(schema, tmp_path):
    """Against COCOeval as users call it, with files that hold everything it needs."""
    from pycocotools.coco import COCO as CocoFile
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(5)
    people, results = [], []
    for number in range(1, 41):
        size = random.uniform(20, 200)
        corner = random.uniform(0, 400, 2)
        points = np.concatenate([corner + size * random.random((len(schema), 2)), np.full((len(schema), 1), 2)], 1)
        points[random.random(len(schema)) < 0.3] = 0
        entry = person(number, int(random.integers(1, 9)), *corner, size) | {
            "keypoints": points.ravel().tolist(),
            "num_keypoints": int((points[:, 2] > 0).sum()),
            "area": 0.6 * size**2,
        }
        people.append(entry)
        for _ in range(random.integers(0, 3)):
            noise = random.normal(0, size * random.choice([0.01, 0.05, 0.2]), (len(schema), 3))
            keypoints = (points + noise).ravel().tolist()
            results.append({"image_id": entry["image_id"], "category_id": 1, "keypoints": keypoints})
            results[-1]["score"] = random.random()
    content = {
        "images": [{"id": number} for number in range(1, 9)],
        "annotations": people,
        "categories": [{"id": 1, "name": "person"}],
    }
    ours = evaluate_coco(content, results, schema)

    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    truth = CocoFile(str(path))
    scorer = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
    scorer.params.kpt_oks_sigmas = np.array(schema.oks_sigmas)
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    assert list(ours.values()) == scorer.stats.tolist()
    assert 0.1 < ours["AP"] < 0.9
