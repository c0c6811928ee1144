"""The model of the package: it finds a person in a photo, and verbs and classes use it where no model is named."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.engines import KerasEngine, LiteRTEngine
from dekr_tf.sidecar import read_sidecar
from dekr_tf.weights import PRESET, PRESET_FOLDER, resolve

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "docs/images/astronaut.jpg"


def test_its_files_have_the_same_settings():
    keras, exported = (read_sidecar(resolve(PRESET, "network", exported=exported)) for exported in (False, True))
    assert exported.artifact is not None
    assert exported.model_copy(update={"artifact": None}) == keras
    assert sum(path.stat().st_size for path in PRESET_FOLDER.iterdir()) < 16_000_000


def test_a_file_of_its_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(PRESET).touch()
    assert resolve(PRESET, "network") == PRESET
