"""The batches of training without tf.data, for the JAX and PyTorch backends of Keras."""

from concurrent.futures import Future, ThreadPoolExecutor

import keras
import numpy as np

from dekr_tf.config import Config
from dekr_tf.data.samples import LabeledImages, TrainingData, TrainingMix, TrainingSamples
from dekr_tf.errors import InputError

#: Batches to prepare while another is trained on.
AHEAD = 2


class TrainingBatches(keras.utils.PyDataset):
    """Batches for training; each epoch of `fit` has a new order and new augmentations.

    They equal those of `pipeline.train_dataset`, value by value, however many workers make them. As a context manager
    it ends its workers with the block; Keras' own workers go on after an error.

    Args:
        data: of image files.
        config: see `TrainingSamples`.
        first_epoch: number of the first epoch, for a resumed run.
        workers: threads that make samples.

    Attributes:
        epoch: number of the current epoch.

    Raises:
        InputError: there are fewer images than a batch holds, or the data are records, which TensorFlow alone reads.
    """

    def __init__(self, data: TrainingData | TrainingMix, config: Config, *, first_epoch: int = 0, workers: int = 1):
        super().__init__()
        self._samples = TrainingSamples(data, config)
        self._parts = config.training.accumulation_steps
        if not all(isinstance(each, LabeledImages) for each in self._samples.mix.sets):
            raise InputError(
                "expected annotations and images as training data, since only TensorFlow reads TFRecord files. "
                f"Received: records with the {keras.backend.backend()} backend of Keras"
            )
        self.epoch = first_epoch
        self._items = self._samples.items(first_epoch)
        self._begun = self._last_made = False
        self._pool = ThreadPoolExecutor(workers)
        self._ahead = AHEAD + workers // (self._samples.batch_size // self._parts)
        self._started: dict[int, list[Future]] = {}

    def __enter__(self) -> "TrainingBatches":
        return self

    def __exit__(self, *_):
        self._pool.shutdown(cancel_futures=True)

    def __len__(self):
        return self._samples.batches * self._parts

    def __getitem__(self, number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Batch `number` of the epoch.

        Returns:
            Image (B, S, S, 3) uint8 RGB; labels from `TargetEncoder`, batched. B is the size of a micro-batch.

        Raises:
            InputError: an image cannot be read.
        """
        if number == len(self) - 1:
            self._last_made = True
        size = self._samples.batch_size // self._parts
        for each in range(number, min(number + 1 + self._ahead, len(self))):
            if each not in self._started:
                items = self._items[each * size : (each + 1) * size].tolist()
                self._started[each] = [self._pool.submit(self._samples.make, *item) for item in items]
        images, labels = zip(*(sample.result() for sample in self._started.pop(number)), strict=True)
        return np.stack(images), {name: np.stack([each[name] for each in labels]) for name in labels[0]}

    def on_epoch_begin(self):
        """Keras calls it before the first batch of an epoch, or soon after."""
        self._begun = True

    def on_epoch_end(self):
        """Goes on to the next epoch, if this one went from beginning to end.

        Keras also calls it before `fit` begins, perhaps after a look at the first batches.
        """
        if self._begun and self._last_made:
            self._samples.mix.end_epoch()
            self.epoch += 1
            self._items = self._samples.items(self.epoch)
            self._started.clear()
        self._begun = self._last_made = False
