"""Associates people across the frames of a video by the similarity of their poses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.oks import keypoint_similarity
from dekr_tf.poses import Poses

#: Factor of the OKS falloffs, which say how far annotators differ: from frame to frame, a person moves further.
MOTION = 3.0


@dataclass
class _Track:
    number: int
    keypoints: np.ndarray
    missed: int = 0


class PoseTracker:
    """Numbers the people of one frame after another, so that a person keeps their number.

    Each pose is compared with the last pose of every known person, by object keypoint similarity over all keypoints
    with `MOTION` times the falloffs; pairs are matched greedily, best first. A quarter of the squared diagonal of the
    known pose's box counts as the person's area: unlike the box's own area, it does not vanish for people who stand
    upright. There is no motion model: a person who moves by more than about a quarter of their height between two
    frames gets a new number.

    Args:
        oks_sigmas: K falloffs of the skeleton, K >= 2.
        threshold: least similarity of two poses of one person, 0 to 1.
        max_missed: a person who is missed in at most this many frames in a row keeps their number.
        min_score: people with a lower pose score are not followed.

    Raises:
        InputError: the skeleton has fewer than two keypoints, so that poses have no size.
    """

    def __init__(
        self, oks_sigmas: Sequence[float], *, threshold: float = 0.3, max_missed: int = 15, min_score: float = 0.0
    ):
        if len(oks_sigmas) < 2:
            raise InputError(f"tracking: expected a skeleton of two keypoints or more. Received: {len(oks_sigmas)}")
        self.falloffs = MOTION * np.asarray(oks_sigmas)
        self.threshold = threshold
        self.max_missed = max_missed
        self.min_score = min_score
        self._tracks: list[_Track] = []
        #: How many people have been followed so far, which is the highest number given.
        self.people = 0

    def update(self, poses: Poses) -> Poses:
        """Numbers the people of the next frame.

        Args:
            poses: in pixels of the frame.

        Returns:
            The same people with `track_ids`: from 1, or 0 for those who are not followed. The numbers do not depend on
            the order of people with the same score.
        """
        followed = self._number(poses.filter(self.min_score))
        # Best first, so those who are not followed come last.
        track_ids = np.zeros(len(poses), int)
        track_ids[: len(followed)] = followed
        return replace(poses, track_ids=track_ids)

    def _number(self, poses: Poses) -> np.ndarray:
        keypoints = poses.keypoints[..., :2].astype(np.float64)
        # New people are numbered best first, ties by position, so that the order of the poses does not matter.
        order = np.lexsort((*keypoints.reshape(len(poses), 2 * len(self.falloffs)).T, -poses.scores))
        numbers = np.zeros(len(poses), int)
        for track in self._tracks:
            track.missed += 1
        for track, pose in self._pairs(keypoints[order]):
            track.keypoints, track.missed = keypoints[order[pose]], 0
            numbers[order[pose]] = track.number
        self._tracks = [track for track in self._tracks if track.missed <= self.max_missed]
        for pose in order[numbers[order] == 0]:
            self.people += 1
            self._tracks.append(_Track(self.people, keypoints[pose]))
            numbers[pose] = self.people
        return numbers

    def _pairs(self, keypoints: np.ndarray) -> list[tuple[_Track, int]]:
        """Pairs of a known person and the index of their pose in (N, K, 2); each person and pose at most once."""
        if not self._tracks or not len(keypoints):
            return []
        known = np.stack([track.keypoints for track in self._tracks])
        areas = np.square(np.ptp(known, axis=1)).sum(axis=-1) / 4
        similarity = keypoint_similarity(keypoints[:, None] - known, areas, self.falloffs).mean(axis=-1)
        pairs = []
        while similarity.max() >= self.threshold:
            pose, track = np.unravel_index(similarity.argmax(), similarity.shape)
            pairs.append((self._tracks[track], int(pose)))
            similarity[pose], similarity[:, track] = -1, -1
        return pairs
