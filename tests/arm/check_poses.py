"""Finds people with each model of a folder, and compares them with those that `write_models.py` found.

python tests/arm/check_poses.py FOLDER

It needs the device tier only. Two lines for each model and photo say what differs; the exit code is 1 where that
is more than it may be.
"""

import importlib.util
import json
import math
import platform
import sys
from pathlib import Path

import cv2
import numpy as np

from dekr_tf import PoseDetector
from dekr_tf.inference.engines import LITERT

EXPECTED = "expected.json"
#: What the photos are called: one of the size of the network's input, and a larger one.
SAME_SIZE, RESIZED = "same_size", "resized"
#: Pose score from which a pose must be found again where the photo or the network is not quite the same.
STRONG = 0.03
#: What may differ: median and largest distance of keypoints in pixels of the photo, and scores.
SAME = 0.002, 0.002, 1e-5
#: OpenCV 4 resizes in steps of 1/32 pixel.
OTHER_RESIZING = 0.2, 1.0, 0.005
#: Each engine rounds to eight bits in its own way, which can turn a weak keypoint into another one.
OTHER_ROUNDING = 2.0, math.inf, 0.05


def versions() -> dict[str, str]:
    """What the poses depend on."""
    engine = next(package for package in LITERT if importlib.util.find_spec(package))
    return {"engine": engine, "opencv": cv2.__version__, "numpy": np.__version__}


def find_poses(folder: Path) -> dict:
    """Of each model, the keypoints and scores in each photo, all of them lists; and the versions."""
    found = {}
    for model in sorted(folder.glob("*.tflite")):
        detector = PoseDetector(model, threads=1)
        found[model.stem] = {
            photo.stem: [
                {"score": float(score), "keypoints": keypoints.tolist()} for keypoints, score in detector(photo)
            ]
            for photo in sorted(folder.glob("*.png"))
        }
    return {"versions": versions(), "poses": found}


def allowed(model: str, photo: str, here: dict[str, str], there: dict[str, str]) -> tuple[float, float, float]:
    """What may differ between two machines with these versions."""
    if model == "int8" and here["engine"] != there["engine"]:
        return OTHER_ROUNDING
    if photo == RESIZED and here["opencv"].partition(".")[0] != there["opencv"].partition(".")[0]:
        return OTHER_RESIZING
    return SAME


def differences(expected: list[dict], found: list[dict]) -> list[tuple[float, float]]:
    """Of each keypoint of expected poses, its distance from that of the nearest pose, and how the scores differ."""
    if not found:
        return [(math.inf, math.inf)] * len(expected)
    keypoints = np.array([pose["keypoints"] for pose in found])[..., :2]
    pairs = []
    for pose in expected:
        distances = np.linalg.norm(keypoints - np.array(pose["keypoints"])[:, :2], axis=2)
        nearest = distances.mean(axis=1).argmin()
        score = abs(found[nearest]["score"] - pose["score"])
        pairs += [(float(distance), score) for distance in distances[nearest]]
    return pairs


def check(expected: dict, found: dict) -> bool:
    """Prints what differs, and returns whether it may."""
    passed = True
    for model, photos in expected["poses"].items():
        for photo, poses in photos.items():
            others = found["poses"][model][photo]
            bounds = allowed(model, photo, found["versions"], expected["versions"])
            pairs = differences([pose for pose in poses if bounds == SAME or pose["score"] >= STRONG], others)
            distances, scores = zip(*pairs, strict=True)
            values = float(np.median(distances)), max(distances), max(scores)
            right = all(value <= bound for value, bound in zip(values, bounds, strict=True))
            right &= bounds != SAME or len(poses) == len(others)
            passed &= right
            print(
                "ok" if right else "WRONG",
                f"{model}, {photo}: {len(others)} poses, expected {len(poses)}; differences:",
            )
            print("    {:.5f} px (median), {:.5f} px, score {:.7f}".format(*values), end="; ")
            print("allowed: {:g} px, {:g} px, {:g}".format(*bounds), flush=True)
    return passed


def main(folder: Path) -> int:
    """Returns the exit code."""
    expected = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    found = find_poses(folder)
    print(platform.machine(), platform.python_version(), found["versions"], "against", expected["versions"])
    return 0 if check(expected, found) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
