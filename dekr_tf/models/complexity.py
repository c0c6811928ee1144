"""Parameters and multiply-adds of a network, counted as the paper does."""

import math

import keras

from dekr_tf.config import Config
from dekr_tf.layers.adaptive_conv import AdaptiveConv2D
from dekr_tf.layers.branch_conv import BranchConv2D
from dekr_tf.models.dekr import build_dekr

OFFSET_HEAD = "offset_"


def count_complexity(config: Config) -> dict[str, int | float]:
    """Counts the network of a config on a square image of its `input_size`.

    Returns:
        `parameters`: trainable values; `gmacs`: multiply-adds of all convolutions in 1e9 (what the paper calls GFLOPs;
        bilinear sampling and normalisation are not counted, as in the reference's own count); `head_parameters` and
        `head_gmacs`: the same for the offset head, from its 1x1 transition to its last 1x1 (paper Table 5).
    """
    model = build_dekr(config.model, config.schema, (config.input_size, config.input_size))
    head = [layer for layer in model.layers if layer.name.startswith(OFFSET_HEAD)]
    return {
        "parameters": _parameters(model.layers),
        "gmacs": _multiply_adds(model.layers) / 1e9,
        "head_parameters": _parameters(head),
        "head_gmacs": _multiply_adds(head) / 1e9,
    }


def _parameters(layers: list[keras.Layer]) -> int:
    return sum(math.prod(variable.shape) for layer in layers for variable in layer.trainable_variables)


def _multiply_adds(layers: list[keras.Layer]) -> int:
    total = 0
    for layer in layers:
        if isinstance(layer, keras.layers.Conv2D | BranchConv2D | AdaptiveConv2D):
            _, height, width, _ = layer.output.shape
            kernels = [layer.kernel, *([layer.offset_kernel] if isinstance(layer, AdaptiveConv2D) else [])]
            total += height * width * sum(math.prod(kernel.shape) for kernel in kernels)
    return total
