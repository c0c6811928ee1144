"""The result type of the project: the people found in one image."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.keypoints import KeypointSchema

if TYPE_CHECKING:
    import supervision


class Pose(NamedTuple):
    """One person.

    Attributes:
        keypoints: (K, 3) float32: x, y in pixels of the image, keypoint score.
        score: the pose score.
    """

    keypoints: np.ndarray
    score: np.float32

    @property
    def xy(self) -> np.ndarray:
        """(K, 2): x, y in pixels of the image."""
        return self.keypoints[:, :2]


@dataclass(frozen=True, eq=False)
class Poses:
    """People found in one image, best first: the constructor sorts them by pose score, and keeps the order of ties.

    `poses[0]` is the best person, a `Pose`; iteration yields one `Pose` after the other. A slice, an index array or a
    mask selects the `Poses` of those people, again best first.

    Attributes:
        keypoints: (N, K, 3) float32: x, y in pixels of the image, keypoint score.
        scores: (N,) float32, the pose score used for ranking, highest first.
        schema: the skeleton, or None if it is not known.
        track_ids: (N,) int, the numbers from `PoseTracker`, 0 for a person it does not follow; None without tracking.

    Raises:
        InputError: shapes do not fit each other, or people do not have the skeleton's number of keypoints.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    schema: KeypointSchema | None = None
    track_ids: np.ndarray | None = None

    def __post_init__(self):
        keypoints = np.asarray(self.keypoints, np.float32)
        scores = np.asarray(self.scores, np.float32)
        if keypoints.ndim != 3 or keypoints.shape[-1] != 3 or scores.shape != keypoints.shape[:1]:
            raise InputError(
                "expected keypoints (N, K, 3) and scores (N,). "
                f"Received: keypoints {keypoints.shape}, scores {scores.shape}"
            )
        schema = self.schema
        if schema is not None and len(scores) and keypoints.shape[1] != len(schema):
            raise InputError(
                f"expected poses of the {len(schema)} keypoints of {schema.name}. Received: poses of "
                f"{keypoints.shape[1]}"
            )
        order = np.argsort(-scores, kind="stable")
        object.__setattr__(self, "keypoints", keypoints[order])
        object.__setattr__(self, "scores", scores[order])
        if self.track_ids is not None:
            track_ids = np.asarray(self.track_ids, int)
            if track_ids.shape != scores.shape:
                raise InputError(f"expected track ids {scores.shape}. Received: {track_ids.shape}")
            object.__setattr__(self, "track_ids", track_ids[order])

    @classmethod
    def empty(cls, num_keypoints: int) -> "Poses":
        """No people."""
        return cls(np.zeros((0, num_keypoints, 3)), np.zeros(0))

    @property
    def xy(self) -> np.ndarray:
        """(N, K, 2): x, y in pixels of the image."""
        return self.keypoints[..., :2]

    @property
    def keypoint_scores(self) -> np.ndarray:
        """(N, K) keypoint scores."""
        return self.keypoints[..., 2]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Pose]:
        return map(Pose, self.keypoints, self.scores)

    def __getitem__(self, index) -> "Pose | Poses":
        if isinstance(index, int | np.integer):
            return Pose(self.keypoints[index], self.scores[index])
        track_ids = None if self.track_ids is None else self.track_ids[index]
        return Poses(self.keypoints[index], self.scores[index], self.schema, track_ids)

    def filter(self, min_score: float) -> "Poses":
        """The people with this pose score or a higher one."""
        return self[self.scores >= min_score]

    def boxes(self) -> np.ndarray:
        """(N, 4): left, top, right and bottom of the box around all keypoints of each person, in pixels."""
        return np.concatenate([self.xy.min(axis=1), self.xy.max(axis=1)], axis=-1)

    def to_coco(
        self, image_id: int | str | None = None, file_name: str | None = None, category_id: int | str = 1
    ) -> list[dict[str, Any]]:
        """The people as entries of a COCO results file.

        Args:
            image_id: of the image; entries have none if it is None.
            file_name: of the image, likewise.
            category_id: of people.

        Returns:
            An entry for each person, with coordinates to 1/1000 pixel and scores to seven digits, float32's precision.
            If there are track ids, each entry has its `track_id`, or None for a person who is not followed.
        """
        image = {"image_id": image_id, "file_name": file_name}
        common = {key: value for key, value in image.items() if value is not None}

        def digits(score):
            return float(f"{score:.7g}")

        entries = [
            {
                **common,
                "category_id": category_id,
                "keypoints": [
                    value for x, y, heat in keypoints.tolist() for value in (round(x, 3), round(y, 3), digits(heat))
                ],
                "score": digits(score),
            }
            for keypoints, score in self
        ]
        if self.track_ids is None:
            return entries
        ids = self.track_ids.tolist()
        return [{"track_id": number or None, **entry} for number, entry in zip(ids, entries, strict=True)]

    def to_supervision(self) -> "supervision.KeyPoints":
        """The people as `supervision.KeyPoints`, for its annotators and trackers.

        Raises:
            InputError: the package is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise InputError(
                f"expected the package supervision; pip install 'supervision>=0.29'. Received: {error}"
            ) from error
        return supervision.KeyPoints(
            xy=self.xy,
            class_id=np.zeros(len(self), int),
            keypoint_confidence=self.keypoint_scores,
            detection_confidence=self.scores,
        )
