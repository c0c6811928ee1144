"""The training pipeline: shapes, order, reproducibility, and errors of single samples."""

import dataclasses
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as rle

from dekr_tf.config import Config, parse_settings
from dekr_tf.data.annotations import ImageRecord, read_annotations
from dekr_tf.data.pipeline import input_errors, train_dataset
from dekr_tf.data.samples import LabeledImages, SampleEncoder, open_training_data
from dekr_tf.data.synthetic import write_dataset
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.errors import InputError
from dekr_tf.files.images import read_image
from dekr_tf.keypoints import COCO

PLAIN = {"rotation": 0, "scale": (1, 1), "translation": 0, "flip": 0}

pytestmark = pytest.mark.slow


def make_config(batch_size=2, augmentation=None, repeat=1, **targets):
    values = {
        "input_size": 64,
        "training": {"batch_size": batch_size, "seed": 4},
        "data": {"augmentation": augmentation or {}, "repeat": repeat},
        "targets": {"min_center_area": 0, **targets},
    }
    return parse_settings(Config, values, "test")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """(records, folder) of five drawn images, as `LabeledImages` takes them."""
    folder = tmp_path_factory.mktemp("people")
    write_dataset(folder, train=5, val=0, size=(80, 96), seed=0)
    return read_annotations(folder / "train.json", COCO), folder / "train" / "images"


def epoch(dataset):
    """The batches of one iteration as NumPy arrays: image, then the labels in the order of their names."""
    with input_errors():
        return [[image.numpy(), *(labels[name].numpy() for name in sorted(labels))] for image, labels in dataset]


def maps_of(labels, config):
    """The target maps of a sample as NumPy arrays."""
    maps = draw_targets({name: np.asarray(values)[None] for name, values in labels.items()}, config.targets)
    return {name: np.array(values[0]) for name, values in maps.items()}


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        for each, its_twin in zip(one, other, strict=True):
            np.testing.assert_array_equal(each, its_twin)


def test_shapes_and_number_of_batches(people):
    dataset = train_dataset(LabeledImages(*people), make_config())
    image, labels = dataset.element_spec
    most = max(map(len, people[0]))
    assert image == tf.TensorSpec((2, 64, 64, 3), tf.uint8)
    assert labels == {
        "cells": tf.TensorSpec((2, most, 18, 2), tf.int32),
        "fractions": tf.TensorSpec((2, most, 18, 2), tf.float32),
        "usable": tf.TensorSpec((2, most, 18), tf.bool),
        "offset_weights": tf.TensorSpec((2, most), tf.float32),
        "wins": tf.TensorSpec((2, most, 8, 8, 17), tf.bool),
        "valid_mask": tf.TensorSpec((2, 16, 16), tf.uint8),
    }
    assert dataset.cardinality() == 2
    batches = list(dataset)
    assert len(batches) == 2
    maps = draw_targets(batches[0][1], make_config().targets)
    assert {name: values.shape.as_list() for name, values in maps.items()} == {
        "heatmap": [2, 16, 16, 18],
        "heatmap_weight": [2, 16, 16, 18],
        "offset": [2, 16, 16, 34],
        "offset_weight": [2, 16, 16, 34],
    }
    assert np.max(maps["heatmap"]) > 0.5
    assert np.max(maps["offset_weight"]) > 0


def test_a_sample_is_what_its_parts_give(people):
    records, folder = people
    config = make_config(batch_size=1)
    ((image, labels),) = train_dataset(LabeledImages(records[:1], folder), config)
    photo = read_image(folder / records[0].file_name, exif_orientation=False)
    # Seed 4, pass 0, image 0.
    generator = np.random.default_rng((4, 0, 0))
    expected, expected_labels = SampleEncoder(COCO, config, 4, len(records[0]))(photo, records[0], generator)
    np.testing.assert_array_equal(image[0], expected)
    assert labels.keys() == expected_labels.keys()
    for name, values in labels.items():
        np.testing.assert_array_equal(values[0], expected_labels[name])


