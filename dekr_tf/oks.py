"""Object keypoint similarity (OKS): how well a pose fits a labeled person, 0 to 1."""

import numpy as np

from dekr_tf.files.coco_format import AREA_PER_BOX


def object_keypoint_similarity(
    poses: np.ndarray, labels: np.ndarray, areas: np.ndarray, boxes: np.ndarray, oks_sigmas: np.ndarray
) -> np.ndarray:
    """The OKS of every pose with every labeled person.

    A keypoint at distance d from its label scores exp(-d^2 / (2 (2 sigma)^2 area)); the OKS is the mean over the
    labeled keypoints. If a person has no labeled keypoints, d is how far a keypoint lies outside the box, grown by its
    own size on every side, and the mean is over all keypoints.
    Follows https://cocodataset.org/#keypoints-eval and `COCOeval.computeOks` of pycocotools.

    Args:
        poses: (N, K, 2 or more) predicted x, y in pixels; further columns are not read.
        labels: (M, K, 3) labeled x, y in pixels and visibility; 0 = not labeled.
        areas: (M,) of the labeled people, square pixels.
        boxes: (M, 4) of the labeled people: left, top, width, height in pixels.
        oks_sigmas: (K,) falloffs per sqrt(area), > 0.

    Returns:
        (N, M) float64 in 0..1.
    """
    poses = np.asarray(poses, np.float64)[:, None, :, :2]
    labels = np.asarray(labels, np.float64)
    boxes = np.asarray(boxes, np.float64)

    labeled = labels[..., 2] > 0
    comparable = labeled.any(axis=1)
    corners, sizes = boxes[:, None, :2], boxes[:, None, 2:]
    outside = np.maximum(corners - sizes - poses, 0) + np.maximum(poses - corners - 2 * sizes, 0)
    distances = np.where(comparable[:, None, None], poses - labels[..., :2], outside)
    similarity = keypoint_similarity(distances, areas, oks_sigmas)
    counted = labeled | ~comparable[:, None]
    return (similarity * counted).sum(axis=-1) / counted.sum(axis=-1)


def keypoint_similarity(distances: np.ndarray, areas: np.ndarray, oks_sigmas: np.ndarray) -> np.ndarray:
    """How well single keypoints fit their labels: exp(-d^2 / (2 (2 sigma)^2 area)).

    Args:
        distances: (..., M, K, 2) from keypoints to labels in x and y, in pixels, of either sign.
        areas: (M,) of the labeled people, square pixels.
        oks_sigmas: (K,) falloffs per sqrt(area), > 0.

    Returns:
        (..., M, K) float64 in 0..1.
    """
    variances = (2 * np.asarray(oks_sigmas, np.float64)) ** 2
    areas = np.asarray(areas, np.float64)
    return np.exp(-np.square(distances).sum(axis=-1) / variances / (areas[:, None] + np.spacing(1)) / 2)


def expected_similarity(keypoints: np.ndarray, error: float, oks_sigmas: np.ndarray) -> np.ndarray:
    """The expected similarity of each keypoint of predicted poses, given how far keypoints are off on average.

    If the errors in x and y are normally distributed, the mean of exp(-d^2 / (2 s^2)) is 1 / (1 + error^2 / s^2),
    where s = 2 sigma sqrt(area). The same error costs a small person more than a large one, so small people rank below
    large ones of the same confidence. As for files without areas, the area is 0.53 of the box around the pose.

    Args:
        keypoints: (N, K, 2 or more) predicted x, y in pixels; further columns are not read.
        error: standard deviation of a keypoint's error along each axis in the same pixels, > 0.
        oks_sigmas: (K,) falloffs per sqrt(area), > 0.

    Returns:
        (N, K) in 0..1; 0 where the box has no area.
    """
    extents = np.ptp(keypoints[..., :2], axis=1)
    variances = AREA_PER_BOX * extents.prod(axis=1)[:, None] * np.square(2 * np.asarray(oks_sigmas))
    return variances / (variances + error**2)
