"""Annotation files: what is read from them, and what is said about bad ones."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as rle

from dekr_tf.data.annotations import _decompress, _record, merge_annotations, read_annotations
from dekr_tf.errors import InputError
from dekr_tf.files.coco_format import read_labels
from dekr_tf.keypoints import CROWDPOSE, KeypointSchema

PAIR = KeypointSchema(name="pair", names=("left", "right"), flip_pairs=((0, 1),))

#: Two images; a labeled person, a crowd and an unlabeled person on the first.
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


def changed(key, changes):
    """GOOD with its first image or annotation changed; None removes a value."""
    content = copy.deepcopy(GOOD)
    entry = content[key][0] | changes
    content[key][0] = {name: value for name, value in entry.items() if value is not None}
    return content


def with_annotation(**changes):
    return changed("annotations", changes)


def with_image(**changes):
    return changed("images", changes)


def test_records(tmp_path):
    first, second = read(tmp_path, GOOD)
    assert (first.image_id, first.file_name, first.size, first.crowd_index) == (7, "a.jpg", (20, 30), None)
    np.testing.assert_array_equal(first.keypoints, [[[4, 5, 2], [8, 11, 1]]])
    assert first.keypoints.dtype == np.float32
    np.testing.assert_allclose(first.areas, [55.5])
    np.testing.assert_allclose(first.boxes, [[3, 4, 6, 8]])
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
@pytest.mark.parametrize("keypoints", [{"keypoints": [0] * 6}, {"keypoints": []}, {}], ids=["zeros", "empty", "none"])
def test_unlabeled_people_without_segmentation_mask_their_box(tmp_path, keypoints, region, masked):
    # Keypoints that are all unlabeled, or are missing in a category that has keypoints.
    elsewhere = {"image_id": 3, "keypoints": [4, 5, 2, 8, 9, 1]}
    content = {"images": GOOD["images"], "annotations": [elsewhere, {"id": 9, "image_id": 7, **keypoints, **region}]}
    expected = np.ones((20, 30))
    expected[masked] = 0
    record = read(tmp_path, content)[0]
    assert len(record) == 0
    np.testing.assert_array_equal(record.valid_mask(), expected)


def test_compressed_run_lengths(tmp_path):
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[3:9, 4:11] = 1
    code = {"size": [20, 30], "counts": rle.encode(mask)["counts"].decode()}
    crowd = {"image_id": 7, "keypoints": [0] * 6, "iscrowd": 1, "segmentation": code}
    content = {"images": GOOD["images"], "annotations": [crowd]}
    np.testing.assert_array_equal(read(tmp_path, content)[0].valid_mask(), 1 - mask)


def test_compressed_run_lengths_of_any_mask():
    generator = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.5, 1.0):
        mask = np.asfortranarray(generator.random((150, 170)) < share, np.uint8)
        code = rle.encode(mask)
        flat = mask.ravel(order="F")
        ends = np.flatnonzero(np.diff(flat, prepend=0))
        assert _decompress(code["counts"]) == np.diff([0, *ends, flat.size]).tolist()


def polygon_mask(outline, size=(20, 30)):
    crowd = {"image_id": 7, "category_id": 1, "iscrowd": 1, "segmentation": [outline]}
    image = {"id": 7, "file_name": "a.jpg", "height": size[0], "width": size[1]}
    (labels,) = read_labels(
        {"images": [image], "annotations": [{"image_id": 7, "keypoints": [1, 1, 2] * 2}, crowd]}, PAIR
    )
    return 1 - _record(labels, 2).valid_mask()


@pytest.mark.parametrize(
    ("outline", "covered"),
    [
        # The rectangle from (10, 5) to the right and down, further than a picture, than an integer, and than float32's
        # squares.
        *(([10, 5, far, 5, far, far, 10, far], np.s_[5:, 10:]) for far in (100, 10**6, 3 * 10**9, 2.0**62)),
        ([-(10**9), -(10**9), 10, -(10**9), 10, 5, -(10**9), 5], np.s_[:5, :10]),
        ([10**9, 0, 2 * 10**9, 0, 2 * 10**9, 9], np.s_[:0, :0]),
        # All of the picture lies inside.
        ([-(10**9), -(10**9), 3 * 10**9, -(10**9), -(10**9), 3 * 10**9], np.s_[:, :]),
    ],
)
def test_polygons_are_clipped_to_the_picture(outline, covered):
    expected = np.zeros((20, 30), np.uint8)
    expected[covered] = 1
    np.testing.assert_array_equal(polygon_mask(outline), expected)


def test_polygons_near_the_picture_cover_the_pixels_of_pycocotools():
    generator = np.random.default_rng(1)
    for _ in range(20):
        outline = generator.uniform((-30, -20), (60, 40), (5, 2)).ravel().tolist()
        np.testing.assert_array_equal(polygon_mask(outline), rle.decode(rle.frPyObjects([outline], 20, 30))[..., 0])


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
    assert record.areas.tolist() == [10600]


BAD = {
    "no file name": (with_image(file_name=None), "image 7: expected a text as file_name. Received: none"),
    "number as file name": (with_image(file_name=7), "image 7: expected a text as file_name. Received: 7"),
    "no height": (
        with_image(height=None),
        "image 7: expected positive whole numbers as height and width. Received: none",
    ),
    "zero width": (with_image(width=0), "as height and width. Received: 20 and 0"),
    "text as crowd index": (with_image(crowdIndex="high"), "a finite number as crowdIndex. Received: 'high'"),
    "segmentation of the wrong type": (
        with_annotation(iscrowd=1, segmentation="x"),
        "annotation 1: expected polygons or run lengths as segmentation. Received: 'x'",
    ),
    "polygon with text": (
        with_annotation(iscrowd=1, segmentation=[[1, 2, 3, "a", 5, 6]]),
        "annotation 1: expected finite numbers only in segmentation",
    ),
    "run lengths of another image": (
        with_annotation(iscrowd=1, segmentation={"size": [30, 20], "counts": [600]}),
        "segmentation.size that of the image, [20, 30]. Received: [30, 20]",
    ),
    "run lengths too short": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30], "counts": [10]}),
        "to add up to the image's 600 pixels. Received: 10",
    ),
    "broken compressed run lengths": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30], "counts": "garbage"}),
        "annotation 1: expected compressed run lengths as segmentation.counts. Received: 'garbage'",
    ),
    "compressed run lengths that do not end": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30], "counts": "o"}),
        "annotation 1: expected compressed run lengths as segmentation.counts. Received: 'o'",
    ),
    "compressed run lengths with foreign letters": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30], "counts": "\u00e9~"}),
        "annotation 1: expected compressed run lengths as segmentation.counts",
    ),
    "run lengths in halves": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30], "counts": [299.5, 300.5]}),
        "annotation 1: expected a list of pixel counts, or a text, as segmentation.counts. Received: a list of 2",
    ),
    "negative compressed run lengths": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30], "counts": "O"}),
        "annotation 1: expected segmentation.counts to add up to the image's 600 pixels. Received: negative ones",
    ),
    "no run lengths": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30], "counts": []}),
        "to add up to the image's 600 pixels. Received: 0",
    ),
    "more pixels than memory": (
        with_image(height=10**6, width=10**6),
        "image 7: expected at most 268435456 pixels. Received: 1000000x1000000 (height x width)",
    ),
    "true as height": (with_image(height=True), "as height and width. Received: True and 30"),
    "run lengths without counts": (
        with_annotation(iscrowd=1, segmentation={"size": [20, 30]}),
        "a list of pixel counts, or a text, as segmentation.counts. Received: none",
    ),
    "nothing labeled": ({"images": GOOD["images"], "annotations": []}, "Received: 0 without any"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files_give_one_line_that_says_where(tmp_path, content, message):
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert message in str(caught.value)
    assert str(tmp_path / "labels.json") in str(caught.value)


CATEGORIES = [{"id": 1, "keypoints": ["left", "right"]}]


def split(*image_ids, annotation_ids=(1,), **changes):
    """An annotation file with an image for every id, and people on the first."""
    return {
        "images": [{"id": image, "file_name": f"{image}.jpg", "height": 8, "width": 8} for image in image_ids],
        "annotations": [{"id": each, "image_id": image_ids[0], "keypoints": [1, 1, 2] * 2} for each in annotation_ids],
        "categories": CATEGORIES,
        "info": len(image_ids),
        **changes,
    }


@pytest.mark.parametrize(("second_ids", "merged_ids"), [((7, 3), [5, 7, 3]), ((5, 6), [1, 2, 3])])
def test_two_splits_become_one(tmp_path, second_ids, merged_ids):
    first = write(tmp_path / "train.json", split(1, 2, annotation_ids=(5,)))
    second = write(tmp_path / "val.json", split(3, annotation_ids=second_ids))
    merged = merge_annotations([first, second])
    assert [image["id"] for image in merged["images"]] == [1, 2, 3]
    assert [person["id"] for person in merged["annotations"]] == merged_ids
    assert [person["image_id"] for person in merged["annotations"]] == [1, 3, 3]
    assert (merged["categories"], merged["info"]) == (CATEGORIES, 2)
    assert [len(record) for record in read_annotations(write(tmp_path / "both.json", merged), PAIR)] == [1, 0, 2]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (split(3, 2), "different id for every image of all files. Received: 2 twice"),
        (split(3, categories=[{"id": 1}]), r"val\.json: the categories differ from those of .*train\.json$"),
        (split(3, images=None), r"val\.json: expected a list of mappings as images. Received: none"),
        (split(3, annotations=[1]), r"val\.json: expected a list of mappings as annotations. Received: a list of 1"),
        ([], r"val\.json: expected a list of mappings as images"),
        (
            split(3) | {"images": [{"id": [3]}]},
            "images: expected a whole number or a text as id. Received: a list of 1",
        ),
        (
            split(3, annotation_ids=([1],)),
            "annotations: expected a whole number or a text as id. Received: a list of 1",
        ),
    ],
)
def test_splits_that_do_not_fit(tmp_path, second, message):
    first = write(tmp_path / "train.json", split(1, 2))
    with pytest.raises(InputError, match=message):
        merge_annotations([first, write(tmp_path / "val.json", second)])
