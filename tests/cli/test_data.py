"""`dekr data`: what it writes, what it prints, and how it refuses."""

import argparse
import json

import pytest

from dekr_tf.cli import data_command
from dekr_tf.errors import InputError


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
