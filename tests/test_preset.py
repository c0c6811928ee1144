"""The model that comes with the package."""

from pathlib import Path

import numpy as np
import pytest

from dekr_tf.inference.detector import PoseDetector
from dekr_tf.weights import PRESET, resolve

PHOTO = Path(__file__).parents[1] / "docs/images/astronaut.jpg"
#: Of the photo's person, read off by eye; pixels.
NOSE, SHOULDERS = (222, 128), ((302, 232), (110, 238))


def test_a_file_of_its_name_comes_first(tmp_path, monkeypatch):
    assert Path(resolve(PRESET, "network")).is_file()
    monkeypatch.chdir(tmp_path)
    Path(PRESET).touch()
    assert resolve(PRESET, "network") == PRESET


@pytest.mark.slow
def test_it_finds_the_astronaut():
    best, _ = PoseDetector(PRESET, flip=True)(PHOTO)[0]
    names = ("nose", "left_shoulder", "right_shoulder")
    points = best[[PoseDetector(PRESET).sidecar.schema.names.index(name) for name in names], :2]
    np.testing.assert_allclose(points, (NOSE, *SHOULDERS), atol=30)
