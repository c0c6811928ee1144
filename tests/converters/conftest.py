"""Checkpoints with the parameters that the goldens were made with: a function of each tensor's name alone."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

GOLDENS = Path(__file__).parents[1] / "goldens"


def golden_tensor(name, shape):
    """One tensor of the reference's networks as the goldens were made with it."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("regular_matrix"):
        return np.array([[-1, -1, -1, 0, 0, 0, 1, 1, 1], [-1, 0, 1] * 3, [1] * 9], np.float32)[: shape[0]]
    if name.endswith("running_var"):
        values = np.exp(0.2 * values)
    elif name.endswith("running_mean"):
        values = 0.05 * values
    elif "transform_matrix_conv" in name or "translation_conv" in name:
        if name.endswith("weight"):
            values = 0.01 * values / np.sqrt(9 * shape[1])
        else:
            values = 0.3 * values + (np.array([1, 0, 0, 1]) if len(values) == 4 else 0)
    elif name in ("head_heatmap.1.weight", "head.heatmap_conv_layers.2.weight"):
        values = 0.02 * values / np.sqrt(shape[1])
    elif name in ("head_heatmap.1.bias", "head.heatmap_conv_layers.2.bias"):
        values = 0.3 + 0.05 * values
    elif name.startswith(("offset_final_layer", "head.displacement_conv_layers.3.")):
        values = 0.12 * values
    elif len(shape) > 1:
        values = values / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 0.8 * np.exp(0.1 * values)
    else:
        values = 0.1 * values
    return values.astype(np.float32)


@pytest.fixture(scope="session")
def manifests():
    """Tensor shapes of the reference's, mmpose's and EfficientNet-Lite0's checkpoints, by checkpoint and name."""
    with gzip.open(GOLDENS / "manifests.json.gz") as file:
        content = json.load(file)
    return {model: {name: tuple(shape) for name, shape in tensors.items()} for model, tensors in content.items()}


@pytest.fixture(scope="session")
def golden_checkpoint(manifests):
    """Makes the tensors of a checkpoint by its name, `coco_w32` and so on."""

    def make(model):
        # The names within a rescoring net say nothing of which one it is.
        prefix = f"{model}." if model.startswith("rescore") else ""
        return {name: golden_tensor(prefix + name, shape) for name, shape in manifests[model].items()}

    return make


@pytest.fixture(scope="session")
def tiny():
    """A small DEKR with random parameters and its config."""
    import keras

    from dekr_tf.config import Config, ModelConfig
    from dekr_tf.models import build_dekr

    config = Config(
        keypoints={"name": "stick", "names": ["top", "end"], "edges": [[0, 1]], "normalization_edges": [[0, 1]]},
        model=ModelConfig(width=8, bottlenecks=1, modules=(1, 1, 1), blocks=1),
    )
    keras.utils.set_random_seed(1)
    model = build_dekr(config.model, config.schema)
    for variable in model.variables:
        variable.assign(np.random.uniform(0.5, 1.5, variable.shape))
    return model, config
