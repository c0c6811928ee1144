"""Saving and loading models together with their settings."""

import zipfile
from pathlib import Path

import keras
import numpy as np

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.files.inputs import is_file
from dekr_tf.files.outputs import atomic_output
from dekr_tf.layers.backend import check_keras_settings
from dekr_tf.models.dekr import build_dekr
from dekr_tf.sidecar import MEMBER, Sidecar, read_sidecar, to_json, write_sidecar
from dekr_tf.weights import resolve

#: A whole model; weights alone; and weights in float16 with the sidecar inside the file, for models that ship.
WHOLE, WEIGHTS, COMPACT = ".keras", ".weights.h5", ".weights.npz"


def save_model(model: keras.Model, path: str | Path, sidecar: Sidecar | None = None) -> None:
    """Writes a model as `.keras` (whole), `.weights.h5` (weights only) or `.weights.npz` (weights in float16).

    The sidecar becomes the model's, and is written beside the file; a `.weights.npz` has it inside instead, and a
    `.keras` of `build_dekr`'s network inside as well.

    Raises:
        InputError: the suffix is another, the file cannot be written, or a `.weights.npz` has no sidecar.
    """
    check_suffix(path)
    if sidecar is not None:
        model.sidecar = sidecar
    compact = str(path).endswith(COMPACT)
    with atomic_output(path) as temporary:
        if compact:
            _write_compact(model, temporary, sidecar)
        elif str(path).endswith(WHOLE):
            model.save(temporary)
        else:
            # Claims the space, since HDF5 reports a full disk in many lines, and not as an OSError.
            temporary.write_bytes(bytes(4 * model.count_params() + 4096 * len(model.variables)))
            model.save_weights(temporary)
    if sidecar is not None and not compact:
        write_sidecar(sidecar, path)


def load_model(path: str | Path, config: Config | None = None) -> tuple[keras.Model, Sidecar]:
    """Reads a DEKR and its settings.

    Args:
        path: a `.keras`, `.weights.h5` or `.weights.npz` file, or a name that `dekr weights` lists.
        config: settings to use instead of those in the sidecar; the architecture of a `.weights.h5` file follows it.

    Raises:
        InputError: the file is missing, damaged, not a DEKR of this package, or does not fit the settings; or Keras'
            settings are not those that the network needs.
    """
    path = resolve(path, "network")
    check_suffix(path)
    check_keras_settings()
    if not is_file(path):
        raise InputError(f"no such model: {path}")
    sidecar = read_sidecar(path) if config is None else Sidecar.from_config(config)
    whole = str(path).endswith(WHOLE)
    model = None if whole else build_dekr(sidecar.model, sidecar.schema)
    try:
        if whole:
            model = keras.models.load_model(path, compile=False)
            model = getattr(model, "network", model)  # Of a `PoseEstimator`.
        elif str(path).endswith(COMPACT):
            _read_compact(model, path)
        else:
            model.load_weights(path)
    except Exception as error:  # On a damaged file, zipfile, HDF5 and Keras can raise almost any exception.
        # Keras reports any other file as missing.
        broken = whole and not zipfile.is_zipfile(path)
        reason = "not a whole .keras archive" if broken else str(error).strip().split("\n")[0]
        raise InputError(f"{path} is not a DEKR of these settings, or it is damaged: {reason}") from error
    outputs = model.output if isinstance(model.output, dict) else {}
    channels = {name: output.shape[-1] for name, output in outputs.items()}
    expected = {"heatmap": len(sidecar.schema) + 1, "offset": 2 * len(sidecar.schema)}
    if channels != expected:
        received = channels or "no named outputs"
        raise InputError(
            f"{path}: skeleton {sidecar.schema.name} needs output channels {expected}. Received: {received}"
        )
    model.sidecar = sidecar
    return model, sidecar


def check_suffix(path: str | Path) -> None:
    """Raises InputError unless a model can be saved under this name."""
    if not str(path).endswith((WHOLE, WEIGHTS, COMPACT)):
        raise InputError(f"a model file ends in {WHOLE}, {WEIGHTS} or {COMPACT}. Received: {path}")


def _write_compact(model, path, sidecar):
    if sidecar is None:
        raise InputError(f"{path.name}: the model has no settings, which this kind of file holds inside")
    arrays = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.variables}
    limit = np.finfo(np.float16).max
    for name, array in arrays.items():
        # Variances can be larger than float16 holds; those stay in float32.
        if np.abs(array).max(initial=0) <= limit:
            arrays[name] = array.astype(np.float16)
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), to_json(sidecar))


def _read_compact(model, path):
    with np.load(path, allow_pickle=False) as file:
        names = {name for name in file.files if name != MEMBER}
        missing = sorted({variable.path for variable in model.variables} ^ names)
        if missing:
            raise ValueError(f"the weight {missing[0]} is in one of them only")
        for variable in model.variables:
            variable.assign(file[variable.path].astype(np.float32))
