"""Annotation files: what is read from them, and what is said about bad ones."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as rle

from dekr_tf.data.annotations import check_images, read_annotations
from dekr_tf.errors import InputError
from dekr_tf.keypoints import COCO, CROWDPOSE, KeypointSchema

PAIR = KeypointSchema(name="pair", names=("left", "right"), flip_pairs=((0, 1),))

#: Two images; a labelled person, a crowd and an unlabelled person on the first.
GOOD = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": 20, "width": 30},
        {"id": 3, "file_name": "b/c.png", "height": 10, "width": 12, "crowdIndex": 0.25},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "keypoints": [4, 5, 2, 8, 11, 1],
            "area": 55.5,
            "bbox": [3, 4, 6, 8],
            "iscrowd": 0,
        },
        {"id": 2, "image_id": 7, "iscrowd": 1, "segmentation": {"size": [20, 30], "counts": [40, 20, 540]}},
        {"id": 5, "image_id": 7, "keypoints": [0] * 6, "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15]]},
    ],
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read(tmp_path, content, schema=PAIR):
    return read_annotations(write(tmp_path / "labels.json", content), schema)


def with_annotation(**changes):
    """GOOD with the first annotation changed; None removes a key."""
    content = copy.deepcopy(GOOD)
    annotation = content["annotations"][0]
    annotation |= changes
    content["annotations"][0] = {key: value for key, value in annotation.items() if value is not None}
    return content


def test_records(tmp_path):
    first, second = read(tmp_path, GOOD)
    assert (first.image_id, first.file_name, first.size, first.crowd_index) == (7, "a.jpg", (20, 30), None)
    np.testing.assert_array_equal(first.keypoints, [[[4, 5, 2], [8, 11, 1]]])
    assert first.keypoints.dtype == np.float32
    np.testing.assert_allclose(first.areas, [55.5])
    expected = np.ones((20, 30), np.uint8)
    # Run lengths go down the columns: 40 pixels are two of them, 20 the third.
    expected[:, 2] = 0
    expected[5:15, 10:20] = 0
    np.testing.assert_array_equal(first.valid_mask(), expected)
    assert (second.image_id, second.size, second.crowd_index) == (3, (10, 12), 0.25)
    assert len(second) == 0
    assert second.keypoints.shape == (0, 2, 3)
    np.testing.assert_array_equal(second.valid_mask(), np.ones((10, 12)))


@pytest.mark.parametrize(
    ("changes", "area"),
    [
        ({}, 55.5),
        ({"area": None}, 48),
        ({"area": 0}, 48),
        ({"area": None, "bbox": None}, 4 * 6),
        ({"area": None, "bbox": [3, 4, 0, 8]}, 4 * 6),
    ],
)
def test_area_falls_back_to_the_box_and_then_to_the_keypoints(tmp_path, changes, area):
    np.testing.assert_allclose(read(tmp_path, with_annotation(**changes))[0].areas, [area])


@pytest.mark.parametrize(
    ("region", "masked"),
    [
        ({"bbox": [25, -5, 100, 10]}, (slice(0, 5), slice(25, 30))),
        ({"bbox": [2, 3, 4, 5], "segmentation": []}, (slice(3, 8), slice(2, 6))),
        ({"bbox": [2, 3, 4, 5], "segmentation": [[1, 2, 3, 4]]}, (slice(3, 8), slice(2, 6))),
        ({"bbox": [40, 3, 4, 5]}, (slice(0, 0), slice(0, 0))),
        ({}, (slice(0, 0), slice(0, 0))),
    ],
    ids=["box clipped", "no polygon", "too few points", "box outside", "nothing"],
)
def test_unlabelled_people_without_segmentation_mask_their_box(tmp_path, region, masked):
    content = {"images": GOOD["images"], "annotations": [{"id": 9, "image_id": 7, "keypoints": [0] * 6, **region}]}
    expected = np.ones((20, 30))
    expected[masked] = 0
    record = read(tmp_path, content)[0]
    assert len(record) == 0
    np.testing.assert_array_equal(record.valid_mask(), expected)


def test_compressed_run_lengths(tmp_path):
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[3:9, 4:11] = 1
    code = {"size": [20, 30], "counts": rle.encode(mask)["counts"].decode()}
    content = {"images": GOOD["images"], "annotations": [{"image_id": 7, "iscrowd": 1, "segmentation": code}]}
    np.testing.assert_array_equal(read(tmp_path, content)[0].valid_mask(), 1 - mask)


def test_crowdpose_file(tmp_path):
    """CrowdPose's annotations have neither area nor segmentation."""
    keypoints = [value for index in range(14) for value in (10 + index, 20 + 2 * index, index % 3)]
    content = {
        "images": [{"id": 100000, "file_name": "100000.jpg", "height": 400, "width": 300, "crowdIndex": 0.61}],
        "annotations": [
            {"id": 1, "image_id": 100000, "keypoints": keypoints, "num_keypoints": 9, "bbox": [5, 6, 100, 200]},
        ],
        "categories": [],
    }
    (record,) = read(tmp_path, content, CROWDPOSE)
    assert record.crowd_index == 0.61
    assert record.keypoints.shape == (1, 14, 3)
    assert record.areas.tolist() == [20000]


