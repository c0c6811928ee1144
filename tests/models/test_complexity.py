"""The sizes that the paper prints (Tables 2 and 5); the checkpoints' parameters are counted where they are imported."""

import pytest

from dekr_tf.config import Config
from dekr_tf.models.complexity import count_complexity

BASELINE = {"block": "plain", "branches": "single", "channels": 256}
#: Offset heads on W32; millions of parameters and multiply-adds in 1e9 of the network, and the same of the head.
PRINTED = {
    "DEKR": ({}, "29.56", "45.39", "0.22", "3.59"),
    "baseline": (BASELINE, "30.65", "63.28", "1.31", "21.48"),
    "adaptive activation": ({**BASELINE, "block": "adaptive"}, "30.68", "63.73", "1.34", "21.94"),
    "separate regression": ({"block": "plain"}, "29.53", "44.93", "0.19", "3.14"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def w32():
    return count_complexity(Config())


@pytest.mark.parametrize("name", PRINTED)
def test_printed_sizes_of_w32(name, w32):
    head, *printed = PRINTED[name]
    # The head sees the width of the backbone and not its depth, so a shallow one will do, which is made faster.
    shallow = {"bottlenecks": 1, "modules": (1, 1, 1), "blocks": 1}
    counts = count_complexity(Config(model={**shallow, "offset_head": head}))
    whole = [w32[key] - w32[f"head_{key}"] + counts[f"head_{key}"] for key in ("parameters", "gmacs")]
    parameters, gmacs = whole[0] / 1e6, whole[1]
    received = (parameters, gmacs, counts["head_parameters"] / 1e6, counts["head_gmacs"])
    assert [f"{value:.2f}" for value in received] == printed


def test_printed_sizes_of_whole_networks(w32):
    assert w32["parameters"] == 29_561_182
    counts = count_complexity(Config(model={"width": 48}, input_size=640))
    assert counts["parameters"] == 65_684_590
    assert f"{counts['gmacs']:.1f}" == "141.5"


def test_a_small_network_by_hand():
    config = Config(
        keypoints={"names": ["top", "end"]},
        input_size=64,
        model={"width": 8, "bottlenecks": 1, "modules": (1, 1, 1), "blocks": 1},
    )
    counts = count_complexity(config)
    # 1x1 to 30 channels with its normalization, two blocks of two branches, the last 1x1.
    block = 2 * (9 * 15 * 15 + 9 * 15 * 6)
    convolutions = 120 * 30 + 2 * block + 30 * 2
    assert counts["head_parameters"] == convolutions + 3 * 60 + 2 * 2 * 6 + 4
    assert counts["head_gmacs"] == pytest.approx(16 * 16 * convolutions / 1e9)
    assert counts["parts"]["backbone.stem"] == {
        "parameters": 9 * 3 * 64 + 9 * 64 * 64 + 4 * 64,
        "gmacs": pytest.approx((32 * 32 * 9 * 3 * 64 + 16 * 16 * 9 * 64 * 64) / 1e9),
    }
    bottleneck = 64 * 64 + 9 * 64 * 64 + 2 * 64 * 256
    assert counts["parts"]["backbone.stage1"] == {
        "parameters": bottleneck + 2 * (64 + 64 + 256 + 256),
        "gmacs": pytest.approx(16 * 16 * bottleneck / 1e9),
    }
    heatmap = 120 * 8 + 2 * 9 * 8 * 8 + 8 * 3
    assert counts["parts"]["heatmap_head"] == {
        "parameters": heatmap + 3 * 2 * 8 + 3,
        "gmacs": pytest.approx(16 * 16 * heatmap / 1e9),
    }
    assert counts["parts"]["offset_head.blocks"] == {
        "parameters": 2 * (block + 2 * 6 + 2 * 30),
        "gmacs": pytest.approx(16 * 16 * 2 * block / 1e9),
    }
    assert counts["parts"]["offset_head.final"] == {
        "parameters": 30 * 2 + 4,
        "gmacs": pytest.approx(16 * 16 * 30 * 2 / 1e9),
    }
    for key in ("parameters", "gmacs"):
        assert sum(part[key] for part in counts["parts"].values()) == pytest.approx(counts[key])
    double = count_complexity(config.model_copy(update={"input_size": 128}))
    assert double["parameters"] == counts["parameters"]
    assert double["gmacs"] == pytest.approx(4 * counts["gmacs"])


def test_efficientnet_lite0_and_its_pyramid():
    counts = count_complexity(Config(input_size=224, model={"backbone": "efficientnet_lite0", "pyramid_channels": 8}))
    parts = {name.removeprefix("backbone."): part for name, part in counts["parts"].items()}
    classifier = [parts["stem"], *(parts[f"stage{stage}"] for stage in range(1, 8))]
    # What the convolutions and the dense layer of timm's network have. The last 1x1 with its normalization and the
    # dense layer are not in ours.
    last, dense = 320 * 1280, 1280 * 1000
    assert sum(part["parameters"] for part in classifier) + last + 2 * 1280 + dense + 1000 == 4_652_008
    assert sum(part["gmacs"] for part in classifier) + (7 * 7 * last + dense) / 1e9 == pytest.approx(0.385187552)
    # Stage 1: a depthwise 3x3 convolution of 32 channels and the projection to 16.
    assert parts["stage1"] == {
        "parameters": 9 * 32 + 32 * 16 + 2 * (32 + 16),
        "gmacs": pytest.approx(112 * 112 * (9 * 32 + 32 * 16) / 1e9),
    }
    levels = {56: 24, 28: 40, 14: 112, 7: 320}
    convolutions = {side: channels * 8 + 9 * 8 + 8 * 8 for side, channels in levels.items()}
    assert parts["pyramid"] == {
        "parameters": sum(convolutions.values()) + 4 * 3 * 2 * 8,
        "gmacs": pytest.approx(sum(side**2 * count for side, count in convolutions.items()) / 1e9),
    }
