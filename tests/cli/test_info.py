"""`dekr info`: sizes for people and for programs; test_complexity.py has those of the paper's models."""

import json
from pathlib import Path

import pytest

from dekr_tf.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"


def test_for_people(capsys, monkeypatch):
    counts = {"parameters": 29_561_182, "gmacs": 45.3851, "head_parameters": 221_068, "head_gmacs": 3.593}
    monkeypatch.setattr("dekr_tf.models.complexity.count_complexity", lambda config: counts)
    assert main(["info", "--config", str(CONFIGS / "coco_w32.yaml")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "input          512 x 512, 17 keypoints",
        "parameters     29,561,182, offset head 221,068",
        "multiply-adds  45.39 G, offset head 3.59 G",
    ]


def test_for_programs(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model: {width: 8, bottlenecks: 1, modules: [1, 1, 1], units: 1}")
    counts = []
    for size in (256, 512):
        words = ["info", "--config", str(tmp_path / "config.yaml"), "--json", f"input_size={size}"]
        assert main(words) == 0
        counts.append(json.loads(capsys.readouterr().out))
    assert set(counts[0]) == {"parameters", "gmacs", "head_parameters", "head_gmacs"}
    assert counts[0]["parameters"] == counts[1]["parameters"]
    assert counts[1]["gmacs"] == pytest.approx(4 * counts[0]["gmacs"])


@pytest.mark.parametrize(
    "words",
    [
        "{config} input_size=640 model.width=48 --json",
        "input_size=640 {config} --json model.width=48",
        "input_size=640 model.width=48 --json {config}",
    ],
)
def test_settings_may_stand_anywhere(words, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("dekr_tf.models.complexity.count_complexity", lambda config: asked.append(config) or {})
    assert main(["info", *words.format(config=f"--config {CONFIGS / 'coco_w32.yaml'}").split()]) == 0
    assert [(config.input_size, config.model.width) for config in asked] == [(640, 48)]


def test_bad_settings(capsys):
    assert main(["info", "--config", str(CONFIGS / "coco_w32.yaml"), "input_size=500"]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("dekr info: error: ") and errors.endswith("Received: 500\n") and errors.count("\n") == 1
