"""Engines that run a network, behind one call: `runtime(images) -> (keypoints, keypoint_scores, center_scores)`.

Those opened with `heatmap` give a heatmap besides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.files import exists, is_folder
from dekr_tf.inference.artifacts import LiteRTEngine, OnnxEngine, SavedModelEngine, SparseMaps, read_head
from dekr_tf.inference.decoder import average_heatmaps, find_candidates, mirror_input
from dekr_tf.keypoints import warn_without_flip_pairs
from dekr_tf.sidecar import Sidecar, read_sidecar

if TYPE_CHECKING:
    import keras

POSES = "keypoints", "keypoint_scores", "center_scores"
MAPS = "heatmap", "offset"
#: What a network gives that ends before the branches of the offset head.
FEATURES = "heatmap", "features"


class Runtime(Protocol):
    """What finding people needs of an engine."""

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Finds candidate poses, N in each image.

        Args:
            images: (B, H, W, 3) float32 RGB, normalised with the sidecar's mean and std, or uint8 where the sidecar's
                artifact says so; H and W multiples of 32.

        Returns:
            keypoints (B, N, K, 2), x and y in pixels of the images; keypoint scores (B, N, K), center score times heat
            value; center scores (B, N), falling, zero where there are no more candidates. One opened with `heatmap`
            gives it as the fourth, (B, h, w, K + 1), the center last, with flip test the mean. All float32.
        """


