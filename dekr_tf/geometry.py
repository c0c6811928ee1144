"""Where pixels lie, and the transforms between photo, network input and maps.

Convention, everywhere in the project: coordinates are (x, y) with (0, 0) the middle of the top left pixel, so a pixel
index is its coordinate. Sizes are (height, width). A map cell (x, y) lies at input pixel (4 x, 4 y). Transforms are
(2, 3) float64 matrices that take source points to destination points.
"""

import math

import numpy as np

#: Input pixels per map cell.
OUTPUT_STRIDE = 4
#: Input pixels per cell of the backbone's coarsest branch, of which sides of the network's input are multiples.
COARSEST_STRIDE = 32
#: Photos are brought to sides that are multiples of this, as in the reference.
SIZE_MULTIPLE = 64
#: A center is the highest value of 3x3 map cells, where the mean of the map's sides is above these of 5x5 and 7x7.
CENTER_NMS_SIDES = 200, 300
#: The taps of a 3x3 kernel, row by row: (y, x) in steps from its middle.
GRID = tuple((y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0))


def round_up(value: float, multiple: int = SIZE_MULTIPLE) -> int:
    """The smallest multiple of `multiple` that reaches `value` (whole numbers; a fraction is dropped first)."""
    return (int(value) + multiple - 1) // multiple * multiple


def similarity(center: tuple[float, float], zoom: float, rotation: float, output_size: tuple[int, int]) -> np.ndarray:
    """The transform that turns and zooms about `center` and puts it in the middle of the output.

    Args:
        center: (x, y) in source pixels.
        zoom: output pixels per source pixel, > 0.
        rotation: degrees; positive turns the picture counter-clockwise as seen on screen.
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

    The short side becomes `input_size` (rounded up to a multiple of 64), the long side what keeps the aspect ratio,
    rounded up to a multiple of 64; `scale` then multiplies both (multi-scale test). Follows the reference's
    `get_multi_scale_size` (lib/utils/transforms.py).

    Args:
        image_size: (height, width) of the image.
        input_size: pixels of the short side.
        scale: of the multi-scale test.
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
    """The transform from an image into an output of fixed size: as large as fits, centered; the rest is padding.

    That of `resize_transform` where `output_size` is the image's own `network_size`, unless a fraction of a pixel was
    dropped there, which `resize_transform` lets stick out.

    Args:
        image_size: (height, width) of the image.
        output_size: (height, width).

    Returns:
        (2, 3) float64.
    """
    height, width = image_size
    center = (int(width / 2 + 0.5), int(height / 2 + 0.5))
    return similarity(center, min(output_size[0] / height, output_size[1] / width), 0.0, output_size)
