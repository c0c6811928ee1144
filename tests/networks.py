"""Tiny networks that several tests share."""

from typing import Any

import keras
import numpy as np

from dekr_tf.config import Config
from dekr_tf.models import build_dekr


def tiny_hrnet(width: int) -> dict[str, Any]:
    """The settings `model` of an HRNet with one block of each kind, which is built in a second."""
    return {"width": width, "bottlenecks": 1, "modules": [1, 1, 1], "blocks": 1}


def random_network(config: Config, spread: float = 0.1) -> keras.Model:
    """A network with random weights that finds people of odd shapes everywhere.

    Args:
        config: with a separate branch for each keypoint.
        spread: of the last kernel of the offset head: how far keypoints lie from their center.
    """
    keras.utils.set_random_seed(0)
    model = build_dekr(config.model, config.schema)
    for layer in model.layers:
        if hasattr(layer, "offset_bias"):
            layer.offset_bias.assign(np.random.normal([1, 0, 0, 1, 0, 0], 0.5, layer.offset_bias.shape))
    heatmap, offset = model.get_layer("heatmap"), model.get_layer("offset_g1_final")
    # Without batch normalization, random weights give features and heatmaps that are almost flat.
    contrast = 100.0 if config.model.heatmap_block == "separable" else 0.1
    heatmap.kernel.assign(np.random.normal(0, contrast, heatmap.kernel.shape))
    heatmap.bias.assign(np.full(heatmap.bias.shape, 0.5))
    offset.kernel.assign(np.random.normal(0, spread, offset.kernel.shape))
    return model
