"""Engines that run a network, behind one call: `runtime(images) -> (heatmap, offset)`."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.sidecar import Sidecar

if TYPE_CHECKING:
    import keras


class Runtime(Protocol):
    """What decoding needs of an engine."""

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Runs the network.

        Args:
            images: (B, H, W, 3) float32 RGB, normalised with the sidecar's mean and std; H and W multiples of 64.

        Returns:
            heatmap (B, H / 4, W / 4, K + 1), the center last, and offset (B, H / 4, W / 4, 2 K), grid minus keypoint
            in map pixels, both float32.
        """


class KerasRuntime:
    """Runs a Keras model, with TensorFlow as one graph for all image sizes.

    Args:
        model: takes (B, H, W, 3), returns a dict with `heatmap` and `offset`.
    """

    def __init__(self, model: "keras.Model"):
        import keras

        self._to_numpy = keras.ops.convert_to_numpy

        def infer(images):
            return model(images, training=False)

        if keras.backend.backend() == "tensorflow":
            # Not `Model.predict_on_batch`: it compiles with XLA, anew for each image size.
            import tensorflow as tf

            infer = tf.function(infer, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
        self._infer = infer

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps = self._infer(images)
        return tuple(np.asarray(self._to_numpy(maps[name]), np.float32) for name in ("heatmap", "offset"))


def open_runtime(
    model: "str | Path | keras.Model | Runtime", sidecar: Sidecar | None = None, config: Config | None = None
) -> tuple[Runtime, Sidecar]:
    """The runtime of a model, and the settings that inference needs.

    Args:
        model: path of a model file, a Keras model, or a runtime.
        sidecar: settings of a model that is not a file; a file brings its own.
        config: of the experiment, where there is no sidecar.

    Raises:
        InputError: the file cannot be read, or the settings are missing.
    """
    if isinstance(model, str | Path):
        # The one import of this package that needs Keras.
        from dekr_tf.models import load_model

        model, sidecar = load_model(model, config)
    elif sidecar is None:
        if config is None:
            raise InputError("expected a sidecar or a config beside a model that is not a file. Received: neither")
        sidecar = Sidecar.from_config(config)
    return KerasRuntime(model) if _is_keras_model(model) else model, sidecar


def _is_keras_model(model) -> bool:
    # By class name, as importing Keras only to ask would be slow where another engine runs.
    return any(kind.__module__.startswith("keras.") and kind.__name__ == "Model" for kind in type(model).__mro__)
