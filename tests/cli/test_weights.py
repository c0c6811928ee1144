"""`dekr weights` and names of weights in place of files, with a server on this machine."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from file_server import FileServer, running
from pth_writer import checkpoint

from converters.to_torch import to_state_dict
from dekr_tf.cli.main import main
from dekr_tf.config import Config, load_config, parse_settings
from dekr_tf.errors import InputError
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.rescoring import RescoringNet, open_rescoring_net
from dekr_tf.models import build_dekr, load_model
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.initial_weights import load_backbone
from dekr_tf.weights import WEIGHTS, Weights, cache_folder, resolve

ROOT = Path(__file__).parents[2]
STICK = {
    "keypoints": {"name": "stick", "names": ["top", "end"], "edges": [[0, 1]], "normalization_edges": [[0, 1]]},
    "input_size": 64,
    "model": {"width": 8, "bottlenecks": 1, "modules": [1, 1, 1], "blocks": 1},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network():
    config = parse_settings(Config, STICK, "stick")
    keras.utils.set_random_seed(1)
    return build_dekr(config.model, config.schema), config


@pytest.fixture
def server(network, tmp_path, monkeypatch):
    """A server with a network, its backbone and a rescoring net, which are in the list; the cache is empty."""
    model, config = network
    tensors = to_state_dict(model, Sidecar.from_config(config))
    heads = ("transition_heatmap", "head_heatmap", "transition_offset", "offset_")
    random = np.random.default_rng(0)
    shapes = {"l1": (256, 5), "l2": (256, 256), "l3": (1, 256)}
    net = {f"{name}.weight": random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    net |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
    files = {
        "network": checkpoint({"state_dict": tensors}),
        "backbone": checkpoint({name: value for name, value in tensors.items() if not name.startswith(heads)}),
        "rescoring net": checkpoint(net),
    }
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("DEKR_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with running(FileServer({f"/{kind[:8]}.pth": content for kind, content in files.items()})) as server:
        for kind, content in files.items():
            sha256 = hashlib.sha256(content).hexdigest()[:8]
            url = f"{server.url}/{kind[:8]}.pth"
            monkeypatch.setitem(WEIGHTS, f"my_{kind[:8]}", Weights(kind, url, sha256, 1, "us", "MIT", STICK))
        yield server


def test_the_list_says_what_is_here(server, tmp_path, capsys):
    assert main(["weights", "get", "my_rescorin"]) == 0
    capsys.readouterr()
    assert main(["weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1 : 1 + len(WEIGHTS)]}
    assert set(rows) == set(WEIGHTS)
    assert rows["my_rescorin"].split()[1] == "yes" and rows["my_network"].split()[1] == "no"
    assert re.fullmatch(
        r"dekr_w32_coco +no +network +120  68.6 on COCO val2017 +Apache-2.0 +mmpose", rows["dekr_w32_coco"]
    )
    assert f"folder: {tmp_path / 'cache'}" in lines
    assert main(["weights", "list", "dekr_w32_coco"]) == 2


def test_names_stand_for_files(server, network, tmp_path, capsys):
    assert main(["weights", "get", "my_network", "my_backbone", "my_rescorin"]) == 0
    assert f"my_network: {tmp_path / 'cache/my_network.keras'}" in capsys.readouterr().out
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock")
    assert kept == ["my_backbone.keras", "my_network.keras", "my_network.keras.json", "my_rescorin.npz"]

    model, config = network
    for received, expected in zip(load_model("my_network")[0].variables, model.variables, strict=True):
        np.testing.assert_array_equal(received, expected, err_msg=expected.path)
    other = build_dekr(config.model, config.schema)
    load_backbone(other, Path("my_backbone"))
    np.testing.assert_array_equal(other.get_layer("stem_1_conv").kernel, model.get_layer("stem_1_conv").kernel)
    net = open_rescoring_net("my_rescorin", config.schema)
    np.testing.assert_array_equal(net.layers[0][0], RescoringNet.load(tmp_path / "cache/my_rescorin.npz").layers[0][0])
    detector = PoseDetector("my_network", rescore="my_rescorin")
    assert detector.sidecar == Sidecar.from_config(config) and detector.rescoring_net is not None

    # What is here is not downloaded again.
    count = len(server.requests)
    assert main(["weights", "get", "my_network"]) == 0
    assert len(server.requests) == count == 3


def test_what_is_not_here_names_the_command(server, tmp_path):
    expected = (
        f"my_network has not been downloaded to {tmp_path / 'cache/my_network.keras'}; "
        "to get it, run: dekr weights get my_network"
    )
    for use in (load_model, PoseDetector, lambda name: resolve(Path(name), "network")):
        with pytest.raises(InputError) as error:
            use("my_network")
        assert str(error.value) == expected
    assert server.requests == []


def test_names_of_another_kind_and_files_of_a_name(server, tmp_path):
    with pytest.raises(InputError, match=r"expected the weights of a network. Received: my_rescorin, a rescoring net$"):
        load_model("my_rescorin")
    with pytest.raises(InputError, match=r"expected the weights of a rescoring net. Received: my_network, a network$"):
        resolve("my_network", "rescoring net")
    assert resolve("dekr_w33_coco", "network") == "dekr_w33_coco"
    (tmp_path / "my_network").mkdir()
    assert resolve("my_network", "network") == "my_network"


def error_of(capsys, *words):
    assert main(["weights", *words]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    return errors


def test_what_goes_wrong_is_one_line(server, tmp_path, capsys, monkeypatch):
    assert "expected names among dekr_w32_coco, " in error_of(capsys, "get", "dekr_w33_coco")
    assert error_of(capsys, "get").endswith("Received: none\n")
    server.files["/network.pth"] = server.files["/network.pth"][:-1] + b"?"
    assert "expected a file whose SHA-256 begins with" in error_of(capsys, "get", "my_network")
    del server.files["/backbone.pth"]
    assert "Received: 404 Not Found" in error_of(capsys, "get", "my_backbone")
    # A right file that does not fit.
    wrong = Weights("network", f"{server.url}/rescorin.pth", WEIGHTS["my_rescorin"].sha256, 1, "us", "MIT", {})
    monkeypatch.setitem(WEIGHTS, "my_network", wrong)
    assert "rescorin.pth" in error_of(capsys, "get", "my_network")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    (tmp_path / "file").write_text("no folder")
    assert "cannot write to the cache folder" in error_of(
        capsys, "get", "my_network", "--cache", str(tmp_path / "file")
    )


def test_two_processes_at_once_download_once(server, tmp_path):
    entry = WEIGHTS["my_rescorin"]
    program = (
        "import sys; from dekr_tf.weights import WEIGHTS, Weights; from dekr_tf.cli.main import main\n"
        f"WEIGHTS['my_rescorin'] = {entry!r}\n"
        "sys.exit(main(['weights', 'get', 'my_rescorin']))"
    )
    server.pause = 0.005
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    runs = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert all(output.endswith(f"my_rescorin: {tmp_path / 'cache/my_rescorin.npz'}\n") for output in outputs)
    assert len(server.requests) == 1


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DEKR_TF_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder("other") == Path("other")
    monkeypatch.delenv("DEKR_TF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder().name == "dekr_tf"


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_table_agrees_with_itself_and_with_the_configs(name):
    weights = WEIGHTS[name]
    assert re.fullmatch("[0-9a-f]{8}", weights.sha256) and weights.sha256 in weights.url
    assert weights.url.startswith("https://download.openmmlab.com/mmpose/")
    config = parse_settings(Config, weights.settings, name)
    if weights.kind == "network":
        _, width, data = name.split("_")
        theirs = load_config(ROOT / f"configs/{data}_{width}.yaml")
        assert Sidecar.from_config(config) == Sidecar.from_config(theirs)
