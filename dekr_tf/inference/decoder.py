"""From the network's maps to candidate poses, and from candidates to poses, in NumPy.

Candidates may also come from a network that finds them itself, or from several scales: all end in `select_poses`.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dekr_tf.config import DecoderConfig
from dekr_tf.geometry import CENTER_NMS_SIDES, OUTPUT_STRIDE
from dekr_tf.inference.peaks import move_to_peaks
from dekr_tf.inference.pose_nms import pose_nms
from dekr_tf.oks import expected_similarity
from dekr_tf.poses import Poses


class OffsetMap(Protocol):
    """An offset map (h, w, 2 K), grid minus keypoint in map pixels, x and y alternating: an array, or a stand-in.

    `sparse_head.SparseOffsetMap` computes only the cells that are read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, cells: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The offsets (N, 2 K) of cells, by rows (N,) and columns (N,)."""


def decode_maps(
    heatmap: np.ndarray,
    offset: OffsetMap,
    config: DecoderConfig,
    *,
    mirrored: tuple[np.ndarray, OffsetMap] | None = None,
    flip_indices: Sequence[int] | None = None,
) -> Poses:
    """Decodes the maps of one image: `find_candidates`, which explains the arguments, then `select_poses`.

    Returns:
        Poses in pixels of the network's input.
    """
    candidates = find_candidates(heatmap, offset, config, mirrored=mirrored, flip_indices=flip_indices)
    return select_poses(*candidates, config)


def find_candidates(
    heatmap: np.ndarray,
    offset: OffsetMap,
    config: DecoderConfig,
    *,
    mirrored: tuple[np.ndarray, OffsetMap] | None = None,
    flip_indices: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The candidate poses in the maps of one image, with or without those of its mirrored copy (flip test).

    Args:
        heatmap: (h, w, K + 1) keypoint scores, the center last.
        offset: (h, w, 2 K) grid minus keypoint in map pixels, x and y alternating.
        config: which centers count.
        mirrored: the network's heatmap and offset for `mirror_input` of the same input.
        flip_indices: `KeypointSchema.flip_indices`, needed with `mirrored`.

    Returns:
        keypoints (N, K, 2), x, y in pixels of the network's input; keypoint scores (N, K), center score times heat
        value; center scores (N,), in descending order.
    """
    if mirrored is not None:
        heatmap = average_heatmaps(heatmap, mirrored[0], flip_indices)
    rows, columns, center_scores = find_centers(
        heatmap[..., -1], max_people=config.max_people, threshold=config.center_threshold
    )
    keypoints = regress_keypoints(offset, rows, columns)
    if mirrored is not None:
        width = heatmap.shape[1]
        other = regress_keypoints(mirrored[1], rows, width - 1 - columns)[:, list(flip_indices)]
        other[..., 0] = width - 1 - other[..., 0]
        with np.errstate(invalid="ignore"):
            keypoints = (keypoints + other) / 2
    # A network that overflows outputs infinite or NaN offsets: such candidates have no position.
    finite = np.isfinite(keypoints).all(axis=(1, 2))
    keypoints, center_scores = keypoints[finite] * OUTPUT_STRIDE, center_scores[finite]
    if config.peak_distance:
        keypoints = move_to_peaks(keypoints, heatmap[..., :-1], config.peak_distance, config.max_people)
    return keypoints, center_scores[:, None] * heat_values(heatmap[..., :-1], keypoints), center_scores


def select_poses(
    keypoints: np.ndarray, keypoint_scores: np.ndarray, center_scores: np.ndarray, config: DecoderConfig
) -> Poses:
    """Pose NMS of candidate poses, wherever they come from; a pose's score is the mean of its keypoints' scores.

    Args:
        keypoints: (N, K, 2) x, y in pixels of the network's input, best center first.
        keypoint_scores: (N, K), center score times heat value.
        center_scores: (N,); candidates with a score of zero, or with values that are not finite, do not count.
        config: thresholds of pose NMS, and how many people may remain.

    Returns:
        The remaining poses; if they are too many, which takes several scales, those with the highest mean heat value,
        or pose score with `peak_distance`.
    """
    kept = kept_candidates(keypoints, keypoint_scores, center_scores, config)
    keypoints, keypoint_scores = keypoints[kept], keypoint_scores[kept]
    return Poses(np.concatenate([keypoints, keypoint_scores[..., None]], axis=-1), keypoint_scores.mean(axis=1))


def kept_candidates(
    keypoints: np.ndarray, keypoint_scores: np.ndarray, center_scores: np.ndarray, config: DecoderConfig
) -> np.ndarray:
    """The indices (M,) of the candidates that `select_poses` keeps, in its order; arguments as there."""
    found = center_scores != 0
    found &= np.isfinite(keypoints).all(axis=(1, 2)) & np.isfinite(keypoint_scores).all(axis=1)
    (indices,) = np.nonzero(found)
    ranks = keypoint_scores[indices].mean(axis=1)
    # Candidates that moved to the same peaks have equal heat values, so rounding would decide which of them wins.
    if not config.peak_distance:
        ranks = ranks / center_scores[indices]
    threshold = keypoints.shape[1] // 2 if config.nms_keypoints is None else config.nms_keypoints
    kept = pose_nms(keypoints[indices], ranks, distance=config.nms_distance, min_keypoints=threshold)
    if len(kept) > config.max_people:
        kept = kept[np.argsort(-ranks[kept], kind="stable")[: config.max_people]]
    return indices[kept]


