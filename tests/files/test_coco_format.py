"""COCO's files: what is read from annotations, what is said about bad ones, and what results look like."""

import json

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.files.coco_format import box_around, read_labels
from dekr_tf.keypoints import COCO, KeypointSchema

PAIR = KeypointSchema(name="pair", names=("left", "right"), flip_pairs=((0, 1),))
PERSON = {
    "id": 4,
    "image_id": 7,
    "category_id": 3,
    "keypoints": [4, 5, 2, 8, 11, 1],
    "area": 55.5,
    "bbox": [3, 4, 6, 8],
}


def content(*annotations):
    return {"images": [{"id": 7, "file_name": "a.jpg"}, {"id": "b"}], "annotations": list(annotations)}


def without(*keys, **changes):
    return {key: value for key, value in (PERSON | changes).items() if key not in keys}


def test_images_and_their_people():
    first, second = read_labels(content(PERSON, without("category_id", image_id="b", iscrowd=1)), PAIR)
    assert (first.image_id, first.file_name, second.image_id) == (7, "a.jpg", "b")
    (person,), (crowd,) = first.people, second.people
    np.testing.assert_array_equal(person.keypoints, [[4, 5, 2], [8, 11, 1]])
    assert (person.box, person.area, person.crowd, person.labeled) == ((3, 4, 6, 8), 55.5, False, True)
    assert (crowd.crowd, crowd.labeled) == (True, False)
    assert (person.category_id, crowd.category_id) == (3, 1)
    with pytest.raises(InputError, match=r"image b: expected a text as file_name\. Received: none"):
        _ = second.file_name


def test_a_file_reads_like_its_content(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content(PERSON)))
    assert read_labels(path, PAIR)[0].people[0].area == 55.5


@pytest.mark.parametrize(
    ("person", "box", "area"),
    [
        (without("area"), (3, 4, 6, 8), 0.53 * 48),
        (without(area=0), (3, 4, 6, 8), 0.53 * 48),
        (without(area=None, bbox=None), (4, 5, 4, 6), 0.53 * 24),
        (without("area", bbox=[]), (4, 5, 4, 6), 0.53 * 24),
        (without("area", bbox=[3, 4, 0, 8]), (3, 4, 0, 8), 0.53 * 24),
        (without("area", "bbox", keypoints=[9, 9, 1, 2, 2, 0]), (9, 9, 0, 0), 0),
        (without(bbox=[-50, 900, 1000, 1000]), (-50, 900, 1000, 1000), 55.5),
    ],
)
def test_area_falls_back_to_the_box_and_then_to_the_keypoints(person, box, area):
    (read,) = read_labels(content(person), PAIR)[0].people
    assert read.box == box
    assert read.area == pytest.approx(area)


@pytest.mark.parametrize(
    ("person", "number"),
    [
        (PERSON, 2),
        (without(keypoints=[4, 5, 2, 0, 0, 0]), 1),
        (without(num_keypoints=None), 2),
        (without(num_keypoints=1), 1),
        (without(num_keypoints=2.0), 2),
        (without(num_keypoints=0), 0),
        (without(num_keypoints=5, keypoints=[0] * 6), 5),
    ],
)
def test_num_keypoints_is_believed_and_counted_where_it_is_missing(person, number):
    (read,) = read_labels(content(person), PAIR)[0].people
    assert read.num_keypoints == number
    assert read.scored == (number > 0)
    assert read.labeled == any(person["keypoints"])
    assert not read_labels(content(person | {"iscrowd": 1}), PAIR)[0].people[0].scored


@pytest.mark.parametrize("keypoints", [{}, {"keypoints": None}, {"keypoints": []}])
def test_people_without_keypoints_are_unlabeled_and_other_things_are_left_out(keypoints):
    unlabeled = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [0, 0, 2, 2]} | keypoints
    thing = {"id": 6, "image_id": 7, "category_id": 2, "bbox": [0, 0, 2, 2]}
    _, person = read_labels(content(PERSON, unlabeled, thing), PAIR)[0].people
    np.testing.assert_array_equal(person.keypoints, np.zeros((2, 3)))
    assert not person.labeled
    assert person.area == pytest.approx(0.53 * 4)


@pytest.mark.parametrize("annotations", [{}, {"annotations": []}, {"annotations": [without("keypoints")]}])
def test_people_need_not_be_labeled(annotations):
    labels = {"images": content()["images"]} | annotations
    images = read_labels(labels, PAIR, need_people=False)
    assert [(image.image_id, image.people) for image in images] == [(7, ()), ("b", ())]
    with pytest.raises(InputError):
        read_labels(labels, PAIR)


def two_categories():
    person, dog = without(category_id=1), without(category_id=2, keypoints=[1, 1, 2])
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    return {**content(person, dog), "categories": categories}


@pytest.mark.parametrize(("category", "category_id"), [("person", 1), (1, 1), ("1", 1), ("dog", 2), ("2", 2)])
def test_one_of_several_categories(category, category_id):
    schema = PAIR if category_id == 1 else KeypointSchema("dog", ("tail",))
    image, _ = read_labels(two_categories(), schema, category=category)
    assert [person.category_id for person in image.people] == [category_id]
    assert image.people[0].keypoints.shape == (len(schema), 3)


