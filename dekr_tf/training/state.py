"""The one file from which a run resumes as if it had never stopped."""

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from keras import ops

from dekr_tf.errors import InputError
from dekr_tf.files.outputs import atomic_output
from dekr_tf.training.estimator import PoseEstimator

#: Name of the file in a run's folder.
STATE = "state.npz"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        rows: the logged values, one mapping per epoch.
        best_ap: highest AP on the validation images so far, -1 before the first.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    best_ap: float = -1.0

    @property
    def epochs(self) -> int:
        """Epochs that are done."""
        return len(self.rows)


def save_state(path: Path, model: PoseEstimator, progress: Progress) -> None:
    """Writes weights, optimizer and progress; an existing file is replaced only by a whole one.

    `keras.callbacks.BackupAndRestore` stores neither the log nor the best AP.

    Random numbers need no state: each sample depends only on the seed, the pass and the image.
    """
    arrays = {name: ops.convert_to_numpy(variable) for name, variable in _variables(model).items()}
    header = np.array(json.dumps({"rows": progress.rows, "best_ap": progress.best_ap}))
    with atomic_output(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, header=header, **arrays)
        file.flush()
        os.fsync(file.fileno())


def load_state(path: Path, model: PoseEstimator) -> Progress:
    """Restores a model, built and compiled with the same settings, to its state in `save_state`.

    Raises:
        InputError: the file is damaged, or of another network or optimizer.
    """
    variables = _variables(model)
    try:
        with np.load(path) as file:
            header = json.loads(str(file["header"]))
            arrays = {name: file[name] for name in file.files if name != "header"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected the state of a training. Received: a damaged file, {error}") from error
    expected = {name: tuple(variable.shape) for name, variable in variables.items()}
    received = {name: array.shape for name, array in arrays.items()}
    if received != expected:
        name = min(set(received.items()) ^ set(expected.items()))[0]
        raise InputError(
            f"{path}: expected the state of this network and optimizer, {name} of {expected.get(name)}. "
            f"Received: {received.get(name)}"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return Progress(header["rows"], header["best_ap"])


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary folders that killed writers have left in a run's folder."""
    for path in folder.glob(".*.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _variables(model: PoseEstimator) -> Mapping[str, object]:
    groups = {"network": model.network.variables, "optimizer": model.optimizer.variables}
    return {f"{group}/{number}": variable for group, list_ in groups.items() for number, variable in enumerate(list_)}
