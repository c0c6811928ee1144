"""Evaluates a detector on labeled images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from dekr_tf.errors import InputError
from dekr_tf.evaluation.coco import evaluate_coco
from dekr_tf.evaluation.crowdpose import evaluate_crowdpose
from dekr_tf.evaluation.pck import evaluate_pck
from dekr_tf.files.coco_format import ImageLabels
from dekr_tf.files.images import check_images
from dekr_tf.files.json_values import is_finite_number
from dekr_tf.keypoints import CROWDPOSE, KeypointSchema
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Sidecar

#: The metrics by name: functions of labels, results and schema.
METRICS = {"coco": evaluate_coco, "crowdpose": evaluate_crowdpose, "pck": evaluate_pck}


class Detector(Protocol):
    """What evaluation needs of a detector; `inference.detector.PoseDetector` is one."""

    sidecar: Sidecar

    def detect_batch(self, images: Sequence[np.ndarray]) -> list[Poses]:
        """The people in images (H, W, 3) uint8 RGB of any sizes."""


def evaluate_detector(
    detector: Detector,
    labels: Sequence[ImageLabels],
    folder: Path,
    *,
    metric: str | None = None,
    batch_size: int = 1,
    progress: bool = False,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Measures a detector on labeled images.

    Args:
        detector: of any engine.
        labels: of `coco_format.read_labels`, with the detector's skeleton.
        folder: of the images, or a zip file.
        metric: one of `METRICS`; by default `default_metric`.
        batch_size: number of images that the detector gets at once.
        progress: show a bar on standard error if that is a terminal.

    Returns:
        The metric's numbers by name, and the results of `detect_people` that they are for.

    Raises:
        InputError: labels or images do not fit. Labels are checked before the images.
    """
    schema = detector.sidecar.schema
    measure = METRICS[metric or default_metric(labels, schema)]
    # Measuring no results refuses labels that do not fit the metric, before the long work.
    measure(labels, [], schema)
    results = detect_people(detector, labels, folder, batch_size=batch_size, progress=progress)
    return measure(labels, results, schema), results


def default_metric(labels: Sequence[ImageLabels], schema: KeypointSchema) -> str:
    """`crowdpose` for CrowdPose's skeleton and images that have a `crowdIndex`, else `coco`."""
    crowded = any("crowdIndex" in image.content for image in labels)
    return "crowdpose" if crowded and schema == CROWDPOSE else "coco"


def detect_people(
    detector: Detector, labels: Sequence[ImageLabels], folder: Path, *, batch_size: int = 1, progress: bool = False
) -> list[dict[str, Any]]:
    """The people that a detector finds in every image of an annotation file, as entries of a COCO results file.

    Args:
        detector: of any engine.
        labels: of `coco_format.read_labels`; people are not needed.
        folder: of the images, or a zip file. They are read in stored pixels, like the labels.
        batch_size: number of images that the detector gets at once. Images of similar shape share a batch, so that most
            of it goes through the network together.
        progress: show a bar on standard error if that is a terminal.

    Returns:
        An entry for each person, in the order of the images, then best first. `category_id` is that of the first
        annotation, or 1.

    Raises:
        InputError: an image is missing, cannot be read, has another size than the annotations say, or is too elongated.
    """
    if batch_size < 1:
        raise InputError(f"batch size: expected a positive number. Received: {batch_size}")
    files = check_images([image.file_name for image in labels], folder)
    category = next((person.category_id for image in labels for person in image.people), 1)
    # The network's input depends on an image's shape alone.
    order = sorted(labels, key=_width_per_height)
    found = {}
    with tqdm(total=len(order), unit="image", disable=None if progress else True) as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            images = [files.read(image.file_name, _declared_size(image)) for image in batch]
            try:
                poses = detector.detect_batch(images)
            except InputError as error:
                raise InputError(f"{', '.join(image.file_name for image in batch)}: {error}") from error
            found.update(zip((image.image_id for image in batch), poses, strict=True))
            bar.update(len(batch))
    return [entry for image in labels for entry in found[image.image_id].to_coco(image.image_id, category_id=category)]


def _declared_size(image: ImageLabels) -> tuple[int, int] | None:
    """(height, width) according to the annotation file; None if it does not say."""
    size = image.content.get("height"), image.content.get("width")
    return size if all(is_finite_number(side) and side > 0 for side in size) else None


def _width_per_height(image: ImageLabels) -> float:
    size = _declared_size(image)
    return size[1] / size[0] if size else 0.0
