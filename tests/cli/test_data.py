"""`dekr data`: what it writes, what it prints, and how it refuses."""

import argparse
import json
import re

import cv2
import pytest

from dekr_tf.cli import data_command
from dekr_tf.config import Config
from dekr_tf.data.samples import open_training_data
from dekr_tf.data.synthetic import write_dataset
from dekr_tf.errors import InputError
from dekr_tf.keypoints import COCO, load_schema


def run(*words):
    parser = argparse.ArgumentParser()
    data_command.add_arguments(parser)
    arguments = parser.parse_args([str(word) for word in words])
    data_command.run(arguments)


def test_synthetic_writes_and_says_what(tmp_path, capsys):
    run("synthetic", "--output", tmp_path, "--train", 2, "--val", 1, "--size", "64x80", "--seed", 3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line, (split, count) in zip(lines, {"train": 2, "val": 1}.items(), strict=True):
        content = json.loads((tmp_path / f"{split}.json").read_text())
        assert {(image["height"], image["width"]) for image in content["images"]} == {(64, 80)}
        assert line == (
            f"{tmp_path / split}.json: {len(content['images'])} images, {len(content['annotations'])} people"
        )
        assert len(list((tmp_path / split / "images").iterdir())) == count


@pytest.mark.parametrize("words", [[], ["synthetic"], ["synthetic", "--output", "x", "--size", "64"], ["other"]])
def test_wrong_words_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err


def test_bad_values_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="at least 64 pixels"):
        run("synthetic", "--output", tmp_path, "--size", "10x10")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder with `train.json` of three images."""
    folder = tmp_path_factory.mktemp("people")
    write_dataset(folder, train=3, val=0, size=(64, 80), seed=1)
    return folder


def test_splits_are_merged(tmp_path, capsys, people):
    val = json.loads((people / "train.json").read_text())
    for entry in [*val["images"], *val["annotations"]]:
        entry["id" if "file_name" in entry else "image_id"] += 100
    (tmp_path / "val.json").write_text(json.dumps(val))
    run("crowdpose-trainval", people / "train.json", tmp_path / "val.json", "--output", tmp_path / "both.json")
    both = json.loads((tmp_path / "both.json").read_text())
    assert [image["id"] for image in both["images"]] == [1, 2, 3, 101, 102, 103]
    assert len(both["annotations"]) == 2 * len(val["annotations"])
    assert capsys.readouterr().out == f"{tmp_path}/both.json: 6 images, {len(both['annotations'])} people\n"


def test_the_schema_that_is_written_can_be_read(tmp_path, capsys, people):
    run("schema", people / "train.json", "--output", tmp_path / "skeleton.yaml")
    assert load_schema(str(tmp_path / "skeleton.yaml")) == COCO
    assert capsys.readouterr().out == f"{tmp_path}/skeleton.yaml: 17 keypoints, 8 flip pairs, 19 edges\n"
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match=r"list\.json: expected a mapping\. Received: list"):
        run("schema", tmp_path / "list.json", "--output", tmp_path / "other.yaml")


def test_records_can_be_trained_on(tmp_path, capsys, people):
    words = ("--annotations", people / "train.json", "--images", people / "train" / "images")
    run("tfrecord", *words, "--output", tmp_path / "records", "--shards", 2)
    records, labeled = capsys.readouterr().out.splitlines()
    assert records == f"{tmp_path}/records: 3 of 3 images"
    assert re.fullmatch(rf"{tmp_path}/records: \d+ of \d+ people with labeled keypoints get a center", labeled)
    assert len(open_training_data(Config(data={"train_records": str(tmp_path / "records")}))) == 3
    with pytest.raises(InputError, match="expected a new or empty folder"):
        run("tfrecord", *words, "--output", tmp_path / "records")
    with pytest.raises(InputError, match="expected all 3 annotated images"):
        run("tfrecord", *words[:2], "--images", tmp_path, "--output", tmp_path / "other")


def test_a_sheet_of_samples(tmp_path, capsys, people):
    data = {"train_annotations": str(people / "train.json"), "train_images": str(people / "train" / "images")}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"input_size": 64, "data": data}))
    run("show", "--config", config, "--output", tmp_path / "sheet.png", "--count", 4, "targets.min_center_area=0")
    assert capsys.readouterr().out == f"{tmp_path}/sheet.png: 4 samples\n"
    # Two rows of two samples of two panels, with 6 pixels between.
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (774, 1542, 3)
    for words, message in [
        (("--output", tmp_path / "sheet.txt"), r"name of a picture to write, .*Received: .*sheet\.txt"),
        (("--output", tmp_path / "sheet.png", "--count", 0), "--count: expected a positive number. Received: 0"),
    ]:
        with pytest.raises(InputError, match=message):
            run("show", "--config", config, *words)


def test_nothing_is_destroyed(tmp_path):
    write_dataset(tmp_path, train=1, val=0, size=(64, 64), seed=0)
    labels, image = tmp_path / "train.json", tmp_path / "train/images/000001.jpg"
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"data": {"train_annotations": str(labels), "train_images": str(image.parent)}}))
    before = {path: path.read_bytes() for path in (labels, image, config)}
    for words in [
        ("schema", labels, "--output", labels),
        ("crowdpose-trainval", labels, config, "--output", config),
        ("show", "--config", config, "--output", image),
    ]:
        with pytest.raises(InputError, match="an output that is no input of the same command"):
            run(*words)
    with pytest.raises(InputError, match=r"such as sheet\.png\. Received: .*train\.json"):
        run("show", "--config", config, "--output", labels)
    assert before == {path: path.read_bytes() for path in before}
