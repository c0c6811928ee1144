import json
import re
import struct

import cv2
import numpy as np
import pytest

from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.evaluation import crowdpose
from dekr_tf.evaluation.coco import METRICS
from dekr_tf.keypoints import COCO, CROWDPOSE
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

        def detect_batch(self, images):
            asked.append([image.shape for image in images])
            return [Poses(POSE, [0.5]) for _ in images]

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
        "images: 2, labeled people: 1",
        "metric: coco, skeleton: stick",
        "   AP   AP50   AP75    APM    APL     AR   AR50   AR75    ARM    ARL",
        "  ".join(["1.000"] * 10),
    ]


def test_people_whom_the_file_does_not_count_are_named(folder, capsys):
    content = json.loads((folder / "truth.json").read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 99, "num_keypoints": 0})
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "results.json").write_text("[]")
    assert evaluate(folder, "--results", folder / "results.json", "--config", folder / "stick.yaml") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "images: 2, labeled people: 2, 1 of them ignored: num_keypoints is 0"


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
    options += ("--scales", 0.5, 1, "--match", "--nms-threshold", 0.2)
    assert evaluate(folder, *options) == 0
    assert detector == [
        (
            "best.keras",
            {
                "config": None,
                "input_size": 256,
                "flip": True,
                "dense": False,
                "rescore": None,
                "scales": [0.5, 1.0],
                "match": True,
                "nms_threshold": 0.2,
            },
        ),
        [(160, 120, 3)],
        [(160, 120, 3)],
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
    assert detector[1:] == [[(160, 120, 3)]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "m.keras"], "--model needs --images, the folder of the images"),
        (["--results", "r.json", "--flip", "--input-size", "64"], "beside --results. Received: --input-size, --flip"),
        (["--results", "r.json", "--batch-size", "0"], "beside --results. Received: --batch-size"),
        (["--results", "r.json", "--scales", "1", "--match"], "beside --results. Received: --scales, --match"),
        (["--model", "m.keras", "--images", ".", "--batch-size", "0"], "expected a positive number. Received: 0"),
        (
            ["--model", "m.keras", "--images", ".", "--metric", "crowdpose"],
            "truth.json: image 7: expected a finite number as crowdIndex. Received: none",
        ),
        (["--model", "m.keras", "--images", ".", "--metric", "pck"], "PCK needs the shoulders and hips"),
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


def test_batches(folder, detector):
    options = ("--model", folder / "best.keras", "--images", folder, "--batch-size", 3)
    assert evaluate(folder, *options) == 0
    assert detector[1:] == [[(160, 120, 3)] * 2]


@pytest.mark.parametrize("annotations", [None, []])
def test_images_without_labels(folder, detector, capsys, annotations):
    """As those of COCO's test-dev, whose labels only the server has."""
    content = json.loads((folder / "truth.json").read_text())
    del content["annotations"]
    (folder / "truth.json").write_text(json.dumps(content | ({} if annotations is None else {"annotations": []})))
    options = ("--model", folder / "best.keras", "--images", folder)
    found = folder / "found.json"
    assert evaluate(folder, *options, "--results-output", found) == 0
    assert capsys.readouterr().out.splitlines() == [
        "images: 2, labeled people: 0",
        f"no labels to score; 2 poses are in {found}",
    ]
    entry = {"category_id": 1, "keypoints": [40.0, 30.0, 0.9, 40.0, 130.0, 0.8], "score": 0.5}
    assert json.loads(found.read_text()) == [{"image_id": 7, **entry}, {"image_id": 8, **entry}]
    # Whoever asks for a metric is told that there is none, before the images are looked at.
    before = list(detector)
    for words in ([], ["--results-output", found, "--output", folder / "metric.json"], ["--metric", "coco"]):
        assert evaluate(folder, *options, *words) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert "truth.json: expected" in errors
    assert all(isinstance(entry, tuple) for entry in detector[len(before) :])


def test_labels_of_nothing_but_zeros(folder, detector, capsys):
    content = json.loads((folder / "truth.json").read_text())
    content["annotations"][0]["keypoints"] = [0] * 6
    (folder / "truth.json").write_text(json.dumps(content))
    assert evaluate(folder, "--model", folder / "best.keras", "--images", folder) == 2
    message = "no person in 2 images has labeled keypoints"
    assert message in capsys.readouterr().err
    assert detector[1:] == []


def people_file(path, schema, **image):
    """Labels of one person in one image, keypoints at (0, 0), (10, 20), (20, 40) and so on, and exact results."""
    keypoints = [value for index in range(len(schema)) for value in (10 * index, 20 * index, 2)]
    person = {"id": 1, "image_id": 7, "category_id": 1, "keypoints": keypoints, "bbox": [0, 0, 100, 200]}
    content = {"images": [{"id": 7, "file_name": "a.png", **image}], "annotations": [person]}
    (path / "truth.json").write_text(json.dumps(content))
    result = {"image_id": 7, "category_id": 1, "keypoints": keypoints, "score": 0.5}
    (path / "results.json").write_text(json.dumps([result]))
    (path / f"{schema.name}.yaml").write_text(json.dumps({"keypoints": schema.name}))


