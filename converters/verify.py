"""Checks that an exported model finds the same poses as the Keras model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.poses import Poses

#: Poses are compared down to this fraction of the best pose's score: weaker ones are noise in any precision.
WEAKEST = 0.25
#: Two poses are of the same person if the mean distance of their keypoints is at most this fraction of the diagonal of
#: the pose's box.
SAME_PERSON = 0.2


@dataclass(frozen=True)
class Tolerance:
    """How much a precision may change.

    Attributes:
        pixels: largest mean distance of keypoints, in pixels of the photo.
        score: largest mean difference of keypoint and pose scores.
        lost: largest fraction of people that are no longer found.
    """

    pixels: float
    score: float
    lost: float


TOLERANCES = {
    "float32": Tolerance(0.01, 1e-4, 0.0),
    "float16": Tolerance(0.2, 0.005, 0.02),
    # With `decoder.peak_distance`, a keypoint that moves to another peak counts as much as fifty that move by a pixel.
    "dynamic_int8": Tolerance(3.0, 0.05, 0.1),
    "int8": Tolerance(3.0, 0.05, 0.1),
}


@dataclass(frozen=True)
class Comparison:
    """Differences between the poses of two detectors, of which the first is taken to be right.

    Attributes:
        images: number of images, each counted once for every size of the network's input.
        people: number of people that the first detector finds.
        lost: number of these that the second does not find.
        pixels: mean and largest distance of keypoints, in pixels of the photo, for people that both find.
        score: mean and largest difference of keypoint and pose scores, likewise.
    """

    images: int
    people: int
    lost: int
    pixels: tuple[float, float]
    score: tuple[float, float]

    def within(self, tolerance: Tolerance) -> bool:
        """Whether all differences are within a tolerance."""
        return (
            self.pixels[0] <= tolerance.pixels
            and self.score[0] <= tolerance.score
            and self.lost <= tolerance.lost * self.people
        )

    def __str__(self) -> str:
        (pixels, most_pixels), (score, most_score) = self.pixels, self.score
        return (
            f"{self.people} people in {self.images} images, {self.lost} lost; keypoints differ by {pixels:.4f} pixels "
            f"(at most {most_pixels:.4f}), scores by {score:.6f} (at most {most_score:.6f})"
        )


def compare(found: Sequence[tuple[Poses, Poses]]) -> Comparison:
    """Compares the poses of two detectors in the same images; the first of each pair is taken to be right."""
    weakest = WEAKEST * max((poses.scores.max(initial=0.0) for poses, _ in found), default=0.0)
    people = lost = 0
    pixels, scores = [np.zeros(0)], [np.zeros(0)]
    for right, other in found:
        for pose, score in zip(right.keypoints, right.scores, strict=True):
            if score < weakest:
                break
            people += 1
            nearest = _nearest(pose, other)
            if nearest is None:
                lost += 1
            else:
                same = other.keypoints[nearest]
                pixels.append(np.linalg.norm(same[:, :2] - pose[:, :2], axis=1))
                scores.append(np.abs([*(same[:, 2] - pose[:, 2]), other.scores[nearest] - score]))
    return Comparison(len(found), people, lost, _mean_and_largest(pixels), _mean_and_largest(scores))


def check_agreement(comparison: Comparison, precision: str, output: str | Path) -> None:
    """Refuses an exported model whose poses differ too much from the Keras model's.

    Args:
        comparison: of both.
        precision: of the exported model.
        output: its file or folder, for the message.

    Raises:
        InputError: the differences are beyond `TOLERANCES`, or there was nobody to compare.
    """
    tolerance = TOLERANCES[precision]
    if not comparison.people:
        raise InputError(f"expected photos with people that the model finds. Received: {comparison.images} without")
    if not comparison.within(tolerance):
        raise InputError(
            f"{output} would differ too much from the Keras model. Expected at most {tolerance.pixels} pixels and "
            f"{tolerance.score} of score on average, and {tolerance.lost:.0%} lost. Received: {comparison}"
        )


def _nearest(pose: np.ndarray, others: Poses) -> int | None:
    """The index of the same person among other poses."""
    if not len(others):
        return None
    distances = np.linalg.norm(others.keypoints[..., :2] - pose[:, :2], axis=-1).mean(axis=1)
    diagonal = np.linalg.norm(np.ptp(pose[:, :2], axis=0))
    return int(distances.argmin()) if distances.min() <= SAME_PERSON * diagonal else None


def _mean_and_largest(values) -> tuple[float, float]:
    values = np.concatenate(values)
    return (float(values.mean()), float(values.max())) if len(values) else (0.0, 0.0)
