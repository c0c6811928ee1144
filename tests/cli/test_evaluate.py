import json
import re
import struct

import cv2
import numpy as np
import pytest

from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.evaluation.coco import METRICS
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Sidecar

STICK = {"name": "stick", "names": ["top", "end"]}
POSE = [[[40, 30, 0.9], [40, 130, 0.8]]]


@pytest.fixture
def folder(tmp_path):
    """Two images, one with a person, one without, their annotations and a config of the skeleton."""
    image = np.zeros((160, 120, 3), np.uint8)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), image)
    person = {"id": 1, "image_id": 7, "category_id": 1, "keypoints": [40, 30, 2, 40, 130, 2], "area": 9216}
    annotations = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(annotations))
    (tmp_path / "stick.yaml").write_text(json.dumps({"keypoints": STICK}))
    return tmp_path


@pytest.fixture
def detector(monkeypatch):
    """A detector that finds the same person in every image, and what it was asked."""
    asked = []

    class Detector:
        sidecar = Sidecar.from_config(Config(keypoints=STICK))

        def __init__(self, model, **options):
            asked.append((model.name, options))

        def __call__(self, image):
            asked.append(image.shape)
            return Poses(POSE, [0.5])

    monkeypatch.setattr("dekr_tf.inference.detector.PoseDetector", Detector)
    return asked


def evaluate(folder, *options):
    return main(["evaluate", "--annotations", str(folder / "truth.json"), *map(str, options)])


def test_results_file(folder, capsys):
    results = [{"image_id": 7, "category_id": 1, "keypoints": np.ravel(POSE).tolist(), "score": 0.5}]
    (folder / "results.json").write_text(json.dumps(results))
    output = folder / "new" / "metric.json"
    options = ("--results", folder / "results.json", "--config", folder / "stick.yaml", "--output", output)
    assert evaluate(folder, *options) == 0
    metrics = json.loads(output.read_text())
    # 96 x 96 pixels are medium and large at once.
    assert metrics == pytest.approx(dict.fromkeys(METRICS, 1.0))
    assert capsys.readouterr().out.splitlines() == [
        "images: 2, labelled people: 1",
        "   AP   AP50   AP75    APM    APL     AR   AR50   AR75    ARM    ARL",
        "  ".join(["1.000"] * 10),
    ]


def test_sizes_without_people_are_a_dash(folder, capsys):
    content = json.loads((folder / "truth.json").read_text())
    content["annotations"][0]["area"] = 10_000
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "results.json").write_text("[]")
    assert evaluate(folder, "--results", folder / "results.json", "--config", folder / "stick.yaml") == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row == ["0.000"] * 3 + ["-", "0.000"] + ["0.000"] * 3 + ["-", "0.000"]


def test_model(folder, detector):
    outputs = ("--results-output", folder / "found.json", "--output", folder / "metric.json")
    options = ("--model", folder / "best.keras", "--images", folder, "--input-size", 256, "--flip", *outputs)
    assert evaluate(folder, *options) == 0
    assert detector == [
        ("best.keras", {"config": None, "input_size": 256, "flip": True}),
        (160, 120, 3),
        (160, 120, 3),
    ]
    results = json.loads((folder / "found.json").read_text())
    assert [entry["image_id"] for entry in results] == [7, 8]
    np.testing.assert_allclose(results[0]["keypoints"], np.ravel(POSE), rtol=1e-6)
    metrics = json.loads((folder / "metric.json").read_text())
    # The equal scores keep their order: the one person comes first, the false one in the other image after it.
    assert metrics["AP"] == pytest.approx(1)
    # Scoring the written results says the same.
    again = ("--results", folder / "found.json", "--config", folder / "stick.yaml", "--output", folder / "again.json")
    assert evaluate(folder, *again) == 0
    assert json.loads((folder / "again.json").read_text()) == metrics


def test_images_are_read_in_stored_pixels(folder, detector):
    # A JPEG with an EXIF entry 0x0112 of 6: the camera was held upright, turn by a quarter.
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    content = b"Exif\0\0" + struct.pack(">2sHIH", b"MM", 42, 8, 1) + entry + bytes(4)
    _, jpeg = cv2.imencode(".jpg", np.zeros((160, 120, 3), np.uint8))
    jpeg = jpeg.tobytes()
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]
    (folder / "turned.jpg").write_bytes(turned)
    assert cv2.imread(str(folder / "turned.jpg")).shape == (120, 160, 3)
    content = json.loads((folder / "truth.json").read_text())
    content["images"] = [{"id": 7, "file_name": "turned.jpg"}]
    (folder / "truth.json").write_text(json.dumps(content))
    assert evaluate(folder, "--model", folder / "best.keras", "--images", folder) == 0
    assert detector[1:] == [(160, 120, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "m.keras"], "expected --images, the folder of the images, beside --model. Received: none"),
        (["--results", "r.json", "--flip", "--input-size", "64"], "beside --results. Received: --input-size, --flip"),
        (["--results", "gone.json", "--config", "stick.yaml"], "cannot read results gone.json"),
        (["--results", "r.json"], "annotation 1: expected as keypoints a list of 51 finite numbers"),
        (
            ["--model", "m.keras", "--images", "empty"],
            "expected all 2 annotated images in empty. Received: 2 missing, first a.png",
        ),
    ],
)
def test_bad_input(folder, detector, capsys, monkeypatch, options, message):
    monkeypatch.chdir(folder)
    assert evaluate(folder, *options, "--output", "metric.json") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert re.search(message, errors)
    assert not (folder / "metric.json").exists()


def test_an_output_that_cannot_be_written_is_said_before_the_work(folder, detector, capsys):
    options = ("--model", folder / "best.keras", "--images", folder, "--output", folder / "a.png" / "metric.json")
    assert evaluate(folder, *options) == 2
    assert "cannot write" in capsys.readouterr().err
    assert detector == []
