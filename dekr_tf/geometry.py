"""Pixel coordinates, and the transforms between photo, network input and maps.

The whole project follows one convention: coordinates are (x, y) with (0, 0) the middle of the top left pixel, so a
pixel's index is its coordinate. Sizes are (height, width). A map cell (x, y) lies at input pixel (4 x, 4 y). Transforms
are (2, 3) float64 matrices that map source points to destination points.
"""

import math

import numpy as np

#: Input pixels per map cell.
OUTPUT_STRIDE = 4
#: Input pixels per cell of the backbone's coarsest branch; the sides of the network's input are multiples of this.
COARSEST_STRIDE = 32
#: Photos are resized to sides that are multiples of this, as in the reference.
SIZE_MULTIPLE = 64
#: A center is the highest value among 3x3 map cells; once the mean of the map's sides exceeds these, 5x5 and 7x7.
CENTER_NMS_SIDES = 200, 300
#: Peaks of a keypoint's heatmap count above this value, and so does their height times the weight of their distance.
PEAK_THRESHOLD = 0.02
#: The sides of a pose's box count at least this many pixels of the network's input when its keypoints move to peaks.
PEAK_MIN_SIDE = 16.0
#: The taps of a 3x3 kernel, row by row: (y, x) in steps from its middle.
GRID = tuple((y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0))


def round_up(value: float, multiple: int = SIZE_MULTIPLE) -> int:
    """The smallest multiple of `multiple` that is at least `value`, whose fraction is dropped first."""
    return (int(value) + multiple - 1) // multiple * multiple


def similarity(center: tuple[float, float], zoom: float, rotation: float, output_size: tuple[int, int]) -> np.ndarray:
    """The transform that rotates and scales about `center` and moves it to the middle of the output.

    Args:
        center: (x, y) in source pixels.
        zoom: output pixels per source pixel, > 0.
        rotation: degrees; positive turns the picture counterclockwise as seen on screen.
        output_size: (height, width); its middle is (width / 2, height / 2).

    Returns:
        (2, 3) float64.
    """
    angle = math.radians(rotation)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    x, y = center
    height, width = output_size
    return np.array(
        [[cos, sin, width / 2 - cos * x - sin * y], [-sin, cos, height / 2 + sin * x - cos * y]], np.float64
    )


def invert(matrix: np.ndarray) -> np.ndarray:
    """The (2, 3) transform that undoes `matrix` (2, 3)."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies `matrix` (2, 3) to `points` (..., 2) of (x, y)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def network_size(image_size: tuple[int, int], input_size: int, scale: float = 1.0) -> tuple[int, int]:
    """The (height, width) that an image is resized to before the network sees it.

    The short side becomes `input_size`; the long side follows from the aspect ratio. Both are rounded up to multiples
    of 64, and `scale` then multiplies them. Follows the reference's `get_multi_scale_size` (lib/utils/transforms.py).

    Args:
        image_size: (height, width) of the image.
        input_size: pixels of the short side.
        scale: of the multi-scale test, > 0; products are rounded down to whole pixels.
    """
    short = round_up(input_size)
    height, width = image_size
    long = round_up(short / min(height, width) * max(height, width))
    short, long = int(short * scale), int(long * scale)
    return (long, short) if width < height else (short, long)


def resize_transform(image_size: tuple[int, int], output_size: tuple[int, int]) -> np.ndarray:
    """The transform from an image into the network's input of `output_size`.

    The short side fills the output exactly, the long side is centered in it; the remainder is padding. The center is
    rounded to a whole pixel, `int(side / 2 + 0.5)`, as the reference does.

    Args:
        image_size: (height, width) of the image.
        output_size: (height, width) from `network_size`.

    Returns:
        (2, 3) float64.
    """
    height, width = image_size
    center = (int(width / 2 + 0.5), int(height / 2 + 0.5))
    zoom = output_size[1] / width if width < height else output_size[0] / height
    return similarity(center, zoom, 0.0, output_size)


def fit_transform(image_size: tuple[int, int], output_size: tuple[int, int]) -> np.ndarray:
    """The transform from an image into an output of fixed size (letterbox): as large as fits, centered, padded.

    It equals `resize_transform` if `output_size` is the image's own `network_size`, unless rounding dropped a fraction
    of a pixel there: `resize_transform` lets that fraction stick out.

    Args:
        image_size: (height, width) of the image.
        output_size: (height, width).

    Returns:
        (2, 3) float64.
    """
    height, width = image_size
    center = (int(width / 2 + 0.5), int(height / 2 + 0.5))
    return similarity(center, min(output_size[0] / height, output_size[1] / width), 0.0, output_size)
