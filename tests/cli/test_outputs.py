"""No verb destroys a file that it reads, and none writes two outputs to one file."""

import json

import cv2
import numpy as np
import pytest

from dekr_tf.cli.main import main

EXPORT = ("--model", "model.keras", "--format", "tflite")
DATA = ("--annotations", "labels.json", "--images", "photos")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files that bear the names of inputs; no verb gets as far as reading most of them."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "run").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), np.zeros((64, 64, 3), np.uint8))
    labels = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    for name in (
        "model.keras",
        "model.keras.json",
        "run/last.keras",
        "net.npz",
        "net.json",
        "poses.npz",
        "results.json",
    ):
        (tmp_path / name).write_text(name)
    for name in ("config.yaml", "config.keras", "config.tflite"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "link.json").symlink_to("labels.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "photos", "--model", "model.keras", "--draw", "photos"),
        ("predict", "photos", "--model", "model.keras", "--rescore", "net.json", "--output", "net.json"),
        ("serve-client", "photos", "--url", "http://localhost:1", "--draw", "photos"),
        ("visualize", "heatmap", "photos", "--model", "model.keras", "--output", "photos"),
        ("evaluate", "--model", "model.keras", *DATA, "--output", "model.keras.json"),
        ("evaluate", "--results", "results.json", *DATA[:2], "--output", "link.json"),
        ("evaluate", "--results", "results.json", *DATA[:2], "--config", "config.yaml", "--output", "config.yaml"),
        ("analyze", "--results", "results.json", *DATA[:2], "--output", "photos/../results.json"),
        ("analyze", "--results", "results.json", *DATA[:2], "--output", "new.png", "--plot", "photos/../new.png"),
        ("rescore", "collect", "--model", "model.keras", *DATA, "--output", "model.keras"),
        ("rescore", "train", "poses.npz", "--output", "poses.npz"),
        ("rescore", "train", "poses.npz", "--validation", "net.npz", "--output", "net.npz"),
        ("import", "checkpoint.pth", "--config", "config.keras", "--output", "config.keras"),
        ("export", *EXPORT, "--config", "config.tflite", "--output", "config.tflite"),
        ("data", "schema", "labels.json", "--output", "link.json"),
        ("data", "crowdpose-trainval", "labels.json", "results.json", "--output", "labels.json"),
        ("train", "--config", "config.yaml", "--output", "run", "training.initial_weights=run/last.keras"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_an_input_is_not_destroyed(folder, capsys, words):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if words[0] == "import":
        pytest.importorskip("torch")
    assert main(list(words)) == 2
    output, errors = capsys.readouterr()
    assert output == "" and errors.count("\n") == 1
    assert "an output that is no input of the same command" in errors or "a different file for every output" in errors
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