class MapRuntime(Protocol):
    """An engine for a network that ends at the maps."""

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Runs the network.

        Args:
            images: (B, H, W, 3) as for `Runtime`.

        Returns:
            heatmap (B, H / 4, W / 4, K + 1), the center last, and B offset maps (H / 4, W / 4, 2 K), grid minus
            keypoint in map pixels, all float32.
        """


class KerasRuntime:
    """Runs a Keras model, with TensorFlow as one graph for all image sizes.

    Args:
        model: takes (B, H, W, 3), returns a dict.
        outputs: what of the dict to return, in this order.
    """

    def __init__(self, model: "keras.Model", outputs: Sequence[str]):
        import keras

        self._to_numpy = keras.ops.convert_to_numpy
        self._outputs = outputs

        def infer(images):
            return model(images, training=False)

        if keras.backend.backend() == "tensorflow":
            # Not `Model.predict_on_batch`: it compiles with XLA, anew for each image size.
            import tensorflow as tf

            infer = tf.function(infer, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
        self._infer = infer

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        values = self._infer(images)
        return tuple(np.asarray(self._to_numpy(values[name]), np.float32) for name in self._outputs)


class MapDecoder:
    """A runtime that finds the candidates in whole maps.

    Args:
        maps: engine of the network.
        sidecar: settings of the network.
        flip: flip test: the network gets twice as many images, the mirrored ones last.
        heatmap: give the heatmap too.
    """

    def __init__(self, maps: MapRuntime, sidecar: Sidecar, flip: bool = False, heatmap: bool = False):
        self.maps = maps
        self.sidecar = sidecar
        self.flip = flip
        if flip:
            warn_without_flip_pairs(sidecar.schema, "the flip test", "do without it")
        self.heatmap = heatmap

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Runtime`.

        Raises:
            InputError: the maps do not fit the skeleton.
        """
        return self.candidates(*self.maps_of(images))

    def maps_of(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first half: heatmaps and offset maps of (B, H, W, 3), with flip test of 2 B images."""
        return self.maps(np.concatenate([images, mirror_input(images)]) if self.flip else images)

    def candidates(self, heatmaps: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The second half: what `Runtime` gives, from the maps.

        Raises:
            InputError: the maps do not fit the skeleton.
        """
        schema, decoder = self.sidecar.schema, self.sidecar.decoder
        count = len(heatmaps) // (1 + self.flip)
        if heatmaps.shape[-1] != len(schema) + 1 or offsets[0].shape[-1] != 2 * len(schema):
            raise InputError(
                f"skeleton {schema.name}: expected {len(schema) + 1} heatmap and {2 * len(schema)} offset channels of "
                f"the network. Received: {heatmaps.shape[-1]} and {offsets[0].shape[-1]}"
            )
        shapes = (len(schema), 2), (len(schema),), ()
        poses = tuple(np.zeros((count, decoder.max_people, *shape), np.float32) for shape in shapes)
        for index in range(count):
            mirrored = (heatmaps[count + index], offsets[count + index]) if self.flip else None
            candidates = find_candidates(
                heatmaps[index], offsets[index], decoder, mirrored=mirrored, flip_indices=schema.flip_indices
            )
            for array, values in zip(poses, candidates, strict=True):
                array[index, : len(values)] = values
        if not self.heatmap:
            return poses
        if self.flip:
            pairs = zip(heatmaps[:count], heatmaps[count:], strict=True)
            heatmaps = np.stack([average_heatmaps(*pair, schema.flip_indices) for pair in pairs])
        return *poses, heatmaps


def open_runtime(
    model: "str | Path | keras.Model | Runtime | MapRuntime",
    sidecar: Sidecar | None = None,
    config: Config | None = None,
    *,
    flip: bool = False,
    dense: bool = False,
    threads: int | None = None,
    heatmap: bool = False,
) -> tuple[Runtime, Sidecar]:
    """The runtime of a model, and the settings that inference needs.

    Args:
        model: path of a model: `.keras`, `.weights.h5`, `.weights.npz`, `.tflite`, `.onnx` or a SavedModel's folder;
            a Keras model; or a runtime: one that gives maps with `dense`, else poses.
        sidecar: settings of a model that is not a file; a file brings its own.
        config: of the experiment, where there is no sidecar.
        flip: with flip test.
        dense: the network gives whole maps, which are decoded in NumPy.
        threads: of LiteRT and ONNX Runtime; by default `processors.available_processors`.
        heatmap: the runtime gives the heatmap besides the poses.

    Raises:
        InputError: the file cannot be read, the settings are missing, or `flip` or `heatmap` is asked of a runtime
            that gives poses.
    """
    if isinstance(model, str | Path):
        if is_folder(model) or Path(model).suffix in (".tflite", ".onnx"):
            return _open_artifact(Path(model), config, flip, dense, threads, heatmap)
        from dekr_tf.models import load_model

        model, sidecar = load_model(model, config)
    elif sidecar is None:
        if config is None:
            raise InputError("expected a sidecar or a config beside a model that is not a file. Received: neither")
        sidecar = Sidecar.from_config(config)
    if dense:
        maps = KerasRuntime(model, MAPS) if _is_keras_model(model) else model
        return MapDecoder(maps, sidecar, flip, heatmap), sidecar
    if _is_keras_model(model):
        # With `load_model` the only imports of this package that need Keras.
        from dekr_tf.models.pose_model import build_pose_model

        network = build_pose_model(model, sidecar, flip=flip, heatmap_output=heatmap)
        return KerasRuntime(network, (*POSES, "heatmap") if heatmap else POSES), sidecar
    if flip:
        raise InputError(f"expected a runtime with flip test inside, and no flip beside it. Received: {model}")
    if heatmap:
        raise InputError(f"expected a network that gives heatmaps, for several scales or matching. Received: {model}")
    return model, sidecar


def _open_artifact(path, config, flip, dense, threads, heatmap):
    if not exists(path):
        raise InputError(f"no such model: {path}")
    if config is not None:
        raise InputError(f"expected no config beside {path}, which has its settings in it. Received: one")
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
    outputs = POSES if artifact.graph == "poses" else FEATURES
    if is_folder(path):
        engine = SavedModelEngine(path, outputs, artifact.input_type)
    else:
        engine = (LiteRTEngine if path.suffix == ".tflite" else OnnxEngine)(path, outputs, threads)
    if artifact.graph == "maps":
        return MapDecoder(SparseMaps(engine, read_head(path)), sidecar, flip, heatmap), sidecar
    if flip and not artifact.flip:
        raise InputError(f"expected a model that was exported with --flip, for a flip test. Received: {path}")
    return engine, sidecar


def _is_keras_model(model) -> bool:
    # By class name, as importing Keras only to ask would be slow where another engine runs.
    return any(kind.__module__.startswith("keras.") and kind.__name__ == "Model" for kind in type(model).__mro__)
