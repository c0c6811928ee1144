"""The reference's checkpoints: the same outputs stage by stage, every tensor used, everything else refused.

The golden maps hold every STRIDE-th value of the reference's (NHWC, flattened), to keep the files small; the stride
shares no factor with any number of channels or columns, so that all of them are met. A stage cannot be fed from them,
so all start at the image, and the first one that differs is named. EfficientNet-Lite0's are those of timm 1.0.22
(`tf_efficientnet_lite0`), as `benchmarks/efficientnet.py --peer` gives them.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from pth_writer import write_pth

from converters.from_torch import import_checkpoint, read_state_dict
from converters.to_torch import to_state_dict
from dekr_tf.config import Config, ModelConfig
from dekr_tf.errors import InputError
from dekr_tf.models import build_dekr, save_model
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.trainer import load_backbone

GOLDENS = Path(__file__).parents[1] / "goldens"
STRIDE = 19
#: Largest difference relative to the largest value of the map.
TOLERANCE = 2e-5
PARAMETERS = {
    "coco_w32": 29_561_182,
    "coco_w48": 65_684_590,
    "crowdpose_w32": 29_522_071,
    "crowdpose_w48": 65_634_631,
}
#: Our layer for each of the reference's maps, in the order of the computation.
STAGES = {
    "layer1": "stage1_u3_relu",
    **{f"stage2_{branch}": f"stage2_m0_f{branch}_relu" for branch in range(2)},
    **{f"stage3_{branch}": f"stage3_m3_f{branch}_relu" for branch in range(3)},
    **{f"stage4_{branch}": f"stage4_m2_f{branch}_relu" for branch in range(4)},
    "heatmap": "heatmap",
    "offset_feature": "offset_transition_relu",
    "keypoint2_block0": "offset_g1_block0_relu",
    "offset": "offset_g1_final",
}
#: The same for EfficientNet-Lite0. A stage ends with its projection, or with the shortcut around its last block.
LITE0_STAGES = {
    "stem": "stem_relu",
    "stage1": "stage1_block0_project_bn",
    "stage2": "stage2_block1_add",
    "stage3": "stage3_block1_add",
    "stage4": "stage4_block2_add",
    "stage5": "stage5_block2_add",
    "stage6": "stage6_block3_add",
    "stage7": "stage7_block0_project_bn",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=PARAMETERS)
def imported(request, golden_checkpoint, tmp_path_factory):
    """A checkpoint of the paper: its name, its tensors and the model made of it."""
    tensors = golden_checkpoint(request.param)
    keypoints, width = request.param.split("_w")
    path = write_pth(tmp_path_factory.mktemp("checkpoint") / "golden.pth", tensors)
    config = Config(keypoints=keypoints, model=ModelConfig(width=int(width)))
    model = import_checkpoint(path, config)
    path.unlink()
    yield request.param, tensors, model, config
    keras.backend.clear_session()


def check_stages(model, stages, golden):
    tap = keras.Model(model.input, {stage: model.get_layer(layer).output for stage, layer in stages.items()})
    maps = {stage: np.asarray(value) for stage, value in tap(golden["input"]).items()}
    if "keypoint2_block0" in maps:
        maps["keypoint2_block0"] = maps["keypoint2_block0"][..., 2 * 15 : 3 * 15]
    for stage in stages:
        expected = golden[stage]
        received = maps[stage].ravel()[::STRIDE]
        np.testing.assert_allclose(received, expected, rtol=0, atol=TOLERANCE * abs(expected).max(), err_msg=stage)


def test_every_stage_equals_the_reference(imported):
    name, _, model, _ = imported
    with np.load(GOLDENS / f"model_{name}.npz") as arrays:
        golden = dict(arrays)
    stages = {stage: layer for stage, layer in STAGES.items() if stage in golden}
    assert set(golden) == {"input", *stages}
    assert {"heatmap", "offset"} <= set(stages)
    check_stages(model, stages, golden)


def test_what_came_in_goes_out_again(imported):
    _, tensors, model, config = imported
    again = to_state_dict(model, Sidecar.from_config(config))
    assert set(again) == set(tensors)
    for name, value in tensors.items():
        assert again[name].dtype == value.dtype
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_number_of_parameters(imported):
    name, _, model, _ = imported
    assert sum(np.prod(variable.shape) for variable in model.trainable_variables) == PARAMETERS[name]


@pytest.mark.parametrize("keypoints", ["coco", "crowdpose"])
def test_rescoring_nets(keypoints, golden_checkpoint, tmp_path):
    path = write_pth(tmp_path / "rescore.pth", golden_checkpoint(f"rescore_{keypoints}"))
    model = import_checkpoint(path, Config(keypoints=keypoints))
    with np.load(GOLDENS / f"rescore_{keypoints}.npz") as golden:
        scores = np.asarray(model(golden["feature"]))
        np.testing.assert_allclose(scores.ravel(), golden["score"].ravel(), rtol=0, atol=1e-5)


@pytest.fixture
def tiny_tensors(tiny):
    model, config = tiny
    return to_state_dict(model, Sidecar.from_config(config))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"epoch": 3, "model": "hrnet_dekr", "state_dict": tensors},
        lambda tensors: {"model": tensors},
        lambda tensors: {"state_dict": {f"module.{name}": value for name, value in tensors.items()}},
        lambda tensors: {name: value.astype(np.float64) for name, value in tensors.items()},
    ],
    ids=["plain", "state_dict", "model", "module.", "float64"],
)
def test_wrappers_and_prefixes(tiny_tensors, tmp_path, wrap):
    path = write_pth(tmp_path / "tiny.pth", wrap(tiny_tensors))
    tensors = read_state_dict(path)
    assert set(tensors) == {name for name in tiny_tensors if not name.endswith(("_tracked", "_matrix"))}
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, tiny_tensors[name])


def test_a_small_network_of_two_keypoints(tiny, tiny_tensors, tmp_path):
    model, config = tiny
    again = import_checkpoint(write_pth(tmp_path / "tiny.pth", tiny_tensors), config)
    assert [variable.path for variable in again.variables] == [variable.path for variable in model.variables]
    for received, expected in zip(again.variables, model.variables, strict=True):
        np.testing.assert_array_equal(received, expected, err_msg=expected.path)


def without(tensors, name):
    return {other: value for other, value in tensors.items() if other != name}


NAME = "offset_feature_layers.1.0.adapt_conv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: without(tensors, NAME), f"does not fit the model: missing {NAME}$"),
        (lambda tensors: {**tensors, "extra.weight": np.ones(2)}, "does not fit the model: unexpected extra.weight$"),
        (
            lambda tensors: {**tensors, NAME: tensors[NAME][..., 0]},
            rf"{NAME} has shape \(15, 15, 3\), not \(15, 15, 3, 3\)$",
        ),
        (lambda tensors: {**tensors, NAME: tensors[NAME] * np.nan}, f"{NAME} holds NaN or infinite values$"),
        (
            lambda tensors: without({**tensors, "b": np.ones(2), "a": np.ones(2), "c": np.ones(2)}, NAME),
            f"missing {NAME}; unexpected a; unexpected b and 1 more$",
        ),
        (
            lambda tensors: {**tensors, "transition1.0.0.weight": np.ones((16, 256, 3, 3))},
            r"expected width 8 \(model.width\), 8 channels out of transition1.0.0.weight. "
            r"Received: shape \(16, 256, 3, 3\)$",
        ),
        (
            lambda tensors: {**tensors, "head_heatmap.1.weight": np.ones((15, 8, 1, 1))},
            r"the keypoints of stick and a center, 3 channels out of .* Received: shape \(15, 8, 1, 1\)$",
        ),
        (lambda tensors: {"a": np.ones(2), "b": np.ones(2)}, "expected the tensors of a DEKR.*Received: a, b, ...$"),
        (lambda tensors: {}, "Received: none, ...$"),
    ],
)
def test_tensors_that_do_not_fit(tiny, tiny_tensors, tmp_path, change, message):
    path = write_pth(tmp_path / "changed.pth", change(tiny_tensors))
    with pytest.raises(InputError, match=message):
        import_checkpoint(path, tiny[1])


def test_a_failed_import_leaves_a_model_as_it_was(tiny, tiny_tensors):
    from converters.from_torch import assign_tensors
    from converters.weight_map import dekr_entries

    model, config = tiny
    before = [np.array(variable) for variable in model.variables]
    tensors = {name: 2 * value for name, value in tiny_tensors.items()}
    with pytest.raises(InputError, match="unexpected"):
        assign_tensors(model, dekr_entries(config.model, 2), tensors, "changed.pth")
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_plain_or_grouped_heads_have_no_checkpoint(tiny, tiny_tensors, tmp_path):
    path = write_pth(tmp_path / "tiny.pth", tiny_tensors)
    model = {**tiny[1].model.model_dump(), "offset_head": {"block": "plain", "branches": "single"}}
    config = Config(keypoints=tiny[1].keypoints, model=model)
    with pytest.raises(
        InputError, match=r"adaptive offset head .* Received: .* block=plain, branches=single, output_scale=1$"
    ):
        import_checkpoint(path, config)


def test_an_imagenet_backbone_starts_a_network(tiny, tiny_tensors, tmp_path):
    model, config = tiny
    heads = ("transition_heatmap", "head_heatmap", "transition_offset", "offset_")
    tensors = {name: value for name, value in tiny_tensors.items() if not name.startswith(heads)}
    backbone_names = set(tensors)
    classifier = ("incre_modules.0.0.conv1.weight", "downsamp_modules.0.0.bias", "final_layer.0.weight")
    tensors |= {name: np.ones(3, np.float32) for name in (*classifier, "classifier.weight", "classifier.bias")}
    backbone = import_checkpoint(write_pth(tmp_path / "imagenet.pth", tensors), config)
    assert backbone.name == "hrnet"
    save_model(backbone, tmp_path / "backbone.keras")

    network = keras.models.clone_model(model)
    load_backbone(network, tmp_path / "backbone.keras")
    # In a network's checkpoint now all tensors of the backbone are the file's, and no other.
    received = to_state_dict(network, Sidecar.from_config(config))
    for name, value in tiny_tensors.items():
        same = np.array_equal(received[name], value)
        assert same or name not in backbone_names, name
    assert not np.array_equal(received["transition_offset.0.weight"], tiny_tensors["transition_offset.0.weight"])


LITE0 = Config(model={"backbone": "efficientnet_lite0"})


@pytest.fixture(scope="module")
def lite0_tensors(golden_checkpoint):
    return golden_checkpoint("efficientnet_lite0")


def test_efficientnet_lite0_equals_timm(lite0_tensors, tmp_path):
    backbone = import_checkpoint(write_pth(tmp_path / "lite0.pth", lite0_tensors), LITE0)
    with np.load(GOLDENS / "efficientnet_lite0.npz") as golden:
        assert set(golden) == {"input", *LITE0_STAGES}
        check_stages(backbone, LITE0_STAGES, golden)
    save_model(backbone, tmp_path / "lite0.keras")

    network = build_dekr(LITE0.model, LITE0.schema)
    load_backbone(network, tmp_path / "lite0.keras")
    for layer in backbone.layers:
        for received, expected in zip(network.get_layer(layer.name).weights, layer.weights, strict=True):
            np.testing.assert_array_equal(received, expected, err_msg=expected.path)


PROJECTION = "_blocks.15._project_conv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: without(tensors, PROJECTION), f"does not fit the model: missing {PROJECTION}$"),
        (
            lambda tensors: {**tensors, "_blocks.15._se_reduce.bias": np.ones(2)},
            "does not fit the model: unexpected _blocks.15._se_reduce.bias$",
        ),
        (
            lambda tensors: {**tensors, PROJECTION: tensors[PROJECTION][..., 0]},
            rf"{PROJECTION} has shape \(320, 1152, 1\), not \(320, 1152, 1, 1\)$",
        ),
        (lambda tensors: {**tensors, PROJECTION: tensors[PROJECTION] * np.nan}, f"{PROJECTION} holds NaN"),
    ],
)
def test_efficientnet_tensors_that_do_not_fit(lite0_tensors, tmp_path, change, message):
    path = write_pth(tmp_path / "changed.pth", change(lite0_tensors))
    with pytest.raises(InputError, match=message):
        import_checkpoint(path, LITE0)


def test_the_checkpoint_of_another_backbone(tiny, tiny_tensors, lite0_tensors, tmp_path):
    with pytest.raises(
        InputError, match=r"expected model.backbone hrnet. Received: the tensors of efficientnet_lite0$"
    ):
        import_checkpoint(write_pth(tmp_path / "lite0.pth", lite0_tensors), tiny[1])
    with pytest.raises(
        InputError, match=r"expected model.backbone efficientnet_lite0. Received: the tensors of hrnet$"
    ):
        import_checkpoint(write_pth(tmp_path / "tiny.pth", tiny_tensors), LITE0)


@pytest.mark.parametrize(
    "channels",
    [
        {"stem_channels": 16, "stage1_channels": 8},
        {"stem_channels": 32, "stage1_channels": 8},  # No projection around the first unit of stage 1.
        {"stage1_channels": 2},  # No convolution from stage 1 to the first branch of stage 2.
    ],
    ids=str,
)
def test_a_stem_of_another_width(tiny, channels, tmp_path):
    config = Config(keypoints=tiny[1].keypoints, model={**tiny[1].model.model_dump(), **channels})
    model = build_dekr(config.model, config.schema)
    path = write_pth(tmp_path / "small.pth", to_state_dict(model, Sidecar.from_config(config)))
    again = import_checkpoint(path, config)
    for received, expected in zip(again.variables, model.variables, strict=True):
        np.testing.assert_array_equal(received, expected, err_msg=expected.path)
    name, size = next(iter(channels.items()))
    with pytest.raises(InputError, match=rf"expected .* of 64 channels \(model.{name}\).* Received: shape \({size}, "):
        import_checkpoint(path, tiny[1])
