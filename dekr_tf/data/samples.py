"""Training samples in NumPy: labeled images, mixes of several sets, and the samples of an epoch.

No TensorFlow here: `pipeline` makes a tf.data.Dataset of these samples, `batches` a keras.utils.PyDataset.
"""

import contextlib
import copy
import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from dekr_tf.config import Config, TargetConfig, TrainingSetConfig
from dekr_tf.data.annotations import ImageRecord, read_annotations, read_keypoint_names
from dekr_tf.data.augmentation import random_augmentation
from dekr_tf.data.target_encoder import TargetEncoder, box_centers, person_centers, person_sizes
from dekr_tf.errors import InputError
from dekr_tf.files.images import check_images
from dekr_tf.files.opencv import one_thread
from dekr_tf.keypoints import KeypointSchema, warn_without_flip_pairs
from dekr_tf.sidecar import Sidecar

_log = logging.getLogger(__name__)


class SampleEncoder:
    """Makes one training sample from an image and its people.

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
            The input (S, S, 3) uint8 RGB, and the labels from `TargetEncoder`, for maps of S / stride cells a side.
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
        mask = augmentation.transform_mask(record.valid_mask(), stride, settings.outside_photo == "background")
        boxes = augmentation.transform_boxes(record.boxes) / stride
        if settings.center == "box":
            points[:, -1] = box_centers(boxes, mask.shape, points[:, -1, 2])
        return augmentation.transform_image(image), self._targets(points, sizes, mask, boxes)


class TrainingData(Protocol):
    """One set of labeled images: `LabeledImages` or `records.RecordFiles`.

    Their `order(number, seed)` returns the keys of all images in the order of pass `number`: the former as a NumPy
    array, the latter as a tf.data.Dataset.
    """

    #: People in the fullest image.
    max_people: int
    #: Most machines among which a pass can be divided.
    most_shares: int

    def __len__(self) -> int:
        """Number of images in a pass."""

    def share(self, machine: int, machines: int) -> "TrainingData":
        """The same set, with a machine's part of every pass in its `order`.

        The parts are equally long: a pass that does not divide evenly shows some image twice or not at all.

        Args:
            machine: number of the machine, from 0.
            machines: at most `most_shares`.
        """

    def load(self, key) -> tuple[int, np.ndarray, ImageRecord]:
        """Reads position in the data set, image (H, W, 3) uint8 RGB and labels by a key.

        Several threads call it at once.

        Raises:
            InputError: the image cannot be read.
        """

    def end_epoch(self) -> None:
        """Called after the last image of an epoch."""


class LabeledImages:
    """Image files with their annotations, as training data (`TrainingData`).

    A pass has every image once, in a new order.

    Args:
        records: of `read_annotations`, with or without people.
        images: the folder or zip file of their images.
        damaged: `stop`, or `skip`: an image that cannot be read is named once in the log, and the next one of the data
            set takes its place in every pass.

    Raises:
        InputError: image files are missing.
    """

    # Whose part of each pass this is, see `share`.
    _machine, _machines = 0, 1

    def __init__(self, records: Sequence[ImageRecord], images: str | os.PathLike, damaged: str = "stop"):
        self.records = records
        self.images = check_images([record.file_name for record in records], images)
        self.max_people = max(1, *map(len, records))
        self._skip = damaged == "skip"
        self._damaged = set()
        self._replaced = 0
        self._lock = threading.Lock()

    def __len__(self):
        return math.ceil(len(self.records) / self._machines)

    @property
    def most_shares(self):
        return len(self.records)

    def share(self, machine, machines):
        share = copy.copy(self)
        share._machine, share._machines = machine, machines
        return share

    def order(self, number: int, seed: int) -> np.ndarray:
        """(n,) int64: the images in the order of pass `number`."""
        order = np.random.default_rng((seed, number)).permutation(len(self.records))
        return np.resize(order[self._machine :: self._machines], len(self))

    def load(self, key):
        for step in range(len(self.records)):
            index = (int(key) + step) % len(self.records)
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
        raise InputError(
            f"expected images that can be read in {self.images.path}. Received: {len(self.records)}, all damaged"
        )

    def end_epoch(self):
        if self._replaced:
            _log.warning("samples of this epoch that show another image instead of a damaged one: %d", self._replaced)
        self._replaced = 0


class TrainingMix:
    """Several sets of labeled images that are trained on together.

    A round shows each set as often as its weight says, with samples of all sets in random order. In the next round,
    every set continues where it stopped: with weight 0.5, two rounds show each of its images once; with weight 2, a
    round shows each twice.

    Args:
        sets: at least one.
        weights: a positive number for each set. Default: 1 each.

    Attributes:
        sets: as given.
        counts: images of each set in a round, its length times its weight, rounded.
        max_people: people in the fullest image.

    Raises:
        InputError: a weight is so small that a round has no image of the set.
    """

    def __init__(self, sets: Sequence[TrainingData], weights: Sequence[float] | None = None):
        self.sets = tuple(sets)
        weights = [1.0] * len(sets) if weights is None else weights
        self.counts = [int(len(data) * weight + 0.5) for data, weight in zip(sets, weights, strict=True)]
        for place, (data, weight, count) in enumerate(zip(sets, weights, self.counts, strict=True)):
            if count == 0:
                raise InputError(
                    f"data.train.{place}.weight: expected at least {0.5 / len(data):g}, so that an epoch shows an "
                    f"image of the set. Received: {weight:g}"
                )
        self.max_people = max(data.max_people for data in sets)
        self._first = np.cumsum([0, *map(len, sets)]).tolist()

    def __len__(self) -> int:
        """Images of a round."""
        return sum(self.counts)

    def share(self, machine: int, machines: int) -> "TrainingMix":
        """The same mix, with a machine's part of every set; see `TrainingData.share`."""
        share = copy.copy(self)
        share.sets = tuple(data.share(machine, machines) for data in self.sets)
        share.counts = [math.ceil(count / machines) for count in self.counts]
        return share

    def choices(self, number: int, seed: int) -> np.ndarray:
        """(len,) int64: the set that each sample of a round is from."""
        # The last number keeps the generator apart from those of passes and samples.
        generator = np.random.default_rng((seed, number, 0, 1))
        return generator.permutation(np.repeat(np.arange(len(self.sets)), self.counts))

    def span(self, place: int, number):
        """The passes of a set that a round takes images from, and how many it skips in the first of them.

        Args:
            place: of the set.
            number: of the round, a whole number of any kind.

        Returns:
            Numbers of the first pass and of the last one, and the number of images to skip.
        """
        count, length = self.counts[place], len(self.sets[place])
        first = number * count // length
        return first, (number * count + count - 1) // length, number * count - first * length

    def items(self, number: int, seed: int) -> np.ndarray:
        """(len, 3) int64: set, pass and image of every sample of a round. All sets must be `LabeledImages`."""
        choices = self.choices(number, seed)
        items = np.zeros((len(self), 3), np.int64)
        items[:, 0] = choices
        for place, (data, count) in enumerate(zip(self.sets, self.counts, strict=True)):
            first, last, skipped = self.span(place, number)
            passes = range(first, last + 1)
            keys = np.concatenate([data.order(each, set_seed(seed, place)) for each in passes])
            numbers = np.repeat(passes, len(data))
            items[choices == place, 1:] = np.stack([numbers, keys], axis=1)[skipped : skipped + count]
        return items

    def load(self, place: int, key) -> tuple[int, np.ndarray, ImageRecord]:
        """As `TrainingData.load`; the position is the one among the images of all sets."""
        index, image, record = self.sets[place].load(key)
        return self._first[place] + index, image, record

    def end_epoch(self) -> None:
        """Called after the last image of an epoch."""
        for data in self.sets:
            data.end_epoch()


