"""Drawn people with exact keypoint labels: a data set to try training on, without downloads or licences.

A figure is a small skeleton in three dimensions, turned about the vertical and projected straight onto the image, so
that left and right, front and back follow from what is drawn: the face, hair and shirt front show where it looks.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.files.outputs import write_text
from dekr_tf.keypoints import COCO

MIN_SIDE = 64

# Colours are drawn at twice the size and averaged, which smooths every edge.
_OVERSAMPLING = 2
_SUBPIXEL_BITS = 4
_BACKGROUND, _OBJECT = 0, 1
_FIRST_PERSON = 2
#: How often an image has one, two, .. people.
_COUNT_SHARES = (0.3, 0.26, 0.18, 0.12, 0.08, 0.06)
#: People of whom less is seen get no labels, so that they are ignored.
_FEWEST_VISIBLE = 3
_JPEG_QUALITY = 92

# Lengths are in body heights; x points to the person's left, y up, z to the front. The origin is between the hips.
_TORSO, _NECK, _HEAD_RADIUS = 0.29, 0.15, 0.075
_SHOULDER, _HIP = 0.115, 0.068
_UPPER_ARM, _FOREARM, _THIGH, _SHIN, _FOOT = 0.165, 0.145, 0.24, 0.235, 0.07
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
#: Keypoints of torso and head are on the far side, and hidden, from this depth on (in body heights; on the head, in its
#: radii). Limbs have no such rule: what is drawn over them hides them.
_FAR_DEPTH = {"nose": 0.0, "eye": 0.0, "ear": -0.25, "shoulder": -0.045, "hip": -0.045}
_LIMB_PARTS = ("ear", "upper_arm", "forearm", "hand", "thigh", "shin", "foot")
_PARTS = ("torso", "neck", "head", *(f"{side}_{part}" for side in ("left", "right") for part in _LIMB_PARTS))
_SKIN = ((247, 214, 186), (226, 182, 143), (190, 138, 98), (141, 92, 58), (92, 60, 42))
_HAIR = ((30, 24, 20), (78, 50, 30), (140, 98, 52), (205, 170, 100), (150, 150, 150), (120, 48, 26))


@dataclass(frozen=True, eq=False)
class Scene:
    """One drawn image and its N people, those hidden altogether left out.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        keypoints: (N, 17, 3) float64: x, y, visibility: 2 visible, 1 hidden by something nearer, 0 outside the image.
            All zero for people of whom too little is seen.
        masks: (N, H, W) bool, the pixels where the person is seen.
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
    canvas = _Canvas(_background(size, generator))
    count = 1 + int(generator.choice(len(_COUNT_SHARES), p=_COUNT_SHARES))
    tallest = 0.95 * min(height, 1.6 * width) / (1 + 0.12 * (count - 1))
    # Larger people count as nearer and are drawn later.
    heights = np.sort(generator.uniform(0.5, 1.0, count)) * tallest
    hip_x = _spread(count, generator) * width
    people = []
    for person, (body_height, x) in enumerate(zip(heights, hip_x, strict=True), start=_FIRST_PERSON):
        low = 0.5 * body_height
        high = max(low, height - 0.42 * body_height)
        hip = np.array([x, low + (high - low) * generator.beta(3, 2)])
        people.append((person, *_draw_person(canvas, _figure(generator), hip, body_height, person, generator)))
        if generator.random() < 0.12:
            _draw_object(canvas, generator)
    if generator.random() < 0.25:
        _draw_object(canvas, generator)

    owners = canvas.ids // len(_PARTS)
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


def write_dataset(
    folder: str | os.PathLike, *, train: int, val: int, size: tuple[int, int], seed: int
) -> dict[str, tuple[int, int]]:
    """Writes `train.json` and `val.json` in COCO's keypoint format, with images in `train/images` and `val/images`.

    Args:
        folder: where to; made if missing.
        train: number of training images; with 0 the split is left out.
        val: number of validation images; likewise.
        size: (height, width) of the images.
        seed: the same seed gives the same images; an image does not depend on how many there are.

    Returns:
        (images, people) of each split written.

    Raises:
        InputError: the folder cannot be written to, no image is asked for, the images are too small, or the seed is
            negative.
    """
    if min(train, val) < 0 or train + val == 0:
        raise InputError(f"synthetic data: expected at least one image. Received: train {train}, val {val}")
    if seed < 0:
        raise InputError(f"synthetic data: expected a seed of 0 or more. Received: {seed}")
    if min(size) < MIN_SIDE:
        raise InputError(
            f"synthetic data: images need at least {MIN_SIDE} pixels a side. Received: {size[0]}x{size[1]}"
        )
    counts = {}
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        if count:
            scenes = (draw_scene(size, np.random.default_rng((seed, number, index))) for index in range(count))
            counts[split] = count, _write_split(Path(folder), split, size, scenes)
    return counts


