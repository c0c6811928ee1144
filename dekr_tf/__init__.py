"""DEKR: bottom-up multi-person pose estimation in Keras 3, from training to phones.

Importing this package, the decoder and the evaluation loads no TensorFlow and no Keras.
"""

import importlib
from typing import TYPE_CHECKING

from dekr_tf.registration import register_with_keras

if TYPE_CHECKING:
    from dekr_tf.config import Config
    from dekr_tf.errors import DekrError, InputError
    from dekr_tf.inference.detector import PoseDetector
    from dekr_tf.inference.tracking import PoseTracker
    from dekr_tf.keypoints import COCO, CROWDPOSE, KeypointSchema
    from dekr_tf.models.dekr import build_dekr
    from dekr_tf.poses import Poses
    from dekr_tf.training.estimator import PoseEstimator
    from dekr_tf.visualization.drawing import draw_poses

__version__ = "0.1.0"

__all__ = [
    "COCO",
    "CROWDPOSE",
    "Config",
    "DekrError",
    "InputError",
    "KeypointSchema",
    "PoseDetector",
    "PoseEstimator",
    "PoseTracker",
    "Poses",
    "build_dekr",
    "draw_poses",
]

_MODULES = {
    "COCO": "dekr_tf.keypoints",
    "CROWDPOSE": "dekr_tf.keypoints",
    "Config": "dekr_tf.config",
    "DekrError": "dekr_tf.errors",
    "InputError": "dekr_tf.errors",
    "KeypointSchema": "dekr_tf.keypoints",
    "PoseDetector": "dekr_tf.inference.detector",
    "PoseEstimator": "dekr_tf.training.estimator",
    "PoseTracker": "dekr_tf.inference.tracking",
    "Poses": "dekr_tf.poses",
    "build_dekr": "dekr_tf.models.dekr",
    "draw_poses": "dekr_tf.visualization.drawing",
}

register_with_keras()


def __getattr__(name: str):
    # Imports happen on first use, so that `dekr --version` need not wait for OpenCV.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
