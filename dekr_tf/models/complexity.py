"""Parameters and multiply-adds of a network, counted as the paper does."""

import math
import re
from typing import Any

import keras

from dekr_tf.config import Config
from dekr_tf.layers.adaptive_conv import AdaptiveConv2D
from dekr_tf.layers.branch_conv import BranchConv2D
from dekr_tf.models.dekr import build_dekr

#: The heads' parts, in the order of the computation, by the names of their layers; all other layers are the backbone's.
HEADS = {
    "heatmap_head": r"heatmap",
    "offset_head.transition": r"offset_transition",
    "offset_head.blocks": r"offset_g\d+_block",
    "offset_head.final": r"offset_g\d+_final",
}


def count_complexity(config: Config) -> dict[str, Any]:
    """Counts the network of a config on a square image of its `input_size`.

    Returns:
        `parameters`: trainable values; `gmacs`: multiply-adds of all convolutions in 1e9 (what the paper calls GFLOPs;
        bilinear sampling and normalization are not counted, as in the reference's own count); `head_parameters` and
        `head_gmacs`: the same for the offset head, from its 1x1 transition to its last 1x1 (paper Table 1); `parts`:
        for each part of the network, in the order of the computation, its `parameters` and `gmacs`, which add up to
        those of the network. The parts are `backbone.stem`, `backbone.stage1` and so on, of EfficientNet also
        `backbone.pyramid`, and those of `HEADS`.
    """
    model = build_dekr(config.model, config.schema, (config.input_size, config.input_size))
    layers = {}
    for layer in model.layers:
        if layer.weights:
            layers.setdefault(_part(layer.name), []).append(layer)
    order = [*(part for part in layers if part not in HEADS), *HEADS]
    parameters = {part: _parameters(layers[part]) for part in order}
    multiply_adds = {part: _multiply_adds(layers[part]) for part in order}
    head = [part for part in order if part.startswith("offset_head.")]
    return {
        "parameters": sum(parameters.values()),
        "gmacs": sum(multiply_adds.values()) / 1e9,
        "head_parameters": sum(parameters[part] for part in head),
        "head_gmacs": sum(multiply_adds[part] for part in head) / 1e9,
        "parts": {part: {"parameters": parameters[part], "gmacs": multiply_adds[part] / 1e9} for part in order},
    }


def _part(name: str) -> str:
    for part, pattern in HEADS.items():
        if re.match(pattern, name):
            return part
    return f"backbone.{name.split('_')[0]}"


def _parameters(layers: list[keras.Layer]) -> int:
    return sum(math.prod(variable.shape) for layer in layers for variable in layer.trainable_variables)


def _multiply_adds(layers: list[keras.Layer]) -> int:
    convolutions = keras.layers.Conv2D | keras.layers.DepthwiseConv2D | BranchConv2D | AdaptiveConv2D
    total = 0
    for layer in layers:
        if isinstance(layer, convolutions):
            _, height, width, _ = layer.output.shape
            kernels = [layer.kernel, *([layer.offset_kernel] if isinstance(layer, AdaptiveConv2D) else [])]
            total += height * width * sum(math.prod(kernel.shape) for kernel in kernels)
    return total
