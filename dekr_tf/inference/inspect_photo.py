"""The intermediate results of a photo, for drawings: the network's input, the heatmap and the people's centers."""

from dataclasses import dataclass

import cv2
import numpy as np

from dekr_tf.geometry import OUTPUT_STRIDE, invert
from dekr_tf.inference.decoder import (
    discount_scores,
    find_candidates,
    find_centers,
    kept_candidates,
    regress_keypoints,
)
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.preprocessing import Placement


@dataclass(frozen=True, eq=False)
class Inspection:
    """A photo, and what a network finds in it.

    Attributes:
        photo: (H, W, 3) uint8 RGB.
        pixels: (h, w, 3) float32, the network's input, normalized.
        placement: of the photo in it.
        heatmap: (h / 4, w / 4, K + 1), the center last.
        rows, columns: (N,) cells of the people's centers.
        keypoints: (N, K, 2) x, y of the people, in pixels of the photo.
    """

    photo: np.ndarray
    pixels: np.ndarray
    placement: Placement
    heatmap: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    keypoints: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """(N, 2) x, y of the people's centers, in pixels of the photo."""
        return self.placement.to_photo(np.stack([self.columns, self.rows], axis=-1) * OUTPUT_STRIDE)

    def warped(self, maps: np.ndarray, stride: int) -> np.ndarray:
        """Maps (C, h, w), with a cell every `stride` pixels of the network's input, warped to the photo: (C, H, W)."""
        matrix = invert(self.placement.transform) @ np.diag([stride, stride, 1.0])
        height, width = self.photo.shape[:2]
        warped = [cv2.warpAffine(each, matrix, (width, height), flags=cv2.INTER_LINEAR) for each in maps]
        return np.array(warped, np.float32).reshape(-1, height, width)


def inspect_photo(photo: np.ndarray, detector: PoseDetector, min_score: float) -> Inspection:
    """Finds people and keeps the intermediate results, which `PoseDetector` does not return.

    Args:
        photo: (H, W, 3) uint8 RGB.
        detector: opened with `dense`, without flip test, at scale 1 only.
        min_score: people with a lower pose score are left out.
    """
    decoder = detector.sidecar.decoder
    (pixels,), placement = detector.preprocessor(photo)
    heatmap, offset = (maps[0] for maps in detector.engine.run(pixels[None]))
    rows, columns, _ = find_centers(heatmap[..., -1], max_people=decoder.max_people, threshold=decoder.center_threshold)
    # As `find_candidates` leaves out the others.
    finite = np.isfinite(regress_keypoints(offset, rows, columns)).all(axis=(1, 2))
    keypoints, keypoint_scores, center_scores = find_candidates(heatmap, offset, decoder)
    kept = kept_candidates(keypoints, keypoint_scores, center_scores, decoder)
    scores = discount_scores(keypoints[kept], keypoint_scores[kept], decoder, detector.sidecar.schema.oks_sigmas)
    kept = kept[scores.mean(axis=1) >= min_score]
    rows, columns = rows[finite][kept], columns[finite][kept]
    return Inspection(photo, pixels, placement, heatmap, rows, columns, placement.to_photo(keypoints[kept]))
