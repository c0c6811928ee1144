"""What a user of Keras tries first, each in a process of its own."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import tiny_hrnet

import dekr_tf
from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.keypoints import COCO, KeypointSchema
from dekr_tf.models import build_dekr
from dekr_tf.registration import MODULES
from dekr_tf.sidecar import Sidecar, read_sidecar
from dekr_tf.training.estimator import PoseEstimator

ROOT = Path(__file__).parents[1]
PAIR = KeypointSchema("pair", ("head", "foot"))


def run(program, *words):
    """What a program prints in a process that has imported nothing."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", program, *map(str, words)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


def test_the_public_names_are_shown_and_are_there():
    shown = run("import dekr_tf, sys; print(*dir(dekr_tf)); print(*{'keras', 'tensorflow', 'cv2'} & set(sys.modules))")
    assert set(dekr_tf.__all__) | {"__version__"} <= set(shown)
    assert not {"keras", "tensorflow", "cv2"} & set(shown)
    for name in dekr_tf.__all__:
        assert getattr(dekr_tf, name) is not None
    assert (ROOT / "dekr_tf/py.typed").exists()


def test_type_checkers_see_the_public_names():
    tree = ast.parse((ROOT / "dekr_tf/__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    assert imported == dekr_tf._MODULES
    assert sorted(dekr_tf._MODULES) == sorted(dekr_tf.__all__)


def test_every_registered_class_has_its_stand_in():
    registered = {}
    for path in sorted((ROOT / "dekr_tf").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any("register_keras" in ast.unparse(d) for d in node.decorator_list):
                registered[node.name] = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert registered == MODULES
    for name, module in MODULES.items():
        assert hasattr(importlib.import_module(module), name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A compiled estimator with weights of its own, and the file that Keras' `save` wrote of it."""
    path = tmp_path_factory.mktemp("saved") / "pair.keras"
    model = PoseEstimator.from_scratch(PAIR, input_size=64, **tiny_hrnet(4))
    model.compile()
    model.save(path)
    return model, path


def test_a_model_to_evaluate_needs_no_optimizer(saved):
    model = PoseEstimator(saved[0].network, saved[0].sidecar)
    model.compile(None)
    assert model.compiled and model.optimizer is None


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import dekr_tf, keras", "import keras, dekr_tf"])
def test_keras_loads_a_model_after_the_import_alone(saved, imports):
    program = (
        f"{imports}, sys; model = keras.models.load_model(sys.argv[1]); print(type(model).__name__, model.compiled)"
    )
    assert run(program, saved[1]) == ["PoseEstimator", "True"]


@pytest.mark.slow
def test_a_bare_network_keeps_its_settings(saved, tmp_path):
    path = tmp_path / "network.keras"
    saved[0].network.save(path)
    assert read_sidecar(path) == saved[0].sidecar
    program = (
        "import dekr_tf, keras, sys; network = keras.models.load_model(sys.argv[1]);"
        "print(*network.output, network.sidecar.input_size, dekr_tf.PoseDetector(network).sidecar.schema.name)"
    )
    assert run(program, path) == ["heatmap", "offset", "64", "pair"]


@pytest.mark.slow
def test_a_new_network_has_the_settings_that_it_was_built_with():
    network = build_dekr(schema=PAIR, **tiny_hrnet(4))
    assert network.sidecar == Sidecar.from_config(Config(keypoints=PAIR.to_dict(), model=tiny_hrnet(4)))


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_saved_model_keeps_its_settings(saved):
    model, path = saved
    assert read_sidecar(path) == model.sidecar
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    wanted = model.detect(photo)
    assert wanted.schema == PAIR
    for detector in (PoseDetector(model), PoseDetector(path), PoseEstimator.from_preset(path).detect):
        poses = detector(photo)
        np.testing.assert_allclose(poses.keypoints, wanted.keypoints, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_detect_follows_the_weights(saved):
    model, _ = saved
    photo = np.zeros((64, 64, 3), np.uint8)
    heatmap = model.network.get_layer("heatmap")
    before = heatmap.get_weights()
    heatmap.set_weights([np.zeros_like(before[0]), np.float32([0, 0, 0])])
    assert len(model.detect(photo)) == 0
    heatmap.set_weights([np.zeros_like(before[0]), np.float32([0.5, 0.5, 0.5])])
    assert len(model.detect(photo)) > 0
    heatmap.set_weights(before)


@pytest.mark.slow
def test_plain_arguments_build_what_a_config_builds():
    config = Config(model=tiny_hrnet(4))
    built, wanted = build_dekr(schema=COCO, **tiny_hrnet(4)), build_dekr(config.model, config.schema)
    assert [each.path for each in built.variables] == [each.path for each in wanted.variables]
    with pytest.raises(InputError, match=r"^build_dekr: unknown key widths$"):
        build_dekr(widths=4)
    with pytest.raises(InputError, match=r"not both\. Received: width$"):
        build_dekr(config.model, width=4)
    with pytest.raises(InputError, match=r"^PoseEstimator.from_scratch: input_size"):
        PoseEstimator.from_scratch(input_size=65)


@pytest.mark.slow
def test_export(saved, tmp_path):
    model, _ = saved
    model.network.get_layer("heatmap").bias.assign([0.5, 0.5, 0.5])
    photos = [np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)]
    comparison = model.export(tmp_path / "pair.tflite", calibration=photos, flip=False)
    assert comparison.people > 0
    assert read_sidecar(tmp_path / "pair.tflite").artifact.input_sizes == ((64, 64),)
    assert len(PoseDetector(tmp_path / "pair.tflite")(photos[0])) > 0
    with pytest.raises(InputError, match=r"^PoseEstimator.export: precision"):
        model.export(tmp_path / "pair.tflite", precision="int7")
