"""Drawing in color, with a record of what is on top at every pixel."""

from collections.abc import Callable

import cv2
import numpy as np

# Colors are drawn at twice the size and averaged, which smooths every edge.
_OVERSAMPLING = 2
_SUBPIXEL_BITS = 4
#: What owns a pixel: the background, an object in front of people, or a person, counted from here.
BACKGROUND, OBJECT, FIRST_PERSON = 0, 1, 2


class Canvas:
    """Colors at twice the image's size, and `ids` (H, W) int32 of what is on top at every pixel."""

    def __init__(self, background: np.ndarray):
        height, width = background.shape[:2]
        self._colors = cv2.resize(background, (width * _OVERSAMPLING, height * _OVERSAMPLING))
        self.ids = np.full((height, width), BACKGROUND, np.int32)

    def image(self) -> np.ndarray:
        """The drawing, (H, W, 3) uint8."""
        height, width = self.ids.shape
        return cv2.resize(self._colors, (width, height), interpolation=cv2.INTER_AREA)

    def polygon(self, points: np.ndarray, color, identity: int | None, outline: float = 0.0) -> None:
        """Fills a convex polygon (P, 2) in image pixels, with a darker outline that wide; None leaves `ids` alone."""
        fine = self._fixed(points * _OVERSAMPLING + (_OVERSAMPLING - 1) / 2)
        color = tuple(float(value) for value in color)
        if outline:
            dark = tuple(0.55 * value for value in color)
            thickness = max(1, round(2 * outline * _OVERSAMPLING))
            cv2.polylines(self._colors, [fine], True, dark, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.fillConvexPoly(self._colors, fine, color, cv2.LINE_AA, _SUBPIXEL_BITS)
        if identity is not None:
            cv2.fillConvexPoly(self.ids, self._fixed(points), identity, cv2.LINE_8, _SUBPIXEL_BITS)

    def sphere(self, center: np.ndarray, radius: float, paint: Callable[[np.ndarray], np.ndarray], identity: int):
        """Draws a ball; `paint` gives the colors (M, 3) of unit normals (M, 3) that point right, up, to the viewer."""
        self.polygon(circle(center, radius), (0, 0, 0), identity)
        middle, reach = center * _OVERSAMPLING + (_OVERSAMPLING - 1) / 2, radius * _OVERSAMPLING
        height, width = self._colors.shape[:2]
        left, top = np.maximum(np.floor(middle - reach), 0).astype(int)
        right, bottom = np.minimum(np.ceil(middle + reach) + 1, (width, height)).astype(int)
        if left >= right or top >= bottom:
            return
        y, x = np.mgrid[top:bottom, left:right]
        x, y = (x - middle[0]) / reach, (middle[1] - y) / reach
        inside = np.hypot(x, y) <= 1
        normals = np.stack([x, y, np.sqrt(np.maximum(1 - x**2 - y**2, 0))], axis=-1)[inside]
        self._colors[top:bottom, left:right][inside] = paint(normals).clip(0, 255)

    @staticmethod
    def _fixed(points: np.ndarray) -> np.ndarray:
        return np.rint(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def circle(center, radius: float, corners: int = 16) -> np.ndarray:
    """Corners (P, 2) of a polygon that approximates a circle."""
    angles = np.arange(corners) * (2 * np.pi / corners)
    return np.asarray(center) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def hull(centers, radii) -> np.ndarray:
    """The convex hull of circles."""
    points = np.concatenate([circle(center, radius) for center, radius in zip(centers, radii, strict=True)])
    return cv2.convexHull(points.astype(np.float32))[:, 0]


def rotation(degrees: float) -> np.ndarray:
    """Rotation (2, 2) of column vectors."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


def random_color(generator: np.random.Generator, darkest: float, brightest: float) -> np.ndarray:
    """RGB (3,) in 0..255 of any hue, with a brightness from `darkest` to `brightest`, in 0..1."""
    hue, saturation, value = (
        generator.uniform(0, 180),
        generator.uniform(30, 230),
        generator.uniform(darkest, brightest),
    )
    pixel = np.array([[[hue, saturation, 255 * value]]], np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(float)
