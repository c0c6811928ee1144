"""DEKR: bottom-up multi-person pose estimation in Keras 3, from training to phones.

Importing this package, the decoder and the evaluation loads no TensorFlow and no Keras.
"""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "KeypointSchema": "dekr_tf.keypoints",
    "PoseDetector": "dekr_tf.inference.detector",
    "Poses": "dekr_tf.poses",
}


def __getattr__(name: str):
    # On first use, so that `dekr --version` need not wait for OpenCV.
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
