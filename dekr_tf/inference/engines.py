"""Engines, which run a network behind one protocol: Keras, TensorFlow's SavedModel, LiteRT, ONNX Runtime."""

import importlib
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.processors import available_processors

if TYPE_CHECKING:
    import keras

#: Outputs of a network that ends at final poses.
FINAL = "keypoints", "scores", "num_poses"
#: Outputs of a network that ends at candidate poses.
POSES = "keypoints", "keypoint_scores", "center_scores"
#: Outputs of a network that ends at the maps.
MAPS = "heatmap", "offset"
#: Outputs of a network that ends before the branches of the offset head.
FEATURES = "heatmap", "features"

#: Packages with LiteRT's `interpreter` module. The second one is retired, but the only one for 32-bit Raspberry Pi.
LITERT = "ai_edge_litert", "tflite_runtime"

#: Name of a SavedModel's signature for arrays, by its input type.
SAVED_MODEL_SIGNATURES = {"float32": "serving_default", "uint8": "uint8"}


class Engine(Protocol):
    """Runs a network, and finds the candidate poses in its outputs.

    A network that ends at candidates needs `run` only, and so does one that ends at final poses (the sidecar's
    `artifact.final`), which skip `candidates`. A `candidates.MapDecoder`, itself an engine, wraps the engine of a
    network that ends at the maps.
    """

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Runs the network.

        Args:
            images: (B, H, W, 3) float32 RGB, normalized with the sidecar's mean and std, or uint8 if the sidecar's
                artifact says so; H and W multiples of 32.

        Returns:
            The outputs of the network, float32, which `candidates` takes. Or final poses: keypoints (B, N, K, 3), x and
            y in pixels of the images and score; pose scores (B, N), best first; and the number of poses (B,) int32.
        """

    def candidates(self, outputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Finds candidate poses, N in each image, in what `run` returned.

        Returns:
            keypoints (B, N, K, 2), x and y in pixels of the images; keypoint scores (B, N, K), center score times heat
            value; center scores (B, N), in descending order, zero after the last candidate. An engine that was opened
            with `heatmap` also returns that, (B, h, w, K + 1), the center last, with flip test the mean. All float32.
        """
        return outputs

    def undelegated_operators(self) -> dict[str, int] | None:
        """Operators that no delegate took, if the engine has delegates: see `LiteRTEngine`."""
        return None


class FunctionEngine(Engine):
    """A function as an engine, for a network that runs elsewhere.

    Args:
        function: from images to outputs, as `Engine.run`.
    """

    def __init__(self, function: Callable[[np.ndarray], tuple[np.ndarray, ...]]):
        self._function = function

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Engine`."""
        return self._function(images)


class KerasEngine(Engine):
    """Runs a Keras model; on TensorFlow, in one graph for all image sizes.

    Args:
        model: takes (B, H, W, 3), returns a dict.
        outputs: keys of the dict to return, in this order.
    """

    def __init__(self, model: "keras.Model", outputs: Sequence[str]):
        import keras

        self._to_numpy = keras.ops.convert_to_numpy
        self._outputs = outputs

        def infer(images):
            return model(images, training=False)

        if keras.backend.backend() == "tensorflow":
            # `Model.predict_on_batch` would compile with XLA, anew for each image size.
            import tensorflow as tf

            infer = tf.function(infer, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
        self._infer = infer

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Engine`."""
        values = self._infer(images)
        return tuple(np.asarray(self._to_numpy(values[name]), np.float32) for name in self._outputs)


class LiteRTEngine(Engine):
    """Runs a `.tflite` file on the CPU, image by image.

    Args:
        path: of the file, which has a signature for each size of its input.
        outputs: names of the outputs to return, in this order.
        threads: by default `processors.available_processors`.

    Raises:
        InputError: the file is damaged, has other inputs or lacks outputs; or LiteRT is not installed.
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
        # An interpreter has one set of tensors, for one caller at a time.
        self._lock = threading.Lock()

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Engine`."""
        try:
            with self._lock:
                runner = self._runner(images.shape[1:3])
                values = [runner(image=image[None]) for image in images]
        except (ValueError, RuntimeError) as error:
            # LiteRT allocates tensors, and detects unknown operators, only here.
            raise InputError(f"{self._path} cannot be run: {_line(error)}") from error
        return tuple(np.concatenate([each[name] for each in values]) for name in self._outputs)

    def undelegated_operators(self) -> dict[str, int] | None:
        """Counts, by name, the operators that no delegate such as XNNPACK took.

        They are those of the first signature, and known after the first image. LiteRT also lists the operators that a
        delegate replaced, so the graph is walked from its outputs.

        Returns:
            The most frequent first; None if this version of LiteRT does not tell.
        """
        # There is no public API for this.
        list_operators = getattr(self._interpreter, "_get_ops_details", None)
        if list_operators is None:
            return None
        # Delegates come last in the list, and replace the operators that made the same tensors.
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


class OnnxEngine(Engine):
    """Runs an `.onnx` file with ONNX Runtime on the CPU; arguments and errors as for `LiteRTEngine`."""

    def __init__(self, path: Path, outputs: Sequence[str], threads: int | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_processors()
        # Errors only: it warns about an attribute of every nearest-neighbor upsampling that tf2onnx writes.
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

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Engine`."""
        return tuple(self._session.run(self._outputs, {"image": images}))


class SavedModelEngine(Engine):
    """Runs a SavedModel with TensorFlow.

    Args:
        path: of the folder.
        outputs: names of the outputs to return, in this order.
        input_type: of the images, `float32` or `uint8`.

    Raises:
        InputError: the folder is not a SavedModel, is damaged, or lacks the signature or outputs.
    """

    def __init__(self, path: Path, outputs: Sequence[str], input_type: str):
        import tensorflow as tf

        try:
            # Kept, since the variables live as long as it does.
            self._model = tf.saved_model.load(str(path))
        except Exception as error:  # On a damaged model, TensorFlow can raise almost any exception.
            raise InputError(f"{path} is no SavedModel, or it is damaged: {_line(error)}") from error
        name = SAVED_MODEL_SIGNATURES[input_type]
        self._function = self._model.signatures.get(name)
        if self._function is None:
            raise InputError(f"{path}: expected a signature {name}. Received: {list(self._model.signatures)}")
        _check_outputs(path, outputs, self._function.structured_outputs)
        self._outputs = outputs

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Engine`."""
        import tensorflow as tf

        values = self._function(image=tf.constant(images))
        return tuple(values[name].numpy() for name in self._outputs)


def _litert():
    for package in LITERT:
        try:
            with warnings.catch_warnings():
                # The retired package warns about its own imports.
                warnings.simplefilter("ignore")
                return importlib.import_module(f"{package}.interpreter")
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] != package:
                raise
    raise InputError(f"running a .tflite file needs one of the packages {', '.join(LITERT)}; none is installed")


def _check_outputs(path, expected, received):
    if not set(expected) <= set(received):
        raise InputError(f"{path}: expected the outputs {', '.join(expected)}. Received: {', '.join(received)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
