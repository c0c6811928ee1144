"""Images of one to six synthetic people on a random background."""

from dataclasses import dataclass

import cv2
import numpy as np

from dekr_tf.data.synthetic.canvas import FIRST_PERSON, OBJECT, Canvas, circle, random_color, rotation
from dekr_tf.data.synthetic.figure import random_figure
from dekr_tf.data.synthetic.person import PARTS, draw_person, part_id
from dekr_tf.keypoints import COCO

#: How often an image has one, two, .. people.
_COUNT_SHARES = (0.3, 0.26, 0.18, 0.12, 0.08, 0.06)
#: People with fewer visible keypoints get no labels, so that they are ignored.
_FEWEST_VISIBLE = 3
#: Body parts whose pixels show a keypoint; anything else on top of it hides it.
_SHOWN_BY = {
    "nose": ("head",),
    "eye": ("head",),
    "ear": ("head", "{side}_ear"),
    "shoulder": ("torso", "{side}_upper_arm", "neck"),
    "elbow": ("{side}_upper_arm", "{side}_forearm"),
    "wrist": ("{side}_forearm", "{side}_hand"),
    "hip": ("torso", "{side}_thigh"),
    "knee": ("{side}_thigh", "{side}_shin"),
    "ankle": ("{side}_shin", "{side}_foot"),
}


@dataclass(frozen=True, eq=False)
class Scene:
    """One drawn image and its N people, without those who are completely hidden.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        keypoints: (N, 17, 3) float64: x, y, visibility: 2 visible, 1 hidden, 0 outside the image. All zero for people
            with fewer than 3 visible keypoints.
        masks: (N, H, W) bool, the pixels where the person is visible.
    """

    image: np.ndarray
    keypoints: np.ndarray
    masks: np.ndarray


def draw_scene(size: tuple[int, int], generator: np.random.Generator) -> Scene:
    """Draws one to six people on a random background.

    Args:
        size: (height, width) of the image, at least 64 each.
        generator: decides everything; the same state gives the same scene.
    """
    height, width = size
    canvas = Canvas(_background(size, generator))
    count = 1 + int(generator.choice(len(_COUNT_SHARES), p=_COUNT_SHARES))
    tallest = 0.95 * min(height, 1.6 * width) / (1 + 0.12 * (count - 1))
    # Larger people count as nearer and are drawn later.
    heights = np.sort(generator.uniform(0.5, 1.0, count)) * tallest
    hip_x = _spread(count, generator) * width
    people = []
    for person, (body_height, x) in enumerate(zip(heights, hip_x, strict=True), start=FIRST_PERSON):
        low = 0.5 * body_height
        high = max(low, height - 0.42 * body_height)
        hip = np.array([x, low + (high - low) * generator.beta(3, 2)])
        people.append((person, *draw_person(canvas, random_figure(generator), hip, body_height, person, generator)))
        if generator.random() < 0.12:
            _draw_object(canvas, generator)
    if generator.random() < 0.25:
        _draw_object(canvas, generator)

    owners = canvas.ids // len(PARTS)
    keypoints, masks = [], []
    for person, points, near_side in people:
        mask = owners == person
        if mask.any():
            keypoints.append(_keypoints(points, near_side, canvas.ids, person))
            masks.append(mask)
    return Scene(
        image=_finish(canvas.image(), generator),
        keypoints=np.array(keypoints).reshape(-1, len(COCO), 3),
        masks=np.array(masks, bool).reshape(-1, height, width),
    )


def _keypoints(points: np.ndarray, near_side: np.ndarray, ids: np.ndarray, person: int) -> np.ndarray:
    """Keypoints (17, 3) from points (17, 2), with visibilities by what is on top of each."""
    height, width = ids.shape
    keypoints = np.zeros((len(COCO), 3))
    for index, name in enumerate(COCO.names):
        column, row = np.rint(points[index]).astype(int)
        if 0 <= column < width and 0 <= row < height:
            side, _, kind = name.rpartition("_")
            shown_by = [part_id(person, part.format(side=side)) for part in _SHOWN_BY[kind]]
            visible = near_side[index] and ids[row, column] in shown_by
            keypoints[index] = *points[index], 2 if visible else 1
    return keypoints * ((keypoints[:, 2] == 2).sum() >= _FEWEST_VISIBLE)


def _spread(count: int, generator: np.random.Generator) -> np.ndarray:
    """(count,) positions in 0..1, each the best of a few tries at keeping away from the others."""
    positions: list[float] = []
    for _ in range(count):
        tries = generator.uniform(0.1, 0.9, 4)
        gaps = np.abs(tries[:, None] - np.array(positions or [-1.0])).min(axis=1)
        positions.append(float(tries[np.argmax(gaps)]))
    return np.array(positions)


def _background(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: two blended colors, coarse noise and a few shapes."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    angle = generator.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * x / width + np.sin(angle) * y / height
    ramp = ((ramp - ramp.min()) / np.ptp(ramp))[:, :, None]
    picture = (1 - ramp) * random_color(generator, 0.2, 1.0) + ramp * random_color(generator, 0.2, 1.0)
    if generator.random() < 0.5:
        picture[int(height * generator.uniform(0.45, 0.8)) :] = random_color(generator, 0.2, 0.8)
    for cells in (4, 16, 48):
        noise = generator.normal(0, generator.uniform(0, 11), (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))
    for _ in range(generator.integers(0, 7)):
        points, color = _shape(size, generator)
        cv2.fillConvexPoly(picture, np.rint(points).astype(np.int32), tuple(color))
    return picture


def _shape(size: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Corners (P, 2) and color (3,) of a random box or ellipse."""
    height, width = size
    center = generator.uniform(0, 1, 2) * (width, height)
    half = generator.uniform(0.02, 0.16, 2) * min(size) * (1, 1.6)
    corners = circle((0, 0), 1, 24) if generator.random() < 0.5 else np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    return center + (corners * half) @ rotation(generator.normal(0, 12)).T, random_color(generator, 0.2, 0.9)


def _draw_object(canvas: Canvas, generator: np.random.Generator) -> None:
    """Draws something that stands in front of the people drawn so far."""
    canvas.polygon(*_shape(canvas.ids.shape, generator), OBJECT * len(PARTS), outline=1.0)


def _finish(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Adds the camera's effects: exposure, contrast, sensor noise."""
    contrast, brightness = generator.uniform(0.85, 1.15), generator.uniform(-15, 15)
    noise = generator.normal(0, generator.uniform(0.5, 5), image.shape)
    return ((image - 128.0) * contrast + 128 + brightness + noise).clip(0, 255).astype(np.uint8)
