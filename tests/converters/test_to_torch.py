"""Checkpoints that the reference's code reads."""

import sys

import numpy as np
import pytest

from converters.from_torch import import_checkpoint
from converters.to_torch import export_checkpoint, to_state_dict
from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.sidecar import Sidecar

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow


@pytest.fixture
def exported(tiny, tmp_path):
    model, config = tiny
    path = tmp_path / "new" / "tiny.pth"
    export_checkpoint(model, Sidecar.from_config(config), path)
    return path


def test_every_value_comes_back(tiny, exported):
    model, config = tiny
    again = import_checkpoint(exported, config)
    for received, expected in zip(again.variables, model.variables, strict=True):
        np.testing.assert_array_equal(received, expected, err_msg=expected.path)


def test_names_and_shapes_are_those_of_the_reference(exported, manifests):
    # What the reference has for two keypoints, one bottleneck, one module a stage, one unit a branch and width 8.
    expected = {}
    for name, shape in manifests["coco_w32"].items():
        parts = name.split(".")
        keypoints = parts[0] in ("offset_feature_layers", "offset_final_layer")
        repeated = parts[0].startswith(("layer", "stage"))
        if (keypoints and int(parts[1]) > 1) or (repeated and int(parts[1]) > 0):
            continue
        if parts[2:3] == ["branches"] and int(parts[4]) > 0:
            continue
        expected[name] = len(shape)
    content = torch.load(exported, weights_only=True)
    assert {name: value.dim() for name, value in content.items()} == expected
    assert content["transition1.0.0.weight"].shape == (8, 256, 3, 3)
    assert content["head_heatmap.1.weight"].shape == (3, 8, 1, 1)
    assert content["transition_offset.0.weight"].shape == (30, 120, 1, 1)
    assert all(value.is_contiguous() for value in content.values())


def test_constants_and_counters_of_the_reference(exported):
    content = torch.load(exported, weights_only=True)
    rows = [[-1, -1, -1, 0, 0, 0, 1, 1, 1], [-1, 0, 1, -1, 0, 1, -1, 0, 1]]
    assert content["offset_feature_layers.1.0.regular_matrix"].tolist() == rows
    counter = content["bn1.num_batches_tracked"]
    assert counter.dtype == torch.int64 and counter.shape == () and counter == 0


def test_axes(tiny):
    model, config = tiny
    tensors = to_state_dict(model, Sidecar.from_config(config))
    kernel = np.asarray(model.get_layer("stem_1_conv").kernel)
    assert tensors["conv1.weight"][7, 2, 0, 1] == kernel[0, 1, 2, 7]
    head = model.get_layer("offset_g1_block1_conv")
    adaptive = tensors["offset_feature_layers.1.1.adapt_conv.weight"]
    assert adaptive[5, 4, 2, 1] == np.asarray(head.kernel)[1, 2 * 3 + 1, 4, 5]
    translation = tensors["offset_feature_layers.1.1.translation_conv.weight"]
    assert translation[1, 4, 2, 0] == np.asarray(head.offset_kernel)[1, 2, 0, 4, 4 + 1]


def test_what_cannot_be_exported(tiny, tmp_path, monkeypatch):
    model, config = tiny
    head = {**config.model.model_dump(), "offset_head": {"branches": "single"}}
    sidecar = Sidecar.from_config(Config(keypoints=config.keypoints, model=head))
    with pytest.raises(InputError, match=r"Received: model.offset_head block=adaptive, branches=single"):
        export_checkpoint(model, sidecar, tmp_path / "single.pth")
    sidecar = Sidecar.from_config(Config(keypoints=config.keypoints, model={"backbone": "efficientnet_lite0"}))
    with pytest.raises(InputError, match=r"have an HRNet backbone\. Received: model.backbone=efficientnet_lite0$"):
        export_checkpoint(model, sidecar, tmp_path / "lite0.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="needs PyTorch: pip install"):
        export_checkpoint(model, Sidecar.from_config(config), tmp_path / "tiny.pth")
    assert list(tmp_path.iterdir()) == []
