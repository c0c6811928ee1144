"""`dekr info`: sizes for people and for programs; test_complexity.py has those of the paper's models."""

import json
from pathlib import Path

import pytest

from dekr_tf.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"


def test_for_people(capsys, monkeypatch):
    sizes = {
        "backbone.stem": (10_000, 0.5),
        "backbone.stage1": (28_000_000, 1.25),
        "heatmap_head": (5, 0.125),
        "offset_head.transition": (1, 2.0),
        "offset_head.final": (2, 0.0005),
    }
    parts = {name: dict(zip(("parameters", "gmacs"), size, strict=True)) for name, size in sizes.items()}
    counts = {"parameters": 28_010_008, "gmacs": 3.8755, "head_parameters": 3, "head_gmacs": 2.0005, "parts": parts}
    monkeypatch.setattr("dekr_tf.models.complexity.count_complexity", lambda config: counts)
    assert main(["info", "--config", str(CONFIGS / "coco_w32.yaml")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "512 x 512, 17 keypoints",
        "                  parameters   multiply-adds",
        "network           28,010,008         3.876 G",
        "  backbone        28,010,000         1.750 G",
        "    stem              10,000         0.500 G",
        "    stage1        28,000,000         1.250 G",
        "  heatmap head             5         0.125 G",
        "  offset head              3         2.001 G",
        "    transition             1         2.000 G",
        "    final                  2         0.001 G",
    ]


@pytest.mark.slow
def test_for_programs(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model: {width: 8, bottlenecks: 1, modules: [1, 1, 1], blocks: 1}")
    counts = []
    for size in (256, 512):
        words = ["info", "--config", str(tmp_path / "config.yaml"), "--json", f"input_size={size}"]
        assert main(words) == 0
        counts.append(json.loads(capsys.readouterr().out))
    assert set(counts[0]) == {"parameters", "gmacs", "head_parameters", "head_gmacs", "parts"}
    assert list(counts[0]["parts"]) == [
        *(f"backbone.{part}" for part in ("stem", "stage1", "stage2", "stage3", "stage4")),
        "heatmap_head",
        *(f"offset_head.{part}" for part in ("transition", "blocks", "final")),
    ]
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


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        (["input_size=500"], "Received: 500"),
        (["model.backbone=resnet"], "Received: 'resnet'"),
        (
            ["model.backbone=efficientnet_lite0", "model.width=16"],
            "model.backbone efficientnet_lite0 has no width. Received: 16",
        ),
    ],
)
def test_bad_settings(capsys, settings, end):
    assert main(["info", "--config", str(CONFIGS / "coco_w32.yaml"), *settings]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("dekr info: error: ") and errors.endswith(f"{end}\n") and errors.count("\n") == 1
