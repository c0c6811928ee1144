import json
import re

import pytest

from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Sidecar

#: Similarities of 0.85 and 0.5 lie at 57.0 and 117.7 pixels for people of 10,000 pixels.
PAIR = {"name": "pair", "names": ["left", "right"], "flip_pairs": [["left", "right"]], "oks_sigmas": [0.5, 0.5]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A person whose left keypoint was found well, and whose right one with jitter."""
    monkeypatch.chdir(tmp_path)
    person = {"image_id": 7, "category_id": 1, "keypoints": [0, 0, 2, 1000, 0, 2], "area": 10_000}
    images = [{"id": 7, "file_name": "a.png"}]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": [person]}))
    result = {"image_id": 7, "category_id": 1, "keypoints": [0, 0, 1, 1100, 0, 1], "score": 0.5}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    (tmp_path / "pair.yaml").write_text(json.dumps({"keypoints": PAIR}))
    return tmp_path


def analyze(*options):
    return main(["analyze", "--annotations", "truth.json", *options])


RESULTS = ("--results", "results.json", "--config", "pair.yaml")
TABLES = """\
metric: coco, skeleton: pair
labeled people: 1, poses: 1, matched: 1

% of keypoints       good     jitter  inversion       swap       miss    labeled
left                100.0        0.0        0.0        0.0        0.0          1
right                 0.0      100.0        0.0        0.0        0.0          1
all                  50.0       50.0        0.0        0.0        0.0          2

corrected              AP       gain
none                0.700
jitter              0.900     +0.200
inversion           0.700     +0.000
swap                0.700     +0.000
miss                0.700     +0.000
all                 0.900     +0.200
"""


def test_tables_numbers_and_picture(folder, capsys):
    # An OKS of (1 + 0.607) / 2 = 0.80, corrected (1 + 0.85) / 2 = 0.925.
    assert analyze(*RESULTS, "--output", "new/numbers.json", "--plot", "new/chart.png") == 0
    assert capsys.readouterr() == (TABLES, "")
    numbers = json.loads((folder / "new" / "numbers.json").read_text())
    assert (numbers["matched"], numbers["AP"]) == (1, pytest.approx(0.7))
    assert numbers["counts"]["right"]["jitter"] == 1
    assert (folder / "new" / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_model(folder, capsys, monkeypatch):
    import cv2
    import numpy as np

    cv2.imwrite("a.png", np.zeros((160, 120, 3), np.uint8))
    asked = []

    class Detector:
        sidecar = Sidecar.from_config(Config(keypoints=PAIR))

        def __init__(self, model, **options):
            asked.append(options)

        def detect_batch(self, images):
            asked.append(len(images))
            return [Poses([[[0, 0, 1], [1100, 0, 1]]], [0.5]) for _ in images]

    monkeypatch.setattr("dekr_tf.inference.detector.PoseDetector", Detector)
    assert analyze("--model", "m.keras", "--images", ".", "--flip", "--batch-size", "2") == 0
    assert capsys.readouterr().out == TABLES
    plain = {"scales": (1.0,), "match": False, "nms_threshold": None}
    assert asked == [{"config": None, "input_size": None, "flip": True, "dense": False, "rescore": None, **plain}, 1]


def test_crowdpose_measures_by_the_box(folder, capsys):
    content = json.loads((folder / "truth.json").read_text())
    # 0.53 x 1000 x 1000 pixels: 100 of them are good.
    content["annotations"][0]["bbox"] = [0, 0, 1000, 1000]
    content["images"][0]["crowdIndex"] = 0.5
    (folder / "truth.json").write_text(json.dumps(content))
    assert analyze(*RESULTS, "--metric", "crowdpose") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "metric: crowdpose, skeleton: pair"
    assert lines[6].split()[:2] == ["all", "100.0"]


def test_poses_of_nobody(folder, capsys):
    (folder / "results.json").write_text("[]")
    assert analyze(*RESULTS, "--plot", "chart.svg") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[6].split() == ["all", *"-----", "0"]
    assert b"<svg" in (folder / "chart.svg").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*RESULTS, "--plot", "chart.txt"], r"--plot: expected a file name in \.png, .*Received: chart\.txt"),
        ([*RESULTS, "--flip"], "beside --results. Received: --flip"),
        (["--model", "m.keras"], "--model needs --images"),
        (["--results", "gone.json", "--config", "pair.yaml"], "cannot read results gone.json"),
        (["--results", "results.json"], "51 finite numbers"),
        ([*RESULTS, "--plot", "pair.yaml/chart.png"], "cannot write pair.yaml/chart.png"),
    ],
)
def test_bad_input(folder, capsys, options, message):
    before = sorted(path.name for path in folder.iterdir())
    assert analyze(*options, "--output", "numbers.json") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert re.search(message, errors)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_empty_set_is_one_line(folder, capsys):
    content = json.loads((folder / "truth.json").read_text())
    content["annotations"][0]["keypoints"] = [0] * 6
    (folder / "truth.json").write_text(json.dumps(content))
    assert analyze(*RESULTS) == 2
    assert "no person in 1 images has labeled keypoints" in capsys.readouterr().err
