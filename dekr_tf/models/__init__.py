"""Keras models: HRNet, DEKR, the rescoring net; saving and loading them."""

from dekr_tf.models.dekr import build_backbone, build_dekr
from dekr_tf.models.files import load_model, save_model

__all__ = ["build_backbone", "build_dekr", "load_model", "save_model"]