BAD = {
    "not JSON": ("{", "expected JSON"),
    "not a mapping": ([], "expected a mapping. Received: list"),
    "no images": ({"annotations": []}, "list under the top-level key images. Received: no images"),
    "no annotations": ({"images": []}, "list under the top-level key annotations. Received: no annotations"),
    "images of the wrong type": ({"images": 3, "annotations": []}, "top-level key images. Received: 3"),
    "zero images": ({"images": [], "annotations": []}, "at least one image. Received: an empty list"),
    "image is no mapping": ({"images": [5], "annotations": []}, "image number 0 must be a mapping. Received: int"),
    "image without id": ({"images": [{}], "annotations": []}, "image number 0: expected a finite number under id"),
    "image id twice": ({"images": [{"id": 7}] * 2, "annotations": []}, "image 7: image ids must be unique"),
    "no file name": ({"images": [{"id": 7, "height": 1, "width": 1}], "annotations": []}, "file_name"),
    "no height": ({"images": [{"id": 7, "file_name": "a"}], "annotations": []}, "image 7: expected a finite number"),
    "zero width": (
        {"images": [{"id": 7, "file_name": "a", "height": 4, "width": 0}], "annotations": []},
        "must be positive. Received: 4x0",
    ),
    "unknown image": (with_annotation(image_id=99), "annotation 1: image_id is not among the images. Received: 99"),
    "text as image id": (with_annotation(image_id="7"), "annotation 1: expected a finite number under image_id"),
    "no keypoints": (with_annotation(keypoints=None), "annotation 1: keypoints must be a list of 6 numbers"),
    "other skeleton": (with_annotation(keypoints=[1] * 51), "2 keypoints of pair. Received: a list of 51"),
    "text among keypoints": (with_annotation(keypoints=["x", 1, 2, 3, 4, 2]), "keypoints must hold numbers only"),
    "not a number": (with_annotation(keypoints=[float("nan"), 1, 2, 3, 4, 2]), "keypoints must hold finite numbers"),
    "infinite area": (with_annotation(area=float("inf")), "annotation 1: expected a finite number under area"),
    "box of three": (with_annotation(bbox=[1, 2, 3]), "annotation 1: bbox must be a list of x, y, width, height"),
    "infinite box": (with_annotation(bbox=[1, 2, 3, float("-inf")]), "annotation 1: bbox must hold finite numbers"),
    "segmentation of the wrong type": (
        with_annotation(iscrowd=1, segmentation="x"),
        "annotation 1: segmentation must be polygons or run lengths",
    ),
    "polygon with text": (
        with_annotation(iscrowd=1, segmentation=[[1, 2, 3, "a", 5, 6]]),
        "annotation 1: segmentation must hold numbers only",
    ),
    "run lengths of another image": (
        with_annotation(iscrowd=1, segmentation={"size": [30, 20], "counts": [600]}),
        "segmentation.size must be that of the image, [20, 30]. Received: [30, 20]",
    ),
    "run lengths too short": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30], "counts": [10]}),
        "must add up to the image's 600 pixels. Received: 10",
    ),
    "broken compressed run lengths": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30], "counts": "garbage"}),
        "annotation 1: segmentation.counts does not describe the image",
    ),
    "run lengths without counts": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30]}),
        "segmentation.counts must be a list or a text. Received: no counts",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files_give_one_line_that_says_where(tmp_path, content, message):
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert message in str(caught.value)
    assert str(tmp_path / "labels.json") in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read annotations .*none\.json: No such file"):
        read_annotations(tmp_path / "none.json", COCO)


def test_missing_images_are_counted(tmp_path):
    records = read(tmp_path, GOOD)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(InputError, match=r"1 of 2 annotated images are missing\. First: .*c\.png"):
        check_images(records, tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.png").touch()
    check_images(records, tmp_path)