def _write_split(folder: Path, split: str, size, scenes) -> int:
    """Writes images and annotations; returns the number of people."""
    images, annotations = [], []
    target = folder / split / "images"
    try:
        target.mkdir(parents=True, exist_ok=True)
        for image_id, scene in enumerate(scenes, start=1):
            name = f"{image_id:06d}.jpg"
            bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
            _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            (target / name).write_bytes(content.tobytes())
            images.append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
            for keypoints, mask in zip(scene.keypoints, scene.masks, strict=True):
                annotations.append(_annotation(len(annotations) + 1, image_id, keypoints, mask))
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}") from error
    content = {
        "info": {"description": f"Drawn people, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [
            {
                "id": 1,
                "name": "person",
                "keypoints": list(COCO.names),
                "skeleton": [[first + 1, second + 1] for first, second in COCO.edges],
            }
        ],
    }
    write_text(folder / f"{split}.json", json.dumps(content))
    return len(annotations)


def _annotation(annotation_id: int, image_id: int, keypoints: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    # Only annotations need it, which not every install has.
    from pycocotools import mask as rle

    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": keypoints.round(2).ravel().tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
        "bbox": rle.toBbox(code).tolist(),
        "area": int(rle.area(code)),
        "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode()},
    }


def _keypoints(points: np.ndarray, near_side: np.ndarray, ids: np.ndarray, person: int) -> np.ndarray:
    """(17, 3) keypoints of points (17, 2), by what lies on top of each of them."""
    height, width = ids.shape
    keypoints = np.zeros((len(COCO), 3))
    for index, name in enumerate(COCO.names):
        column, row = np.rint(points[index]).astype(int)
        if 0 <= column < width and 0 <= row < height:
            side, _, kind = name.rpartition("_")
            shown_by = [_part_id(person, part.format(side=side)) for part in _SHOWN_BY[kind]]
            visible = near_side[index] and ids[row, column] in shown_by
            keypoints[index] = *points[index], 2 if visible else 1
    return keypoints * ((keypoints[:, 2] == 2).sum() >= _FEWEST_VISIBLE)


def _part_id(person: int, part: str) -> int:
    return person * len(_PARTS) + _PARTS.index(part)


