"""Exports a model in every form, and compares each with the Keras model: size, time, AP, keypoints.

Prints a table in Markdown. Times are medians of rounds in which all take turns, as ratios to float32 Keras, from image
to poses.

python benchmarks/artifacts.py --model runs/mine/best.keras --annotations val.json --images val/ \\
    --calibration train/ --input-size 512x832
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from converters.export import export_model, keras_detector
from converters.verify import compare
from dekr_tf.cli.arguments import image_size
from dekr_tf.evaluation.evaluator import evaluate_detector
from dekr_tf.files.coco_format import read_labels
from dekr_tf.files.images import find_images, open_images, read_image
from dekr_tf.inference.benchmark import time_stages
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.models import load_model
from dekr_tf.sidecar import Artifact

#: What is exported: form, precision, graph.
EXPORTS = [
    ("saved_model", "float32", "poses"),
    ("tflite", "float32", "poses"),
    ("tflite", "float16", "poses"),
    ("tflite", "dynamic_int8", "poses"),
    ("tflite", "int8", "poses"),
    ("tflite", "int8", "maps"),
    ("onnx", "float32", "poses"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--calibration", required=True, nargs="+", help="photos that int8 takes its ranges from")
    parser.add_argument("--calibration-limit", type=int, default=100)
    parser.add_argument("--input-size", required=True, type=image_size)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()

    model, sidecar = load_model(arguments.model)
    labels = read_labels(arguments.annotations, sidecar.schema)
    files = open_images(arguments.images)
    photos = [files.read(image.file_name) for image in labels[:100]]
    paths = find_images(arguments.calibration)[: arguments.calibration_limit]
    calibration = [read_image(path, exif_orientation=True) for path in paths]

    with tempfile.TemporaryDirectory() as folder:
        keras_model = Artifact(graph="poses", input_sizes=(arguments.input_size,))
        reference = keras_detector(model, sidecar.model_copy(update={"artifact": keras_model}))
        detectors, sizes = [reference], [Path(arguments.model).stat().st_size]
        for form, precision, graph in EXPORTS:
            artifact = Artifact(graph=graph, precision=precision, input_sizes=(arguments.input_size,))
            suffix = {"saved_model": "", "tflite": ".tflite", "onnx": ".onnx"}[form]
            path = Path(folder) / f"{precision}_{graph}{suffix}"
            export_model(model, sidecar, path, form, artifact, calibration, calibrate=precision == "int8")
            detectors.append(PoseDetector(path))
            made = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
            sizes.append(sum(each.stat().st_size for each in made))
        for detector in detectors:
            detector(photos[0])
        times = np.median(time_stages(detectors, photos[0], arguments.rounds)[..., -1], axis=0)
        names = [("keras", "float32", "poses"), *EXPORTS]
        print("| form | precision | graph | MB | time | AP | AP50 | keypoints moved by, pixels |")
        print("|---|---|---|---|---|---|---|---|")
        for name, detector, size, time in zip(names, detectors, sizes, times, strict=True):
            numbers = evaluate_detector(detector, labels, arguments.images)[0]
            moved = compare([(reference(photo), detector(photo)) for photo in photos]).pixels[0]
            ratio = time / times[0]
            print(
                f"| {' | '.join(name)} | {size / 1e6:.1f} | {ratio:.2f} | {numbers['AP']:.4f} | {numbers['AP50']:.4f} "
                f"| {moved:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
