"""`dekr predict` with a stand-in for the network: what it prints, writes, draws, and says of bad input."""

import csv
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dekr_tf.cli import main as command_line
from dekr_tf.cli.photos import drawing_paths, image_names
from dekr_tf.config import Config
from dekr_tf.files.images import decode_image
from dekr_tf.inference.candidates import MapDecoder
from dekr_tf.inference.engines import FunctionEngine
from dekr_tf.sidecar import Sidecar


def one_person(images):
    """All keypoints in the middle of the photo, with keypoint score 0.4; and a weak center in the corner."""
    batch, height, width, _ = images.shape
    heatmap = np.full((batch, height // 4, width // 4, 18), 0.5, np.float32)
    heatmap[..., -1] = 0
    heatmap[:, height // 8, width // 8, -1] = 0.8
    heatmap[:, 0, 0, -1] = 0.02
    return heatmap, np.zeros((batch, height // 4, width // 4, 34), np.float32)


@pytest.fixture
def predict(tmp_path, monkeypatch, capsys):
    """Runs `dekr predict` in a folder with three photos; returns exit code, output and errors."""
    opened = []

    def open_model(model, sidecar, config, *, flip, heatmap, **options):
        opened.append(model)
        sidecar = Sidecar.from_config(config or Config(input_size=64))
        return MapDecoder(FunctionEngine(one_person), sidecar, flip, heatmap), sidecar

    monkeypatch.setattr("dekr_tf.inference.detector.open_model", open_model)
    monkeypatch.setattr(command_line, "VERBS", ("predict",))
    monkeypatch.chdir(tmp_path)
    photo = np.full((64, 128, 3), 128, np.uint8)
    for name in ("000000000785.jpg", "street.png", "more/street.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), photo)
    (tmp_path / "model.keras").touch()

    def run(*arguments):
        code = command_line.main(["predict", *arguments, "--model", "model.keras"])
        return code, *capsys.readouterr()

    run.opened = opened
    return run


def test_prints_a_line_a_photo(predict):
    code, output, errors = predict(".", "more")
    assert (code, errors) == (0, "")
    assert output.splitlines() == [
        f"{name}: 1 person, scores 0.40" for name in ("000000000785.jpg", "more/street.png", "street.png")
    ]


def test_people_below_the_score_are_not_counted(predict):
    assert predict("street.png", "--min-score", "0.5") == (0, "street.png: 0 people\n", "")
    assert predict("street.png", "--min-score", "0") == (0, "street.png: 2 people, scores 0.40 0.01\n", "")


def test_writes_coco_results(predict, tmp_path):
    assert predict(".", "--output", "results/poses.json") == (0, "", "")
    results = json.loads((tmp_path / "results/poses.json").read_text())
    # Both people of both photos, also the one too weak to be printed.
    assert [entry["file_name"] for entry in results] == ["000000000785.jpg"] * 2 + ["street.png"] * 2
    assert [entry.get("image_id") for entry in results] == [785, 785, None, None]
    assert [entry["score"] for entry in results] == [0.4, 0.01] * 2
    assert results[0]["category_id"] == 1
    assert results[0]["keypoints"] == [64, 32, 0.4] * 17
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["poses.json"]


def test_draws_copies_that_do_not_overwrite_each_other(predict, tmp_path):
    assert predict(".", "more/*.png", "--draw", "drawn", "--flip") == (0, "", "")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "000000000785.jpg",
        "street.png",
        "street_2.png",
    ]
    drawing = cv2.imread(str(tmp_path / "drawn/street.png"))
    assert drawing.shape == (64, 128, 3)
    assert (drawing[30:35, 62:67] != 128).any()
    assert (drawing[:, :20] == 128).all()


def test_names_of_drawings(tmp_path):
    photos = [tmp_path / name for name in ("a.bmp", "a.jpg", "a.png", "a_2.png", "b/A.webp")]
    names = [path.name for path in drawing_paths(photos, tmp_path / "drawn").values()]
    assert names == ["a.png", "a.jpg", "a_2.png", "a_2_2.png", "A_2.jpg"]


def test_a_table_has_a_row_a_person(predict, tmp_path):
    assert predict("000000000785.jpg", "street.png", "--output", "poses.csv") == (0, "", "")
    head, *rows = csv.reader((tmp_path / "poses.csv").read_text().splitlines())
    assert head[:6] == ["image_id", "file_name", "score", "nose_x", "nose_y", "nose_score"]
    assert head[-1] == "right_ankle_score" and len(head) == 3 + 3 * 17
    assert [row[:6] for row in rows] == [
        ["785", "000000000785.jpg", "0.4", "64.0", "32.0", "0.4"],
        ["785", "000000000785.jpg", "0.01", "0.0", "0.0", "0.01"],
        ["", "street.png", "0.4", "64.0", "32.0", "0.4"],
        ["", "street.png", "0.01", "0.0", "0.0", "0.01"],
    ]


def test_an_image_id_stands_for_one_photo(tmp_path):
    photos = [Path(name) for name in ("a/1.jpg", "b/01.jpg", "b/2.jpg", "x.jpg", "y3.jpg", "-4.jpg", "5.5.jpg")]
    names = image_names(photos)
    assert {path.as_posix(): content.get("image_id") for path, content in names.items()} == {
        "a/1.jpg": None,
        "b/01.jpg": None,
        "b/2.jpg": 2,
        "x.jpg": None,
        "y3.jpg": None,
        "-4.jpg": None,
        "5.5.jpg": None,
    }
    assert [content["file_name"] for content in names.values()] == [path.as_posix() for path in photos]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_photos_that_cannot_be_used_are_named_and_the_others_go_on(predict, tmp_path, form):
    data = (tmp_path / "000000000785.jpg").read_bytes()
    (tmp_path / "broken.jpg").write_bytes(data[: len(data) // 2])
    cv2.imwrite("long.png", np.zeros((1, 20_000, 3), np.uint8))
    code, output, errors = predict(".", "--output", f"poses.{form}", "--draw", "drawn")
    assert (code, output) == (2, "")
    broken, long, last = errors.splitlines()
    assert broken.startswith("broken.jpg: image broken.jpg: expected a whole image. Received: a truncated")
    assert long.startswith("long.png: image too elongated")
    assert last == "dekr predict: error: expected photos that can be used. Received: 2 of 4 that cannot"
    people = (tmp_path / f"poses.{form}").read_text()
    assert (people.count("000000000785.jpg"), people.count("street.png")) == (2, 2)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["000000000785.jpg", "street.png"]
    assert len(predict.opened) == 1


def test_photos_are_decoded_once(predict, monkeypatch):
    decoded = []

    def decode(data, source, **options):
        decoded.append(source)
        return decode_image(data, source, **options)

    monkeypatch.setattr("dekr_tf.files.images.decode_image", decode)
    assert predict(".", "--draw", "drawn")[0] == 0
    assert decoded == ["000000000785.jpg", "street.png"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["street.png", "--output", "model.keras.json"],
        ["street.png", "--output", "config.json", "--config", "config.json"],
        ["street.png", "--draw", "more/.."],
        ["street.png", "--output", "drawn/street.png/poses.json", "--draw", "drawn"],
        ["linked.png", "--draw", "more"],
    ],
)
def test_nothing_is_destroyed(predict, tmp_path, arguments):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.keras.json").write_text("{}")
    (tmp_path / "linked.png").symlink_to("more/linked.png")
    cv2.imwrite("more/linked.png", np.zeros((64, 64, 3), np.uint8))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, output, errors = predict(*arguments)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "no input of the same command" in errors or "expected a folder. Received: the file" in errors
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert predict.opened == []


def test_a_name_that_is_no_text(predict, tmp_path):
    (tmp_path / "street.png").rename(tmp_path / os.fsdecode(b"stra\xdfe.png"))
    assert predict("*.png", "--output", "poses.json")[0] == 0
    assert json.loads((tmp_path / "poses.json").read_text())[0]["file_name"] == "stra\udcdfe.png"
    assert predict("*.png", "--output", "poses.csv")[0] == 0
    assert "stra\\udcdfe.png" in (tmp_path / "poses.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["none.jpg"], "none.jpg"),
        (["street.png", "--input-size", "0"], "0"),
        (["street.png", "--scales", "1", "0"], "1.0 0.0"),
        (["street.png", "--nms-threshold", "-1"], "-1.0"),
        (["street.png", "--draw", "."], "street.png"),
        (["street.png", "--output", "poses.txt"], "expected a file name in .json or .csv. Received: poses.txt"),
        (["street.png", "--output", "more"], "more"),
        (["street.png", "--config", "none.yaml"], "none.yaml"),
        (["street.png", "--shards", "made"], "--shards is for photos, and the only output. Received: --output"),
        (["street.png", "--workers", "2"], "--workers and --shard-size are for --shards. Received: no --shards"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(predict, tmp_path, arguments, named):
    before = sorted(tmp_path.rglob("*"))
    code, output, errors = predict(*arguments, *([] if "--output" in arguments else ["--output", "poses.json"]))
    assert (code, output) == (2, "")
    assert errors.startswith("dekr predict: error: ") and errors.count("\n") == 1
    assert named in errors
    assert sorted(tmp_path.rglob("*")) == before
    assert predict.opened == []


def test_several_scales_and_matching(predict, tmp_path):
    options = ("--scales", "0.5", "1", "2", "--match", "--nms-threshold", "0.2", "--output", "poses.json")
    assert predict("street.png", *options) == (0, "", "")
    people = json.loads((tmp_path / "poses.json").read_text())
    # Of the same person at each scale, equally good by heat, that of the largest is kept, with a damped score.
    assert [person["score"] for person in people] == pytest.approx([0.36, 0.009])
    assert predict("street.png", "--scales", "0.4")[::2] == (
        2,
        "dekr predict: error: scales: expected at least 0.5 at input size 64, for a map of 8 cells or more. "
        "Received: 0.4\n",
    )


def test_a_missing_model_is_named(predict, tmp_path):
    (tmp_path / "model.keras").unlink()
    code, _, errors = predict("street.png")
    assert code == 2
    assert errors == "dekr predict: error: expected a model file. Received: model.keras\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["street.png", "--shards", "made", "--draw", "drawn", "--track"],
            "the only output. Received: --draw, --track",
        ),
        (["camera:0", "--shards", "made"], "--shards is for photos, and the only output. Received: a video"),
        (["none.txt", "--shards", "made"], "cannot read none.txt: No such file or directory"),
        (["street.png", "--shards", "made", "--workers", "0"], "workers: expected 1 or more. Received: 0"),
        (["street.png", "--shards", "made", "--shard-size", "0"], "shard size: expected 1 or more. Received: 0"),
        (
            ["street.png", "--shards", "more"],
            "expected a new or empty folder, or one with a manifest.json. Received: more",
        ),
    ],
)
def test_shards_that_cannot_be_made(predict, tmp_path, arguments, reason):
    before = sorted(tmp_path.rglob("*"))
    code, output, errors = predict(*arguments)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.endswith(f"{reason}\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_shards_need_a_tier(predict, tmp_path, monkeypatch):
    for name in ("ray", "ray.util"):
        monkeypatch.setitem(sys.modules, name, None)
    line = "dekr predict: error: this needs the package ray: pip install 'dekr-tf[cluster]'\n"
    assert predict("street.png", "--shards", "made") == (2, "", line)
    assert not (tmp_path / "made").exists()
