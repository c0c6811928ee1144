"""Measure a model on labelled images, or score a results file, by the COCO keypoint metric.

  dekr evaluate --model best.keras --annotations val.json --images val/
  dekr evaluate --results results.json --annotations val.json --config configs/coco_w32.yaml

The skeleton is that of the model; for a results file that of --config, else COCO's. Image files are read as they are
stored, whatever their EXIF orientation, since labels are in stored pixels. A "-" in the table means that the
annotations have no people of that size.
"""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dekr_tf.errors import InputError

if TYPE_CHECKING:
    from dekr_tf.coco_format import ImageLabels
    from dekr_tf.inference.detector import PoseDetector

MODEL_OPTIONS = ("images", "input_size", "flip", "results_output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument("--model", type=Path, metavar="FILE", help="model to measure")
    scored.add_argument("--results", type=Path, metavar="FILE", help="COCO results file to score")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO keypoint labels")
    parser.add_argument("--images", type=Path, metavar="PATH", help="folder or zip file of the images")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings to use instead of the sidecar's")
    parser.add_argument("--input-size", type=int, metavar="N", help="short side of the network's input in pixels")
    parser.add_argument("--flip", action="store_true", help="also look at the mirrored image and average")
    parser.add_argument("--results-output", type=Path, metavar="FILE", help="write the poses as a COCO results file")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the metric as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        InputError: options, annotations, images, model or results do not fit, or an output cannot be written.
    """
    from dekr_tf.coco_format import read_labels
    from dekr_tf.config import Config, load_config
    from dekr_tf.evaluation.coco import METRICS, evaluate_coco
    from dekr_tf.files import atomic_output
    from dekr_tf.inference.detector import PoseDetector

    unused = ["--" + name.replace("_", "-") for name in MODEL_OPTIONS if getattr(arguments, name)]
    if arguments.results and unused:
        raise InputError(f"expected no option of a model beside --results. Received: {', '.join(unused)}")
    if arguments.model and not arguments.images:
        raise InputError("expected --images, the folder of the images, beside --model. Received: none")

    with ExitStack() as stack:
        # Opened before the work, so that a folder that cannot be written to is found first.
        paths = (arguments.results_output, arguments.output)
        results_output, output = (stack.enter_context(atomic_output(path)) if path else None for path in paths)
        config = load_config(arguments.config) if arguments.config else None
        if arguments.model:
            size, flip = arguments.input_size, arguments.flip
            detector = PoseDetector(arguments.model, config=config, input_size=size, flip=flip)
            schema = detector.sidecar.schema
            labels = read_labels(arguments.annotations, schema)
            results = _detect(detector, labels, arguments.images)
        else:
            schema = (config or Config()).schema
            labels = read_labels(arguments.annotations, schema)
            results = arguments.results
        metrics = evaluate_coco(labels, results, schema)

        if results_output:
            results_output.write_text(json.dumps(results) + "\n", encoding="utf-8")
        if output:
            output.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    people = sum(person.labelled for image in labels for person in image.people)
    print(f"images: {len(labels)}, labelled people: {people}")
    print("  ".join(f"{name:>5}" for name in METRICS))
    print("  ".join(f"{value:5.3f}" if value >= 0 else f"{'-':>5}" for value in metrics.values()))


def _detect(detector: "PoseDetector", labels: "list[ImageLabels]", folder: Path) -> list[dict[str, Any]]:
    """The COCO results of a model on the images of an annotation file."""
    from tqdm import tqdm

    from dekr_tf.coco_format import poses_to_results
    from dekr_tf.images import check_images

    images = check_images([image.file_name for image in labels], folder)
    category = next(person.category_id for image in labels for person in image.people)
    results = []
    for image in tqdm(labels, unit="image", disable=None):
        poses = detector(images.read(image.file_name))
        results.extend(poses_to_results(poses, {"image_id": image.image_id}, category))
    return results
