"""PCK, the percentage of correct keypoints, for data sets with one labeled person per image."""

from collections.abc import Sequence

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.evaluation.scoring import Results, check_somebody_is_labeled, read_results
from dekr_tf.files.coco_format import ImageLabels, PersonLabels
from dekr_tf.keypoints import KeypointSchema

#: A keypoint is correct within this fraction of the torso's diameter.
THRESHOLD = 0.2

#: Keypoints whose distance is the torso's diameter; the second pair serves if the first is not labeled.
DIAMETERS = (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip"))


def evaluate_pck(labels: Sequence[ImageLabels], results: Results, schema: KeypointSchema) -> dict[str, float]:
    """The share of labeled keypoints that are found within 0.2 of the torso's diameter (PCK@0.2).

    The torso's diameter is the distance from the labeled left shoulder to the right hip, as is usual for Leeds Sports
    Pose, or from the right shoulder to the left hip if one of these is not labeled. A person with neither, or with a
    diameter of 0, is not measured.

    The pose that counts is the one with the highest score in the image; the labels do not influence the choice. So a
    person who was found counts for nothing if somebody else in the image has a higher score, and if nobody was found,
    every keypoint counts as wrong.

    Args:
        labels: of `coco_format.read_labels`, with at most one labeled person per image. Images without are skipped.
        results: path or content of a COCO results file; see `scoring.Comparison`.
        schema: the skeleton of both, with shoulders and hips named as in COCO.

    Returns:
        `people`, the number of those measured; `PCK`, over all their labeled keypoints, 0 to 1; and `PCK_<name>` for
        every keypoint, -1 where it is labeled nowhere.

    Raises:
        InputError: the skeleton lacks shoulders or hips; an image has several labeled people; nobody can be measured;
            results cannot be read, do not fit the skeleton, or one is of an image that has no labels.
    """
    missing = [name for pair in DIAMETERS for name in pair if name not in schema.names]
    if missing:
        raise InputError(f"skeleton {schema.name}: PCK needs the shoulders and hips. Missing: {', '.join(missing)}")
    check_somebody_is_labeled(labels)
    best: dict[int | str, tuple[float, np.ndarray]] = {}
    for image_id, keypoints, score in read_results(results, schema, (image.image_id for image in labels)):
        if image_id not in best or score > best[image_id][0]:
            best[image_id] = score, keypoints

    correct, labeled = [], []
    for image in labels:
        person = _labeled_person(image)
        diameter = _torso_diameter(person, schema) if person else 0.0
        if not diameter:
            continue
        labeled.append(person.keypoints[:, 2] > 0)
        if image.image_id in best:
            distances = np.linalg.norm(best[image.image_id][1][:, :2] - person.keypoints[:, :2], axis=1)
            correct.append(labeled[-1] & (distances <= THRESHOLD * diameter))
        else:
            correct.append(np.zeros(len(schema), bool))
    if not labeled:
        raise InputError("annotations: no person has a labeled shoulder and opposite hip, which PCK needs")
    right, counts = np.sum(correct, axis=0), np.sum(labeled, axis=0)
    shares = np.where(counts, right / np.maximum(counts, 1), -1.0).tolist()
    return {
        "people": len(labeled),
        "PCK": float(right.sum() / counts.sum()),
        **{f"PCK_{name}": share for name, share in zip(schema.names, shares, strict=True)},
    }


def _labeled_person(image: ImageLabels) -> PersonLabels | None:
    people = [person for person in image.people if person.labeled]
    if len(people) > 1:
        raise InputError(f"{image.where}: PCK is for one labeled person an image. Received: {len(people)}")
    return people[0] if people else None


def _torso_diameter(person: PersonLabels, schema: KeypointSchema) -> float:
    """The torso's diameter in pixels; 0 if it is not labeled."""
    for names in DIAMETERS:
        ends = person.keypoints[[schema.names.index(name) for name in names]]
        if (ends[:, 2] > 0).all():
            return float(np.linalg.norm(ends[0, :2] - ends[1, :2]))
    return 0.0
