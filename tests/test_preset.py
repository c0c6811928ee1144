"""The model of the package: it finds people in a photo, and verbs and classes use it where no model is named."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dekr_tf.cli.main import main
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.engines import KerasEngine
from dekr_tf.sidecar import read_sidecar
from dekr_tf.weights import PRESET, PRESET_FOLDER, resolve

PHOTO = Path(__file__).parents[1] / "docs/photos/astronaut.jpg"
#: Of the photo's person, read off by eye; pixels.
POINTS = {"nose": (222, 128), "left_shoulder": (315, 250), "right_shoulder": (112, 236)}


def check_astronaut(keypoints, names, within=30):
    points = [np.asarray(keypoints)[names.index(name), :2] for name in POINTS]
    np.testing.assert_allclose(points, list(POINTS.values()), atol=within)


def test_its_files_have_the_same_settings():
    keras, exported = (read_sidecar(resolve(PRESET, "network", exported=exported)) for exported in (False, True))
    assert exported.artifact is not None
    assert exported.model_copy(update={"artifact": None}) == keras
    assert sum(path.stat().st_size for path in PRESET_FOLDER.iterdir()) < 16_000_000


def test_a_file_of_its_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(PRESET).touch()
    assert resolve(PRESET, "network") == PRESET


def test_a_device_finds_the_astronaut_without_tensorflow(tmp_path):
    """The base tier alone, in a process that refuses what the others bring."""
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'matplotlib', 'pycocotools'): sys.modules[name] = None\n"
        "from dekr_tf.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    output = tmp_path / "poses.json"
    command = [sys.executable, "-c", code, "predict", str(PHOTO), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    best = max(json.loads(output.read_text()), key=lambda person: person["score"])
    check_astronaut(np.reshape(best["keypoints"], (-1, 3)), PoseDetector().sidecar.schema.names)


@pytest.mark.slow
def test_settings_that_its_file_does_not_have_take_keras():
    detector = PoseDetector(input_size=224)
    assert isinstance(detector.engine, KerasEngine)
    check_astronaut(detector(PHOTO).keypoints[0], detector.sidecar.schema.names)
    for options in ({}, {"flip": True}, {"match": True}):
        check_astronaut(PoseDetector(**options)(PHOTO).keypoints[0], detector.sidecar.schema.names)


def test_predict_shows_the_person_alone(capsys):
    assert main(["predict", str(PHOTO)]) == 0
    assert ": 1 person, scores 0." in capsys.readouterr().out
    assert main(["predict", str(PHOTO), "--min-score", "0.6"]) == 0
    assert ": 0 people" in capsys.readouterr().out


@pytest.mark.slow
def test_verbs_take_it(tmp_path, capsys):
    assert main(["benchmark", "--image", str(PHOTO), "--rounds", "1", "--warmup", "0"]) == 0
    assert f"{PRESET}.tflite" in capsys.readouterr().out
    assert main(["visualize", "heatmap", str(PHOTO), "--output", str(tmp_path / "maps")]) == 0
    assert len(list((tmp_path / "maps").iterdir())) == 1
