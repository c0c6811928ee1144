"""Writes models, photos, and the poses that this machine finds: what `check_poses.py` compares with.

python tests/arm/write_models.py FOLDER
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from check_poses import EXPECTED, RESIZED, SAME_SIZE, find_poses

from converters import verify
from converters.export import export_model
from dekr_tf.data.synthetic import draw_scene
from dekr_tf.files.images import write_image
from dekr_tf.files.outputs import write_text
from dekr_tf.models import load_model
from dekr_tf.sidecar import Artifact
from dekr_tf.weights import PRESET

#: (height, width) of the network's input, and of a photo of each kind. In the larger one no keypoint has two peaks that
#: are nearly equal: the least change of the input would move it from one to the other.
INPUT = 128, 192
PHOTOS = {SAME_SIZE: INPUT, RESIZED: (300, 420)}
MODELS = {
    "poses": {"graph": "poses"},
    "int8": {"graph": "poses", "precision": "int8"},
    "maps": {"graph": "maps"},
    "final": {"graph": "poses", "final": True, "input_type": "uint8"},
}


def main(folder: Path) -> None:
    """Writes all of it to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    scenes = {name: draw_scene(size, generator).image for name, size in PHOTOS.items()}
    for name, scene in scenes.items():
        write_image(scene, folder / f"{name}.png")
    # What eight bits do to the network does not matter here: both sides have the same.
    verify.TOLERANCES["int8"] = verify.Tolerance(1e3, 1e3, 1.0)
    network, sidecar = load_model(PRESET)
    for name, settings in MODELS.items():
        artifact = Artifact(**settings, input_sizes=(INPUT,))
        path = folder / f"{name}.tflite"
        export_model(network, sidecar, path, "tflite", artifact, list(scenes.values()), calibrate=name == "int8")
    write_text(folder / EXPECTED, json.dumps(find_poses(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
