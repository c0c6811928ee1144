"""CrowdPose's metric: AP, also by how crowded the images are (Li et al., CVPR 2019)."""

from collections.abc import Sequence

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.evaluation.scoring import STATISTICS, Comparison, Results
from dekr_tf.files.coco_format import AREA_PER_BOX, ImageLabels, PersonLabels
from dekr_tf.files.json_values import is_finite_number, received
from dekr_tf.keypoints import KeypointSchema

METRICS = ("AP", "AP50", "AP75", "APE", "APM", "APH", "AR", "AR50", "AR75")

#: Images are easy below the first `crowdIndex`, of medium difficulty below the second, and hard from there on. These
#: are the toolkit's figures; the paper has .1 for the first.
LIMITS = (0.2, 0.8)


def evaluate_crowdpose(labels: Sequence[ImageLabels], results: Results, schema: KeypointSchema) -> dict[str, float]:
    """Average precision and recall as CrowdPose's own toolkit computes them.

    It is the COCO metric with these differences (crowdpose-api, cocoeval.py): a person's area is 0.53 of the box's,
    whatever `area` says; there are no size ranges; AP is also computed for three ranges of `crowdIndex`, rounded to
    four places. A person whose box is empty counts as missed.

    As in COCO's, people whose `num_keypoints` is 0 are ignored. CrowdPose's files do not count head and neck there, so
    this includes people with labels: of the 8,527 people in its val set 1,453 are ignored, and only 499 of those have
    no labeled keypoint.

    Args:
        labels: of `coco_format.read_labels`, every image with `crowdIndex`.
        results: path or content of a COCO results file; see `scoring.Comparison`.
        schema: the skeleton of both; its `oks_sigmas` are used, and those of `keypoints.CROWDPOSE` are the toolkit's.

    Returns:
        The `METRICS`, 0 to 1: precision over the thresholds .50:.05:.95, at .50, at .75; of easy, medium and hard
        images; recall like the first three. -1 if there are no such people.

    Raises:
        InputError: an image has no `crowdIndex`; nobody is labeled; results cannot be read, do not fit the skeleton,
            or one is of an image that has no labels.
    """
    difficulties = {image.image_id: _difficulty(image) for image in labels}
    comparison = Comparison(labels, results, schema, area_of_box)
    metrics = dict(zip(STATISTICS, map(float, comparison.score().stats), strict=True))
    for difficulty, name in enumerate(("APE", "APM", "APH")):
        images = [number for image, number in comparison.images.items() if difficulties[image] == difficulty]
        metrics[name] = round(float(comparison.score(images).stats[0]), 4) if images else -1.0
    return {name: metrics[name] for name in METRICS}


def area_of_box(person: PersonLabels) -> float:
    """A person's area by CrowdPose's rule, in square pixels; never zero, so that nobody is ignored."""
    return AREA_PER_BOX * (person.box[2] * person.box[3]) or np.finfo(float).tiny


def _difficulty(image: ImageLabels) -> int:
    """0 easy, 1 medium, 2 hard."""
    index = image.content.get("crowdIndex")
    if not is_finite_number(index):
        raise InputError(f"{image.where}: expected a finite number as crowdIndex. Received: {received(index)}")
    return sum(index >= limit for limit in LIMITS)
