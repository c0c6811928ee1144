"""`dekr predict` with a stand-in for the network: what it prints, writes, draws, and says of bad input."""

import json

import cv2
import numpy as np
import pytest

from dekr_tf.cli import main as command_line
from dekr_tf.cli.predict_command import drawing_paths
from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.inference.runtimes import MapDecoder
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

    def open_runtime(model, sidecar, config, *, flip, heatmap, **options):
        opened.append(model)
        sidecar = Sidecar.from_config(config or Config(input_size=64))
        return MapDecoder(one_person, sidecar, flip, heatmap), sidecar

    monkeypatch.setattr("dekr_tf.inference.detector.open_runtime", open_runtime)
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
    with pytest.raises(InputError, match="does not hold the photos"):
        drawing_paths(photos, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["none.jpg"], "none.jpg"),
        ([".", "broken.jpg"], "broken.jpg"),
        (["street.png", "--input-size", "0"], "0"),
        (["street.png", "--scales", "1", "0"], "1.0 0.0"),
        (["street.png", "--nms-threshold", "-1"], "-1.0"),
        (["street.png", "--draw", "."], "."),
        (["street.png", "--output", "more"], "more"),
        (["street.png", "--config", "none.yaml"], "none.yaml"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(predict, tmp_path, arguments, named):
    data = (tmp_path / "000000000785.jpg").read_bytes()
    (tmp_path / "broken.jpg").write_bytes(data[: len(data) // 2])
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


def test_an_elongated_photo_is_named(predict, tmp_path):
    cv2.imwrite(str(tmp_path / "long.png"), np.zeros((1, 20_000, 3), np.uint8))
    code, _, errors = predict(".", "--output", "poses.json")
    assert code == 2
    assert "long.png: image too elongated" in errors
    assert not (tmp_path / "poses.json").exists()


def test_a_missing_model_is_named(predict, tmp_path):
    (tmp_path / "model.keras").unlink()
    code, _, errors = predict("street.png")
    assert code == 2
    assert errors == "dekr predict: error: expected a model file. Received: model.keras\n"
