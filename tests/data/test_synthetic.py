"""Synthetic people: labels fit the drawing, files fit the format, the seed decides all."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from dekr_tf.data.annotations import read_annotations
from dekr_tf.data.synthetic import draw_scene, write_dataset
from dekr_tf.errors import InputError
from dekr_tf.files.images import read_image
from dekr_tf.keypoints import COCO

INDEX = {name: index for index, name in enumerate(COCO.names)}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene((160, 192), np.random.default_rng((5, index))) for index in range(40)]


def test_visible_keypoints_lie_on_the_person(scenes):
    seen = 0
    for scene in scenes:
        for keypoints, mask in zip(scene.keypoints, scene.masks, strict=True):
            columns, rows = np.rint(keypoints[keypoints[:, 2] == 2, :2]).astype(int).T
            assert mask[rows, columns].all()
            seen += len(rows)
    assert seen > 500


def test_masks_of_people_do_not_overlap(scenes):
    for scene in scenes:
        assert scene.masks.sum(axis=0).max(initial=0) <= 1


def test_all_kinds_of_visibility_and_counts_occur(scenes):
    visibility = np.concatenate([scene.keypoints[:, :, 2].ravel() for scene in scenes])
    assert set(visibility) == {0, 1, 2}
    assert (visibility == 2).mean() > 0.5
    assert {len(scene.masks) for scene in scenes} >= {1, 2, 3}


def test_hidden_and_outside_keypoints(scenes):
    for scene in scenes:
        height, width = scene.image.shape[:2]
        labeled = scene.keypoints[scene.keypoints[:, :, 2] > 0]
        assert (np.rint(labeled[:, :2]) >= 0).all()
        assert (np.rint(labeled[:, :2]) < (width, height)).all()
        assert not scene.keypoints[scene.keypoints[:, :, 2] == 0].any()


def test_left_and_right_follow_from_the_face(scenes):
    """Who shows both eyes looks at us, so the left eye is on the image's right; where no eye shows, it is reversed."""
    eyes, backs = [], []
    for keypoints in np.concatenate([scene.keypoints for scene in scenes]):
        face = keypoints[[INDEX["nose"], INDEX["left_eye"], INDEX["right_eye"]]]
        shoulders = keypoints[[INDEX["left_shoulder"], INDEX["right_shoulder"]]]
        if (face[:, 2] == 2).all():
            eyes.append(face[1, 0] > face[2, 0])
        elif (face[:, 2] == 1).all() and (shoulders[:, 2] == 2).all():
            backs.append(shoulders[0, 0] < shoulders[1, 0])
    assert len(eyes) > 10 and len(backs) > 5
    # Heads are tilted by a few degrees at most.
    assert np.mean(eyes) == 1
    assert np.mean(backs) > 0.9


def test_bodies_have_human_proportions(scenes):
    for keypoints in np.concatenate([scene.keypoints for scene in scenes]):
        if (keypoints[:, 2] == 0).any():
            continue
        points = keypoints[:, :2]
        torso = np.linalg.norm(points[[5, 6]].mean(axis=0) - points[[11, 12]].mean(axis=0))
        for first, second in COCO.edges:
            # Projection only shortens; the longest bones are about as long as the torso.
            assert np.linalg.norm(points[first] - points[second]) < 1.15 * torso


def test_the_seed_decides(scenes):
    again = draw_scene((160, 192), np.random.default_rng((5, 0)))
    np.testing.assert_array_equal(again.image, scenes[0].image)
    np.testing.assert_array_equal(again.keypoints, scenes[0].keypoints)
    assert not np.array_equal(scenes[0].image, scenes[1].image)


def test_written_files_are_read_back(tmp_path):
    assert write_dataset(tmp_path, train=3, val=2, size=(96, 128), seed=11).keys() == {"train", "val"}
    for number, (split, count) in enumerate({"train": 3, "val": 2}.items()):
        records = read_annotations(tmp_path / f"{split}.json", COCO)
        folder = tmp_path / split / "images"
        assert sorted(path.name for path in folder.iterdir()) == [record.file_name for record in records]
        assert len(records) == count
        for index, record in enumerate(records):
            scene = draw_scene((96, 128), np.random.default_rng((11, number, index)))
            image = read_image(folder / record.file_name, exif_orientation=False)
            assert image.shape[:2] == record.size == (96, 128)
            # JPEG changes colors a little, more at the edges of small figures.
            assert np.abs(image.astype(int) - scene.image).mean() < 6
            labeled = scene.keypoints[:, :, 2].any(axis=1)
            np.testing.assert_allclose(record.keypoints, scene.keypoints[labeled], atol=0.006)
            np.testing.assert_allclose(record.areas, scene.masks[labeled].sum(axis=(1, 2)))
            np.testing.assert_array_equal(record.valid_mask(), ~scene.masks[~labeled].any(axis=0))


def test_annotations_are_coco(tmp_path):
    write_dataset(tmp_path, train=4, val=0, size=(96, 96), seed=2)
    assert not (tmp_path / "val.json").exists()
    content = json.loads((tmp_path / "train.json").read_text())
    assert content["categories"][0]["keypoints"] == list(COCO.names)
    assert [annotation["id"] for annotation in content["annotations"]] == list(
        range(1, 1 + len(content["annotations"]))
    )
    for annotation in content["annotations"]:
        assert annotation["iscrowd"] == 0
        assert annotation["category_id"] == 1
        mask = rle.decode(annotation["segmentation"])
        assert annotation["area"] == mask.sum()
        assert tuple(annotation["bbox"]) == cv2.boundingRect(mask)
        assert annotation["num_keypoints"] == sum(value > 0 for value in annotation["keypoints"][2::3])


def test_an_image_does_not_depend_on_their_number(tmp_path):
    write_dataset(tmp_path / "few", train=1, val=0, size=(64, 64), seed=1)
    write_dataset(tmp_path / "more", train=2, val=0, size=(64, 64), seed=1)
    few, more = (tmp_path / name / "train" / "images" / "000001.jpg" for name in ("few", "more"))
    assert few.read_bytes() == more.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 0, "val": 0}, "at least one image. Received: train 0, val 0"),
        ({"train": -1}, "at least one image. Received: train -1"),
        ({"size": (63, 100)}, "at least 64 pixels a side. Received: 63x100"),
        ({"seed": -1}, "seed of 0 or more. Received: -1"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        write_dataset(tmp_path, **({"train": 1, "val": 1, "size": (64, 64), "seed": 0} | changes))


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_dataset(tmp_path / "data", train=1, val=1, size=(64, 64), seed=0)
