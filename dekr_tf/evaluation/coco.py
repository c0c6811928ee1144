"""The COCO keypoint metric, for any skeleton."""

from collections.abc import Sequence

from dekr_tf.evaluation.scoring import STATISTICS, Comparison, Results
from dekr_tf.files.coco_format import ImageLabels
from dekr_tf.keypoints import KeypointSchema

METRICS = STATISTICS


def evaluate_coco(labels: Sequence[ImageLabels], results: Results, schema: KeypointSchema) -> dict[str, float]:
    """Average precision and recall over OKS thresholds, as pycocotools computes them.

    Every image counts, with its 20 best results. The schema's `oks_sigmas` are used. A person without any extent is
    ignored, and so is one whose `num_keypoints` is 0 in the file, whatever the visibilities say.

    Args:
        labels: of `coco_format.read_labels`; the people of all categories form one class.
        results: path or content of a COCO results file; see `scoring.Comparison`.
        schema: the skeleton of both.

    Returns:
        The `METRICS`, 0 to 1: mean over the thresholds .50:.05:.95, at .50, at .75, for people of medium size (area
        32^2 to 96^2) and large ones; precision first, then recall. -1 if there are no such people.

    Raises:
        InputError: nobody is labeled; results cannot be read, do not fit the skeleton, or one is of an image that has
            no labels.
    """
    return dict(zip(METRICS, map(float, Comparison(labels, results, schema).score().stats), strict=True))
