"""Draws a figure with a face and clothes, and finds its keypoints."""

from collections.abc import Callable

import numpy as np

from dekr_tf.data.synthetic.canvas import Canvas, hull, random_color, rotation
from dekr_tf.data.synthetic.figure import Figure
from dekr_tf.keypoints import COCO

#: In body heights.
_HEAD_RADIUS = 0.075
#: Unit vectors from the middle of the head.
_FACE = {
    "nose": (0.0, -0.1, 0.99),
    "left_eye": (0.38, 0.18, 0.91),
    "right_eye": (-0.38, 0.18, 0.91),
    "left_ear": (0.99, 0.02, -0.1),
    "right_ear": (-0.99, 0.02, -0.1),
    "mouth": (0.0, -0.5, 0.86),
    "hair": (0.0, 0.72, -0.69),
}
#: Keypoints of torso and head are on the far side, and hidden, if their z is at most this (in body heights; on the head
#: in its radii). Limbs need no such rule: what is drawn over them hides them.
_FAR_DEPTH = {"nose": 0.0, "eye": 0.0, "ear": -0.25, "shoulder": -0.045, "hip": -0.045}
_LIMB_PARTS = ("ear", "upper_arm", "forearm", "hand", "thigh", "shin", "foot")
PARTS = ("torso", "neck", "head", *(f"{side}_{part}" for side in ("left", "right") for part in _LIMB_PARTS))
_SKIN = ((247, 214, 186), (226, 182, 143), (190, 138, 98), (141, 92, 58), (92, 60, 42))
_HAIR = ((30, 24, 20), (78, 50, 30), (140, 98, 52), (205, 170, 100), (150, 150, 150), (120, 48, 26))


def part_id(person: int, part: str) -> int:
    """The id of the pixels of a person's part on the canvas."""
    return person * len(PARTS) + PARTS.index(part)


class _Look:
    """Colors of skin, hair and clothes."""

    def __init__(self, generator: np.random.Generator):
        tone = generator.uniform(0.92, 1.05)
        self.skin = np.array(_SKIN[generator.integers(len(_SKIN))]) * tone
        self.skin = self.skin.clip(0, 255)
        self.dark_skin = 0.85 * self.skin
        self.hair = np.array(_HAIR[generator.integers(len(_HAIR))], float)
        self.shirt, self.trousers = (random_color(generator, 0.25, 0.95), random_color(generator, 0.15, 0.75))
        self.accent = 255 - self.shirt
        self.shoe = random_color(generator, 0.1, 0.9)
        long_sleeves, short_trousers = generator.random() < 0.5, generator.random() < 0.3
        self.sleeve = self.shirt * 0.93
        self.forearm = self.sleeve if long_sleeves else self.skin
        self.shin = self.skin if short_trousers else self.trousers * 0.95
        #: Cosine of the angle from the middle of the hair to its edge.
        self.hairline = generator.uniform(-0.15, 0.2)
        self.face = {name: np.array(direction) / np.linalg.norm(direction) for name, direction in _FACE.items()}


