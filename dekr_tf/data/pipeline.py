"""The tf.data pipeline of training: photos and annotations in, batches of network inputs and labels out."""

import contextlib
import itertools
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np
import tensorflow as tf

from dekr_tf.config import Config
from dekr_tf.data.annotations import ImageRecord, read_annotations
from dekr_tf.data.augmentation import random_augmentation
from dekr_tf.data.records import RecordFiles
from dekr_tf.data.target_encoder import TargetEncoder, person_centers, person_sizes
from dekr_tf.errors import InputError
from dekr_tf.images import check_images
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.sidecar import Sidecar

_log = logging.getLogger(__name__)


class SampleEncoder:
    """Makes one training sample of an image and its people.

    Args:
        schema: the skeleton.
        config: input size, augmentation and targets.
        output_stride: input pixels per map cell.
        max_people: people that the labels have room for.
    """

    def __init__(self, schema: KeypointSchema, config: Config, output_stride: int, max_people: int):
        self.schema = schema
        self.config = config
        self.output_stride = output_stride
        self._targets = TargetEncoder(len(schema), config.targets, max_people)

    def __call__(
        self, image: np.ndarray, record: ImageRecord, generator: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Augments and encodes.

        Cells outside the photo have no heatmap weight, like those of ignored regions, as in the reference.

        Args:
            image: (H, W, 3) uint8 RGB, of the size that the record says.
            record: the labels.
            generator: decides the augmentation.

        Returns:
            The input (S, S, 3) uint8 RGB, and the labels as `TargetEncoder` gives them at S / stride.
        """
        settings, stride = self.config.targets, self.output_stride
        augmentation = random_augmentation(
            record.size, self.config.input_size, self.config.data.augmentation, generator
        )
        centers = person_centers(record.keypoints, record.areas, settings.min_center_area)
        points = np.concatenate([record.keypoints, centers[:, None]], axis=1)
        points = augmentation.transform_keypoints(points, self.schema.flip_indices)
        points[..., :2] /= stride
        sizes = person_sizes(record.keypoints, settings.person_size) * (augmentation.zoom / stride) ** 2
        mask = augmentation.transform_mask(record.valid_mask(), stride)
        boxes = augmentation.transform_boxes(record.boxes) / stride
        return augmentation.transform_image(image), self._targets(points, sizes, mask, boxes)


class TrainingData(Protocol):
    """Labelled images that can be gone through in random order; `LabelledImages` and `RecordFiles` are."""

    #: Of the fullest image.
    max_people: int

    def __len__(self) -> int:
        """Number of images."""

    def order(self, number: tf.Tensor, seed: int) -> tf.data.Dataset:
        """The keys of all images, in the order of the pass with a number."""

    def load(self, key) -> tuple[int, np.ndarray, ImageRecord]:
        """Of a key as a NumPy scalar: position in the data set, image (H, W, 3) uint8 RGB, labels.

        Many threads call it.

        Raises:
            InputError: the image cannot be read.
        """

    def end_epoch(self) -> None:
        """Is called after the last image of an epoch."""


class LabelledImages:
    """Image files with their annotations, as training data (`TrainingData`).

    A pass has every image once, in an order of its own.

    Args:
        records: of `read_annotations`, with or without people.
        images: the folder or zip file of their images.
        damaged: `stop`, or `skip`: an image that cannot be read is named once in the log, and the next one of the data
            set takes its place in every pass.

    Raises:
        InputError: image files are missing.
    """

    def __init__(self, records: Sequence[ImageRecord], images: str | os.PathLike, damaged: str = "stop"):
        self.records = records
        self.images = check_images([record.file_name for record in records], images)
        self.max_people = max(1, *map(len, records))
        self._skip = damaged == "skip"
        self._damaged = set()
        self._replaced = 0
        self._lock = threading.Lock()

    def __len__(self):
        return len(self.records)

    def order(self, number, seed):
        def permutation(number):
            return np.random.default_rng((seed, int(number))).permutation(len(self))

        return tf.data.Dataset.from_tensor_slices(tf.numpy_function(permutation, [number], tf.int64))

    def load(self, key):
        for step in range(len(self)):
            index = (int(key) + step) % len(self)
            record = self.records[index]
            try:
                return index, self.images.read(record.file_name, record.size), record
            except InputError as error:
                if not self._skip:
                    raise
                with self._lock:
                    if index not in self._damaged:
                        self._damaged.add(index)
                        _log.warning("skipped: %s", error)
                    self._replaced += step == 0
        raise InputError(f"expected images that can be read in {self.images.path}. Received: {len(self)}, all damaged")

    def end_epoch(self):
        if self._replaced:
            _log.warning("samples of this epoch that show another image than a damaged one: %d", self._replaced)
        self._replaced = 0


def open_training_data(config: Config) -> TrainingData:
    """The training data that a config names: `data.train_records`, or `data.train_annotations` and `data.train_images`.

    Raises:
        InputError: none or both are set, or they cannot be read, do not fit the skeleton or miss images.
    """
    data = config.data
    named = data.train_annotations is not None and data.train_images is not None
    if named == (data.train_records is not None):
        raise InputError(
            "training needs data.train_annotations and data.train_images, or data.train_records. "
            f"Received: {'both' if named else 'a config without'}"
        )
    if data.train_records is not None:
        return RecordFiles(data.train_records, config.schema)
    return LabelledImages(
        read_annotations(data.train_annotations, config.schema), data.train_images, data.damaged_images
    )


def train_dataset(
    data: TrainingData,
    config: Config,
    *,
    first_epoch: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches for training; iterating once is one epoch, in a new order and with new augmentations every time.

    An epoch goes `data.repeat` times through the images. A sample depends on `training.seed`, the number of the pass
    and the image alone, not on the timing of threads. What does not fill a batch at the end of an epoch is left out.

    Args:
        data: the labelled images.
        config: `keypoints`, `input_size`, `data.repeat`, `data.augmentation`, `targets`, `training.batch_size` and
            `training.seed`.
        first_epoch: number of the first iteration, for a run that goes on.
        context: of a machine that shares each batch with others, or spreads it over several devices; it then makes its
            share of every batch only, and an element is the share of one device.

    Returns:
        (image, labels): image (B, S, S, 3) uint8 RGB; labels a batch of what `TargetEncoder` gives, with room for the
        people of the fullest image. Iterate it within `input_errors`.

    Raises:
        InputError: there are fewer images than a batch holds.
    """
    context = context or tf.distribute.InputContext()
    batch_size = config.training.batch_size
    machine_batch = batch_size // context.num_input_pipelines
    device_batch = batch_size // context.num_replicas_in_sync
    samples = len(data) * config.data.repeat
    if samples < batch_size:
        raise InputError(
            f"training.batch_size must not exceed the samples of an epoch, {samples}. Received: {batch_size}"
        )
    samples -= samples % batch_size
    # Samples are made side by side already.
    cv2.setNumThreads(1)
    schema = config.schema
    encoder = SampleEncoder(schema, config, Sidecar.from_config(config).output_stride, data.max_people)
    # NumPy takes no negative seeds.
    seed = config.training.seed % 2**32
    epochs = itertools.count(first_epoch)

    def passes():
        first = next(epochs) * config.data.repeat
        return np.arange(first, first + config.data.repeat)

    def pass_order(number):
        return data.order(number, seed).map(lambda key: (number, key))

    def is_own(position, _):
        return position % batch_size // machine_batch == context.input_pipeline_id

    def make_sample(number, key):
        index, image, record = data.load(key)
        image, labels = encoder(image, record, np.random.default_rng((seed, int(number), index)))
        return image, *labels.values()

    nobody = ImageRecord(0, "", (64, 64), np.zeros((0, len(schema), 3)), np.zeros(0), np.zeros((0, 4)))
    example = encoder(np.zeros((64, 64, 3), np.uint8), nobody, np.random.default_rng(0))

    def sample(_, item):
        parts = [example[0], *example[1].values()]
        image, *labels = made = tf.numpy_function(make_sample, item, [part.dtype for part in parts])
        for tensor, part in zip(made, parts, strict=True):
            tensor.set_shape(part.shape)
        return image, dict(zip(example[1], labels, strict=True))

    def end():
        data.end_epoch()
        yield from ()

    dataset = (
        tf.data.Dataset.range(1)
        .flat_map(lambda _: tf.data.Dataset.from_tensor_slices(tf.numpy_function(passes, [], tf.int64)))
        .flat_map(pass_order)
        .take(samples // batch_size * batch_size)
        .enumerate()
        .filter(is_own)
        .map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    )
    return (
        dataset.concatenate(tf.data.Dataset.from_generator(end, output_signature=dataset.element_spec))
        .batch(device_batch, drop_remainder=True)
        .apply(tf.data.experimental.assert_cardinality(samples // batch_size * (machine_batch // device_batch)))
        .prefetch(2)
    )


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Turns TensorFlow's report of a sample that could not be made back into the `InputError` behind it."""
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
        cause = re.search(r"InputError: (.*)", error.message)
        if cause:
            raise InputError(cause[1]) from error
        if isinstance(error, tf.errors.DataLossError):
            reason = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message.splitlines()[0])
            raise InputError(f"cannot read training records: {reason}") from error
        raise
