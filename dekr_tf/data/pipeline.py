"""The tf.data pipeline of training: photos and annotations in, batches of network inputs and labels out."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from dekr_tf.config import Config
from dekr_tf.data.annotations import ImageRecord
from dekr_tf.data.augmentation import random_augmentation
from dekr_tf.data.target_encoder import TargetEncoder, person_centers, person_sizes
from dekr_tf.errors import InputError
from dekr_tf.images import check_images, read_image
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.sidecar import Sidecar


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
        return augmentation.transform_image(image), self._targets(points, sizes, mask)


def train_dataset(
    records: Sequence[ImageRecord],
    images: str | os.PathLike,
    schema: KeypointSchema,
    config: Config,
    *,
    first_epoch: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches for training; iterating once is one epoch, in a new order and with new augmentations every time.

    An epoch goes `data.repeat` times through the images. A sample depends on `training.seed`, the number of the pass
    and the image alone, not on the timing of threads. What does not fill a batch at the end of an epoch is left out.

    Args:
        records: images with or without people.
        images: the folder of their files.
        schema: the skeleton.
        config: `input_size`, `data.repeat`, `data.augmentation`, `targets`, `training.batch_size` and `training.seed`.
        first_epoch: number of the first iteration, for a run that goes on.
        context: of a machine that shares each batch with others, or spreads it over several devices; it then reads its
            share of every batch only, and an element is the share of one device.

    Returns:
        (image, labels): image (B, S, S, 3) uint8 RGB; labels a batch of what `TargetEncoder` gives, with room for the
        people of the fullest image. Iterate it within `input_errors`.

    Raises:
        InputError: image files are missing, or there are fewer images than a batch holds.
    """
    context = context or tf.distribute.InputContext()
    batch_size = config.training.batch_size
    machine_batch = batch_size // context.num_input_pipelines
    device_batch = batch_size // context.num_replicas_in_sync
    samples = len(records) * config.data.repeat
    if samples < batch_size:
        raise InputError(
            f"training.batch_size must not exceed the samples of an epoch, {samples}. Received: {batch_size}"
        )
    check_images([record.file_name for record in records], images)
    folder = Path(images)
    # Samples are made side by side already.
    cv2.setNumThreads(1)
    max_people = max(1, *map(len, records))
    encoder = SampleEncoder(schema, config, Sidecar.from_config(config).output_stride, max_people)
    # NumPy takes no negative seeds.
    seed = config.training.seed % 2**32
    epochs = itertools.count(first_epoch)

    def epoch_order():
        first = next(epochs) * config.data.repeat
        numbers = np.arange(first, first + config.data.repeat)
        indices = [np.random.default_rng((seed, number)).permutation(len(records)) for number in numbers.tolist()]
        positions = np.arange(samples // batch_size * batch_size)
        own = positions[positions % batch_size // machine_batch == context.input_pipeline_id]
        return np.repeat(numbers, len(records))[own], np.concatenate(indices)[own]

    def read_sample(number, index):
        record = records[index]
        path = folder / record.file_name
        image = read_image(path, exif_orientation=False)
        if image.shape[:2] != record.size:
            raise InputError(
                f"image {path}: expected {record.size[0]}x{record.size[1]} pixels (height x width) as annotated. "
                f"Received: {image.shape[0]}x{image.shape[1]}"
            )
        image, labels = encoder(image, record, np.random.default_rng((seed, int(number), int(index))))
        return tf.nest.flatten((image, labels))

    blank = ImageRecord(0, "", (64, 64), np.zeros((0, len(schema), 3)), np.zeros(0))
    example = encoder(np.zeros((64, 64, 3), np.uint8), blank, np.random.default_rng(0))

    def load(number, index):
        parts = tf.nest.flatten(example)
        loaded = tf.numpy_function(read_sample, [number, index], [part.dtype for part in parts])
        for tensor, part in zip(loaded, parts, strict=True):
            tensor.set_shape(part.shape)
        return tf.nest.pack_sequence_as(example, loaded)

    def order_dataset(_):
        numbers, indices = tf.numpy_function(epoch_order, [], [tf.int64, tf.int64])
        return tf.data.Dataset.from_tensor_slices((numbers, indices))

    return (
        tf.data.Dataset.range(1)
        .flat_map(order_dataset)
        .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(device_batch, drop_remainder=True)
        .apply(tf.data.experimental.assert_cardinality(samples // batch_size * machine_batch // device_batch))
        .prefetch(2)
    )


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Turns TensorFlow's report of a sample that could not be made back into the `InputError` behind it."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        cause = re.search(r"InputError: (.*)", error.message)
        if cause:
            raise InputError(cause[1]) from error
        raise
