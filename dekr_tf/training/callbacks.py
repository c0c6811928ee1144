"""The callbacks of training: files, validation, TensorBoard, and a stop on losses that are not finite."""

import contextlib
import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from dekr_tf.config import Config
from dekr_tf.errors import InputError, TrainingError
from dekr_tf.files.outputs import atomic_output
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.models.files import save_model
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.estimator import PoseEstimator
from dekr_tf.training.schedules import learning_rate
from dekr_tf.training.state import STATE, Progress, save_state
from dekr_tf.training.summaries import write_summaries
from dekr_tf.training.validation import ValidationSet

#: Name of the log in the run's folder, and its columns.
LOG = "log.csv"
COLUMNS = ("epoch", "loss", "heatmap_loss", "offset_loss", "learning_rate", "val_AP")
#: Folder for TensorBoard in the run's folder.
SUMMARIES = "tensorboard"


class StopOnNan(keras.callbacks.Callback):
    """Ends the training with a `TrainingError` when a loss or a weight is not finite.

    `keras.callbacks.TerminateOnNaN` checks only the total loss, and no weights.

    Args:
        output: the run's folder.
        progress: for the message, which names the last good checkpoint.
    """

    def __init__(self, output: Path, progress: Progress):
        super().__init__()
        self.output = output
        self.progress = progress

    def on_train_batch_end(self, batch, logs=None):
        for name in ("heatmap_loss", "offset_loss"):
            if not math.isfinite(logs[name]):
                self._stop(f"step {batch + 1} of ", f"{name} {logs[name]}")

    def on_epoch_end(self, epoch, logs=None):
        # Catches the last step's update, which no loss has seen yet.
        for variable in self.model.network.variables:
            if not np.isfinite(ops.convert_to_numpy(variable)).all():
                self._stop("the end of ", f"{variable.path} with values that are not")

    def _stop(self, where: str, received: str):
        raise TrainingError(
            f"training stopped at {where}epoch {self.progress.epochs + 1}: expected finite losses and weights; "
            f"{last_checkpoint(self.output, self.progress)}. Received: {received}"
        )


class RunFiles(keras.callbacks.Callback):
    """Validates, draws and writes at the end of every epoch, the state last, so that it vouches for all other files.

    Keras' `ModelCheckpoint`, `CSVLogger` and `BackupAndRestore` know nothing of each other: a kill between two of them
    leaves files of different epochs.

    Args:
        config: of the training.
        output: the run's folder.
        progress: of the run so far, kept up to date.
        network: a second network, in float32, for inference; it gets the trained weights or their averages.
        validation: images to validate on, or None.
    """

    def __init__(
        self, config: Config, output: Path, progress: Progress, network: keras.Model, validation: ValidationSet | None
    ):
        super().__init__()
        self.config = config
        self.output = output
        self.progress = progress
        self.network = network
        self.sidecar = Sidecar.from_config(config)
        self.validation = validation
        # The weights change from epoch to epoch, and only the dense head reads the network's own.
        self.detector = PoseDetector(network, self.sidecar, dense=True)

    def on_train_begin(self, logs=None):
        """Rolls the log and TensorBoard's files back to the epoch of the state."""
        for path in (self.output / SUMMARIES).glob("*"):
            epoch = re.search(r"\.epoch(\d+)$", path.name)
            if epoch and int(epoch[1]) > self.progress.epochs:
                path.unlink()
        if self.progress.rows:
            self._write_log()

    def on_epoch_end(self, epoch, logs=None):
        copy_weights(self.model, self.network)
        training = self.config.training
        # The rate of the epoch's last step, since the optimizer already has that of the next one.
        steps = self.params["steps"]
        logs["learning_rate"] = float(learning_rate(training, steps)((epoch + 1) * steps - 1))
        validates = self.validation and ((epoch + 1) % training.validate_every == 0 or epoch + 1 == training.epochs)
        if validates:
            logs["val_AP"] = self.validation.measure(self.detector)
        pictures = list(self.validation.pictures(self.detector)) if validates else ()
        with self._full_disk():
            # A file for each epoch, so that `on_train_begin` can remove those that are repeated after a kill.
            write_summaries(self.output / SUMMARIES, f".epoch{epoch + 1:04d}", epoch + 1, logs, pictures)
            save_model(self.network, self.output / "last.keras", self.sidecar)
            if validates and logs["val_AP"] > self.progress.best_ap:
                self.progress.best_ap = logs["val_AP"]
                save_model(self.network, self.output / "best.keras", self.sidecar)
            self.progress.rows.append({"epoch": epoch + 1, **logs})
            self._write_log()
            save_state(self.output / STATE, self.model, self.progress)

    def _write_log(self):
        with (
            atomic_output(self.output / LOG) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.progress.rows)

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[None]:
        done = last_checkpoint(self.output, self.progress)
        try:
            yield
        except (OSError, InputError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TrainingError(f"cannot write to {self.output}; {done}. Received: {reason}") from error


def copy_weights(model: PoseEstimator, network: keras.Model) -> None:
    """Copies the weights of a model in training, or their moving averages, to a network for inference."""
    values = {id(variable): variable for variable in model.network.variables}
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if optimizer.use_ema:
        # Frozen layers have no averages. `SwapEMAWeights` would exchange weights and averages by adding and
        # subtracting, which rounds.
        averages = optimizer._model_variables_moving_average
        values |= zip(map(id, model.network.trainable_variables), averages, strict=True)
    for variable, source in zip(network.variables, model.network.variables, strict=True):
        variable.assign(ops.convert_to_numpy(values[id(source)]))


def last_checkpoint(output: Path, progress: Progress) -> str:
    """The part of a message that names the state from which the run can resume."""
    if not progress.epochs:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {output / STATE}, after epoch {progress.epochs}"
