"""Writes a DEKR as a checkpoint that the reference's code reads."""

from pathlib import Path

import keras
import numpy as np

from converters.weight_map import dekr_entries
from dekr_tf.errors import InputError
from dekr_tf.files.outputs import atomic_output
from dekr_tf.geometry import GRID
from dekr_tf.sidecar import Sidecar


def to_state_dict(model: keras.Model, sidecar: Sidecar) -> dict[str, np.ndarray]:
    """The tensors of a DEKR under the reference's names, with the constants and counters that the reference expects.

    Args:
        model: of `build_dekr`.
        sidecar: its settings.

    Returns:
        Arrays by name: float32, and int64 for `num_batches_tracked`.

    Raises:
        InputError: the model is not of the reference's architecture.
    """
    tensors = {}
    for entry in dekr_entries(sidecar.model, len(sidecar.schema)):
        variable = getattr(model.get_layer(entry.layer), entry.variable)
        tensors[entry.source] = np.ascontiguousarray(entry.to_source(np.asarray(variable, np.float32)))
        module, _, name = entry.source.rpartition(".")
        if name == "running_var":
            tensors[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
        if module.endswith(".adapt_conv"):
            grid = np.ascontiguousarray(np.transpose(GRID), np.float32)
            tensors[f"{module.removesuffix('.adapt_conv')}.regular_matrix"] = grid
    return tensors


def export_checkpoint(model: keras.Model, sidecar: Sidecar, path: str | Path) -> None:
    """Saves a DEKR as a `.pth` file of the reference.

    Raises:
        InputError: the model is not of the reference's architecture, PyTorch is missing, or the file cannot be written.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("writing a .pth file needs PyTorch: pip install 'dekr-tf[torch]'") from error
    tensors = {name: torch.from_numpy(value) for name, value in to_state_dict(model, sidecar).items()}
    with atomic_output(path) as temporary:
        torch.save(tensors, temporary)
