"""TFRecord shards: training from them is training from the files, and what is said of bad ones."""

import json

import numpy as np
import pytest
import tensorflow as tf

from dekr_tf.config import Config, parse_settings
from dekr_tf.data.annotations import read_annotations
from dekr_tf.data.pipeline import input_errors, train_dataset
from dekr_tf.data.records import RecordFiles, write_records
from dekr_tf.data.samples import LabeledImages, TrainingMix, open_training_data
from dekr_tf.data.synthetic import write_dataset
from dekr_tf.errors import InputError
from dekr_tf.files.images import open_images
from dekr_tf.keypoints import COCO, CROWDPOSE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """(records, folder) of seven drawn images, two with a crowd, one without people."""
    folder = tmp_path_factory.mktemp("people")
    write_dataset(folder, train=7, val=0, size=(80, 96), seed=0)
    content = json.loads((folder / "train.json").read_text())
    for person in content["annotations"]:
        if person["image_id"] in (2, 3):
            person["iscrowd"] = 1
    content["annotations"] = [person for person in content["annotations"] if person["image_id"] != 5]
    (folder / "train.json").write_text(json.dumps(content))
    return read_annotations(folder / "train.json", COCO), folder / "train" / "images"


@pytest.fixture(scope="module")
def written(people, tmp_path_factory):
    """A folder of three shards."""
    folder = tmp_path_factory.mktemp("records") / "new" / "set"
    records, images = people
    assert write_records(records, open_images(images), folder, COCO, shards=3) == 7
    return folder


def make_config(batch_size=1, **data):
    values = {"input_size": 64, "training": {"batch_size": batch_size, "seed": 4}, "targets": {"min_center_area": 0}}
    return parse_settings(Config, values | {"data": {"repeat": 2, **data}}, "test")


def samples(dataset):
    """A list of samples, each its arrays as bytes."""
    with input_errors():
        return [
            (image.numpy().tobytes(), *(labels[name].numpy().tobytes() for name in sorted(labels)))
            for image, labels in dataset
        ]


def test_samples_are_those_of_the_files(people, written):
    config = make_config(train_records=str(written))
    from_files, from_records = (
        train_dataset(data, config) for data in (LabeledImages(*people), open_training_data(config))
    )
    assert from_records.element_spec == from_files.element_spec
    epochs = [(samples(from_files), samples(from_records)) for _ in range(2)]
    for expected, received in epochs:
        assert len(received) == 14
        assert sorted(received) == sorted(expected)
    assert epochs[0][1] != epochs[1][1]
    # The same seed gives the same order, and a run that goes on at epoch 1 sees what it would have seen.
    assert samples(train_dataset(RecordFiles(str(written), COCO), config, first_epoch=1)) == epochs[1][1]


def test_every_pass_has_every_image_once_in_an_order_of_its_own(written):
    data = RecordFiles(str(written), COCO)
    orders = [[data.load(key.numpy())[0] for key in data.order(np.int64(number), 4)] for number in range(3)]
    for order in orders:
        assert sorted(order) == list(range(7))
    assert len(set(map(tuple, orders))) == 3
    other = [data.load(key.numpy())[0] for key in data.order(np.int64(0), 5)]
    assert other != orders[0]


def indices_of(path):
    """Of the images in a shard."""
    examples = [tf.train.Example.FromString(data.numpy()) for data in tf.data.TFRecordDataset(str(path))]
    return [example.features.feature["index"].int64_list.value[0] for example in examples]


def part(data, number):
    return [data.load(key.numpy())[0] for key in data.order(np.int64(number), 4)]


def test_a_share_of_a_pass_is_whole_shards_and_the_rest_by_turns(written, tmp_path):
    """Three shards of seven images and two machines: one shard each, and of the third every second image."""
    shards = {path.name: indices_of(path) for path in written.glob("*.tfrecord")}
    data = RecordFiles(str(written), COCO)
    shares = [data.share(machine, 2) for machine in range(2)]
    assert [len(share) for share in shares] == [4, 4]
    divided = set()
    for number in range(6):
        parts = [part(share, number) for share in shares]
        assert sorted({*parts[0], *parts[1]}) == list(range(7))
        owners = {name: tuple(set(images) <= set(taken) for taken in parts) for name, images in shards.items()}
        assert sorted(owners.values()) == [(False, False), (False, True), (True, False)]
        divided |= {name for name, whole in owners.items() if not any(whole)}
        # The other machine's shard need not even be there.
        for machine, taken in enumerate(parts):
            folder = tmp_path / f"{number}_{machine}"
            folder.mkdir()
            for name in ("metadata.json", *(name for name, owned in owners.items() if not owned[1 - machine])):
                (folder / name).write_bytes((written / name).read_bytes())
            assert part(RecordFiles(str(folder), COCO).share(machine, 2), number) == taken
    assert len(divided) > 1


