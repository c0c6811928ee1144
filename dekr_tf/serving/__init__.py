"""The client of TensorFlow Serving."""

from dekr_tf.serving.client import Client

__all__ = ["Client"]
