"""The `dekr` command with real, tiny networks: odd photos, odd skeletons, broken files, an interrupt."""

import json
import struct

import cv2
import keras
import numpy as np
import pytest

from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.data.synthetic import write_dataset
from dekr_tf.keypoints import CROWDPOSE
from dekr_tf.models import build_dekr, load_model, save_model
from dekr_tf.sidecar import Sidecar

# Plain blocks, as nothing here depends on how a network computes its maps.
TINY = {
    "input_size": 64,
    "model": {"width": 2, "modules": [1, 1, 1], "blocks": 1, "offset_head": {"block": "plain", "blocks": 1}},
}

#: Graphs take longer to make than a few steps; tf.data says that it goes on making its own.
EAGERLY = pytest.mark.usefixtures("eagerly")

TF_DATA_HAS_GRAPHS = pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained network for COCO's skeleton."""
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    config = Config(**TINY)
    keras.utils.set_random_seed(0)
    save_model(build_dekr(config.model, config.schema), path, Sidecar.from_config(config))
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder with `train.json`, `val.json` and their images."""
    folder = tmp_path_factory.mktemp("people")
    write_dataset(folder, train=2, val=1, size=(64, 80), seed=1)
    return folder


def write_config(path, people, **changes):
    data = {"train_annotations": str(people / "train.json"), "train_images": str(people / "train" / "images")}
    path.write_text(json.dumps(TINY | {"data": data, "training": {"epochs": 1, "batch_size": 1}} | changes))
    return path


def run(capsys, *words):
    code = main(list(map(str, words)))
    return code, capsys.readouterr().err


def refused(capsys, *words):
    """The one line that a command ends with."""
    code, errors = run(capsys, *words)
    assert code == 2
    assert errors.startswith(f"dekr {words[0]}: error: ") and errors.count("\n") == 1
    return errors


def test_photos_of_every_kind(model, tmp_path, capsys):
    color = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8), (0, 0), 3)
    gray = color[..., 0]
    # An EXIF entry 0x0112 of 6: the camera was held upright, turn by a quarter.
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0" + struct.pack(">2sHIH", b"MM", 42, 8, 1) + entry + bytes(4)
    jpeg = cv2.imencode(".jpg", color)[1].tobytes()
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    upright = np.rot90(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), -1)
    photos = {
        "color": color,
        "alpha": np.dstack([color, gray]),
        "deep": color.astype(np.uint16) * 257,
        "gray": gray,
        "gray_as_color": np.dstack([gray] * 3),
        "deep_gray": gray.astype(np.uint16) * 257,
        "one_pixel": color[:1, :1],
        "wide": np.zeros((1_300, 20_000, 3), np.uint8),
        "upright": upright,
    }
    for name, photo in photos.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), photo)
    output = tmp_path / "poses.json"
    words = ("predict", tmp_path, "--model", model, "--output", output, "--draw", tmp_path / "drawn")
    assert run(capsys, *words) == (0, "")

    found = {}
    for entry in json.loads(output.read_text()):
        keypoints = np.reshape(entry["keypoints"], (17, 3))
        assert np.isfinite(keypoints).all()
        found.setdefault(entry["file_name"].split("/")[-1].split(".")[0], []).append(keypoints)
    assert found["color"]
    for name, same in {
        "alpha": "color",
        "deep": "color",
        "gray_as_color": "gray",
        "deep_gray": "gray",
        "turned": "upright",
    }.items():
        np.testing.assert_array_equal(found[name], found[same])
    for name, photo in photos.items():
        drawing = cv2.imread(str(tmp_path / "drawn" / f"{name}.png"))
        assert drawing.shape == (*photo.shape[:2], 3)


@EAGERLY
@TF_DATA_HAS_GRAPHS
@pytest.mark.parametrize("count", [1, 3, 21])
def test_skeletons_of_every_size(eagerly, people, tmp_path, capsys, count):
    names = [f"k{index}" for index in range(count)]
    skeleton = {"names": names, "flip_pairs": [names[:2]] if count > 1 else [], "edges": [names[1:3]] * (count > 1)}
    folder = tmp_path / "labels"
    folder.mkdir()
    for split in ("train", "val"):
        content = json.loads((people / f"{split}.json").read_text())
        for annotation in content["annotations"]:
            annotation["keypoints"] = (annotation["keypoints"] * 2)[: 3 * count]
        (folder / f"{split}.json").write_text(json.dumps(content))
    data = {"train_annotations": str(folder / "train.json"), "train_images": str(people / "train" / "images")}
    config = write_config(tmp_path / "config.yaml", people, keypoints=skeleton, data=data)
    assert run(capsys, "train", "--config", config, "--output", tmp_path / "run") == (0, "")

    trained, images = tmp_path / "run" / "last.keras", people / "val" / "images"
    drawn, poses = tmp_path / "drawn", tmp_path / "poses.json"
    words = ("--model", trained, "--flip", "--output", poses, "--draw", drawn, "--min-score", 0)
    assert run(capsys, "predict", images, *words) == (0, "")
    assert {len(entry["keypoints"]) for entry in json.loads(poses.read_text())} <= {3 * count}
    assert len(list(drawn.iterdir())) == 1
    metric = tmp_path / "metric.json"
    words = ("--model", trained, "--annotations", folder / "val.json", "--images", images, "--output", metric)
    assert run(capsys, "evaluate", *words) == (0, "")
    assert 0 <= json.loads(metric.read_text())["AP"] <= 1


def test_models_that_do_not_fit(model, people, tmp_path, capsys):
    photo = people / "val" / "images" / "000001.jpg"
    sidecar = json.loads((model.parent / "tiny.keras.json").read_text())
    content = model.read_bytes()
    cases = {
        "truncated": (content[: len(content) // 2], sidecar),
        "text": (b"no model", sidecar),
        "other": (content, sidecar | {"keypoints": CROWDPOSE.to_dict()}),
        "skeleton": (content, sidecar | {"keypoints": {"names": []}}),
    }
    output = tmp_path / "poses.json"
    for name, (data, settings) in cases.items():
        path = tmp_path / f"{name}.keras"
        path.write_bytes(data)
        (tmp_path / f"{name}.keras.json").write_text(json.dumps(settings))
        assert str(path) in refused(capsys, "predict", photo, "--model", path, "--output", output)
        words = ("--annotations", people / "val.json", "--images", photo.parent, "--output", output)
        assert str(path) in refused(capsys, "evaluate", "--model", path, *words)
    assert not output.exists()


def test_labels_and_settings_that_do_not_fit(people, tmp_path, capsys):
    config = write_config(tmp_path / "config.yaml", people)
    content = json.loads((people / "train.json").read_text())
    del content["annotations"][0]["image_id"]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    (tmp_path / "list.yaml").write_text("- 1")
    output = tmp_path / "run"
    for words, message in {
        (config, output, f"data.train_annotations={tmp_path / 'labels.json'}"): "labels.json: annotation 1: expected",
        (config, output, "keypoints=crowdpose"): "a list of 42 finite numbers",
        (config, output, "training.epoch=3"): "unknown key training.epoch",
        (config, output, "training.epochs"): "of the form group.key=value. Received: training.epochs",
        (config, output, f"data.train_images={tmp_path}"): "expected all 2 annotated images",
        (tmp_path / "gone.yaml", output): "gone.yaml: No such file",
        (tmp_path / "list.yaml", output): "expected a mapping. Received: list",
        (people / "val" / "images" / "000001.jpg", output): "expected YAML",
        (config, config): f"cannot write {config}",
    }.items():
        settings, folder, *overrides = words
        assert message in refused(capsys, "train", "--config", settings, "--output", folder, *overrides)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "labels.json", "list.yaml"]


@EAGERLY
@TF_DATA_HAS_GRAPHS
# Keras closes its log only when training ends well.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_while_the_model_is_written_leaves_the_one_before(eagerly, people, tmp_path, capsys, monkeypatch):
    save, written = keras.Model.save, []

    def interrupted(network, path):
        if written:
            path.write_bytes(b"half a model")
            raise KeyboardInterrupt
        save(network, path)
        written.append(path.read_bytes())

    monkeypatch.setattr(keras.Model, "save", interrupted)
    config = write_config(tmp_path / "config.yaml", people, training={"epochs": 2, "batch_size": 1})
    output = tmp_path / "run"
    assert run(capsys, "train", "--config", config, "--output", output) == (130, "dekr train: interrupted\n")
    assert (output / "last.keras").read_bytes() == written[0]
    load_model(output / "last.keras")
    names = {path.name for path in output.iterdir()}
    assert names == {"config.yaml", "last.keras", "last.keras.json", "log.csv", "state.npz", "tensorboard"}
