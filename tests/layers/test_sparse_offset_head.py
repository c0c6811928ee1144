"""The offset head at a few cells gives what the dense head gives there: in Keras, and in NumPy."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import tiny_hrnet

from dekr_tf.config import Config
from dekr_tf.inference.sparse_head import sparse_offsets
from dekr_tf.layers.sparse_offset_head import SparseOffsetHead, padded_channels
from dekr_tf.models.dekr import build_dekr
from dekr_tf.models.folding import branches_of_size, fold_offset_head

TINY = tiny_hrnet(4)
TOLERANCE = 1e-4

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("eagerly_in_module")]


class Heads:
    """The dense head from its branches' input on, and the sparse ones with the same weights."""

    def __init__(self, **head):
        names = [f"point {index}" for index in range(3)]
        config = Config(keypoints={"names": names}, model={**TINY, "offset_head": {"channels": 15, **head}})
        self.blocks = config.model.offset_head.blocks
        self.model = build_dekr(config.model, config.schema)
        self.dense = keras.Model(self.model.get_layer("offset_transition_relu").output, self.model.output["offset"])

    def randomize(self, rng, spread):
        """Random weights; `spread` is the standard deviation of the taps' offsets, in map pixels, more or less."""
        for variable in self.dense.variables:
            noise = rng.standard_normal(variable.shape)
            if variable.name in ("gamma", "moving_variance"):
                variable.assign(np.exp(0.3 * noise))
            elif variable.name == "offset_kernel":
                variable.assign(0.1 * spread * noise)
            elif variable.name == "offset_bias":
                variable.assign(np.array([1, 0, 0, 1, 0, 0]) + spread * noise)
            else:
                variable.assign(0.3 * noise)

    def compare(self, features, rows, columns):
        """Compares both sparse forms with the dense one: features (B, h, w, 15), rows and columns (B, N)."""
        images = np.arange(len(features))[:, None]
        expected = np.asarray(self.dense(features, training=False))[images, rows, columns]
        tolerance = TOLERANCE * max(1, np.abs(expected).max())
        weights = fold_offset_head(self.model)
        in_numpy = [sparse_offsets(*each, weights) for each in zip(features, rows, columns, strict=True)]
        np.testing.assert_allclose(in_numpy, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(self.in_keras(features, rows, columns, weights), expected, rtol=0, atol=tolerance)

    def in_keras(self, features, rows, columns, weights):
        outputs = []
        start = 0
        for size in weights["sizes"]:
            part = branches_of_size(weights, size)
            branches, channels, pairs = part["final_kernel"].shape
            padded = padded_channels(channels)
            layer = SparseOffsetHead(branches, padded, pairs, self.blocks, int(weights["dilation"]))
            values = features[..., start : start + branches * channels]
            values = values.reshape(*features.shape[:3], branches, channels)
            values = np.pad(values, [(0, 0)] * 4 + [(0, padded - channels)]).reshape(*features.shape[:3], -1)
            inputs = values, np.float32(rows), np.float32(columns)
            layer.build(*(each.shape for each in inputs))
            layer.load(part)
            outputs.append(np.asarray(layer(*inputs)))
            start += branches * channels
        pairs = np.concatenate(outputs, axis=-1).reshape(*rows.shape, -1, 2)
        return pairs[:, :, np.argsort(weights["order"])].reshape(*rows.shape, -1)


def random_case(rng, images, size, people):
    height, width = size
    features = rng.standard_normal((images, height, width, 15), np.float32)
    return features, rng.integers(0, height, (images, people)), rng.integers(0, width, (images, people))


@pytest.fixture(scope="module")
def separate():
    return Heads()


@settings(max_examples=20)
@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from([0.0, 0.3, 2.0, 30.0]), st.integers(0, 2**32 - 1))
def test_any_features_taps_and_centers(separate, height, width, spread, seed):
    """Taps fall between cells, on cells (spread 0), over the border, and far outside; windows are cut off too."""
    rng = np.random.default_rng(seed)
    separate.randomize(rng, spread)
    separate.compare(*random_case(rng, 2, (height, width), 3))


def test_corners_and_borders(separate):
    rng = np.random.default_rng(0)
    separate.randomize(rng, 1.0)
    features, _, _ = random_case(rng, 1, (6, 7), 1)
    rows, columns = np.array([divmod(cell, 7) for cell in range(42)]).T[:, None]
    separate.compare(features, rows, columns)


def test_huge_offsets_read_nothing(separate):
    rng = np.random.default_rng(0)
    separate.randomize(rng, 1e12)
    separate.compare(*random_case(rng, 1, (5, 5), 4))


@pytest.mark.parametrize(
    "head",
    [
        {"branches": "single"},
        {"branches": [["point 2", "point 0"], ["point 1"]]},
        {"blocks": 1},
        {"blocks": 3},
        {"block": "plain"},
        {"block": "plain", "dilation": 5},
        {"block": "plain", "dilation": 2, "branches": "single", "blocks": 1, "channels": 15},
        {"block": "plain", "blocks": 3},
    ],
    ids=str,
)
def test_every_family(head):
    heads = Heads(**head)
    rng = np.random.default_rng(0)
    for spread in (0.3, 3.0):
        heads.randomize(rng, spread)
        heads.compare(*random_case(rng, 2, (6, 8), 3))


def test_nobody_in_numpy(separate):
    weights = fold_offset_head(separate.model)
    nobody = np.zeros(0, int)
    assert sparse_offsets(np.zeros((4, 4, 15), np.float32), nobody, nobody, weights).shape == (0, 6)


def test_settings_survive_saving():
    layer = SparseOffsetHead(2, 16, 4, 2, dilation=3, name="head")
    assert SparseOffsetHead.from_config(layer.get_config()).get_config() == layer.get_config()