def draw_person(canvas: Canvas, figure: Figure, hip, body_height: float, person: int, generator):
    """Draws a figure, far parts first.

    Args:
        canvas: to draw on.
        figure: the pose.
        hip: (2,) x, y of the middle of the hips, image pixels.
        body_height: pixels.
        person: its number.
        generator: source of randomness for build and clothes.

    Returns:
        points (17, 2) in image pixels, and (17,) bool whether each is on the side of the body that faces the viewer.
    """
    roll = rotation(generator.normal(0, 4))
    girth, head_size = generator.uniform(0.85, 1.2), _HEAD_RADIUS * generator.uniform(0.95, 1.12)
    look = _Look(generator)
    joints, outline = figure.joints, max(0.6, 0.005 * body_height)

    def place(point: np.ndarray) -> np.ndarray:
        return hip + body_height * (roll @ (point[:2] * (1, -1)))

    def radius(width: float) -> float:
        return width * girth * body_height

    def add(depth: float, part: str, ends, widths, color):
        points = hull([place(end) for end in ends], [radius(width) for width in widths])
        parts.append((depth, lambda: canvas.polygon(points, color, part_id(person, part), outline)))

    face = {name: joints["head"] + head_size * (direction @ figure.head) for name, direction in look.face.items()}
    parts: list[tuple[float, Callable[[], None]]] = []
    shoulders = [0.68 * joints[f"{side}_shoulder"] + 0.32 * joints["neck"] for side in ("left", "right")]
    hips = [0.8 * joints[f"{side}_hip"] for side in ("left", "right")]
    add(0.0, "torso", shoulders + hips, (0.055, 0.055, 0.062, 0.062), look.shirt)
    if figure.front[2] > 0.15:
        # A line of buttons, so that front and back differ below the head too.
        buttons = [place(share * joints["neck"] + 0.055 * figure.front) for share in (0.05, 0.93)]
        line = hull(buttons, [radius(0.008)] * 2)
        parts.append((1e-3, lambda: canvas.polygon(line, look.accent, None)))
    add(2e-3 if figure.front[2] > 0 else -2e-3, "neck", (joints["neck"], joints["head"]), (0.034, 0.032), look.skin)
    for side in ("left", "right"):
        shoulder, elbow, wrist, hand, hip_, knee, ankle, toe = (
            joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "toe")
        )
        # Sleeves lie over the shirt; trousers lie under it.
        arm, leg = 0.5 * (shoulder + elbow)[2] + 0.012, 0.5 * (hip_ + knee)[2] - 0.03
        add(arm, f"{side}_upper_arm", (shoulder, elbow), (0.038, 0.03), look.sleeve)
        add(arm + 0.5 * (wrist - shoulder)[2] + 2e-3, f"{side}_forearm", (elbow, wrist), (0.029, 0.023), look.forearm)
        add(arm + 0.5 * (wrist - shoulder)[2] + 4e-3, f"{side}_hand", (wrist, hand), (0.024, 0.026), look.skin)
        add(leg, f"{side}_thigh", (hip_, knee), (0.058, 0.042), look.trousers)
        shin = 0.5 * (knee + ankle)[2] - 0.032
        add(shin, f"{side}_shin", (knee, ankle), (0.04, 0.027), look.shin)
        add(shin - 2e-3, f"{side}_foot", (ankle, toe), (0.028, 0.022), look.shoe)
        ear = face[f"{side}_ear"]
        add(0.05 + ear[2] - joints["head"][2], f"{side}_ear", (ear,), (0.22 * head_size / girth,), look.dark_skin)
    parts.append((0.05, lambda: _draw_head(canvas, place, figure, head_size * body_height, roll, look, person)))
    for _, draw in sorted(parts, key=lambda part: part[0]):
        draw()

    points, near_side = [], []
    for name in COCO.names:
        far = _FAR_DEPTH.get(name.rpartition("_")[2], -np.inf)
        if name in face:
            points.append(place(face[name]))
            near_side.append((face[name] - joints["head"])[2] > far * head_size)
        else:
            points.append(place(joints[name]))
            near_side.append(joints[name][2] > far)
    return np.array(points), np.array(near_side)


def _draw_head(canvas: Canvas, place, figure: Figure, radius: float, roll, look: _Look, person: int) -> None:
    """Draws the head as a ball with a face and hair on it."""
    # `roll` is for vectors with y down; for vectors with y up it is the inverse rotation.
    upright = np.eye(3)
    upright[:2, :2] = roll

    def paint(normals: np.ndarray) -> np.ndarray:
        own = normals @ upright.T @ figure.head.T
        light = 0.8 + 0.2 * normals[:, 2:]
        colors = np.broadcast_to(look.skin, own.shape).copy()
        colors[own @ look.face["nose"] > 0.975] = 0.72 * look.skin
        mouth = own - look.face["mouth"]
        colors[np.square(mouth / (0.3, 0.09, 0.6)).sum(axis=1) < 1] = (150, 50, 50)
        colors[own @ look.face["hair"] > look.hairline] = look.hair
        for side in ("left", "right"):
            nearness = own @ look.face[f"{side}_eye"]
            colors[nearness > 0.97] = (245, 245, 245)
            colors[nearness > 0.985] = (25, 20, 20)
        return colors * light

    canvas.sphere(place(figure.joints["head"]), radius, paint, part_id(person, "head"))
