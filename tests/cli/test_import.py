"""`dekr import`: a checkpoint becomes a model, or nothing is written."""

import keras
import numpy as np
import pytest
from pth_writer import write_pth

from converters.to_torch import to_state_dict
from dekr_tf.cli.main import main
from dekr_tf.config import load_config
from dekr_tf.inference.rescoring import RescoringNet
from dekr_tf.models import build_backbone, build_dekr, load_model
from dekr_tf.sidecar import Sidecar

CONFIG = """
keypoints: {name: stick, names: [top, end], edges: [[top, end]], normalization_edges: [[top, end]]}
model: {width: 8, bottlenecks: 1, modules: [1, 1, 1], blocks: 1}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config, and a network of it with its tensors."""
    folder = tmp_path_factory.mktemp("import")
    (folder / "config.yaml").write_text(CONFIG)
    config = load_config(folder / "config.yaml")
    keras.utils.set_random_seed(1)
    model = build_dekr(config.model, config.schema)
    return folder, model, to_state_dict(model, Sidecar.from_config(config))


def run(folder, tmp_path, tensors, output, *overrides):
    write_pth(tmp_path / "checkpoint.pth", {"state_dict": tensors})
    words = [str(tmp_path / "checkpoint.pth"), "--config", str(folder / "config.yaml"), "--output", str(output)]
    return main(["import", *words, *overrides])


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_a_checkpoint_becomes_a_model(folder, tmp_path, capsys, suffix):
    folder, model, tensors = folder
    output = tmp_path / "new" / f"stick{suffix}"
    assert run(folder, tmp_path, tensors, output) == 0
    line = f"{output}: dekr, {model.count_params():,} values, all tensors of the checkpoint used\n"
    assert capsys.readouterr() == (line, "")
    imported, sidecar = load_model(output)
    assert sidecar == Sidecar.from_config(load_config(folder / "config.yaml"))
    for received, expected in zip(imported.variables, model.variables, strict=True):
        np.testing.assert_array_equal(received, expected, err_msg=expected.path)


def test_a_backbone_has_no_sidecar(folder, tmp_path, capsys):
    folder, _, tensors = folder
    heads = ("transition_heatmap", "head_heatmap", "transition_offset", "offset_")
    backbone = {name: value for name, value in tensors.items() if not name.startswith(heads)}
    backbone |= {"classifier.weight": np.ones((10, 4)), "incre_modules.0.0.bn1.bias": np.ones(3)}
    like = build_backbone(load_config(folder / "config.yaml").model)
    assert run(folder, tmp_path, backbone, tmp_path / "hrnet.keras") == 0
    assert f": hrnet, {like.count_params():,} values" in capsys.readouterr().out
    model = keras.models.load_model(tmp_path / "hrnet.keras")
    assert [variable.shape for variable in model.variables] == [variable.shape for variable in like.variables]
    assert not (tmp_path / "hrnet.keras.json").exists()


def test_a_rescoring_net_is_an_npz_file(folder, tmp_path, capsys):
    random = np.random.default_rng(0)
    sizes = {"l1": (256, 5), "l2": (256, 256), "l3": (1, 256)}
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}
    biases = {name: random.normal(size=shape[0]).astype(np.float32) for name, shape in sizes.items()}
    tensors = {f"{name}.weight": value for name, value in weights.items()}
    tensors |= {f"{name}.bias": value for name, value in biases.items()}
    output = tmp_path / "net.npz"
    assert run(folder[0], tmp_path, tensors, output) == 0
    assert f"{output}: rescoring, 67,585 values, all tensors of the checkpoint used" in capsys.readouterr().out
    net = RescoringNet.load(output)
    assert net.schema == load_config(folder[0] / "config.yaml").schema
    for name, (kernel, bias) in zip(sizes, net.layers, strict=True):
        np.testing.assert_array_equal(kernel, weights[name].T)
        np.testing.assert_array_equal(bias, biases[name])
    assert run(folder[0], tmp_path, tensors, tmp_path / "net.keras") == 2
    assert capsys.readouterr().err.endswith(
        "a rescoring net is written as .npz, any other model as .keras or .weights.h5. "
        f"Received: {tmp_path / 'net.keras'} for rescoring\n"
    )
    assert not (tmp_path / "net.keras").exists()


@pytest.mark.parametrize(
    ("change", "output", "overrides", "message"),
    [
        ({"conv1.weight": None}, "stick.keras", [], "does not fit the model: missing conv1.weight"),
        ({"new.bias": np.ones(2)}, "stick.keras", [], "does not fit the model: unexpected new.bias"),
        ({"bn1.bias": np.full(64, np.nan)}, "stick.keras", [], "bn1.bias holds NaN or infinite values"),
        ({}, "stick.keras", ["model.width=16"], "expected width 16 (model.width), 16 channels out of transition1.0.0"),
        (
            {},
            "stick.keras",
            ["model={backbone: efficientnet_lite0}"],
            "expected model.backbone efficientnet_lite0. Received: the tensors of hrnet",
        ),
        ({}, "stick.keras", ["keypoints=coco"], "expected the keypoints of coco and a center, 18 channels out of"),
        ({}, "stick.keras", ["model.blocks=2"], "does not fit the model: missing stage2.0.branches.0.1."),
        ({}, "stick.keras", ["model.offset_head.block=plain"], "Received: model.offset_head block=plain"),
        ({}, "stick.pth", [], "a model file ends in .keras, .weights.h5 or .weights.npz. Received: "),
        ({}, "stick.npz", [], "a rescoring net is written as .npz, any other model as .keras or .weights.h5. Received"),
        ({}, "checkpoint.pth/stick.keras", [], "cannot write "),
    ],
)
def test_what_does_not_fit_writes_nothing(folder, tmp_path, capsys, change, output, overrides, message):
    folder, _, tensors = folder
    tensors = tensors | change
    tensors = {name: value for name, value in tensors.items() if value is not None}
    assert run(folder, tmp_path, tensors, tmp_path / output, *overrides) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith("dekr import: error: ") and errors.count("\n") == 1
    assert message in errors
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_a_checkpoint_that_is_not_there(folder, tmp_path, capsys):
    words = [str(tmp_path / "gone.pth"), "--config", str(folder[0] / "config.yaml")]
    assert main(["import", *words, "--output", str(tmp_path / "stick.keras")]) == 2
    assert capsys.readouterr().err == (
        f"dekr import: error: cannot read checkpoint {tmp_path / 'gone.pth'}: No such file or directory\n"
    )
