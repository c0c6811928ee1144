"""Draws people onto a photo, for any skeleton."""

import colorsys
from collections.abc import Callable

import cv2
import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.poses import Poses

LEFT_COLOR = (255, 140, 40)
RIGHT_COLOR = (40, 150, 255)
OUTLINE_COLOR = (20, 20, 20)
LABEL_COLOR = (255, 255, 255)

#: Keypoints below the first fraction of the person's best keypoint score are left out; below the second, faded.
LEFT_OUT, FADED = 0.1, 0.5
#: Opacity of the faintest keypoint drawn.
FAINTEST = 0.35

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# OpenCV takes coordinates in 1/16 pixel.
_SHIFT = 4
# Beyond this, coordinates in 1/16 pixel would overflow its integers.
_FARTHEST = 1e6

Color = tuple[float, ...]


def draw_poses(image: np.ndarray, poses: Poses) -> np.ndarray:
    """Draws skeletons: limbs orange on the person's left, blue on the right, else in a color of the person's own.

    Uncertain keypoints and their limbs are faded or left out, relative to the person's best keypoint. Line width
    follows the person's size; a small label above the person has the pose score.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        poses: people in pixels of the image, with their skeleton. The first keypoint of a flip pair is the left one.
            Track ids choose the colors and precede the scores.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the poses have no skeleton.
    """
    if poses.schema is None:
        raise InputError("drawing: expected poses with a skeleton. Received: poses without `schema`")
    canvas = image.copy()
    sides = _sides(poses.schema)
    # Best last, so that they are on top.
    for person in reversed(range(len(poses))):
        number, label = person, f"{poses.scores[person]:.2f}"
        if poses.track_ids is not None:
            number = poses.track_ids[person]
            label = f"{number}: {label}"
        _draw_person(canvas, poses.keypoints[person], label, poses.schema, sides, person_color(number))
    return canvas


def _draw_person(
    canvas: np.ndarray, keypoints: np.ndarray, label: str, schema: KeypointSchema, sides: list[int], color: Color
) -> None:
    opacity = _opacities(keypoints)
    shown = np.flatnonzero(opacity)
    if not len(shown):
        return
    points = np.clip(keypoints[:, :2], -_FARTHEST, _FARTHEST)
    line, radius, font = _sizes(points[shown], canvas.shape)
    colors = {-1: LEFT_COLOR, 1: RIGHT_COLOR, 0: color}

    for width, outline in ((line + 2, True), (line, False)):
        for start, end in schema.edges:
            side = np.sign(sides[start] + sides[end])
            _draw_limb(
                canvas,
                points[[start, end]],
                width,
                OUTLINE_COLOR if outline else colors[side],
                min(opacity[start], opacity[end]) * (0.5 if outline else 0.9),
            )
    for index in shown:
        draw_dot(canvas, points[index], radius + 1.0, OUTLINE_COLOR, 0.8 * opacity[index])
        draw_dot(canvas, points[index], radius, LABEL_COLOR, opacity[index])
        draw_dot(canvas, points[index], 0.68 * radius, colors[sides[index]], opacity[index])
    _draw_label(canvas, label, points[shown], font, color)


def _sides(schema: KeypointSchema) -> list[int]:
    """The side of each keypoint: -1 left, 1 right, 0 neither."""
    sides = [0] * len(schema)
    for left, right in schema.flip_pairs:
        sides[left], sides[right] = -1, 1
    return sides


def person_color(index: int) -> Color:
    """A color for each person, RGB in 0..255."""
    # Steps of the golden ratio spread the hues, however many people there are.
    red_green_blue = colorsys.hsv_to_rgb((0.36 + 0.618034 * index) % 1.0, 0.65, 0.95)
    return tuple(255 * value for value in red_green_blue)