def test_several_categories_are_named_where_one_must_be_chosen():
    with pytest.raises(InputError, match=r"keypoints, person \(1\), dog \(2\); --category or data.category chooses"):
        read_labels(two_categories(), PAIR)
    with pytest.raises(InputError, match=r"expected the category cat\. Received: person \(1\), dog \(2\)"):
        read_labels(two_categories(), PAIR, category="cat")
    with pytest.raises(InputError, match=r"expected the category dog\. Received: no categories"):
        read_labels(two_categories() | {"categories": None}, PAIR, category="dog")


BAD = {
    "a list": ([], "expected a mapping. Received: a list of 0"),
    "no images": ({"annotations": []}, "expected a list as images. Received: none"),
    "no annotations": ({"images": []}, "expected a list as annotations. Received: none"),
    "images of the wrong type": ({"images": 3, "annotations": []}, "expected a list as images. Received: 3"),
    "zero images": ({"images": [], "annotations": []}, "expected at least one image. Received: an empty list"),
    "image is no mapping": ({"images": [5], "annotations": []}, "image number 0: expected a mapping. Received: 5"),
    "image without id": (
        {"images": [{}], "annotations": []},
        "image number 0: expected a whole number or a text as id",
    ),
    "image id twice": (
        {"images": [{"id": 7}] * 2, "annotations": []},
        "image 7: expected a different id for every image",
    ),
    "zero people": (content(), "expected keypoints in the annotations. Received: 0 without any"),
    "no keypoints at all": (content(without("keypoints")), "Received: 1 without any"),
    "annotation is no mapping": (content(5), "annotation number 0: expected a mapping. Received: 5"),
    "unknown image": (
        content(without(image_id=99)),
        "annotation 4: expected the id of an image as image_id. Received: 99",
    ),
    "no image": (content(without("image_id")), "annotation 4: expected a whole number or a text as image_id"),
    "a list as image": (content(without(image_id=[7])), "text as image_id. Received: a list of 1"),
    "a list as category": (content(without(category_id=[7])), "text as category_id. Received: a list of 1"),
    "other skeleton": (content(without(keypoints=[1] * 51)), "2 keypoints of pair. Received: a list of 51"),
    "text among keypoints": (content(without(keypoints=["1", 1, 2, 3, 4, 2])), "keypoints of pair. Received: '1'"),
    "keypoints in threes": (
        content(without(keypoints=[[1, 1, 2], [3, 4, 2]])),
        "keypoints of pair. Received: a list of 3",
    ),
    "not a number": (content(without(keypoints=[float("nan"), 1, 2, 3, 4, 2])), "keypoints of pair. Received: nan"),
    "keypoints are a text": (content(without(keypoints="none")), "Received: 'none'"),
    "infinite area": (
        content(without(area=float("inf"))),
        "annotation 4: expected a finite number as area. Received: inf",
    ),
    "text as area": (content(without(area="big")), "as area. Received: 'big'"),
    "box of three": (content(without(bbox=[1, 2, 3])), "as bbox left, top, width, height. Received: [1, 2, 3]"),
    "infinite box": (content(without(bbox=[1, 2, 3, float("-inf")])), "annotation 4: expected as bbox left, top"),
    "negative box": (content(without(bbox=[9, 9, -5, -5])), "width, height. Received: [9, 9, -5, -5]"),
    "text as box": (content(without(bbox="x")), "height. Received: x"),
    "negative num_keypoints": (content(without(num_keypoints=-1)), "from 0 on as num_keypoints. Received: -1"),
    "half a keypoint": (content(without(num_keypoints=1.5)), "annotation 4: expected a whole number from 0 on as num_"),
    "text as num_keypoints": (content(without(num_keypoints="2")), "as num_keypoints. Received: '2'"),
    "text as crowd": (content(without(iscrowd="no")), "annotation 4: expected 0 or 1 as iscrowd. Received: 'no'"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_bad_files_give_one_line_that_says_where(tmp_path, bad, message):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(bad))
    with pytest.raises(InputError) as caught:
        read_labels(path, PAIR)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"annotations {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"cannot read annotations .*bad\.json: No such file"),
        (b"", r"bad\.json: expected JSON\. Received: "),
        (b'{"images": [', r"bad\.json: expected JSON"),
        (bytes(range(256)), r"bad\.json: expected JSON"),
        (b"[" * 100_000, r"bad\.json: expected JSON"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, data, message):
    path = tmp_path / "bad.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_labels(path, COCO)


def test_box_around_points():
    assert box_around(np.array([[3.0, 9.0], [1.0, 10.0]])) == (1, 9, 2, 1)
    assert box_around(np.zeros((0, 2))) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.jpg", "a.jpg"),
        ("train/a..b.jpg", "train/a..b.jpg"),
        ("./train//a.jpg", "train/a.jpg"),
        ("train\\part 1\\a.jpg", "train/part 1/a.jpg"),
        ("../a.jpg", None),
        ("train/../../a.jpg", None),
        ("train\\..\\a.jpg", None),
        ("/etc/passwd", None),
        ("\\server\\share\\a.jpg", None),
        ("\\\\server\\share\\a.jpg", None),
        ("C:\\photos\\a.jpg", None),
        ("c:a.jpg", None),
        ("a\0.jpg", None),
    ],
)
def test_file_names_stay_in_the_folder(name, read):
    (image,) = read_labels({"images": [{"id": 7, "file_name": name}], "annotations": [PERSON]}, PAIR)
    if read:
        assert image.file_name == read
    else:
        with pytest.raises(
            InputError, match=r"image 7: expected as file_name a path in the folder .* Received: '"
        ) as error:
            _ = image.file_name
        assert str(error.value).endswith(repr(name))