def discount_scores(
    keypoints: np.ndarray, keypoint_scores: np.ndarray, config: DecoderConfig, oks_sigmas: Sequence[float]
) -> np.ndarray:
    """Multiplies keypoint scores by the similarity to expect with errors of `config.keypoint_error`; 0: unchanged.

    Args:
        keypoints: (N, K, 2) x, y in pixels of the network's input.
        keypoint_scores: (N, K).
        config: of the model.
        oks_sigmas: K falloffs of the skeleton.

    Returns:
        (N, K), whose means are the pose scores.
    """
    if not config.keypoint_error:
        return keypoint_scores
    return keypoint_scores * expected_similarity(keypoints, config.keypoint_error, oks_sigmas)


def find_centers(
    center_map: np.ndarray, *, max_people: int, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of the center map that are the highest in their neighborhood.

    The neighborhood grows with the map: 3x3 cells, 5x5 if the mean of the sides is over 200, 7x7 if over 300.

    Args:
        center_map: (h, w).
        max_people: at most this many centers, the highest.
        threshold: a center's score must be above it.

    Returns:
        rows (N,), columns (N,) and scores (N,), highest first.
    """
    center_map = np.ascontiguousarray(center_map)
    mean_side = sum(center_map.shape) / 2
    radius = 1 + sum(mean_side > side for side in CENTER_NMS_SIDES)
    highest = (center_map == _max_pool(center_map, radius)) & (center_map > threshold)
    rows, columns = np.nonzero(highest)
    order = np.argsort(-center_map[rows, columns], kind="stable")[:max_people]
    rows, columns = rows[order], columns[order]
    return rows, columns, center_map[rows, columns]


def regress_keypoints(offset: OffsetMap, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The keypoints that the given cells point to.

    Args:
        offset: (h, w, 2 K) grid minus keypoint in map pixels, x and y alternating.
        rows, columns: (N,) cells.

    Returns:
        (N, K, 2) x, y in map pixels.
    """
    grid = np.stack([columns, rows], axis=-1).astype(offset.dtype)
    return grid[:, None] - offset[rows, columns].reshape(len(rows), offset.shape[-1] // 2, 2)


def mirror_input(images: np.ndarray) -> np.ndarray:
    """Mirrors network inputs for the flip test.

    Map cells sample every fourth pixel, from the left. For those of the mirrored image to fall on the same pixels, it
    is shifted left by the stride minus one; the last columns keep their content.

    Args:
        images: (B, H, W, 3).
    """
    shift = OUTPUT_STRIDE - 1
    mirrored = images[:, :, ::-1]
    return np.concatenate([mirrored[:, :, shift:], mirrored[:, :, -shift:]], axis=2)


def average_heatmaps(heatmap: np.ndarray, mirrored: np.ndarray, flip_indices: Sequence[int]) -> np.ndarray:
    """Mirrors the second heatmap back and averages the two.

    Args:
        heatmap, mirrored: (h, w, K + 1), the center last.
        flip_indices: `KeypointSchema.flip_indices`.
    """
    return (heatmap + mirrored[:, ::-1, [*flip_indices, len(flip_indices)]]) / 2


def heat_values(
    heatmap: np.ndarray, keypoints: np.ndarray, *, scale: float = 1.0, input_size: tuple[int, int] | None = None
) -> np.ndarray:
    """The heatmap's value at each keypoint.

    It is the value of the heatmap, upsampled to input size (bilinear, cell i at input pixel 4 i, borders replicated),
    at the pixel that the keypoint falls in, or at the nearest pixel of the input. Only four cells about it are read.

    Args:
        heatmap: (h, w, K).
        keypoints: (N, K, 2) x, y in pixels of the network's input at scale 1.
        scale: of the multi-scale test: the map's input is `scale` times as large, with cell i at pixel 4 i / scale.
        input_size: (height, width) of the input at scale 1; default: four times that of the map.

    Returns:
        (N, K).
    """
    height, width, count = heatmap.shape
    input_height, input_width = input_size or (height * OUTPUT_STRIDE, width * OUTPUT_STRIDE)
    pixels = np.clip(np.floor(keypoints), 0, [input_width - 1, input_height - 1])
    (left, right, x), (top, bottom, y) = (
        cells_about(pixels[..., axis], cells, scale) for axis, cells in enumerate((width, height))
    )
    x, y = x.astype(heatmap.dtype), y.astype(heatmap.dtype)
    channel = np.arange(count)
    above = heatmap[top, left, channel] * (1 - x) + heatmap[top, right, channel] * x
    below = heatmap[bottom, left, channel] * (1 - x) + heatmap[bottom, right, channel] * x
    return above * (1 - y) + below * y


def cells_about(pixels: np.ndarray, cells: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two cells of a map's row or column that each pixel of the input lies between.

    Args:
        pixels: whole numbers, not negative.
        cells: number of cells of the row or column.
        scale: cell i lies at pixel 4 i / scale.

    Returns:
        The cell before and the one after, or twice the last one, and how far between them the pixel is, 0 to 1.
    """
    position = pixels * (scale / OUTPUT_STRIDE)
    before = np.minimum(position.astype(np.intp), cells - 1)
    return before, np.minimum(before + 1, cells - 1), position - before


def _max_pool(values: np.ndarray, radius: int) -> np.ndarray:
    """The maximum over the square of 2 radius + 1 cells about each cell of (h, w)."""
    height, width = values.shape
    padded = np.pad(values, radius, constant_values=-np.inf)
    by_row = padded[:height].copy()
    for shift in range(1, 2 * radius + 1):
        np.maximum(by_row, padded[shift : shift + height], out=by_row)
    pooled = by_row[:, :width].copy()
    for shift in range(1, 2 * radius + 1):
        np.maximum(pooled, by_row[:, shift : shift + width], out=pooled)
    return pooled
