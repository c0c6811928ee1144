"""The result type of the project: the people found in one image."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.keypoints import KeypointSchema


@dataclass(frozen=True, eq=False)
class Poses:
    """People found in one image, best first: the constructor sorts them by pose score, and leaves equal ones as given.

    Attributes:
        keypoints: (N, K, 3) float32: x, y in pixels of the image, keypoint score.
        scores: (N,) float32, the pose score used for ranking, highest first.

    Raises:
        InputError: shapes do not fit each other.
    """

    keypoints: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        keypoints = np.asarray(self.keypoints, np.float32)
        scores = np.asarray(self.scores, np.float32)
        if keypoints.ndim != 3 or keypoints.shape[-1] != 3 or scores.shape != keypoints.shape[:1]:
            raise InputError(
                "expected keypoints (N, K, 3) and scores (N,). "
                f"Received: keypoints {keypoints.shape}, scores {scores.shape}"
            )
        order = np.argsort(-scores, kind="stable")
        object.__setattr__(self, "keypoints", keypoints[order])
        object.__setattr__(self, "scores", scores[order])

    @classmethod
    def empty(cls, num_keypoints: int) -> "Poses":
        """No people."""
        return cls(np.zeros((0, num_keypoints, 3)), np.zeros(0))

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.float32]]:
        """One (keypoints (K, 3), score) pair a person."""
        return zip(self.keypoints, self.scores, strict=True)

    def __getitem__(self, index) -> "Poses":
        """The people chosen by a slice, an index array or a mask, best first whatever the order of the indices."""
        return Poses(self.keypoints[index], self.scores[index])


def check_skeleton(poses: Poses, schema: KeypointSchema) -> None:
    """Makes sure that poses are of a skeleton, as far as their number of keypoints tells.

    Raises:
        InputError: there are people with another number of keypoints.
    """
    if len(poses) and poses.keypoints.shape[1] != len(schema):
        raise InputError(
            f"expected poses of the {len(schema)} keypoints of {schema.name}. Received: poses of "
            f"{poses.keypoints.shape[1]}"
        )
