"""Starting from a trained model: what is taken lies where the keypoint's name puts it, and all else stays fresh."""

import numpy as np
import pytest
from networks import tiny_hrnet

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.models import build_dekr, save_model
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.initial_weights import load_initial_weights

TINY = tiny_hrnet(8)

pytestmark = pytest.mark.slow


def config_of(names, **head):
    keypoints = {"name": "toy", "names": list(names), "flip_pairs": []}
    return Config(keypoints=keypoints, model={**TINY, "offset_head": {"channels": 2 * len(names), **head}})


@pytest.fixture
def save(tmp_path):
    """Writes a model of a config whose weights are all different, and gives it and its path."""

    def save(config):
        model = build_dekr(config.model, config.schema)
        generator = np.random.default_rng(0)
        for variable in model.variables:
            variable.assign(generator.normal(size=variable.shape))
        save_model(model, tmp_path / "source.keras", Sidecar.from_config(config))
        return model, tmp_path / "source.keras"

    return save


def values(model, layer):
    return {variable.name: np.array(variable) for variable in model.get_layer(layer).variables}


def test_the_same_skeleton_gives_the_same_network(save):
    config = config_of("abc")
    source, path = save(config)
    network = build_dekr(config.model, config.schema)
    taken = load_initial_weights(network, config, path)
    for mine, theirs in zip(network.variables, source.variables, strict=True):
        np.testing.assert_array_equal(np.array(mine), np.array(theirs), err_msg=mine.path)
    assert str(taken) == (
        "backbone, heatmap head and the heatmaps of 3 keypoints; offset branches of 3 keypoints; new: none"
    )


def test_keypoints_go_by_name(save):
    """From a, b, c to c, x, a: c and a move, x stays as it was."""
    source, path = save(config_of("abc"))
    config = config_of("cxa")
    network = build_dekr(config.model, config.schema)
    fresh = {layer.name: values(network, layer.name) for layer in network.layers if layer.weights}
    taken = load_initial_weights(network, config, path)
    assert taken.heatmaps == taken.branches == ("c", "a")
    assert taken.fresh == ("x",)

    moved, given = values(network, "heatmap"), values(source, "heatmap")
    for name in ("kernel", "bias"):
        # The last channel is the center.
        expected = np.stack([given[name][..., 2], fresh["heatmap"][name][..., 1], given[name][..., 0]], axis=-1)
        np.testing.assert_array_equal(moved[name][..., :3], expected)
        np.testing.assert_array_equal(moved[name][..., 3], given[name][..., 3])

    for block in (0, 1):
        layer = f"offset_g1_block{block}_conv"
        moved, given = values(network, layer), values(source, layer)
        for name in ("kernel", "offset_kernel", "offset_bias"):
            np.testing.assert_array_equal(moved[name][[0, 2]], given[name][[2, 0]])
            np.testing.assert_array_equal(moved[name][1], fresh[layer][name][1])
    for layer in ("offset_transition_conv", "offset_transition_bn", "offset_g1_block0_bn", "offset_g1_block1_bn"):
        moved, given = values(network, layer), values(source, layer)
        for name, value in moved.items():
            np.testing.assert_array_equal(value[..., [0, 1, 4, 5]], given[name][..., [4, 5, 0, 1]], err_msg=name)
            np.testing.assert_array_equal(value[..., 2:4], fresh[layer][name][..., 2:4], err_msg=name)
    moved, given = values(network, "offset_g1_final"), values(source, "offset_g1_final")
    np.testing.assert_array_equal(moved["kernel"][[0, 2]], given["kernel"][[2, 0]])
    np.testing.assert_array_equal(moved["bias"][[0, 1, 4, 5]], given["bias"][[4, 5, 0, 1]])
    np.testing.assert_array_equal(moved["bias"][2:4], fresh["offset_g1_final"]["bias"][2:4])
    for layer in ("stem_1_conv", "stage4_m0_f0_3_bn", "heatmap_transition_conv", "heatmap_u0_2_bn"):
        for name, value in values(network, layer).items():
            np.testing.assert_array_equal(value, values(source, layer)[name])


def test_maps_of_shared_keypoints_are_those_of_the_model(save):
    """With another order of the keypoints alone, the maps are the same in another order."""
    source, path = save(config_of("abc"))
    config = config_of("bca")
    network = build_dekr(config.model, config.schema)
    load_initial_weights(network, config, path)
    image = np.random.default_rng(1).normal(size=(1, 64, 64, 3)).astype(np.float32)
    theirs, ours = (model(image, training=False) for model in (source, network))
    order = [1, 2, 0]
    scale = np.abs(np.array(theirs["heatmap"])).max()
    np.testing.assert_allclose(ours["heatmap"], np.array(theirs["heatmap"])[..., [*order, 3]], atol=1e-5 * scale)
    pairs = [2 * index + axis for index in order for axis in (0, 1)]
    scale = np.abs(np.array(theirs["offset"])).max()
    np.testing.assert_allclose(ours["offset"], np.array(theirs["offset"])[..., pairs], atol=1e-5 * scale)


@pytest.mark.parametrize(
    "head, reason",
    [
        ({"channels": 12}, "they have 2 channels a keypoint there and 4 here"),
        ({"output_scale": 4.0}, "model.offset_head.output_scale is 1.0 there and 4.0 here"),
        ({"blocks": 1}, "model.offset_head.blocks is 2 there and 1 here"),
        ({"branches": "single"}, "model.offset_head.branches is separate there and single here"),
    ],
)
def test_another_offset_head_starts_fresh(save, head, reason):
    _, path = save(config_of("abc"))
    config = config_of("abc", **head)
    network = build_dekr(config.model, config.schema)
    before = values(network, "offset_transition_conv")["kernel"]
    taken = load_initial_weights(network, config, path)
    assert taken.branches == ()
    assert f"offset branches of 0 keypoints ({reason})" in str(taken)
    np.testing.assert_array_equal(values(network, "offset_transition_conv")["kernel"], before)


def test_branches_of_several_keypoints_are_taken_for_the_same_skeleton_only(save):
    source, path = save(config_of("abc", branches="single"))
    config = config_of("abc", branches="single")
    network = build_dekr(config.model, config.schema)
    assert load_initial_weights(network, config, path).branches == ("a", "b", "c")
    np.testing.assert_array_equal(
        values(network, "offset_g3_final")["kernel"], values(source, "offset_g3_final")["kernel"]
    )
    config = config_of("abd", branches="single")
    taken = load_initial_weights(build_dekr(config.model, config.schema), config, path)
    assert taken.branches == () and "another skeleton" in taken.reason


@pytest.mark.parametrize(
    "model, message",
    [
        ({"width": 16}, r"expected a model with model.width = 16, as in the config. Received: 8"),
        ({"heatmap_channels": 4}, r"model.heatmap_channels = 4, .*Received: None"),
    ],
)
def test_another_network_is_refused(save, model, message):
    _, path = save(config_of("abc"))
    config = config_of("abc")
    config = config.model_copy(update={"model": config.model.model_copy(update=model)})
    with pytest.raises(InputError, match=message):
        load_initial_weights(build_dekr(config.model, config.schema), config, path)


def test_one_source_of_weights():
    with pytest.raises(ValueError, match=r"backbone_weights cannot be combined with training\.initial_weights"):
        Config(training={"backbone_weights": "a.keras", "initial_weights": "b.keras"})
