"""Mixes of data sets: what a round shows, in which order, and what is said of bad ones."""

import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from dekr_tf.config import Config, TargetConfig, load_config, parse_settings
from dekr_tf.data.annotations import ImageRecord, read_annotations
from dekr_tf.data.pipeline import input_errors, train_dataset
from dekr_tf.data.records import write_records
from dekr_tf.data.samples import LabeledImages, TrainingMix, TrainingSamples, open_training_data, report_people
from dekr_tf.data.synthetic import write_dataset
from dekr_tf.errors import InputError
from dekr_tf.files.images import open_images
from dekr_tf.keypoints import COCO, CROWDPOSE


class Numbers(LabeledImages):
    """A set of so many images that nobody opens."""

    def __init__(self, count):
        self.records = [()] * count
        self.max_people = count


@pytest.mark.slow
@given(
    sets=st.lists(st.tuples(st.integers(1, 12), st.sampled_from([0.5, 1, 1.5, 2, 3])), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_set_goes_on_where_it_stopped(sets, seed):
    lengths, weights = zip(*sets, strict=True)
    mix = TrainingMix([Numbers(length) for length in lengths], weights)
    rounds = [mix.items(number, seed) for number in range(6)]
    for number, items in enumerate(rounds):
        assert len(items) == len(mix) == sum(mix.counts)
        np.testing.assert_array_equal(items, mix.items(number, seed))
    everything = np.concatenate(rounds)
    for place, (length, weight) in enumerate(sets):
        assert mix.counts[place] == int(Fraction(weight) * length + Fraction(1, 2))
        shown = everything[everything[:, 0] == place, 1:]
        # One pass after another, each with every image once.
        np.testing.assert_array_equal(shown[:, 0], np.arange(len(shown)) // length)
        for start in range(0, len(shown) - length + 1, length):
            assert sorted(shown[start : start + length, 1]) == list(range(length))


def test_orders_differ_between_rounds_sets_and_seeds():
    mix = TrainingMix([Numbers(30), Numbers(30)])
    items = [mix.items(number, seed) for number, seed in ((0, 0), (1, 0), (0, 1))]
    assert len({each[:, 0].tobytes() for each in items}) == 3
    orders = {each[each[:, 0] == place, 2].tobytes() for each in items for place in (0, 1)}
    assert len(orders) == 6
    # The sets are interleaved, not one after the other.
    assert 20 < np.count_nonzero(np.diff(items[0][:, 0])) < 40


def test_a_mix_of_one_set_is_the_set():
    mix = TrainingMix([Numbers(9)])
    np.testing.assert_array_equal(mix.items(2, 5)[:, 2], np.random.default_rng((5, 2)).permutation(9))
    assert mix.items(2, 5)[:, :2].tolist() == [[0, 2]] * 9


@pytest.mark.parametrize(
    ("keypoints", "flip", "warnings"),
    [({"names": ["a", "b"]}, 0.5, 1), ({"names": ["a", "b"]}, 0.0, 0), ("coco", 0.5, 0), ({"names": ["a"]}, 1.0, 0)],
)
def test_mirroring_without_flip_pairs_is_warned_of(caplog, keypoints, flip, warnings):
    config = Config(
        keypoints=keypoints, input_size=64, data={"augmentation": {"flip": flip}}, training={"batch_size": 1}
    )
    TrainingSamples(Numbers(2), config)
    assert sum("set data.augmentation.flip to 0" in message for message in caplog.messages) == warnings


def labeled_people(areas, visibility=2):
    keypoints = np.array([[[10, 10, visibility]]] * len(areas), np.float32).reshape(-1, 1, 3)
    return ImageRecord(1, "a.jpg", (64, 64), keypoints, np.array(areas, np.float32), np.zeros((len(areas), 4)))


@pytest.mark.parametrize(
    ("areas", "line", "warning"),
    [
        ([[2000, 1024], [10]], "set: 2 of 3 people with labeled keypoints get a center", None),
        (
            [[2000], [10, 0], []],
            "set: 1 of 3 people with labeled keypoints get a center",
            "(1024 square pixels), 1 of them 0. Most people are not learned",
        ),
        (
            [[0, 0]],
            "set: 0 of 2 people with labeled keypoints get a center",
            "2 of them 0. Nobody's offsets are learned, so no poses will be found",
        ),
        ([[], []], "set: 0 of 0 people with labeled keypoints get a center", "set: nobody has a labeled keypoint"),
    ],
)
def test_people_without_a_center_are_counted(caplog, areas, line, warning):
    assert report_people([labeled_people(each) for each in areas], TargetConfig(), "set") == line
    assert len(caplog.messages) == (warning is not None)
    assert all(warning in message for message in caplog.messages)


def test_epochs_of_several_rounds_leave_out_what_fills_no_batch():
    config = Config(input_size=64, data={"repeat": 3}, training={"batch_size": 4})
    samples = TrainingSamples(TrainingMix([Numbers(3), Numbers(4)], [1, 0.5]), config)
    assert samples.batches == 3 and samples.rounds(2).tolist() == [6, 7, 8]
    expected = np.concatenate([samples.mix.items(number, 0) for number in (6, 7, 8)])[:12]
    np.testing.assert_array_equal(samples.items(2), expected)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two drawn data sets, of five and four images of different sizes."""
    folder = tmp_path_factory.mktemp("sets")
    write_dataset(folder / "a", train=5, val=0, size=(80, 96), seed=0)
    write_dataset(folder / "b", train=4, val=0, size=(64, 64), seed=1)
    return folder


def entry(folder, **changes):
    return {"annotations": str(folder / "train.json"), "images": str(folder / "train" / "images"), **changes}


def make_config(*entries):
    values = {"input_size": 64, "training": {"batch_size": 3, "seed": 4}, "data": {"train": list(entries)}}
    return parse_settings(Config, values, "config")


def test_samples_of_a_set_keep_pass_and_augmentation_in_a_mix(folders):
    """Set 0 alone, and beside another one that it shares batches with."""
    alone = make_config(entry(folders / "a"))
    mixed = make_config(entry(folders / "a", weight=2), entry(folders / "b", weight=0.5))
    alone, mixed = (TrainingSamples(open_training_data(config), config) for config in (alone, mixed))
    assert mixed.mix.counts == [10, 2] and mixed.batches == 4
    room = mixed.mix.max_people
    first_two = [tuple(item) for number in (0, 1) for item in alone.mix.items(number, 4).tolist()]
    items = [tuple(item) for item in mixed.items(0).tolist()]
    assert [item for item in items if item[0] == 0] == first_two
    for item in first_two:
        (image, labels), (expected, expected_labels) = mixed.make(*item), alone.make(*item)
        np.testing.assert_array_equal(image, expected)
        for name, values in expected_labels.items():
            more = 0 if name == "valid_mask" else room - len(values)
            padded = np.pad(values, [(0, more)] + [(0, 0)] * (values.ndim - 1))
            np.testing.assert_array_equal(labels[name], padded)
    # An image of another set has an augmentation of its own, though its number in the set is the same.
    index, image, record = mixed.mix.load(1, 2)
    assert index == 5 + 2 and image.shape[:2] == record.size == (64, 64)


@pytest.mark.slow
def test_records_and_files_mix(folders, tmp_path):
    records = read_annotations(folders / "b" / "train.json", COCO)
    write_records(records, open_images(folders / "b" / "train" / "images"), tmp_path / "records", COCO)
    files = make_config(entry(folders / "a", weight=0.6), entry(folders / "b", weight=1.5))
    mixed = make_config(entry(folders / "a", weight=0.6), {"records": str(tmp_path / "records"), "weight": 1.5})
    shown = []
    for config in (files, mixed):
        dataset = train_dataset(open_training_data(config), config)
        with input_errors():
            batches = [image.numpy() for _ in range(4) for image, _ in dataset]
        assert len(batches) == 4 * 3
        shown.append(np.concatenate(batches))
    # 0.6 * 5 and 1.5 * 4 images a round, which fill three batches; the order within the set differs.
    choices = np.concatenate([open_training_data(files).choices(number, 4) for number in range(4)])
    np.testing.assert_array_equal(shown[0][choices == 0], shown[1][choices == 0])
    assert sorted(map(bytes, shown[0])) == sorted(map(bytes, shown[1]))


@pytest.mark.slow
def test_machines_share_the_batches_of_a_mix(folders):
    config = make_config(entry(folders / "a", weight=1.2), entry(folders / "b", weight=1.5))
    config = config.model_copy(update={"training": config.training.model_copy(update={"batch_size": 4})})
    data = open_training_data(config)
    whole = [image.numpy() for image, _ in train_dataset(data, config, first_epoch=1)]
    shares = [
        [image.numpy() for image, _ in train_dataset(data, config, first_epoch=1, context=context)]
        for context in (tf.distribute.InputContext(2, machine, num_replicas_in_sync=2) for machine in (0, 1))
    ]
    assert len(whole) == 3
    np.testing.assert_array_equal(whole, [np.concatenate(parts) for parts in zip(*shares, strict=True)])


def without_images(folder, tmp_path):
    return entry(folder, images=str(tmp_path))


def other_names(folder, tmp_path):
    content = json.loads((folder / "train.json").read_text())
    content["categories"][0]["keypoints"][0] = "beak"
    (tmp_path / "beak.json").write_text(json.dumps(content))
    return entry(folder, annotations=str(tmp_path / "beak.json"))


def other_number(folder, tmp_path):
    content = json.loads((folder / "train.json").read_text())
    content["categories"][0]["keypoints"] = list(CROWDPOSE.names)
    for person in content["annotations"]:
        person["keypoints"] = person["keypoints"][: 3 * 14]
    (tmp_path / "fourteen.json").write_text(json.dumps(content))
    return entry(folder, annotations=str(tmp_path / "fourteen.json"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            without_images,
            r"^data\.train\.1: expected all 4 annotated images in .*Received: 4 missing, first 000001\.jpg$",
        ),
        (other_names, r"^data\.train\.1: expected the keypoints .* before, nose, .*Received: beak, left_eye, [^\n]*$"),
        (other_number, r"^data\.train\.1: annotations .*fourteen\.json: annotation 1: expected as keypoints .* 51 "),
        (lambda folder, _: entry(folder, weight=0.1), r"train\.1\.weight: expected at least 0\.125, .*Received: 0\.1$"),
        (lambda *_: {"records": "nowhere"}, r"^data\.train\.1: expected records of `dekr data tfrecord` in nowhere"),
    ],
)
def test_bad_sets_are_said_before_training(folders, tmp_path, bad, message):
    config = make_config(entry(folders / "a"), bad(folders / "b", tmp_path))
    with pytest.raises(InputError, match=message):
        open_training_data(config)


def test_names_are_compared_where_files_have_them(folders, tmp_path):
    content = json.loads((folders / "b" / "train.json").read_text())
    del content["categories"]
    (tmp_path / "nameless.json").write_text(json.dumps(content))
    nameless = entry(folders / "b", annotations=str(tmp_path / "nameless.json"))
    assert len(open_training_data(make_config(nameless, entry(folders / "a"), nameless))) == 13
    with pytest.raises(InputError, match=r"^data\.train\.2: expected the keypoints of the sets before"):
        open_training_data(make_config(nameless, entry(folders / "a"), other_names(folders / "b", tmp_path)))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("[]", r"data\.train: List should have at least 1 item .*Received: \[\]"),
        ("[{records: x, weight: 0}]", r"data\.train\.0\.weight: .*greater than 0\. Received: 0"),
        ("[{records: x, weight: .inf}]", r"data\.train\.0\.weight: .*finite number\. Received: inf"),
        ("[{records: x}, {annotations: y}]", r"data\.train\.1: .*expected annotations and images, or records"),
        ("[{records: x, images: y}]", r"data\.train\.0: .*expected annotations and images, or records"),
        ("[{records: x, share: 1}]", r"unknown key data\.train\.0\.share"),
    ],
)
def test_bad_settings(tmp_path, train, message):
    (tmp_path / "bad.yaml").write_text("")
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "bad.yaml", [f"data.train={train}"])


def test_opencv_gets_its_threads_back(folders):
    config = make_config(entry(folders / "a"))
    samples, seen = TrainingSamples(open_training_data(config), config), []
    read = samples.mix.sets[0].images.read
    samples.mix.sets[0].images.read = lambda *args: (seen.append(cv2.getNumThreads()), read(*args))[1]
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        dataset = train_dataset(samples.mix, config)
        for _ in dataset:
            pass
        assert len(seen) == 3 and set(seen) == {1}
        assert cv2.getNumThreads() == 3
        with pytest.raises(IndexError):
            samples.make(0, 0, _Broken())
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


class _Broken:
    """A key that fails."""

    def __int__(self):
        raise IndexError("broken")