@pytest.mark.parametrize("verb", ["evaluate", "analyze"])
def test_the_category_of_the_config_counts(folder, monkeypatch, capsys, verb):
    monkeypatch.chdir(folder)
    content = json.loads((folder / "truth.json").read_text())
    content["categories"] = [
        {"id": 1, "name": "person", "keypoints": STICK["names"]},
        {"id": 2, "name": "dog", "keypoints": ["nose", "tail", "paw"]},
    ]
    dog = {"id": 2, "image_id": 8, "category_id": 2, "keypoints": [1, 1, 2, 9, 9, 2, 5, 5, 2], "area": 100}
    content["annotations"].append(dog)
    (folder / "truth.json").write_text(json.dumps(content))
    result = {"image_id": 7, "category_id": 1, "keypoints": [40, 30, 1, 40, 130, 1], "score": 0.5}
    (folder / "results.json").write_text(json.dumps([result]))
    for settings in ({"data": {"category": "person"}}, {"data": {"category": "dog"}}):
        (folder / "config.yaml").write_text(json.dumps({"keypoints": STICK} | settings))
        words = ["--results", "results.json", "--annotations", "truth.json", "--config", "config.yaml"]
        code = main([verb, *words, "--output", "metric.json"])
        errors = capsys.readouterr().err
        if settings["data"]["category"] == "person":
            assert (code, errors) == (0, "")
        else:
            assert code == 2 and errors.count("\n") == 1
        # The command line has the last word.
        assert main([verb, *words, "--category", "1", "--output", "metric.json"]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("schema", "image", "options", "metric", "names"),
    [
        (COCO, {}, [], "coco", METRICS),
        (COCO, {"crowdIndex": 0.5}, [], "coco", METRICS),
        (CROWDPOSE, {}, ["--config", "crowdpose.yaml"], "coco", METRICS),
        (CROWDPOSE, {"crowdIndex": 0.5}, ["--config", "crowdpose.yaml"], "crowdpose", crowdpose.METRICS),
        (CROWDPOSE, {"crowdIndex": 0.5}, ["--config", "crowdpose.yaml", "--metric", "coco"], "coco", METRICS),
        (CROWDPOSE, {"crowdIndex": 0.5}, ["--metric", "crowdpose"], "crowdpose", crowdpose.METRICS),
    ],
)
def test_the_metric_is_chosen_and_said(tmp_path, capsys, monkeypatch, schema, image, options, metric, names):
    monkeypatch.chdir(tmp_path)
    people_file(tmp_path, schema, **image)
    assert evaluate(tmp_path, "--results", "results.json", *options, "--output", "metric.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"metric: {metric}, skeleton: {schema.name}"
    assert lines[2].split() == list(names)
    metrics = json.loads((tmp_path / "metric.json").read_text())
    assert tuple(metrics) == names
    assert metrics["AP"] == pytest.approx(1)


def test_pck(tmp_path, capsys):
    people_file(tmp_path, CROWDPOSE)
    words = ("--results", tmp_path / "results.json", "--config", tmp_path / "crowdpose.yaml", "--metric", "pck")
    assert evaluate(tmp_path, *words, "--output", tmp_path / "metric.json") == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split() for line in lines[:3]] == [["people", "1"], ["PCK", "1.000"], ["PCK_left_shoulder", "1.000"]]
    assert len(lines) == 16
    assert set(json.loads((tmp_path / "metric.json").read_text()).values()) == {1}


def test_nothing_is_destroyed(folder, detector, capsys):
    (folder / "best.keras").touch()
    (folder / "best.keras.json").write_text("{}")
    (folder / "link.json").symlink_to("truth.json")
    source = ("--model", folder / "best.keras", "--images", folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for outputs, received in [
        (("--output", folder / "truth.json"), "truth.json"),
        (("--output", folder / "link.json"), "link.json, which is the input "),
        (("--output", folder / "best.keras.json"), "best.keras.json"),
        (("--results-output", folder / "a.png"), "a.png"),
        (("--results-output", folder / "new.json", "--output", folder / "." / "new.json"), "new.json and "),
    ]:
        assert evaluate(folder, *source, *outputs) == 2
        errors = capsys.readouterr().err
        assert received in errors and errors.count("\n") == 1
        assert "no input of the same command" in errors or "a different file for every output" in errors
    assert not any(isinstance(asked, list) for asked in detector)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