class _Canvas:
    """Colours at twice the size, and for every pixel what is on top of it."""

    def __init__(self, background: np.ndarray):
        height, width = background.shape[:2]
        self._colours = cv2.resize(background, (width * _OVERSAMPLING, height * _OVERSAMPLING))
        self.ids = np.full((height, width), _BACKGROUND, np.int32)

    def image(self) -> np.ndarray:
        height, width = self.ids.shape
        return cv2.resize(self._colours, (width, height), interpolation=cv2.INTER_AREA)

    def polygon(self, points: np.ndarray, colour, identity: int | None, outline: float = 0.0) -> None:
        """Fills a convex polygon (P, 2) in image pixels, with a darker line of the given width about it."""
        fine = self._fixed(points * _OVERSAMPLING + (_OVERSAMPLING - 1) / 2)
        colour = tuple(float(value) for value in colour)
        if outline:
            dark = tuple(0.55 * value for value in colour)
            thickness = max(1, round(2 * outline * _OVERSAMPLING))
            cv2.polylines(self._colours, [fine], True, dark, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.fillConvexPoly(self._colours, fine, colour, cv2.LINE_AA, _SUBPIXEL_BITS)
        if identity is not None:
            cv2.fillConvexPoly(self.ids, self._fixed(points), identity, cv2.LINE_8, _SUBPIXEL_BITS)

    def sphere(self, center: np.ndarray, radius: float, paint: Callable[[np.ndarray], np.ndarray], identity: int):
        """Draws a ball; `paint` gives the colours (M, 3) of unit normals (M, 3) that point right, up, to the viewer."""
        self.polygon(_circle(center, radius), (0, 0, 0), identity)
        middle, reach = center * _OVERSAMPLING + (_OVERSAMPLING - 1) / 2, radius * _OVERSAMPLING
        height, width = self._colours.shape[:2]
        left, top = np.maximum(np.floor(middle - reach), 0).astype(int)
        right, bottom = np.minimum(np.ceil(middle + reach) + 1, (width, height)).astype(int)
        if left >= right or top >= bottom:
            return
        y, x = np.mgrid[top:bottom, left:right]
        x, y = (x - middle[0]) / reach, (middle[1] - y) / reach
        inside = np.hypot(x, y) <= 1
        normals = np.stack([x, y, np.sqrt(np.maximum(1 - x**2 - y**2, 0))], axis=-1)[inside]
        self._colours[top:bottom, left:right][inside] = paint(normals).clip(0, 255)

    @staticmethod
    def _fixed(points: np.ndarray) -> np.ndarray:
        return np.rint(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def _circle(center, radius: float, corners: int = 16) -> np.ndarray:
    angles = np.arange(corners) * (2 * np.pi / corners)
    return np.asarray(center) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _hull(centers, radii) -> np.ndarray:
    """The convex hull of circles."""
    points = np.concatenate([_circle(center, radius) for center, radius in zip(centers, radii, strict=True)])
    return cv2.convexHull(points.astype(np.float32))[:, 0]


@dataclass(frozen=True, eq=False)
class _Figure:
    """A posed skeleton: joints by name (3,), already turned to the viewer: x right, y up, z towards the viewer."""

    joints: dict[str, np.ndarray]
    #: (3, 3), rows: what the head's own axes (left, up, front) are on the image.
    head: np.ndarray
    #: Where the chest looks (3,), a unit vector.
    front: np.ndarray


def _turn(degrees: float) -> np.ndarray:
    """Rotation (3, 3) of column vectors about the vertical; positive turns the front to the right of the image."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def _limb(side: int, flex: float, spread: float) -> np.ndarray:
    """Unit vector that hangs down, is swung forward by `flex` and outward by `spread` degrees; side 1 is left."""
    flex, spread = np.radians(flex), np.radians(spread)
    return np.array([side * np.sin(spread), -np.cos(spread) * np.cos(flex), np.cos(spread) * np.sin(flex)])


def _figure(generator: np.random.Generator) -> _Figure:
    """A figure in a random pose: standing, walking or sitting, with the arms in one of several attitudes."""
    uniform = generator.uniform
    legs = generator.choice(("stand", "walk", "sit"), p=(0.45, 0.35, 0.2))
    stride = uniform(14, 34) * generator.choice((-1, 1))
    both_arms = generator.choice(("hang", "raised", "out", "reach", "akimbo"), p=(0.42, 0.18, 0.14, 0.12, 0.14))
    tilt, lean = np.radians(uniform(-7, 7)), np.radians(uniform(-6, 12))
    up = np.array([np.sin(tilt), np.cos(tilt) * np.cos(lean), np.cos(tilt) * np.sin(lean)])
    neck = _TORSO * up
    joints = {"neck": neck, "head": neck + _NECK * up, "pelvis": np.zeros(3)}
    for name, side in (("left", 1), ("right", -1)):
        arms = both_arms if generator.random() < 0.7 else generator.choice(("hang", "raised", "out", "akimbo"))
        if arms == "hang":
            swing = -side * stride if legs == "walk" else 0
            flex, spread = swing + uniform(-12, 12), uniform(6, 24)
            fore = flex + uniform(5, 35), spread - uniform(0, 12)
        elif arms == "raised":
            flex, spread = uniform(-5, 15), uniform(115, 165)
            fore = flex, spread + uniform(-15, 35)
        elif arms == "out":
            flex, spread = uniform(-5, 15), uniform(60, 95)
            fore = flex, spread + uniform(-20, 80)
        elif arms == "reach":
            flex, spread = uniform(35, 80), uniform(2, 25)
            fore = flex + uniform(0, 40), spread
        else:
            flex, spread = uniform(-15, 0), uniform(38, 50)
            fore = flex + uniform(10, 25), uniform(-50, -35)
        shoulder = neck + np.array([side * _SHOULDER, -0.01, 0])
        elbow = shoulder + _UPPER_ARM * _limb(side, flex, spread)
        wrist = elbow + _FOREARM * _limb(side, *fore)
        hand = wrist + 0.035 * _limb(side, *fore)

        if legs == "stand":
            flex, bend, spread = uniform(-5, 8), uniform(0, 8), uniform(1, 10)
        elif legs == "walk":
            flex, spread = side * stride, uniform(0, 5)
            bend = uniform(2, 15) if flex > 0 else uniform(15, 50)
        else:
            flex, bend, spread = uniform(65, 88), uniform(65, 90), uniform(4, 20)
        hip = np.array([side * _HIP, 0, 0])
        knee = hip + _THIGH * _limb(side, flex, spread)
        ankle = knee + _SHIN * _limb(side, flex - bend, spread / 2)
        toe = ankle + _FOOT * np.array([side * 0.3, -0.45, 0.85])
        chain = dict(shoulder=shoulder, elbow=elbow, wrist=wrist, hand=hand, hip=hip, knee=knee, ankle=ankle, toe=toe)
        joints |= {f"{name}_{joint}": point for joint, point in chain.items()}

    yaw = generator.choice((0, 180, 90, -90), p=(0.56, 0.2, 0.12, 0.12)) + generator.normal(0, 18)
    turned = _turn(yaw)
    look = _turn(yaw + np.clip(generator.normal(0, 20), -45, 45))
    return _Figure({name: turned @ point for name, point in joints.items()}, look.T, turned[:, 2])


def _draw_person(canvas: _Canvas, figure: _Figure, hip, body_height: float, person: int, generator):
    """Draws a figure, far parts first.

    Args:
        canvas: to draw on.
        figure: the pose.
        hip: (2,) x, y of the middle of the hips, image pixels.
        body_height: pixels.
        person: its number.
        generator: of build and clothes.

    Returns:
        points (17, 2) in image pixels, and (17,) bool whether each is on the side of the body that is seen.
    """
    roll = _rotation(generator.normal(0, 4))
    girth, head_size = generator.uniform(0.85, 1.2), _HEAD_RADIUS * generator.uniform(0.95, 1.12)
    look = _Look(generator)
    joints, outline = figure.joints, max(0.6, 0.005 * body_height)

    def place(point: np.ndarray) -> np.ndarray:
        return hip + body_height * (roll @ (point[:2] * (1, -1)))

    def radius(width: float) -> float:
        return width * girth * body_height

    def add(depth: float, part: str, ends, widths, colour):
        points = _hull([place(end) for end in ends], [radius(width) for width in widths])
        parts.append((depth, lambda: canvas.polygon(points, colour, _part_id(person, part), outline)))

    face = {name: joints["head"] + head_size * (direction @ figure.head) for name, direction in look.face.items()}
    parts: list[tuple[float, Callable[[], None]]] = []
    shoulders = [0.68 * joints[f"{side}_shoulder"] + 0.32 * joints["neck"] for side in ("left", "right")]
    hips = [0.8 * joints[f"{side}_hip"] for side in ("left", "right")]
    add(0.0, "torso", shoulders + hips, (0.055, 0.055, 0.062, 0.062), look.shirt)
    if figure.front[2] > 0.15:
        # A line of buttons, so that front and back differ below the head too.
        buttons = [place(share * joints["neck"] + 0.055 * figure.front) for share in (0.05, 0.93)]
        line = _hull(buttons, [radius(0.008)] * 2)
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


def _rotation(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


class _Look:
    """Colours of skin, hair and clothes."""

    def __init__(self, generator: np.random.Generator):
        tone = generator.uniform(0.92, 1.05)
        self.skin = np.array(_SKIN[generator.integers(len(_SKIN))]) * tone
        self.skin = self.skin.clip(0, 255)
        self.dark_skin = 0.85 * self.skin
        self.hair = np.array(_HAIR[generator.integers(len(_HAIR))], float)
        self.shirt, self.trousers = (_colour(generator, 0.25, 0.95), _colour(generator, 0.15, 0.75))
        self.accent = 255 - self.shirt
        self.shoe = _colour(generator, 0.1, 0.9)
        long_sleeves, short_trousers = generator.random() < 0.5, generator.random() < 0.3
        self.sleeve = self.shirt * 0.93
        self.forearm = self.sleeve if long_sleeves else self.skin
        self.shin = self.skin if short_trousers else self.trousers * 0.95
        #: Cosine of the angle about the hair's middle up to which it reaches.
        self.hairline = generator.uniform(-0.15, 0.2)
        self.face = {name: np.array(direction) / np.linalg.norm(direction) for name, direction in _FACE.items()}


def _colour(generator: np.random.Generator, darkest: float, brightest: float) -> np.ndarray:
    hue, saturation, value = (
        generator.uniform(0, 180),
        generator.uniform(30, 230),
        generator.uniform(darkest, brightest),
    )
    pixel = np.array([[[hue, saturation, 255 * value]]], np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(float)


def _draw_head(canvas: _Canvas, place, figure: _Figure, radius: float, roll, look: _Look, person: int) -> None:
    """Draws the head as a ball with a face and hair on it."""
    # `roll` turns vectors with y down, so it undoes itself where y points up.
    upright = np.eye(3)
    upright[:2, :2] = roll

    def paint(normals: np.ndarray) -> np.ndarray:
        own = normals @ upright.T @ figure.head.T
        light = 0.8 + 0.2 * normals[:, 2:]
        colours = np.broadcast_to(look.skin, own.shape).copy()
        colours[own @ look.face["nose"] > 0.975] = 0.72 * look.skin
        mouth = own - look.face["mouth"]
        colours[np.square(mouth / (0.3, 0.09, 0.6)).sum(axis=1) < 1] = (150, 50, 50)
        colours[own @ look.face["hair"] > look.hairline] = look.hair
        for side in ("left", "right"):
            nearness = own @ look.face[f"{side}_eye"]
            colours[nearness > 0.97] = (245, 245, 245)
            colours[nearness > 0.985] = (25, 20, 20)
        return colours * light

    canvas.sphere(place(figure.joints["head"]), radius, paint, _part_id(person, "head"))


def _spread(count: int, generator: np.random.Generator) -> np.ndarray:
    """(count,) positions in 0..1, each the best of a few tries at keeping away from the others."""
    positions: list[float] = []
    for _ in range(count):
        tries = generator.uniform(0.1, 0.9, 4)
        gaps = np.abs(tries[:, None] - np.array(positions or [-1.0])).min(axis=1)
        positions.append(float(tries[np.argmax(gaps)]))
    return np.array(positions)


def _background(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: two blended colours, coarse noise and a few shapes."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    angle = generator.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * x / width + np.sin(angle) * y / height
    ramp = ((ramp - ramp.min()) / np.ptp(ramp))[:, :, None]
    picture = (1 - ramp) * _colour(generator, 0.2, 1.0) + ramp * _colour(generator, 0.2, 1.0)
    if generator.random() < 0.5:
        picture[int(height * generator.uniform(0.45, 0.8)) :] = _colour(generator, 0.2, 0.8)
    for cells in (4, 16, 48):
        noise = generator.normal(0, generator.uniform(0, 11), (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))
    for _ in range(generator.integers(0, 7)):
        points, colour = _shape(size, generator)
        cv2.fillConvexPoly(picture, np.rint(points).astype(np.int32), tuple(colour))
    return picture


def _shape(size: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Corners (P, 2) and colour (3,) of a random box or ellipse."""
    height, width = size
    center = generator.uniform(0, 1, 2) * (width, height)
    half = generator.uniform(0.02, 0.16, 2) * min(size) * (1, 1.6)
    corners = _circle((0, 0), 1, 24) if generator.random() < 0.5 else np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    return center + (corners * half) @ _rotation(generator.normal(0, 12)).T, _colour(generator, 0.2, 0.9)


def _draw_object(canvas: _Canvas, generator: np.random.Generator) -> None:
    """Something that stands in front of the people drawn so far."""
    canvas.polygon(*_shape(canvas.ids.shape, generator), _OBJECT * len(_PARTS), outline=1.0)


def _finish(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The camera's part: exposure, contrast, sensor noise."""
    contrast, brightness = generator.uniform(0.85, 1.15), generator.uniform(-15, 15)
    noise = generator.normal(0, generator.uniform(0.5, 5), image.shape)
    return ((image - 128.0) * contrast + 128 + brightness + noise).clip(0, 255).astype(np.uint8)
