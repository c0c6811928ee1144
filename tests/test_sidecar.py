import json

import numpy as np
import pytest

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar


@pytest.fixture
def model(tmp_path):
    """A model file with a sidecar."""
    path = tmp_path / "best.keras"
    write_sidecar(Sidecar.from_config(Config()), path)
    return path


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(keypoints="crowdpose", input_size=640, model={"width": 48}, decoder={"nms_distance": 0.1}),
        Config(
            keypoints={"name": "stick", "names": ["top", "end"], "edges": [[0, 1]], "oks_sigmas": [0.1, 0.2]},
            model={"offset_head": {"block": "plain", "branches": [["end"], ["top"]]}},
        ),
    ],
    ids=lambda config: config.schema.name,
)
def test_round_trip(tmp_path, config):
    path = tmp_path / "best.keras"
    write_sidecar(Sidecar.from_config(config), path)
    assert sidecar_path(path) == tmp_path / "best.keras.json"
    sidecar = read_sidecar(path)
    assert sidecar == Sidecar.from_config(config)
    assert sidecar.schema == config.schema
    assert (sidecar.model, sidecar.decoder, sidecar.input_size) == (config.model, config.decoder, config.input_size)
    assert sidecar.mean == (0.485, 0.456, 0.406)


def test_images_are_normalized_as_the_backbone_learned_them(model):
    lite0 = Sidecar.from_config(Config(model={"backbone": "efficientnet_lite0"}))
    write_sidecar(lite0, model)
    assert read_sidecar(model) == lite0
    values = (np.array([0, 127, 255]) / 255 - lite0.mean) / lite0.std
    np.testing.assert_allclose(values, [-127 / 128, 0, 1], atol=1e-12)


def test_a_sidecar_of_before_there_were_backbones(model):
    path = sidecar_path(model)
    values = json.loads(path.read_text())
    for name in ("backbone", "stem_channels", "stage1_channels", "pyramid_channels"):
        del values["model"][name]
    assert "heatmap_channels" not in values["model"]
    path.write_text(json.dumps(values))
    assert read_sidecar(model) == Sidecar.from_config(Config())


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"best.keras has no sidecar; expected its settings in .*best.keras.json$"):
        read_sidecar(tmp_path / "best.keras")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "expected version 1. Received: 2$"),
        ({"version": None}, "expected version 1. Received: None$"),
        ({"color": "red"}, "unknown key color$"),
        ({"input_size": "wide"}, "input_size: .*Received: 'wide'"),
        ({"output_stride": 8}, "output_stride: .*Received: 8"),
        ({"keypoints": {}}, r"skeleton custom: needs names; .*Received: \[\]$"),
        ({"keypoints": {"names": ["a", "a"]}}, r"names must be unique. Received: \['a', 'a'\]$"),
        ({"keypoints": {"names": ["a"], "edges": [["a", "b"]]}}, "no keypoint has this name. Received: b$"),
    ],
)
def test_content_that_does_not_fit(model, change, message):
    path = sidecar_path(model)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message) as error:
        read_sidecar(model)
    assert str(error.value).startswith(f"sidecar {path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"version": 1', "expected JSON"), (b"\xff\xfe\xff", "expected JSON"), (b"[]", "Received: list$")],
)
def test_broken_file(model, content, message):
    sidecar_path(model).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_sidecar(model)
