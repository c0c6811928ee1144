"""The sizes that the paper prints (Tables 2 and 5).

Those of DEKR-W32 are in cli/test_info.py; the checkpoints' parameters are counted where they are imported.
"""

import pytest

from dekr_tf.config import Config
from dekr_tf.models.complexity import count_complexity

BASELINE = {"block": "plain", "branches": "single", "channels": 256}
#: Settings; parameters, multiply-adds and those of the offset head, as far as they are printed somewhere.
PRINTED = {
    "W32 baseline": ({"model": {"offset_head": BASELINE}}, "30.65 M", "63.28 G", "1.31 M", "21.48 G"),
    "W32 adaptive": (
        {"model": {"offset_head": {**BASELINE, "block": "adaptive"}}},
        *("30.68 M", "63.73 G", "1.34 M", "21.94 G"),
    ),
    "W32 separate": ({"model": {"offset_head": {"block": "plain"}}}, "29.53 M", "44.93 G", "0.19 M", "3.14 G"),
    "W48": ({"model": {"width": 48}, "input_size": 640}, 65_684_590, "141.5 G", None, None),
}


@pytest.mark.parametrize("name", PRINTED)
def test_printed_sizes(name):
    settings, *printed = PRINTED[name]
    counts = count_complexity(Config(**settings))
    scales = {"parameters": 1e6, "gmacs": 1, "head_parameters": 1e6, "head_gmacs": 1}
    for (key, scale), expected in zip(scales.items(), printed, strict=True):
        if isinstance(expected, int):
            assert counts[key] == expected
        elif expected:
            digits = len(expected.split()[0].partition(".")[2])
            assert f"{counts[key] / scale:.{digits}f}" == expected.split()[0], key


def test_a_small_network_by_hand():
    config = Config(
        keypoints={"names": ["top", "end"]},
        input_size=64,
        model={"width": 8, "bottlenecks": 1, "modules": (1, 1, 1), "units": 1},
    )
    counts = count_complexity(config)
    # 1x1 to 30 channels with its normalisation, two blocks of two branches, the last 1x1.
    block = 2 * (9 * 15 * 15 + 9 * 15 * 6)
    convolutions = 120 * 30 + 2 * block + 30 * 2
    assert counts["head_parameters"] == convolutions + 3 * 60 + 2 * 2 * 6 + 4
    assert counts["head_gmacs"] == pytest.approx(16 * 16 * convolutions / 1e9)
    double = count_complexity(config.model_copy(update={"input_size": 128}))
    assert double["parameters"] == counts["parameters"]
    assert double["gmacs"] == pytest.approx(4 * counts["gmacs"])
