"""Writes what the tests of the page need: models, photos, a video, and what Python finds and computes.

python web/tests/prepare.py FOLDER

The network is a tiny one with random weights, which finds people of odd shapes everywhere.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import cv2
import numpy as np
from networks import random_network, tiny_hrnet

from converters import verify
from converters.export import export_model, synthetic_photos
from dekr_tf.cli.web_site import check_models, write_site
from dekr_tf.config import Config
from dekr_tf.files.images import write_image
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.preprocessing import best_fit
from dekr_tf.sidecar import Artifact, Sidecar

ANIMAL = {
    "names": ["nose", "left", "right", "tail"],
    "flip_pairs": [["left", "right"]],
    "edges": [["nose", "left"], ["nose", "right"], ["nose", "tail"]],
}
CONFIG = Config(
    keypoints=ANIMAL,
    input_size=64,
    model=tiny_hrnet(4),
    decoder={"keypoint_error": 2},
)
MODELS = {
    "float32": {"graph": "poses", "input_sizes": ((64, 96),)},
    "int8": {"graph": "poses", "input_sizes": ((64, 96),), "precision": "int8", "input_type": "uint8"},
    "final": {"graph": "poses", "input_sizes": ((64, 96),), "final": True},
    "peaks": {"graph": "poses", "input_sizes": ((64, 96),)},
    "maps": {"graph": "maps", "input_sizes": ((64, 96), (96, 64))},
}
#: Decoder settings of models that do not have those of `CONFIG`.
DECODERS = {"peaks": {"peak_distance": 0.2}}
#: (height, width) of photos and of network inputs.
LETTERBOXES = [((97, 131), (64, 96)), ((300, 200), (64, 96)), ((50, 75), (64, 64)), ((240, 424), (96, 64))]


def write_photos(folder: Path, scene: np.ndarray) -> list[str]:
    """Files of each kind that reaches the network's input bit by bit as in Python."""
    wide = cv2.resize(scene, (424, 300), interpolation=cv2.INTER_AREA)
    write_image(wide, folder / "wide.jpg")
    write_image(wide[:, 100:260], folder / "tall.png")
    cv2.imwrite(str(folder / "gray.png"), wide[:140, :200, 0])
    # To be turned by a quarter: EXIF orientation 6 in a segment right behind the JPEG's start.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    jpeg = (folder / "wide.jpg").read_bytes()
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (folder / "turned.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    return ["wide.jpg", "tall.png", "gray.png", "turned.jpg"]


def write_video(path: Path, scene: np.ndarray) -> None:
    """Two seconds of a picture that moves sideways."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 10, (160, 120))
    for frame in range(20):
        writer.write(cv2.cvtColor(np.roll(cv2.resize(scene, (160, 120)), 4 * frame, axis=1), cv2.COLOR_RGB2BGR))
    writer.release()


def letterboxes() -> list[dict]:
    """Photos of noise with their network inputs, flat lists of RGB."""
    generator = np.random.default_rng(0)
    cases = []
    for photo_size, size in LETTERBOXES:
        photo = generator.integers(0, 256, (*photo_size, 3), np.uint8)
        placement = best_fit(photo_size, [size])
        pixels = cv2.warpAffine(photo, placement.transform, size[::-1], flags=cv2.INTER_LINEAR)
        cases.append(
            {"photoSize": photo_size, "size": size, "photo": photo.ravel().tolist(), "pixels": pixels.ravel().tolist()}
        )
    return cases


def main(folder: Path) -> None:
    """Writes all of it to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (scene,) = synthetic_photos(1)
    photos = write_photos(folder, scene)
    write_video(folder / "video.webm", scene)
    # Random weights are no measure of what eight bits do to trained ones.
    verify.TOLERANCES["int8"] = verify.Tolerance(1e3, 1e3, 1.0)
    model, sidecar = random_network(CONFIG, spread=0.3), Sidecar.from_config(CONFIG)
    expected = {}
    for name, artifact in MODELS.items():
        path = folder / f"{name}.tflite"
        decoder = sidecar.decoder.model_copy(update=DECODERS.get(name, {}))
        described = sidecar.model_copy(update={"decoder": decoder})
        export_model(model, described, path, "tflite", Artifact(**artifact), [scene], calibrate=name == "int8")
        detector = PoseDetector(path)
        expected[name] = {
            photo: [
                {"score": float(score), "keypoints": keypoints.tolist()}
                for keypoints, score in detector(folder / photo)
            ]
            for photo in photos
        }
    write_site(check_models([folder / "float32.tflite"]), folder / "site")
    content = (folder / "float32.tflite").read_bytes()
    (folder / "without_settings.tflite").write_bytes(content[: content.index(b"PK\3\4")])
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
    # OpenCV 4 computes positions in steps of 1/32 pixel.
    cases = letterboxes() if int(cv2.__version__.partition(".")[0]) >= 5 else []
    (folder / "letterboxes.json").write_text(json.dumps(cases), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