def test_maps_show_people_where_the_crop_does():
    """One keypoint by hand: a photo of 128 pixels to an input of 64 and a map of 16 cells, so an eighth."""
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, 0], keypoints[0, 1] = (40, 64, 2), (56, 96, 1)
    record = ImageRecord(1, "x", (128, 128), keypoints, np.array([900.0], np.float32), np.zeros((1, 4)))
    photo, generator = np.zeros((128, 128, 3), np.uint8), np.random.default_rng(0)
    config = make_config(augmentation=PLAIN, person_size="paper")
    targets = maps_of(SampleEncoder(COCO, config, 4, 3)(photo, record, generator)[1], config)
    assert np.unravel_index(targets["heatmap"][:, :, 0].argmax(), (16, 16)) == (8, 5)
    assert np.unravel_index(targets["heatmap"][:, :, 1].argmax(), (16, 16)) == (12, 7)
    assert np.unravel_index(targets["heatmap"][:, :, 17].argmax(), (16, 16)) == (10, 6)
    np.testing.assert_allclose(targets["offset"][10, 6, :4], (1, 2, -1, -2))
    diagonal = np.hypot(16, 32) / 8
    np.testing.assert_allclose(targets["offset_weight"][10, 6, :4], 1 / diagonal, rtol=1e-6)
    # Below `min_center_area` there is no center, and so no offset; the keypoints stay.
    config = make_config(augmentation=PLAIN, min_center_area=1024)
    targets = maps_of(SampleEncoder(COCO, config, 4, 3)(photo, record, generator)[1], config)
    assert not targets["heatmap"][:, :, 17].any() and not targets["offset_weight"].any()
    assert targets["heatmap"][:, :, 0].max() == 1


@pytest.mark.parametrize("flip", [0, 1])
def test_unlabeled_keypoints_are_ignored_in_their_box(flip):
    """A photo of 128 pixels to a map of 16 cells; only the right eye (2) of two flipped eyes has a label."""
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, 2] = 24, 64, 2
    boxes = np.array([[16, 48, 24, 40]], np.float32)
    record = ImageRecord(1, "x", (128, 128), keypoints, np.array([900.0], np.float32), boxes)
    config = make_config(augmentation=PLAIN | {"flip": flip}, unlabeled_keypoints="ignore", center_sigma=0.5)
    photo, generator = np.zeros((128, 128, 3), np.uint8), np.random.default_rng(0)
    weight = maps_of(SampleEncoder(COCO, config, 4, 2)(photo, record, generator)[1], config)["heatmap_weight"]
    expected = np.full((16, 16), 0.1)
    # 16 to 40 pixels are the cells 2 to 5; mirrored, 63 - 20 = 43 to 63 - 8 = 55 input pixels, 10.75 to 13.75 cells.
    expected[6:12, 10:15] = 0 if flip else 0.1
    expected[6:12, 2:6] = 0.1 if flip else 0
    labeled, unlabeled = (1, 2) if flip else (2, 1)
    np.testing.assert_allclose(weight[:, :, unlabeled], expected)
    np.testing.assert_allclose(np.unique(weight[:, :, labeled]), (0.1, 1))
    np.testing.assert_allclose(np.unique(weight[:, :, 17]), (0.1, 1))


def test_the_same_seed_gives_the_same_epochs_and_each_epoch_is_new(people):
    first, second = (train_dataset(LabeledImages(*people), make_config()) for _ in range(2))
    epochs = [epoch(first), epoch(first)]
    assert_same(epochs[0], epoch(second))
    assert_same(epochs[1], epoch(second))
    assert not np.array_equal(epochs[0][0][0], epochs[1][0][0])
    # A run that goes on at epoch 1 sees what it would have seen.
    assert_same(epochs[1], epoch(train_dataset(LabeledImages(*people), make_config(), first_epoch=1)))


