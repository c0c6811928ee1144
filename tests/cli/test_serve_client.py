"""`dekr serve-client`: what needs no server. The rest is in tests/serving/test_client.py."""

import json

import cv2
import numpy as np
import pytest

from dekr_tf.cli.main import main

pytest.importorskip("urllib3")


def test_the_category_chooses_a_skeleton_of_an_annotation_file(tmp_path, monkeypatch, capsys):
    schemas = []
    monkeypatch.setattr("dekr_tf.cli.serve_client_command.report_people", lambda *words: schemas.append(words[-1]))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    categories = [
        {"id": 1, "name": "person", "keypoints": ["head", "foot"]},
        {"id": 2, "name": "dog", "keypoints": ["nose", "tail", "paw"]},
    ]
    (tmp_path / "truth.json").write_text(json.dumps({"categories": categories}))
    words = ["serve-client", str(tmp_path / "a.png"), "--keypoints", str(tmp_path / "truth.json")]
    words += ["--url", "http://127.0.0.1:1", "--retries", "0", "--timeout", "1"]
    assert main(words) == 2
    assert "--category or data.category chooses one" in capsys.readouterr().err
    assert main([*words, "--category", "dog"]) == 0
    assert [schema.names for schema in schemas] == [("nose", "tail", "paw")]
