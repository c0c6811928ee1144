"""Pictures of training samples: the network's input with its targets drawn over it."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from dekr_tf.keypoints import KeypointSchema
from dekr_tf.visualization.drawing import LEFT_COLOR, RIGHT_COLOR

MIDDLE_COLOR = (90, 220, 90)
CENTER_COLOR = (255, 255, 255)
MASK_COLOR = (200, 30, 30)

#: Side of a panel, and gap between samples, in pixels.
_PANEL, _GAP = 384, 6


def draw_sample(image: np.ndarray, targets: Mapping[str, np.ndarray], schema: KeypointSchema) -> np.ndarray:
    """Draws one sample twice, side by side.

    Left: the heatmaps, redder where more of them have no loss weight. Right: from the cell where a person's center is
    highest, the offsets to the person's keypoints, and a frame around the cells whose offsets are supervised.

    Args:
        image: (S, S, 3) uint8 RGB, the network's input.
        targets: `heatmap`, `heatmap_weight` (h, w, K + 1), `offset`, `offset_weight` (h, w, 2 K) of the sample, h = w.
        schema: the skeleton. The first keypoint of a flip pair is the left one.

    Returns:
        (384, 768, 3) uint8 RGB.
    """
    canvas = cv2.resize(image, (_PANEL, _PANEL), interpolation=cv2.INTER_AREA)
    colors = keypoint_colors(schema)
    return np.concatenate([_draw_heatmaps(canvas, targets, colors), _draw_offsets(canvas, targets, colors)], axis=1)


def make_sheet(drawings: Sequence[np.ndarray], columns: int = 2) -> np.ndarray:
    """Puts drawings of one size, (H, W, 3) uint8, in rows of `columns`, with white gaps between them."""
    height, width, _ = drawings[0].shape
    columns = min(columns, len(drawings))
    rows = -(-len(drawings) // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for number, drawing in enumerate(drawings):
        top, left = number // columns * (height + _GAP), number % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = drawing
    return sheet


def keypoint_colors(schema: KeypointSchema) -> np.ndarray:
    """Colors of heatmaps by the side of the keypoint: (K + 1, 3) float32 RGB in 0..255, the center's last."""
    colors = [MIDDLE_COLOR] * len(schema) + [CENTER_COLOR]
    for left, right in schema.flip_pairs:
        colors[left], colors[right] = LEFT_COLOR, RIGHT_COLOR
    return np.float32(colors)


def _draw_heatmaps(canvas: np.ndarray, targets: Mapping[str, np.ndarray], colors: np.ndarray) -> np.ndarray:
    drawing = canvas.astype(np.float32)
    masked = _upsampled((targets["heatmap_weight"] == 0).mean(axis=-1, dtype=np.float32))[..., None]
    drawing += masked * 0.5 * (np.float32(MASK_COLOR) - drawing)
    for color in np.unique(colors, axis=0):
        heat = _upsampled(targets["heatmap"][..., (colors == color).all(axis=1)].max(axis=-1))[..., None]
        drawing += 0.85 * heat * (color - drawing)
    return np.rint(drawing).astype(np.uint8)


def _draw_offsets(canvas: np.ndarray, targets: Mapping[str, np.ndarray], colors: np.ndarray) -> np.ndarray:
    side = targets["heatmap"].shape[0]
    zoom = _PANEL / side
    drawing = canvas // 2
    asked = targets["offset_weight"][..., ::2] > 0
    frames, _ = cv2.findContours(
        _upsampled(asked.any(axis=-1).astype(np.float32), cv2.INTER_NEAREST).astype(np.uint8),
        cv2.RETR_EXTERNAL,
        cv2.CHAIN_APPROX_NONE,
    )
    cv2.drawContours(drawing, frames, -1, CENTER_COLOR, 1)
    center = targets["heatmap"][..., -1]
    highest = (center == cv2.dilate(center, np.ones((3, 3)))) & asked.any(axis=-1)
    for row, column in np.argwhere(highest):
        start = np.array([column, row]) * zoom
        for keypoint in np.flatnonzero(asked[row, column]):
            offset = targets["offset"][row, column, 2 * keypoint : 2 * keypoint + 2]
            ends = [tuple(np.rint(16 * point).astype(int).tolist()) for point in (start, start - offset * zoom)]
            color = colors[keypoint].tolist()
            cv2.line(drawing, *ends, color, 1, cv2.LINE_AA, 4)
            cv2.circle(drawing, ends[1], 40, color, -1, cv2.LINE_AA, 4)
    return drawing


def _upsampled(values: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """A map (h, w) upsampled to a panel's size; cell (x, y) lies at pixel (x, y) times the zoom."""
    zoom = _PANEL / values.shape[0]
    matrix = np.float64([[zoom, 0, 0], [0, zoom, 0]])
    return cv2.warpAffine(values, matrix, (_PANEL, _PANEL), flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
