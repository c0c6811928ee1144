"""What a network computes, drawn over its photo."""

from collections.abc import Sequence

import cv2
import numpy as np

from dekr_tf.keypoints import KeypointSchema
from dekr_tf.visualization.drawing import LABEL_COLOR, OUTLINE_COLOR, draw_dot, person_color
from dekr_tf.visualization.sample_sheet import keypoint_colors


def draw_activation(
    image: np.ndarray, centers: np.ndarray, keypoints: np.ndarray, activated: Sequence[np.ndarray]
) -> np.ndarray:
    """Draws the positions that the adaptive convolutions of one keypoint read, in a color for each person.

    Large dots are the taps of the last block, small ones those of the blocks before it; a line leads from the person's
    center to a ring at the keypoint.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        centers: (N, 2) x, y of the people's centers in pixels of the image.
        keypoints: (N, 2) x, y of each person's regressed keypoint, likewise.
        activated: (N, 9, 2), (N, 81, 2) and so on, x, y likewise, the last block first; NaN is not drawn.

    Returns:
        (H, W, 3) uint8 RGB, the photo darkened.
    """
    canvas = image // 2
    unit = _unit(image)
    for person, (center, keypoint) in enumerate(zip(centers, keypoints, strict=True)):
        color = person_color(person)
        for number, positions in reversed(list(enumerate(activated))):
            radius = unit if number else 2 * unit
            for position in _near(positions[person][np.isfinite(positions[person]).all(axis=-1)]):
                draw_dot(canvas, position, radius + 0.5 * unit, OUTLINE_COLOR, 0.8)
                draw_dot(canvas, position, radius, color, 1.0)
        _draw_regression(canvas, center, keypoint, unit)
    return canvas


def draw_saliency(image: np.ndarray, saliency: np.ndarray, centers: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Draws which pixels move a regressed keypoint, on the photo in dark gray.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        saliency: (N, H, W) >= 0 of each person; each person's largest value is the brightest.
        centers, keypoints: (N, 2) x, y as for `draw_activation`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) * np.float32(0.4)
    highest = np.maximum(saliency.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    heat = (saliency / highest).max(axis=0, initial=0)[..., None]
    glow = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    canvas = np.rint(gray + np.minimum(2 * heat, 1) * (glow - gray)).astype(np.uint8)
    for center, keypoint in zip(centers, keypoints, strict=True):
        _draw_regression(canvas, center, keypoint, _unit(image))
    return canvas


def draw_heatmaps(
    image: np.ndarray, heatmaps: np.ndarray, schema: KeypointSchema, channels: Sequence[int], centers: np.ndarray
) -> np.ndarray:
    """Draws heatmaps of keypoints, and beside them the center heatmap.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        heatmaps: (K + 1, H, W) scores in pixels of the image, the center last, clipped to 0..1.
        schema: the skeleton. Keypoints on the person's left are orange, on the right blue, others green.
        channels: the keypoints to draw.
        centers: (N, 2) x, y of the people's centers, which get a ring.

    Returns:
        (H, 2 W, 3) uint8 RGB.
    """
    colors = keypoint_colors(schema)
    drawings = []
    for chosen in (list(channels), [len(schema)]):
        drawing = image * np.float32(0.5)
        for color in np.unique(colors[chosen], axis=0):
            shown = [channel for channel in chosen if (colors[channel] == color).all()]
            heat = heatmaps[shown].max(axis=0)[..., None].clip(0, 1)
            drawing += heat * (color - drawing)
        drawings.append(np.rint(drawing).astype(np.uint8))
    for number, center in enumerate(centers):
        _draw_ring(drawings[1], _near(center), 4 * _unit(image), person_color(number))
    return np.concatenate(drawings, axis=1)


def _unit(image: np.ndarray) -> float:
    """Radius of the smallest dots in pixels."""
    return max(1.3, 0.0022 * float(np.hypot(*image.shape[:2])))


def _draw_regression(canvas: np.ndarray, center: np.ndarray, keypoint: np.ndarray, unit: float) -> None:
    """Draws a line from the center to a ring at the keypoint."""
    center, keypoint = _near(center), _near(keypoint)
    cv2.line(canvas, *map(_fixed_point, (center, keypoint)), LABEL_COLOR, max(1, round(0.7 * unit)), cv2.LINE_AA, 4)
    draw_dot(canvas, center, 2 * unit, LABEL_COLOR, 1.0)
    _draw_ring(canvas, keypoint, 4 * unit, LABEL_COLOR)


def _draw_ring(canvas: np.ndarray, point: np.ndarray, radius: float, color: tuple[float, ...]) -> None:
    cv2.circle(canvas, _fixed_point(point), round(16 * radius), color, max(1, round(radius / 3)), cv2.LINE_AA, 4)


def _near(points: np.ndarray) -> np.ndarray:
    # Far beyond any photo, coordinates would overflow OpenCV's integers.
    return np.clip(points, -1e6, 1e6)


def _fixed_point(point: np.ndarray) -> tuple[int, ...]:
    # OpenCV takes coordinates in 1/16 pixel.
    return tuple(np.rint(16 * point).astype(int).tolist())
