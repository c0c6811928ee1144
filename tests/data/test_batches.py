"""The batches without tf.data are those of tf.data, on any backend of Keras."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from dekr_tf.config import Config, parse_settings
from dekr_tf.data.annotations import read_annotations
from dekr_tf.data.batches import TrainingBatches
from dekr_tf.data.pipeline import train_dataset
from dekr_tf.data.records import RecordFiles, write_records
from dekr_tf.data.samples import LabeledImages, open_training_data
from dekr_tf.data.synthetic import write_dataset
from dekr_tf.errors import InputError
from dekr_tf.files.images import open_images
from dekr_tf.keypoints import COCO

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The config of two drawn data sets."""
    folder = tmp_path_factory.mktemp("sets")
    write_dataset(folder / "a", train=5, val=0, size=(80, 96), seed=0)
    write_dataset(folder / "b", train=4, val=0, size=(64, 64), seed=1)
    train = [
        {"annotations": str(folder / name / "train.json"), "images": str(folder / name / "train/images"), "weight": w}
        for name, w in (("a", 1.4), ("b", 0.5))
    ]
    values = {
        "input_size": 64,
        "training": {"batch_size": 2, "seed": 4},
        "data": {"train": train, "repeat": 2},
        "targets": {"min_center_area": 0, "unlabeled_keypoints": "ignore"},
    }
    return parse_settings(Config, values, "test")


def assert_same_batch(batch, expected):
    (image, labels), (expected_image, expected_labels) = batch, expected
    assert labels.keys() == expected_labels.keys()
    for values, others in ((image, expected_image), *((labels[name], expected_labels[name]) for name in labels)):
        assert values.dtype == np.asarray(others).dtype
        np.testing.assert_array_equal(values, others)


class Watch(keras.Model):
    """Keeps the batches that `fit` brings."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.built = True

    def train_step(self, data):
        self.seen.append([np.array(data[0]), {name: np.array(values) for name, values in data[1].items()}])
        return {"loss": keras.ops.zeros(())}


@pytest.mark.parametrize("workers", [1, 3])
def test_equal_those_of_tf_data(mixed, workers):
    data = open_training_data(mixed)
    dataset = train_dataset(data, mixed)
    expected = [list(dataset), list(dataset)]
    # Keras' own loop, with its workers and its idea of an epoch.
    model = Watch()
    model.compile(run_eagerly=True)
    model.fit(TrainingBatches(data, mixed, workers=workers), epochs=2, shuffle=False, verbose=0)
    assert len(model.seen) == 2 * len(expected[0]) == 2 * 9
    for batch, its_twin in zip(model.seen, expected[0] + expected[1], strict=True):
        assert_same_batch(batch, its_twin)
    resumed = TrainingBatches(data, mixed, first_epoch=1)
    for number in reversed(range(9)):
        assert_same_batch(resumed[number], expected[1][number])


def test_batches_in_parts(mixed):
    """Each batch comes in parts of equal size, in the same order, to one device or to two."""
    data = open_training_data(mixed)
    whole = [image for image, _ in train_dataset(data, mixed)]
    parted = mixed.model_copy(update={"training": mixed.training.model_copy(update={"accumulation_steps": 2})})
    batches = TrainingBatches(data, parted)
    assert len(batches) == 2 * len(whole)
    for dataset in (train_dataset(data, parted), map(batches.__getitem__, range(len(batches)))):
        parts = [image for image, _ in dataset]
        assert [len(part) for part in parts] == [1] * 2 * len(whole)
        np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(whole))


def test_epochs_that_were_not_gone_through_do_not_count(mixed):
    batches = TrainingBatches(open_training_data(mixed), mixed)
    first = batches[0][0]
    # As Keras does before training: the end of no epoch, a look at batches, and the end of an epoch of one batch.
    batches.on_epoch_end()
    list(map(batches.__getitem__, range(len(batches))))
    batches.on_epoch_end()
    batches.on_epoch_begin()
    np.testing.assert_array_equal(batches[0][0], first)
    batches.on_epoch_end()
    assert batches.epoch == 0
    batches.on_epoch_begin()
    list(map(batches.__getitem__, range(len(batches))))
    batches.on_epoch_end()
    assert batches.epoch == 1
    assert not np.array_equal(batches[0][0], first)


def test_damaged_images(mixed, tmp_path, caplog):
    first = mixed.data.train[0]
    records = read_annotations(first.annotations, COCO)
    for number, record in enumerate(records):
        content = (first.images / record.file_name).read_bytes()
        (tmp_path / record.file_name).write_bytes(content[: len(content) // (2 if number == 1 else 1)])
    with pytest.raises(InputError, match="expected a whole image"):
        batches = TrainingBatches(LabeledImages(records, tmp_path), mixed)
        list(map(batches.__getitem__, range(len(batches))))
    data = LabeledImages(records, tmp_path, damaged="skip")
    expected, batches = list(train_dataset(data, mixed)), TrainingBatches(data, mixed)
    batches.on_epoch_begin()
    for number, batch in enumerate(expected):
        assert_same_batch(batches[number], batch)
    batches.on_epoch_end()
    messages = [record.getMessage() for record in caplog.records]
    assert sum(message.startswith("skipped: image ") for message in messages) == 1
    assert messages.count("samples of this epoch that show another image instead of a damaged one: 2") == 2


def test_records_are_refused(mixed, tmp_path):
    first = mixed.data.train[0]
    write_records(read_annotations(first.annotations, COCO), open_images(first.images), tmp_path / "records", COCO)
    with pytest.raises(InputError, match=r"only TensorFlow reads TFRecord files\. Received: records with the"):
        TrainingBatches(RecordFiles(str(tmp_path / "records"), COCO), mixed)


PROGRAM = """
import json, sys
sys.modules["tensorflow"] = None
import numpy as np
from keras import ops
from dekr_tf.config import Config
from dekr_tf.data.batches import TrainingBatches
from dekr_tf.data.samples import open_training_data
from dekr_tf.data.target_maps import draw_targets
config = Config.model_validate(json.loads(sys.argv[1]))
# PyTorch's first exponential may be accurate to only twelve bits if several threads compute it (its issue 188792).
ops.exp(ops.zeros(1))
image, labels = TrainingBatches(open_training_data(config), config)[0]
maps = draw_targets({name: ops.convert_to_tensor(values) for name, values in labels.items()}, config.targets)
np.savez(sys.argv[2], image=image, **{name: ops.convert_to_numpy(values) for name, values in maps.items()})
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_maps_on_other_backends_without_tensorflow(mixed, tmp_path, backend):
    from dekr_tf.data.target_maps import draw_targets

    pytest.importorskip(backend)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(mixed.model_dump(mode="json")), str(tmp_path / "maps.npz")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "maps.npz")
    image, labels = next(iter(train_dataset(open_training_data(mixed), mixed)))
    np.testing.assert_array_equal(found["image"], image)
    for name, values in draw_targets(labels, mixed.targets).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