def test_every_image_comes_once_an_epoch_in_changing_order(people):
    records, folder = people
    plain = make_config(batch_size=1, augmentation=PLAIN)
    dataset = train_dataset(LabeledImages(records, folder), plain)
    inputs = {}
    for index, record in enumerate(records):
        photo = read_image(folder / record.file_name, exif_orientation=False)
        raw, _ = SampleEncoder(COCO, plain, 4, len(record))(photo, record, np.random.default_rng(0))
        inputs[raw.tobytes()] = index
    orders = []
    for _ in range(3):
        orders.append([inputs[batch[0].tobytes()] for batch in epoch(dataset)])
        assert sorted(orders[-1]) == [0, 1, 2, 3, 4]
    assert len({tuple(order) for order in orders}) > 1


def test_images_without_people_and_ignored_regions(people):
    records, folder = people
    empty = ImageRecord(9, records[0].file_name, records[0].size, np.zeros((0, 17, 3)), np.zeros(0), np.zeros((0, 4)))
    config = make_config(batch_size=1, augmentation=PLAIN)
    ((_, labels),) = train_dataset(LabeledImages([empty], folder), config)
    maps = draw_targets(labels, config.targets)
    assert not np.any(maps["heatmap"]) and not np.any(maps["offset_weight"])
    np.testing.assert_allclose(maps["heatmap_weight"], 0.1)
    half = rle.encode(np.asfortranarray(np.repeat([[1, 0]], [48, 48], axis=1).repeat(80, axis=0), np.uint8))
    crowd = dataclasses.replace(empty, ignored=(half,))
    ((_, labels),) = train_dataset(LabeledImages([crowd], folder), config)
    # The middle 80 of 96 columns fill the map of 16 cells: the right half of it lies beyond the crowd.
    weight = draw_targets(labels, config.targets)["heatmap_weight"][0, :, :, 0]
    np.testing.assert_allclose(weight, np.repeat([[0, 0.1]], 8, axis=1).repeat(16, axis=0))


def test_a_batch_as_large_as_the_data_set(people):
    assert len(epoch(train_dataset(LabeledImages(*people), make_config(batch_size=5)))) == 1
    with pytest.raises(InputError, match=r"samples of an epoch, 5\. Received: 6"):
        train_dataset(LabeledImages(*people), make_config(batch_size=6))


def test_an_epoch_of_two_passes_is_two_epochs_of_one(people):
    single = train_dataset(LabeledImages(*people), make_config(batch_size=5))
    assert_same(
        epoch(train_dataset(LabeledImages(*people), make_config(batch_size=5, repeat=2))),
        epoch(single) + epoch(single),
    )


def test_missing_images_are_said_before_training(people, tmp_path):
    with pytest.raises(InputError, match=r"expected all 5 annotated images in .*Received: 5 missing"):
        LabeledImages(people[0], tmp_path)


@pytest.mark.parametrize(
    ("size", "content", "message"),
    [
        ((96, 80), None, r"000001\.jpg: expected 96x80 pixels .* as annotated\. Received: 80x96$"),
        ((80, 96), b"no image", r"broken\.jpg"),
    ],
)
def test_a_bad_image_is_an_input_error_while_training(people, tmp_path, size, content, message):
    records, folder = people
    name = records[0].file_name
    if content:
        folder, name = tmp_path, "broken.jpg"
        (folder / name).write_bytes(content)
    record = ImageRecord(1, name, size, np.zeros((0, 17, 3)), np.zeros(0), np.zeros((0, 4)))
    dataset = train_dataset(LabeledImages([record], folder), make_config(batch_size=1))
    with pytest.raises(InputError, match=message):
        epoch(dataset)


def test_other_errors_pass_through():
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"), input_errors():
        raise tf.errors.InvalidArgumentError(None, None, "wrong shape")


