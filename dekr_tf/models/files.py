"""Saving and loading models together with their settings."""

import zipfile
from pathlib import Path

import keras

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.files import atomic_output
from dekr_tf.models.dekr import build_dekr
from dekr_tf.sidecar import Sidecar, read_sidecar, write_sidecar

WHOLE, WEIGHTS = ".keras", ".weights.h5"


def save_model(model: keras.Model, path: str | Path, sidecar: Sidecar | None = None) -> None:
    """Writes a model as `.keras` (whole) or `.weights.h5` (weights only), and its sidecar where it has one.

    Raises:
        InputError: another suffix, or the file cannot be written.
    """
    check_suffix(path)
    with atomic_output(path) as temporary:
        (model.save if str(path).endswith(WHOLE) else model.save_weights)(temporary)
    if sidecar is not None:
        write_sidecar(sidecar, path)


def load_model(path: str | Path, config: Config | None = None) -> tuple[keras.Model, Sidecar]:
    """Reads a DEKR and its settings.

    Args:
        path: a `.keras` or `.weights.h5` file.
        config: settings to use instead of those in the sidecar; the architecture of a `.weights.h5` file follows it.

    Raises:
        InputError: the file is missing, damaged, no DEKR of ours, or does not fit the settings.
    """
    check_suffix(path)
    if not Path(path).is_file():
        raise InputError(f"no such model: {path}")
    sidecar = read_sidecar(path) if config is None else Sidecar.from_config(config)
    whole = str(path).endswith(WHOLE)
    model = None if whole else build_dekr(sidecar.model, sidecar.schema)
    try:
        if whole:
            model = keras.models.load_model(path, compile=False)
        else:
            model.load_weights(path)
    except Exception as error:  # A damaged file makes zipfile, HDF5 and Keras fail in every way there is.
        # Keras says of any other file that it is not there.
        broken = whole and not zipfile.is_zipfile(path)
        reason = "not a whole .keras archive" if broken else str(error).strip().split("\n")[0]
        raise InputError(f"{path} is not a DEKR of these settings, or it is damaged: {reason}") from error
    outputs = model.output if isinstance(model.output, dict) else {}
    channels = {name: output.shape[-1] for name, output in outputs.items()}
    expected = {"heatmap": len(sidecar.schema) + 1, "offset": 2 * len(sidecar.schema)}
    if channels != expected:
        raise InputError(
            f"{path}: skeleton {sidecar.schema.name} needs output channels {expected}. Received: {channels or 'others'}"
        )
    return model, sidecar


def check_suffix(path: str | Path) -> None:
    """Raises InputError unless a model can be kept under this name."""
    if not str(path).endswith((WHOLE, WEIGHTS)):
        raise InputError(f"a model file ends in {WHOLE} or {WEIGHTS}. Received: {path}")
