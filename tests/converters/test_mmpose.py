"""mmpose's checkpoints: the maps that mmpose computes, in its names and conventions of version 1 and before.

The golden maps hold every STRIDE-th value of mmpose's (NHWC, flattened), for an image of standard normal noise.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from pth_writer import write_pth

from converters import mmpose
from converters.from_torch import import_checkpoint
from converters.to_torch import to_state_dict
from dekr_tf.cli.main import main
from dekr_tf.config import Config, ModelConfig
from dekr_tf.errors import InputError
from dekr_tf.inference.rescoring import RescoringNet, rescoring_features
from dekr_tf.keypoints import COCO, CROWDPOSE
from dekr_tf.sidecar import Sidecar

GOLDENS = Path(__file__).parents[1] / "goldens"
STRIDE = 19
#: Largest difference relative to the largest value of the map.
TOLERANCE = 2e-5

pytestmark = pytest.mark.slow


def to_old_names(tensors):
    """What mmpose before version 1 would have saved of a checkpoint of version 1."""
    tensors = dict(tensors)
    for part in ("weight", "bias"):
        center = tensors[f"head.heatmap_conv_layers.2.{part}"]
        tensors[f"head.heatmap_conv_layers.2.{part}"] = np.concatenate([center[-1:], center[:-1]])
        tensors[f"head.displacement_conv_layers.3.{part}"] = -tensors[f"head.displacement_conv_layers.3.{part}"]
    return {
        name.replace("head.rescore_net", "rescore_net")
        .replace("head.displacement_conv_layers", "keypoint_head.offset_conv_layers")
        .replace("head.heatmap_conv_layers", "keypoint_head.heatmap_conv_layers"): value
        for name, value in tensors.items()
    }


@pytest.mark.parametrize(("keypoints", "old"), [("coco", False), ("crowdpose", True)])
def test_maps_equal_those_of_mmpose(keypoints, old, golden_checkpoint, tmp_path):
    tensors = golden_checkpoint(f"mmpose_{keypoints}_w32")
    content = {"meta": {"mmpose_version": "1.0.0"}, "state_dict": to_old_names(tensors) if old else tensors}
    config = Config(keypoints=keypoints, model=ModelConfig(width=32))
    model = import_checkpoint(write_pth(tmp_path / "mmpose.pth", content), config)
    image = np.random.default_rng(11).standard_normal((1, 3, 128, 192)).astype(np.float32)
    maps = model(image.transpose(0, 2, 3, 1))
    with np.load(GOLDENS / f"model_mmpose_{keypoints}_w32.npz") as golden:
        for ours, theirs, sign in (("heatmap", "heatmaps", 1), ("offset", "displacements", -1)):
            expected = sign * golden[theirs]
            received = np.asarray(maps[ours]).ravel()[::STRIDE]
            np.testing.assert_allclose(received, expected, rtol=0, atol=TOLERANCE * abs(expected).max(), err_msg=ours)
    keras.backend.clear_session()


def from_reference(tensors, keypoints):
    """A small network of the reference's in the names and conventions of mmpose's version 1."""
    names = {ours: theirs for theirs, ours in mmpose.PREFIXES.items() if ours}
    result = {}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), None)
        if prefix:
            result[names[prefix] + name.removeprefix(prefix)] = value
        elif not name.startswith("offset_"):
            result[f"backbone.{name}"] = value

    def joined(name):
        return np.concatenate([tensors[name.format(index)] for index in range(keypoints)])

    for part in ("weight", "bias"):
        result[f"head.displacement_conv_layers.3.{part}"] = -joined(f"offset_final_layer.{{}}.{part}")
    for block in (0, 1):
        theirs, ours = f"head.displacement_conv_layers.{block + 1}", f"offset_feature_layers.{{}}.{block}"
        for part in ("weight", "bias", "running_mean", "running_var"):
            result[f"{theirs}.norm.{part}"] = joined(f"{ours}.bn.{part}")
        result[f"{theirs}.adapt_conv.weight"] = joined(f"{ours}.adapt_conv.weight")
        result[f"{theirs}.regular_matrix"] = np.ones((3, 9))
        for part in ("weight", "bias"):
            rows = []
            for index in range(keypoints):
                matrix = tensors[f"{ours.format(index)}.transform_matrix_conv.{part}"].copy()
                if part == "bias":
                    matrix -= [1, 0, 0, 1]
                translation = tensors[f"{ours.format(index)}.translation_conv.{part}"]
                rows += [matrix[0], matrix[1], translation[0], matrix[2], matrix[3], translation[1]]
            result[f"{theirs}.transform_matrix_conv.{part}"] = np.stack(rows)
    return result


@pytest.fixture
def tiny_mmpose(tiny):
    model, config = tiny
    return from_reference(to_state_dict(model, Sidecar.from_config(config)), 2)


@pytest.mark.parametrize("old", [False, True])
def test_every_value_of_a_small_network_has_its_place(tiny, tiny_mmpose, tmp_path, old):
    model, config = tiny
    path = write_pth(tmp_path / "tiny.pth", to_old_names(tiny_mmpose) if old else tiny_mmpose)
    again = import_checkpoint(path, config)
    for received, expected in zip(again.variables, model.variables, strict=True):
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-6, err_msg=expected.path)


BLOCK = "head.displacement_conv_layers.2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{BLOCK}.norm.bias": None}, r"missing offset_feature_layers.0.1.bn.bias; missing .*1.1.bn.bias$"),
        ({"head.heatmap_conv_layers.2.bias": None}, "missing head_heatmap.1.bias$"),
        ({"head.extra.bias": np.ones(2)}, "unexpected head.extra.bias$"),
        ({f"{BLOCK}.extra.bias": np.ones(2)}, "unexpected offset_feature_layers.0.1.extra.bias; unexpected"),
        ({f"{BLOCK}.norm.bias": np.ones(3)}, r"layers.0.1.bn.bias has shape \(3,\), not \(15,\)$"),
        ({f"{BLOCK}.transform_matrix_conv.bias": np.ones(8)}, "0.1.transform_matrix_conv.bias has shape|missing"),
        ({"head.displacement_conv_layers.3.bias": np.ones(6)}, r"0.bias has shape \(3,\), not \(2,\)"),
        ({"backbone.conv1.weight": np.ones((64, 3, 3))}, r"conv1.weight has shape \(64, 3, 3\)"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit(tiny, tiny_mmpose, tmp_path, change, message):
    tensors = {name: value for name, value in (tiny_mmpose | change).items() if value is not None}
    with pytest.raises(InputError, match=f"does not fit the model: .*{message}"):
        import_checkpoint(write_pth(tmp_path / "changed.pth", tensors), tiny[1])


def net_tensors(schema):
    """A random rescoring net."""
    random = np.random.default_rng(3)
    features = 3 * len(schema.edges) + len(schema)
    shapes = {"l1": (256, features), "l2": (256, 256), "l3": (1, 256)}
    tensors = {f"{name}.weight": random.normal(size=shape) / 10 for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": random.normal(size=shape[0]) for name, shape in shapes.items()}
    return {name: value.astype(np.float32) for name, value in tensors.items()}


@pytest.mark.parametrize("schema", [COCO, CROWDPOSE], ids=lambda schema: schema.name)
def test_rescoring_nets_see_the_edges_in_their_own_order(schema):
    edges = [tuple(map(int, edge.split("-"))) for edge in mmpose.EDGES[schema.names].split()]
    assert {frozenset(edge) for edge in edges} == {frozenset(edge) for edge in schema.edges}
    assert len(edges) == len(schema.edges)
    # The edges that mmpose's settings take a person's size from.
    size_edges = [edges[index] for index in {COCO: (5, 6), CROWDPOSE: (0, 1)}[schema]]
    assert {frozenset(edge) for edge in size_edges} == {frozenset(edge) for edge in schema.normalization_edges}

    theirs = net_tensors(schema)
    own_order = type(schema)(**{**schema.__dict__, "edges": tuple(edges)})
    poses = np.random.default_rng(4).uniform(0, 300, (5, len(schema), 3))
    ours = mmpose.reorder_features(theirs, schema)
    np.testing.assert_allclose(
        rescoring_features(poses, schema) @ ours["l1.weight"].T,
        rescoring_features(poses, own_order) @ theirs["l1.weight"].T,
        rtol=1e-4,
        atol=1e-4,
    )


#: What `RescoreNet` of the package mmpose 1.3.2 gives for the poses and parameters of the reference's goldens, with the
#: skeletons and `norm_indexes` of its DEKR configs.
MMPOSE_SCORES = {
    COCO: """-0.30765456 -0.7385055 -0.3223638 -0.02929913 -0.43738985 -0.12976198 -0.9482736 -0.26771677 -0.06845774
        -0.18378673 0.1572405 -0.17456566""",
    CROWDPOSE: """-0.5361396 -1.3253692 -0.58744514 -0.10390783 -0.29091674 -0.50231045 -0.44688982 -0.26132393
        -0.48301637 -0.27380288 -1.8705653 -0.2170611""",
}


@pytest.mark.parametrize("schema", [COCO, CROWDPOSE], ids=lambda schema: schema.name)
def test_rescoring_nets_score_as_in_mmpose(schema, golden_checkpoint):
    tensors = mmpose.reorder_features(golden_checkpoint(f"rescore_{schema.name}"), schema)
    net = RescoringNet(schema, tuple((tensors[f"l{i}.weight"].T, tensors[f"l{i}.bias"]) for i in (1, 2, 3)))
    with np.load(GOLDENS / f"rescore_{schema.name}.npz") as golden:
        scores = net.predict_oks(golden["poses"])
    np.testing.assert_allclose(scores, np.array(MMPOSE_SCORES[schema].split(), np.float32), atol=1e-6)


def test_rescoring_nets_of_other_skeletons(tiny):
    with pytest.raises(InputError, match=r"mmpose's rescoring nets are for coco and crowdpose. Received: stick$"):
        mmpose.reorder_features({}, tiny[1].schema)
    with pytest.raises(InputError, match=r"of 74 features. Received: l1.weight of shape \(256, 59\)$"):
        mmpose.reorder_features(net_tensors(CROWDPOSE), COCO)


def test_the_net_beside_a_network_is_imported_as_npz(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("keypoints: crowdpose\n")
    net = net_tensors(CROWDPOSE)
    # A network that is left out need not be whole.
    tensors = {mmpose.KNOWN_BY: np.ones((210, 480, 1, 1)), **{f"head.rescore_net.{key}": net[key] for key in net}}
    path = write_pth(tmp_path / "mmpose.pth", {"state_dict": tensors})
    output = tmp_path / "net.npz"
    assert main(["import", str(path), "--config", str(config), "--output", str(output)]) == 0
    assert "rescoring, 81,409 values" in capsys.readouterr().out
    kernel = RescoringNet.load(output).layers[0][0]
    np.testing.assert_array_equal(kernel, mmpose.reorder_features(net, CROWDPOSE)["l1.weight"].T)

    alone = write_pth(tmp_path / "alone.pth", net)
    command = ["import", str(alone), "--config", str(config), "--output", str(output)]
    assert main([*command, "--edges", "mmpose"]) == 0
    np.testing.assert_array_equal(RescoringNet.load(output).layers[0][0], kernel)
    assert main(command) == 0
    np.testing.assert_array_equal(RescoringNet.load(output).layers[0][0], net["l1.weight"].T)
