"""Pose NMS: keeps one of the candidates that agree in most keypoints (paper section 3.3)."""

import numpy as np


def pose_nms(keypoints: np.ndarray, scores: np.ndarray, *, distance: float, min_keypoints: int) -> np.ndarray:
    """Chooses the candidates to keep.

    Candidate j belongs to the group of i if more than `min_keypoints` keypoints of the two lie within `distance` times
    the diagonal of i's bounding box. Candidate i itself always belongs, so poses without extent and a `min_keypoints`
    of K or more (which switches NMS off) need no exception. Candidates are processed in order. One that is not
    suppressed yet keeps the best of its group and suppresses the whole group, unless that best one is already
    suppressed: then nothing happens. As in the reference (`nms_core`, lib/core/nms.py), groups are not transitive: in a
    chain of candidates two neighbors may stay.

    Args:
        keypoints: (N, K, 2) x, y in pixels, in the order of processing.
        scores: (N,) to choose the best of a group by; DEKR takes the mean heat value, or the pose score where keypoints
            moved to peaks.
        distance: fraction of the bounding box diagonal.
        min_keypoints: number of close keypoints that must be exceeded.

    Returns:
        (M,) int indices, each once, in the order in which they were kept.
    """
    if not len(keypoints):
        return np.zeros(0, np.intp)
    diagonals = np.linalg.norm(keypoints.max(axis=1) - keypoints.min(axis=1), axis=-1)
    # With candidates as the last axes (K, N, N), NumPy's inner loops are long, and it takes a quarter of the time.
    x, y = np.ascontiguousarray(keypoints.T)
    squared_distances = np.square(x[:, :, None] - x[:, None]) + np.square(y[:, :, None] - y[:, None])
    near_keypoints = (squared_distances <= np.square(distance * diagonals)[:, None]).sum(axis=0)
    same_person = near_keypoints > min_keypoints
    np.fill_diagonal(same_person, True)
    best_of_group = np.where(same_person, scores, -np.inf).argmax(axis=1).tolist()

    kept = []
    suppressed = np.zeros(len(keypoints), bool)
    for index, best in enumerate(best_of_group):
        if not suppressed[index] and not suppressed[best]:
            kept.append(best)
            suppressed |= same_person[index]
    return np.array(kept, np.intp)