@pytest.mark.parametrize("with_files", [False, True])
def test_machines_together_make_the_samples_that_one_makes(people, tmp_path, with_files):
    """Six images in two shards for two machines of two devices, alone and mixed with image files."""
    records, images = people
    write_records(records[:6], open_images(images), tmp_path / "records", COCO, shards=2)
    config = make_config(batch_size=4)

    def dataset(context=None, first_epoch=0):
        sets = [RecordFiles(str(tmp_path / "records"), COCO)]
        sets += [LabeledImages(records[1:], images)] if with_files else []
        return train_dataset(TrainingMix(sets), config, first_epoch=first_epoch, context=context)

    contexts = [tf.distribute.InputContext(2, machine, 4) for machine in range(2)]
    machines = [dataset(context) for context in contexts]
    whole = dataset()
    for epoch in range(2):
        parts = [samples(machine) for machine in machines]
        assert [len(each) for each in parts] == 2 * [12 if with_files else 6]
        assert sorted(parts[0] + parts[1]) == sorted(samples(whole.unbatch().batch(1)))
        if epoch == 1:
            assert [samples(dataset(context, first_epoch=1)) for context in contexts] == parts


def test_fewer_shards_than_machines(written, caplog):
    """Each of four machines then reads all three shards, and takes its part of every batch."""
    config = make_config(batch_size=4)
    whole = samples(train_dataset(RecordFiles(str(written), COCO), config).unbatch().batch(1))
    parts = [
        samples(
            train_dataset(RecordFiles(str(written), COCO), config, context=tf.distribute.InputContext(4, machine, 4))
        )
        for machine in range(4)
    ]
    assert [sample for step in zip(*parts, strict=True) for sample in step] == whole
    assert caplog.messages[0].startswith("each of 4 machines reads all training records, since a set has 3 shards")


def test_labels_and_pixels_come_back(people, written):
    records, images = people
    data = RecordFiles(str(written), COCO)
    assert (len(data), data.max_people) == (7, max(map(len, records)))
    for key in data.order(np.int64(0), 0):
        index, image, record = data.load(key.numpy())
        expected = records[index]
        np.testing.assert_array_equal(image, open_images(images).read(expected.file_name))
        assert (record.file_name, record.size) == (expected.file_name, expected.size)
        np.testing.assert_array_equal(record.keypoints, expected.keypoints)
        assert record.keypoints.shape[1:] == (17, 3)
        np.testing.assert_array_equal(record.areas, expected.areas)
        np.testing.assert_array_equal(record.valid_mask(), expected.valid_mask())
    assert sum(bool(record.ignored) for record in records) == 2


def test_what_is_written(written):
    names = sorted(path.name for path in written.iterdir())
    assert names == [*(f"0000{shard}-of-00003.tfrecord" for shard in range(3)), "metadata.json"]
    assert [path.name for path in written.parent.iterdir()] == ["set"]
    metadata = json.loads((written / "metadata.json").read_text())
    assert metadata["shards"] == names[:3]
    assert metadata["keypoints"] == COCO.to_dict()


@pytest.mark.parametrize("damaged", ["stop", "skip"])
def test_a_damaged_image_while_writing(people, tmp_path, damaged):
    records, images = people
    for record in records:
        (tmp_path / record.file_name).write_bytes((images / record.file_name).read_bytes())
    path = tmp_path / records[3].file_name
    path.write_bytes(path.read_bytes()[:-500])
    folder = tmp_path / "records"
    if damaged == "stop":
        with pytest.raises(InputError, match=rf"{path.name}: expected a whole image"):
            write_records(records, open_images(tmp_path), folder, COCO, damaged=damaged)
        assert not folder.exists() and not [path for path in tmp_path.iterdir() if path.is_dir()]
    else:
        assert write_records(records, open_images(tmp_path), folder, COCO, damaged=damaged) == 6
        data = RecordFiles(str(folder), COCO)
        assert sorted(data.load(key.numpy())[0] for key in data.order(np.int64(0), 0)) == [0, 1, 2, 4, 5, 6]


def test_a_folder_that_is_taken(people, written, tmp_path):
    records, images = people
    with pytest.raises(InputError, match=r"expected a new or empty folder .*set$"):
        write_records(records, open_images(images), written, COCO)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_records(records, open_images(images), tmp_path / "file" / "set", COCO)
    with pytest.raises(InputError, match=r"expected 1 to 7, the number of images\. Received: 8"):
        write_records(records, open_images(images), tmp_path / "set", COCO, shards=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "expected records of `dekr data tfrecord` in"),
        ("[", "expected records of `dekr data tfrecord` in"),
        ({"version": 1}, "expected version 2; `dekr data tfrecord` writes it. Received: 1"),
        ({"images": True}, r"metadata\.json lacks valid max_people"),
        ({"max_people": 1e30}, r"metadata\.json lacks valid max_people"),
        ({"shards": [1]}, r"metadata\.json lacks valid max_people"),
        ({"keypoints": None}, r"metadata\.json lacks valid max_people"),
        ({"keypoints": {}}, "skeleton custom: needs names"),
        ({"keypoints": CROWDPOSE.to_dict()}, "expected the 17 keypoints of coco, nose, .*Received: 14, left_shoulder"),
    ],
)
def test_metadata_that_does_not_fit(written, tmp_path, change, message):
    if change is not None:
        metadata = json.loads((written / "metadata.json").read_text())
        (tmp_path / "metadata.json").write_text(change if change == "[" else json.dumps(metadata | change))
    with pytest.raises(InputError, match=message):
        RecordFiles(str(tmp_path), COCO)


def test_damaged_shards_are_input_errors(written, tmp_path):
    for path in written.iterdir():
        content = bytearray(path.read_bytes())
        if path.suffix == ".tfrecord":
            content[len(content) // 2] ^= 0xFF
        (tmp_path / path.name).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read training records: corrupted record"):
        samples(train_dataset(RecordFiles(str(tmp_path), COCO), make_config()))