def test_machines_share_every_batch(people):
    data, config = LabeledImages(*people), make_config(batch_size=4, repeat=2)
    whole = epoch(train_dataset(data, config))
    shares = []
    for machine in range(2):
        # Two devices on each machine.
        context = tf.distribute.InputContext(2, machine, num_replicas_in_sync=4)
        shares.append(epoch(train_dataset(data, config, context=context)))
    assert [len(share) for share in shares] == [4, 4]
    for number, batch in enumerate(whole):
        parts = [share[2 * number + device] for share in shares for device in range(2)]
        assert_same([batch], [[np.concatenate(values) for values in zip(*parts, strict=True)]])


@pytest.fixture
def damaged(people, tmp_path):
    """(records, folder) of the five images, of which the second and the last are cut."""
    records, folder = people
    for number, record in enumerate(records):
        content = (folder / record.file_name).read_bytes()
        (tmp_path / record.file_name).write_bytes(content[: len(content) // 2] if number in (1, 4) else content)
    return records, tmp_path


def test_a_damaged_image_stops_the_epoch(damaged):
    dataset = train_dataset(LabeledImages(*damaged), make_config())
    with pytest.raises(InputError, match=r"image .*00000[25]\.jpg: expected a whole image\. Received: a truncated"):
        epoch(dataset)


def test_damaged_images_can_be_skipped(people, damaged, caplog):
    config = make_config(batch_size=5, augmentation=PLAIN)
    dataset = train_dataset(LabeledImages(*damaged, damaged="skip"), config)
    whole = train_dataset(LabeledImages(*people), config)
    images = {}
    for record in people[0]:
        photo = read_image(people[1] / record.file_name, exif_orientation=False)
        raw, _ = SampleEncoder(COCO, config, 4, len(record))(photo, record, np.random.default_rng(0))
        images[raw.tobytes()] = record.image_id
    for number in range(2):
        (batch,), (expected,) = epoch(dataset), epoch(whole)
        shown = [images[image.tobytes()] for image in batch[0]]
        # The next one takes the place of the second, the first that of the last.
        assert shown == [{2: 3, 5: 1}.get(images[image.tobytes()], images[image.tobytes()]) for image in expected[0]]
        messages = [record.getMessage() for record in caplog.records]
        assert sum(message.startswith("skipped: image ") for message in messages) == 2
        assert messages.count("samples of this epoch that show another image instead of a damaged one: 2") == number + 1


def test_nothing_but_damaged_images_is_an_error(damaged):
    records, folder = damaged
    data = LabeledImages([records[1], records[4]], folder, damaged="skip")
    with pytest.raises(InputError, match=r"expected images that can be read in .*Received: 2, all damaged"):
        epoch(train_dataset(data, make_config()))


def test_images_in_a_zip_file_give_the_same_epoch(people, tmp_path):
    records, folder = people
    with zipfile.ZipFile(tmp_path / "train2017.zip", "w") as file:
        for record in records:
            file.write(folder / record.file_name, f"train2017/{record.file_name}")
    config = make_config()
    assert_same(
        epoch(train_dataset(LabeledImages(records, tmp_path / "train2017.zip"), config)),
        epoch(train_dataset(LabeledImages(records, folder), config)),
    )


def test_training_data_of_a_config(people, tmp_path):
    folder = people[1].parents[1]
    files = {"train_annotations": folder / "train.json", "train_images": people[1]}
    data = open_training_data(Config(data=files))
    assert len(data) == 5
    assert data.max_people == max(map(len, people[0]))
    for values, message in (
        ({}, "Received: a config without"),
        ({"train_images": people[1]}, "Received: one of the pair"),
        ({**files, "train_records": "x"}, "Received: data.train_records with data.train_annotations and data.train_im"),
        ({"train_records": "x", "train": [{"records": "y"}]}, "Received: data.train with data.train_records"),
    ):
        with pytest.raises(InputError, match=message):
            open_training_data(Config(data=values))