def _opacities(keypoints: np.ndarray) -> np.ndarray:
    """(K,) in 0..1 from (K, 3); 0 means not drawn."""
    scores = np.where(np.isfinite(keypoints).all(axis=1), keypoints[:, 2], 0)
    best = scores.max()
    if best <= 0:
        return np.zeros(len(scores))
    relative = scores / best
    faded = FAINTEST + (1 - FAINTEST) * np.clip((relative - LEFT_OUT) / (FADED - LEFT_OUT), 0, 1)
    return np.where(relative >= LEFT_OUT, faded, 0)


def _sizes(points: np.ndarray, image_shape: tuple[int, ...]) -> tuple[int, float, float]:
    """Line width and dot radius in pixels, and font scale, for a person on an image."""
    person = np.linalg.norm(np.ptp(points, axis=0))
    image = np.hypot(*image_shape[:2])
    line = float(np.clip(0.014 * person, 1, max(1, 0.006 * image)))
    font = float(np.clip(0.0011 * person, 0.0004 * image, 0.0006 * image))
    return round(line), max(1.5, 1.2 * line), max(0.3, font)


def _draw_limb(canvas: np.ndarray, ends: np.ndarray, width: int, color: Color, opacity: float) -> None:
    if opacity > 0:
        _blend(
            canvas,
            (ends.min(axis=0) - width, ends.max(axis=0) + width),
            color,
            opacity,
            lambda mask, origin: cv2.line(mask, *_fixed_point(ends - origin), 255, width, cv2.LINE_AA, _SHIFT),
        )


def draw_dot(canvas: np.ndarray, center: np.ndarray, radius: float, color: Color, opacity: float) -> None:
    """Draws a disc.

    Args:
        canvas: (H, W, 3) uint8 RGB; it is changed.
        center: (2,) x, y in pixels.
        radius: in pixels.
        color: RGB in 0..255.
        opacity: 0 to 1.
    """
    _blend(
        canvas,
        (center - radius - 1, center + radius + 1),
        color,
        opacity,
        lambda mask, origin: cv2.circle(
            mask, *_fixed_point((center - origin)[None]), round(radius * 2**_SHIFT), 255, -1, cv2.LINE_AA, _SHIFT
        ),
    )


def _draw_label(canvas: np.ndarray, text: str, points: np.ndarray, font: float, color: Color) -> None:
    """Draws a small plate with text above the topmost point, but inside the image."""
    thickness = max(1, round(1.6 * font))
    (width, height), descent = cv2.getTextSize(text, _FONT, font, thickness)
    pad = max(2, height // 3)
    size = np.array([width + 2 * pad, height + 2 * pad])
    top = points[points[:, 1].argmin()]
    gap = 1.5 * height
    corner = np.clip(top - [size[0] / 2, size[1] + gap], 0, np.maximum(0, np.array(canvas.shape[1::-1]) - size))
    corner = corner.astype(int)
    _blend(canvas, (corner, corner + size - 1), color, 0.7, lambda mask, origin: mask.fill(255))
    baseline = corner + np.array([pad, pad + height])
    _blend(
        canvas,
        (corner, corner + size + descent),
        OUTLINE_COLOR,
        1.0,
        lambda mask, origin: cv2.putText(
            mask, text, tuple((baseline - origin).tolist()), _FONT, font, 255, thickness, cv2.LINE_AA
        ),
    )


def _blend(
    canvas: np.ndarray,
    box: tuple[np.ndarray, np.ndarray],
    color: Color,
    opacity: float,
    draw: Callable[[np.ndarray, np.ndarray], object],
) -> None:
    """Lays a shape over the canvas; `draw(mask, origin)` paints its coverage on the part inside `box`."""
    left, top = np.maximum(np.floor(box[0]), 0).astype(int)
    right, bottom = np.minimum(np.ceil(box[1]) + 1, canvas.shape[1::-1]).astype(int)
    if left >= right or top >= bottom:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    draw(mask, np.array([left, top]))
    region = canvas[top:bottom, left:right]
    coverage = mask[..., None] * np.float32(opacity / 255)
    region[:] = np.rint(region + coverage * (np.float32(color) - region))


def _fixed_point(points: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(point) for point in np.rint(points * 2**_SHIFT).astype(int).tolist()]
