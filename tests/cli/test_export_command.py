"""What `dekr export` hands to the converters."""

import cv2
import numpy as np
import pytest

from dekr_tf.cli import export_command
from dekr_tf.cli.export_command import evenly_spread
from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.sidecar import Sidecar


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(0, 3, []), (3, 3, [0, 1, 2]), (4, 3, [0, 1, 3]), (9, 3, [0, 4, 8]), (100, 5, [0, 24, 49, 74, 99])],
)
def test_evenly_spread(count, most, expected):
    assert evenly_spread(range(count), most) == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--output", "m.tflite", "--rescore", "net.npz"], "--rescore: expected --final or --serving beside it"),
        (["--serving", "models/m/1", "--final"], "--final: expected --output beside it, as served poses are final"),
    ],
)
def test_final_poses_and_rescoring_go_together(capsys, options, reason):
    form = "tflite" if "--output" in options else "saved_model"
    assert main(["export", "--model", "m.keras", "--format", form, *options]) == 2
    assert reason in capsys.readouterr().err


def test_a_large_folder_gives_a_spread_sample(tmp_path, monkeypatch, capsys):
    """Nine photos, each of one gray; only those of the sample are read."""
    for index in range(9):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((4, 4, 3), index, np.uint8))
    (tmp_path / "1.png").write_bytes(b"damaged")
    taken = []

    def export_model(model, sidecar, output, form, artifact, photos, *, calibrate, rescore):
        taken.extend(int(photo[0, 0, 0]) for photo in photos)
        return "the same" if calibrate else "not calibrated"

    monkeypatch.setattr(export_command, "MOST_PHOTOS", 3)
    monkeypatch.setattr("converters.export.export_model", export_model)
    monkeypatch.setattr("dekr_tf.models.load_model", lambda path, config: (None, Sidecar.from_config(Config())))
    words = ["--model", "m.keras", "--format", "tflite", "--precision", "int8", "--output", str(tmp_path / "m.tflite")]
    assert main(["export", *words, "--calibration", str(tmp_path)]) == 0
    assert taken == [0, 4, 8]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "calibration: 3 of 9 photos, evenly spread"
    assert lines[-1] == "compared with Keras: the same"
