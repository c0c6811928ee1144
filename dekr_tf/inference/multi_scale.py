"""Multi-scale test: merges the results for a photo at several sizes into one set of candidates and one heatmap.

Follows the paper's section 4.1 and the reference's `aggregate_results` and `pose_nms` (lib/core). Here a scale may be
any number: an input is scaled about its top left pixel and padded on the right and below.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dekr_tf.inference.decoder import cells_about, heat_values


@dataclass(frozen=True, eq=False)
class View:
    """What the network found in one photo at one scale.

    Attributes:
        scale: size of the input relative to that at scale 1.
        keypoints: (N, K, 2) x, y in pixels of the input at this scale, best center first.
        keypoint_scores: (N, K) center score times heat value of this scale.
        center_scores: (N,) zero where there is no candidate.
        heatmap: (h, w, K + 1), the center last; a single view at scale 1 needs none.
    """

    scale: float
    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    center_scores: np.ndarray
    heatmap: np.ndarray | None = None


def merge_views(
    views: Sequence[View], size: tuple[int, int], damping: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The candidates of all scales, for `decoder.select_poses`.

    Center scores of the other scales are rescaled to the same maximum as at scale 1, and damped; if 1 is not among the
    scales, the nearest one takes its place. Heat values are the mean over all scales.

    Args:
        views: of one photo, largest scale first.
        size: (height, width) of the network's input at scale 1.
        damping: `DecoderConfig.multi_scale_damping`.

    Returns:
        keypoints (N, K, 2), x, y in pixels of the input at scale 1; keypoint scores (N, K), center score times heat
        value; center scores (N,).
    """
    if len(views) == 1 and views[0].scale == 1:
        view = views[0]
        return view.keypoints, view.keypoint_scores, view.center_scores
    base = min(views, key=lambda view: abs(math.log(view.scale)))
    highest = base.center_scores.max(initial=0.0) or 1.0
    center_scores = np.concatenate(
        [
            view.center_scores
            if view is base
            else view.center_scores / (view.center_scores.max(initial=0.0) or 1.0) * highest * damping
            for view in views
        ]
    )
    keypoints = np.concatenate([view.keypoints / view.scale for view in views])
    heat = sum(heat_values(view.heatmap[..., :-1], keypoints, scale=view.scale, input_size=size) for view in views)
    return keypoints, center_scores[:, None] * (heat / len(views)), center_scores


def mean_heatmaps(views: Sequence[View], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The keypoints' heatmaps at input size, averaged over all scales, one after another.

    Args:
        views: of one photo.
        size: (height, width) of the network's input at scale 1.

    Yields:
        K maps (height, width) float32.
    """
    between = []
    for view in views:
        cells = view.heatmap.shape[:2]
        between.append(
            [cells_about(np.arange(side), count, view.scale) for side, count in zip(size, cells, strict=True)]
        )
    for index in range(views[0].heatmap.shape[-1] - 1):
        total = np.float32(0)
        for view, (rows, columns) in zip(views, between, strict=True):
            # Columns first, while there are few rows; the rows of the larger map are then contiguous in memory.
            wide = np.ascontiguousarray(_upsample(view.heatmap[..., index].T, columns).T)
            total = total + _upsample(wide, rows)
        yield total / np.float32(len(views))


def _upsample(heatmap, rows):
    """Upsamples (h, w) to the rows that `cells_about` has placed between those of the map."""
    before, after, fraction = rows
    fraction = fraction.astype(np.float32)[:, None]
    return heatmap[before] * (1 - fraction) + heatmap[after] * fraction