def set_seed(seed: int, place: int) -> int:
    """The seed of a set's order in a mix, since sets of equal length would otherwise come in the same order."""
    return (seed + 7919 * place) % 2**32


class TrainingSamples:
    """The samples of every epoch, whatever batches them.

    An epoch is `data.repeat` rounds through the data. A sample depends only on `training.seed`, the number of the pass
    and the image, not on the timing of threads. Samples at the end of an epoch that do not fill a batch are left out. A
    batch comes in `training.accumulation_steps` micro-batches.

    Args:
        data: the labeled images.
        config: `keypoints`, `input_size`, `data.repeat`, `data.augmentation`, `targets`, `training.batch_size` and
            `training.seed`.

    Attributes:
        mix: the data as a mix, even if of one set.
        seed: `training.seed`.
        batches: whole batches in an epoch.

    Raises:
        InputError: there are fewer images than a batch holds.
    """

    def __init__(self, data: TrainingData | TrainingMix, config: Config):
        self.mix = data if isinstance(data, TrainingMix) else TrainingMix([data])
        self.seed = config.training.seed
        self.batch_size = config.training.batch_size
        self._repeat = config.data.repeat
        samples = len(self.mix) * self._repeat
        if samples < self.batch_size:
            raise InputError(
                f"training.batch_size must not exceed the samples of an epoch, {samples}. Received: {self.batch_size}"
            )
        self.batches = samples // self.batch_size
        if config.data.augmentation.flip:
            warn_without_flip_pairs(config.schema, "training", "set data.augmentation.flip to 0")
        self._encoder = SampleEncoder(
            config.schema, config, Sidecar.from_config(config).output_stride, self.mix.max_people
        )

    def rounds(self, epoch: int) -> np.ndarray:
        """(data.repeat,) int64: numbers of the rounds of an epoch."""
        return np.arange(epoch * self._repeat, (epoch + 1) * self._repeat)

    def items(self, epoch: int) -> np.ndarray:
        """(batches * B, 3) int64: set, pass and image of every sample. All sets must be `LabeledImages`."""
        items = np.concatenate([self.mix.items(number, self.seed) for number in self.rounds(epoch).tolist()])
        return items[: self.batches * self.batch_size]

    def make(self, place: int, number: int, key) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The sample of an image, from `SampleEncoder`.

        Args:
            place: of the set.
            number: of the pass.
            key: of the image in the set.

        Raises:
            InputError: the image cannot be read.
        """
        with one_thread:
            index, image, record = self.mix.load(place, key)
            return self._encoder(image, record, np.random.default_rng((self.seed, number, index)))

    def example(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """An empty sample, for shapes and types."""
        keypoints = np.zeros((0, len(self._encoder.schema), 3))
        nobody = ImageRecord(0, "", (64, 64), keypoints, np.zeros(0), np.zeros((0, 4)))
        return self._encoder(np.zeros((64, 64, 3), np.uint8), nobody, np.random.default_rng(0))


def open_training_data(config: Config) -> TrainingMix:
    """The training data that a config names.

    That is `data.train`, `data.train_records`, or `data.train_annotations` with `data.train_images`.

    Raises:
        InputError: none or several of them are set, or they cannot be read, do not fit the skeleton or lack images.
    """
    data = config.data
    pair = data.train_annotations, data.train_images
    forms = {
        "data.train": data.train is not None,
        "data.train_records": data.train_records is not None,
        "data.train_annotations and data.train_images": pair != (None, None),
    }
    given = [name for name, is_set in forms.items() if is_set]
    if len(given) != 1 or (None in pair and pair != (None, None)):
        received = " with ".join(given) if len(given) > 1 else "one of the pair" if given else "a config without"
        raise InputError(
            "training needs data.train_annotations and data.train_images, data.train_records, or data.train. "
            f"Received: {received}"
        )
    if data.train is None:
        return TrainingMix(
            [_open_set(TrainingSetConfig(annotations=pair[0], images=pair[1], records=data.train_records), config)]
        )
    sets, first_names = [], None
    for place, entry in enumerate(data.train):
        with _naming(place):
            sets.append(_open_set(entry, config))
            names = (
                config.schema.names if entry.records else read_keypoint_names(entry.annotations, config.data.category)
            )
            first_names = first_names or names
            if names and names != first_names:
                raise InputError(
                    f"expected the keypoints of the sets before, {', '.join(first_names)}. Received: {', '.join(names)}"
                )
    return TrainingMix(sets, [entry.weight for entry in data.train])


def report_people(records: Sequence[ImageRecord], targets: TargetConfig, name: str) -> str:
    """Counts the people that a set teaches the network to find; logs a warning if they are less than half of all.

    Args:
        records: of `read_annotations`.
        targets: for `min_center_area`.
        name: of the set, for the message.

    Returns:
        The numbers of people with labeled keypoints and of those who get a center, as one line.
    """
    areas = np.concatenate([record.areas for record in records])
    centers = sum(
        int(person_centers(record.keypoints, record.areas, targets.min_center_area)[:, 2].sum()) for record in records
    )
    line = f"{name}: {centers} of {len(areas)} people with labeled keypoints get a center"
    if not len(areas):
        _log.warning("%s: nobody has a labeled keypoint (visibility above 0), so no poses can be learned", name)
    elif 2 * centers < len(areas):
        _log.warning(
            "%s; the areas of the others are below targets.min_center_area (%g square pixels), %d of them 0. %s",
            line,
            targets.min_center_area,
            np.count_nonzero(areas == 0),
            "Most people are not learned" if centers else "Nobody's offsets are learned, so no poses will be found",
        )
    return line


def _open_set(entry: TrainingSetConfig, config: Config) -> TrainingData:
    if entry.records is not None:
        # TFRecord is TensorFlow's.
        from dekr_tf.data.records import RecordFiles

        return RecordFiles(entry.records, config.schema)
    records = read_annotations(entry.annotations, config.schema, config.data.category)
    return LabeledImages(records, entry.images, config.data.damaged_images)


@contextlib.contextmanager
def _naming(place: int) -> Iterator[None]:
    """Prefixes errors with the number of the set that they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"data.train.{place}: {error}") from error
