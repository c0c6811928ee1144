import copy
import json

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.evaluation.coco import METRICS, evaluate_coco
from dekr_tf.files.coco_format import read_labels
from dekr_tf.keypoints import COCO, CROWDPOSE, KeypointSchema

STICK = KeypointSchema(name="stick", names=("top", "end"), oks_sigmas=(0.5, 0.5))
# pycocotools keeps a division by zero away with a smallest number, and so stays a hair below 1.
ONES = pytest.approx(dict.fromkeys(METRICS, 1.0), abs=1e-12)


def evaluate(annotations, results, schema=STICK):
    return evaluate_coco(read_labels(annotations, schema), results, schema)


def person(number, image, left, top, size=100):
    """A stick of two labeled keypoints along the diagonal of a square box."""
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
    assert evaluate(annotations, perfect(annotations)) == ONES


def test_files_and_contents_score_alike(annotations, tmp_path):
    results = perfect(annotations)[:3]
    (tmp_path / "truth.json").write_text(json.dumps(annotations))
    (tmp_path / "results.json").write_text(json.dumps(results))
    from_files = evaluate(tmp_path / "truth.json", str(tmp_path / "results.json"))
    assert from_files == evaluate(annotations, results)


def test_nothing_is_printed_and_nothing_changed(annotations, capfd):
    results = perfect(annotations)
    before = copy.deepcopy((annotations, results))
    evaluate(annotations, results)
    assert (annotations, results) == before
    assert capfd.readouterr() == ("", "")


def test_a_hand_computed_case(annotations):
    large, medium, found, missed = annotations["annotations"]
    # (2 sigma)^2 = 1: a shift of s pixels gives an OKS of exp(-s^2 / (2 area)); this one is 0.72, so that the
    # thresholds .50 .55 .60 .65 .70 count it and .75 to .95 do not.
    shift = (-2 * large["area"] * np.log(0.72)) ** 0.5
    results = [result(large, 0.9, shift), result(medium, 0.8), result(found, 0.7), result(missed, 0.6, shift=10_000)]
    metrics = evaluate(annotations, results)
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
    assert evaluate(annotations, results)["AP"] == pytest.approx(1)
    assert evaluate(annotations, results, strict)["AP"] == 0.0


def test_no_results_score_zero(annotations):
    assert evaluate(annotations, []) == dict.fromkeys(METRICS, 0.0)


def test_sizes_that_no_person_has_are_minus_one(annotations):
    annotations["annotations"] = annotations["annotations"][:1]
    metrics = evaluate(annotations, perfect(annotations))
    assert metrics == pytest.approx(dict.fromkeys(METRICS, 1.0) | {"APM": -1.0, "ARM": -1.0})


def test_only_the_best_twenty_results_of_an_image_count(annotations):
    annotations["annotations"] = annotations["annotations"][:1]
    found = result(annotations["annotations"][0], 0.1)
    false = [result(annotations["annotations"][0], 0.5, shift=10_000) for _ in range(20)]
    assert evaluate(annotations, [found, *false])["AR"] == 0.0
    assert evaluate(annotations, [found, *false[:19]])["AR"] == pytest.approx(1)


def test_crowds_and_unlabeled_people_are_neither_found_nor_missed(annotations):
    crowd = person(10, 7, 500, 500) | {"iscrowd": 1}
    unlabeled = person(11, 8, 500, 500) | {"keypoints": [0] * 6, "num_keypoints": 0}
    results = [*perfect(annotations), result(crowd, 0.95), result(person(12, 8, 480, 480), 0.96)]
    annotations["annotations"] += [crowd, unlabeled]
    assert evaluate(annotations, results)["AP"] == pytest.approx(1)
    assert evaluate(annotations, results[:4])["AP"] == pytest.approx(1)


def test_num_keypoints_of_the_file_decides_who_is_scored(annotations):
    large, medium, *others = annotations["annotations"]
    unlabeled = {"keypoints": [0] * 6, "num_keypoints": 2}
    annotations["annotations"] = [large | {"num_keypoints": 0}, medium | unlabeled, *others]
    # Whoever has labels and the number 0 is ignored; whoever has a number and no labels is to be found.
    everybody = [result(large, 0.9), *(result(entry, 0.8) for entry in others)]
    assert evaluate(annotations, everybody)["AR"] == pytest.approx(2 / 3)
    assert evaluate(annotations, everybody[1:])["AR"] == pytest.approx(2 / 3)
    for person in annotations["annotations"]:
        person["num_keypoints"] = 0
    with pytest.raises(InputError, match=r"no person in 2 images has num_keypoints above 0$"):
        evaluate(annotations, everybody)


def test_images_without_people_count_their_false_results(annotations):
    annotations["images"].append({"id": 9, "file_name": "c.jpg"})
    false = result(person(0, 9, 0, 0), 0.95)
    metrics = evaluate(annotations, [*perfect(annotations), false])
    assert metrics["AP"] == pytest.approx(4 / 5)
    assert metrics["AR"] == pytest.approx(1)


def test_a_person_without_any_size_is_not_scored(annotations):
    annotations["annotations"].append({"id": 9, "image_id": 7, "category_id": 1, "keypoints": [900, 900, 2, 0, 0, 0]})
    results = perfect({"annotations": annotations["annotations"][:4]})
    assert evaluate(annotations, results) == ONES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "entry 1: expected an image_id of the annotation file. Received: 9"),
        (
            {"image_id": None, "file_name": "a/person.jpg"},
            "entry 1: there is no image_id .* 'a/person.jpg' is not a number of its own",
        ),
        ({"image_id": None}, "Received: none$"),
        ({"score": "high"}, "finite number as score. Received: 'high'"),
        ({"score": float("nan")}, "finite number as score. Received: nan"),
        ({"keypoints": [1, 2, 3]}, "6 finite numbers, 3 for each of the 2 keypoints of stick. Received: a list of 3$"),
        ({"keypoints": [1, 2, 3, 4, 5, float("inf")]}, "6 finite numbers"),
        ({"keypoints": None}, "Received: none$"),
    ],
)
def test_results_that_do_not_fit(annotations, change, message):
    results = [perfect(annotations)[0] | change]
    with pytest.raises(InputError, match=message) as error:
        evaluate(annotations, results)
    assert str(error.value).startswith("results: entry 1: ")


@pytest.mark.parametrize("content", [None, "", "{", "[1", "{}", "[1]"])
def test_results_files_that_cannot_be_read(annotations, tmp_path, content):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"results .*bad\.json") as error:
        evaluate(annotations, path)
    assert "\n" not in str(error.value)


def test_ids_may_be_numbers_and_texts(annotations):
    def name(entry):
        return entry | {"image_id": "seven"} if entry["image_id"] == 7 else entry

    results = perfect(annotations)[:3]
    expected = evaluate(annotations, results)
    annotations["images"][0]["id"] = "seven"
    annotations["annotations"] = list(map(name, annotations["annotations"]))
    assert evaluate(annotations, list(map(name, results))) == expected


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
            "num_keypoints": int((points[:, 2] > 0).sum()) if number % 5 else 0,
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
    ours = evaluate(content, results, schema)

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
