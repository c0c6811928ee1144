"""Posed 3D skeletons."""

from dataclasses import dataclass

import numpy as np

# Lengths are in body heights; x points to the person's left, y up, z to the front. The origin is between the hips.
_TORSO, _NECK = 0.29, 0.15
_SHOULDER, _HIP = 0.115, 0.068
_UPPER_ARM, _FOREARM, _THIGH, _SHIN, _FOOT = 0.165, 0.145, 0.24, 0.235, 0.07


@dataclass(frozen=True, eq=False)
class Figure:
    """A posed skeleton: joints by name (3,), already turned to the viewer: x right, y up, z towards the viewer."""

    joints: dict[str, np.ndarray]
    #: (3, 3), rows: the head's own axes (left, up, front), in the coordinates of `joints`.
    head: np.ndarray
    #: (3,), unit vector of the direction in which the chest faces.
    front: np.ndarray


def random_figure(generator: np.random.Generator) -> Figure:
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
    return Figure({name: turned @ point for name, point in joints.items()}, look.T, turned[:, 2])


def _limb(side: int, flex: float, spread: float) -> np.ndarray:
    """Unit vector that points down, swung forward by `flex` and outward by `spread` degrees; side 1 is left."""
    flex, spread = np.radians(flex), np.radians(spread)
    return np.array([side * np.sin(spread), -np.cos(spread) * np.cos(flex), np.cos(spread) * np.sin(flex)])


def _turn(degrees: float) -> np.ndarray:
    """Rotation (3, 3) of column vectors about the vertical; positive turns the front to the right of the image."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
