"""Opens a model file, a Keras model or an engine as the engine that finds people with it."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.files.inputs import exists, is_folder
from dekr_tf.inference.candidates import MapDecoder
from dekr_tf.inference.engines import (
    FEATURES,
    FINAL,
    MAPS,
    POSES,
    Engine,
    FunctionEngine,
    KerasEngine,
    LiteRTEngine,
    OnnxEngine,
    SavedModelEngine,
)
from dekr_tf.sidecar import Sidecar, read_sidecar, sidecar_path
from dekr_tf.weights import resolve

if TYPE_CHECKING:
    import keras

#: Name of the offset head's weights (`models.folding.fold_offset_head`) for a model that ends at the maps, inside the
#: folder or file that carries them.
HEAD_MEMBER = "offset_head.npz"


def open_model(
    model: "str | Path | keras.Model | Engine | Callable",
    sidecar: Sidecar | None = None,
    config: Config | None = None,
    *,
    flip: bool = False,
    dense: bool = False,
    threads: int | None = None,
    heatmap: bool = False,
) -> tuple[Engine, Sidecar]:
    """The engine of a model, and the settings that inference needs.

    Args:
        model: path of a model: `.keras`, `.weights.h5`, `.weights.npz`, `.tflite`, `.onnx` or a SavedModel's folder;
            a `PoseEstimator`; a Keras model; or an engine, or a function as its `run`, which outputs maps with `dense`,
            else candidate poses.
        sidecar: settings of a model that brings none; files, `PoseEstimator` and the network of `build_dekr` do.
        config: of the experiment, if there is no sidecar.
        flip: with flip test.
        dense: the network outputs whole maps, which are decoded in NumPy.
        threads: of LiteRT and ONNX Runtime; by default `processors.available_processors`.
        heatmap: the engine returns the heatmap besides the poses.

    Raises:
        InputError: the file cannot be read, the settings are missing, `flip` or `heatmap` is asked of an engine that
            outputs poses, or `config` or `dense` is given with an exported model.
    """
    if isinstance(model, str | Path):
        if is_folder(model) or Path(model).suffix in (".tflite", ".onnx"):
            return _open_artifact(Path(model), config, flip, dense, threads, heatmap)
        from dekr_tf.models import load_model

        model, sidecar = load_model(model, config)
    else:
        if sidecar is None and config is not None:
            sidecar = Sidecar.from_config(config)
        sidecar = sidecar or getattr(model, "sidecar", None)
        if sidecar is None:
            raise InputError("expected a sidecar or a config with a model that is no file and has no settings itself")
        if _is_keras_model(model):
            model = getattr(model, "network", model)  # Of a `PoseEstimator`.
    if _is_keras_model(model):
        if dense:
            return MapDecoder(KerasEngine(model, MAPS), sidecar, flip, heatmap), sidecar
        # Besides `load_model`, the only import here that needs Keras.
        from dekr_tf.models.pose_model import build_pose_model

        network = build_pose_model(model, sidecar, flip=flip, heatmap_output=heatmap)
        return KerasEngine(network, (*POSES, "heatmap") if heatmap else POSES), sidecar
    engine = model if hasattr(model, "run") else FunctionEngine(model)
    if dense:
        return MapDecoder(engine, sidecar, flip, heatmap), sidecar
    if flip:
        raise InputError(f"expected an engine with flip test inside, and no flip beside it. Received: {model}")
    if heatmap:
        raise InputError(f"expected an engine that gives heatmaps, for several scales or matching. Received: {model}")
    return engine, sidecar


def head_path(model: str | Path) -> Path:
    """The path of the offset head's weights for a model that ends at the maps: in a folder, beside a file."""
    return Path(model) / HEAD_MEMBER if is_folder(model) else Path(f"{model}.{HEAD_MEMBER}")


def model_files(model: str | Path) -> list[Path]:
    """The files that a model consists of, whether they exist or not; for a SavedModel, everything in its folder."""
    # The name of the package's model stands for two files.
    paths = {Path(resolve(model, "network", exported=exported)) for exported in (False, True)}
    return [each for path in sorted(paths) for each in (path, sidecar_path(path), head_path(path), *path.rglob("*"))]


def read_head(model: str | Path) -> dict[str, np.ndarray]:
    """The offset head's weights for a model that ends at the maps: the file of `head_path`, or else the copy inside.

    Raises:
        InputError: they are missing or damaged.
    """
    path = head_path(model)
    try:
        if exists(path):
            with np.load(path) as arrays:
                return dict(arrays)
        with zipfile.ZipFile(model) as archive, archive.open(HEAD_MEMBER) as file, np.load(file) as arrays:
            return dict(arrays)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{model}: expected the weights of its offset head in {path}. {error}") from error


def _open_artifact(path, config, flip, dense, threads, heatmap):
    if not exists(path):
        raise InputError(f"no such model: {path}")
    if config is not None:
        raise InputError(f"a config cannot be combined with an exported model, which carries its own settings: {path}")
    sidecar = read_sidecar(path)
    artifact = sidecar.artifact
    if artifact is None:
        raise InputError(f"{path}: expected a model that dekr export wrote. Received: a sidecar of a Keras model")
    if dense:
        raise InputError(f"expected a Keras model for a dense offset head. Received: {path}")
    if heatmap and artifact.graph == "poses":
        raise InputError(
            f"expected a Keras model, or one that ends at the maps, for several scales or matching. Received: {path}"
        )
    outputs = FINAL if artifact.final else POSES if artifact.graph == "poses" else FEATURES
    if is_folder(path):
        engine = SavedModelEngine(path, outputs, artifact.input_type)
    else:
        engine = (LiteRTEngine if path.suffix == ".tflite" else OnnxEngine)(path, outputs, threads)
    if artifact.graph == "maps":
        return MapDecoder(engine, sidecar, flip, heatmap, read_head(path)), sidecar
    if flip and not artifact.flip:
        raise InputError(f"expected a model that was exported with --flip, for a flip test. Received: {path}")
    return engine, sidecar


def _is_keras_model(model) -> bool:
    # By class name, since another engine should not have to wait for the import of Keras.
    return any(kind.__module__.startswith("keras.") and kind.__name__ == "Model" for kind in type(model).__mro__)
