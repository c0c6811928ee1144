"""Every config in configs/ gives a network with the maps of its skeleton."""

from pathlib import Path

import pytest

from dekr_tf.config import load_config
from dekr_tf.models import build_dekr

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_config_builds(path):
    config = load_config(path)
    network = build_dekr(config.model, config.schema)
    keypoints = len(config.schema)
    assert {name: maps.shape for name, maps in network.output.items()} == {
        "heatmap": (None, None, None, keypoints + 1),
        "offset": (None, None, None, 2 * keypoints),
    }
    if config.model.backbone == "hrnet":
        assert network.get_layer("stem_1_conv").filters == 64
        assert network.get_layer("stage2_t0_conv").filters == config.model.width
    else:
        last, features = {
            "efficientnet_lite0": (320, config.model.pyramid_channels),
            "mobilenet_v2": (480, 24),
        }[config.model.backbone]
        assert network.get_layer("stage7_block0_project_conv").filters == last
        assert network.get_layer("features").output.shape[-1] == features
