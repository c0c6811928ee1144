"""Engines that run exported models without Keras: LiteRT, ONNX Runtime, TensorFlow's SavedModel."""

import importlib
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.files import exists, is_folder
from dekr_tf.inference.sparse_head import SparseOffsetMap
from dekr_tf.processors import available_processors
from dekr_tf.sidecar import sidecar_path
from dekr_tf.weights import resolve

#: Name of the offset head's weights (`models.pose_model.fold_offset_head`) that go with a model that ends at the maps:
#: inside a folder or a file that carries them.
HEAD_MEMBER = "offset_head.npz"

#: Packages with LiteRT's `interpreter` module. The second is the retired one, all there is for 32-bit Raspberry Pi.
LITERT = "ai_edge_litert", "tflite_runtime"

#: What a SavedModel's signature for arrays is called, by its input type.
SAVED_MODEL_SIGNATURES = {"float32": "serving_default", "uint8": "uint8"}


class LiteRTEngine:
    """Runs a `.tflite` file on the CPU, image by image.

    Args:
        path: of the file. It has a signature for each size of its input.
        outputs: names of what to return, in this order.
        threads: by default `processors.available_processors`.

    Raises:
        InputError: the file is damaged, or has other outputs; or no LiteRT is installed.
    """

    def __init__(self, path: Path, outputs: Sequence[str], threads: int | None = None):
        try:
            self._interpreter = _litert().Interpreter(str(path), num_threads=threads or available_processors())
            signatures = self._interpreter.get_signature_list()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{path} is no TFLite model that can be run, or it is damaged: {_line(error)}") from error
        self._path = path
        self._outputs = outputs
        self._signatures = list(signatures)
        for name, signature in signatures.items():
            if signature["inputs"] != ["image"]:
                raise InputError(f"{path}: expected an input image. Received: {signature['inputs']} of {name}")
            _check_outputs(path, outputs, signature["outputs"])
        self._runners = {}
        # An interpreter works in memory of its own, for one caller at a time.
        self._lock = threading.Lock()

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            with self._lock:
                runner = self._runner(images.shape[1:3])
                values = [runner(image=image[None]) for image in images]
        except (ValueError, RuntimeError) as error:
            # Memory for its tensors is only taken here, and operators that are not known are only found here.
            raise InputError(f"{self._path} cannot be run: {_line(error)}") from error
        return tuple(np.concatenate([each[name] for each in values]) for name in self._outputs)

    def undelegated_operators(self) -> dict[str, int] | None:
        """Operators that run one by one, since no delegate such as XNNPACK took them, by name with their number.

        They are those of the first signature, and known after the first image. The runtime lists the operators that a
        delegate replaced as well, so the graph is walked from its outputs.

        Returns:
            The most frequent first; None if this version of the runtime does not say.
        """
        # There is no public form of it.
        list_operators = getattr(self._interpreter, "_get_ops_details", None)
        if list_operators is None:
            return None
        # Delegates come last in the list, and replace what made the same tensors.
        producers = {tensor: operator for operator in list_operators() for tensor in operator["outputs"].tolist()}
        tensors = [output["index"] for output in self._interpreter.get_output_details()]
        needed = {}
        while tensors:
            operator = producers.get(tensors.pop())
            if operator is not None and operator["index"] not in needed:
                needed[operator["index"]] = operator["op_name"]
                tensors += operator["inputs"].tolist()
        return dict(Counter(name for name in needed.values() if name != "DELEGATE").most_common())

    def _runner(self, size):
        if size not in self._runners:
            name = self._signatures[0] if len(self._signatures) == 1 else "{}x{}".format(*size)
            self._runners[size] = self._interpreter.get_signature_runner(name)
        return self._runners[size]


class OnnxEngine:
    """Runs an `.onnx` file with ONNX Runtime on the CPU; arguments and errors as for `LiteRTEngine`."""

    def __init__(self, path: Path, outputs: Sequence[str], threads: int | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_processors()
        # Errors only: it warns of an attribute of every nearest enlarging that tf2onnx writes.
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no base class of their own.
            raise InputError(f"{path} is no ONNX model that can be run, or it is damaged: {_line(error)}") from error
        inputs = [each.name for each in self._session.get_inputs()]
        if inputs != ["image"]:
            raise InputError(f"{path}: expected an input image. Received: {inputs}")
        _check_outputs(path, outputs, [each.name for each in self._session.get_outputs()])
        self._outputs = list(outputs)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(self._session.run(self._outputs, {"image": images}))


class SavedModelEngine:
    """Runs a SavedModel with TensorFlow.

    Args:
        path: of the folder.
        outputs: names of what to return, in this order.
        input_type: of the images, `float32` or `uint8`.

    Raises:
        InputError: the folder is no SavedModel, is damaged, or has other outputs.
    """

    def __init__(self, path: Path, outputs: Sequence[str], input_type: str):
        import tensorflow as tf

        try:
            # Kept, since the variables live as long as it does.
            self._model = tf.saved_model.load(str(path))
        except Exception as error:  # Damage shows in every kind of error that TensorFlow has.
            raise InputError(f"{path} is no SavedModel, or it is damaged: {_line(error)}") from error
        name = SAVED_MODEL_SIGNATURES[input_type]
        self._function = self._model.signatures.get(name)
        if self._function is None:
            raise InputError(f"{path}: expected a signature {name}. Received: {list(self._model.signatures)}")
        _check_outputs(path, outputs, self._function.structured_outputs)
        self._outputs = outputs

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        import tensorflow as tf

        values = self._function(image=tf.constant(images))
        return tuple(values[name].numpy() for name in self._outputs)


class SparseMaps:
    """A network that ends at heatmap and features, with the offset head behind it in NumPy.

    Args:
        engine: gives `heatmap` (B, h, w, K + 1) and `features` (B, h, w, C).
        weights: of `models.pose_model.fold_offset_head`.
    """

    def __init__(self, engine, weights: Mapping[str, np.ndarray]):
        self.engine = engine
        self._weights = weights

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, list[SparseOffsetMap]]:
        heatmaps, features = self.engine(images)
        return heatmaps, [SparseOffsetMap(each, self._weights) for each in features]


def head_path(model: str | Path) -> Path:
    """Where the offset head's weights of a model lie that ends at the maps: in a folder, beside a file."""
    return Path(model) / HEAD_MEMBER if is_folder(model) else Path(f"{model}.{HEAD_MEMBER}")


def model_files(model: str | Path) -> list[Path]:
    """The files that a model consists of, whether they are there or not: of a SavedModel, all that is in the folder."""
    path = Path(resolve(model, "network"))
    return [path, sidecar_path(path), head_path(path), *path.rglob("*")]


def read_head(model: str | Path) -> dict[str, np.ndarray]:
    """The offset head's weights of a model that ends at the maps; inside the file where they do not lie beside it.

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
        raise InputError(f"{model}: expected the weights of its offset head in {path}. {_line(error)}") from error


def _litert():
    for package in LITERT:
        try:
            with warnings.catch_warnings():
                # The retired package warns of what it imports itself.
                warnings.simplefilter("ignore")
                return importlib.import_module(f"{package}.interpreter")
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] != package:
                raise
    raise InputError(f"running a .tflite file needs one of the packages {', '.join(LITERT)}. Received: none installed")


def _check_outputs(path, expected, received):
    if not set(expected) <= set(received):
        raise InputError(f"{path}: expected the outputs {', '.join(expected)}. Received: {', '.join(received)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
