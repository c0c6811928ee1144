"""From a photo to the network's input, and back."""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dekr_tf import geometry
from dekr_tf.errors import InputError
from dekr_tf.files.images import read_image
from dekr_tf.sidecar import Sidecar

#: The network's input may always hold this many pixels, or four squares of the short side if that is more.
NETWORK_PIXELS = 2**20
#: Fewest cells on a side of a map; smaller maps show too little.
MIN_CELLS = 8


class Placement(NamedTuple):
    """Where a photo sits in the network's input at scale 1 (letterbox).

    Attributes:
        size: (height, width) of that input.
        transform: (2, 3) from pixels of the photo to pixels of the input.
    """

    size: tuple[int, int]
    transform: np.ndarray

    def to_photo(self, points: np.ndarray) -> np.ndarray:
        """Takes points (..., 2), x and y in pixels of the input, to pixels of the photo."""
        return geometry.transform_points(points, geometry.invert(self.transform))


class Preprocessor:
    """Resizes and normalizes photos for the network; call it with a photo.

    The photo's short side becomes `input_size`. Photos more elongated than about 4:1 (16:1 at 256) come out smaller, so
    that the network's input stays within `most_pixels`.

    Args:
        sidecar: settings of the model.
        input_size: short side of the network's input in pixels, rounded up to a multiple of 64. Default: the size that
            the model was trained for.
        scales: of the multi-scale test, each times `input_size`.
        fixed_sizes: (height, width) of the only inputs that the network takes; each photo is letterboxed into the one
            that shows it largest. Empty: any size. Default: those of the model.

    Attributes:
        input_size: as above.
        scales: as above, the largest first.

    Raises:
        InputError: `input_size` or a scale is not positive, a scale is given twice or is too small for a map of
            `MIN_CELLS` cells, or one of the two is given for a model that takes fixed sizes.
    """

    def __init__(
        self,
        sidecar: Sidecar,
        input_size: int | None = None,
        scales: Sequence[float] = (1.0,),
        *,
        fixed_sizes: Sequence[tuple[int, int]] | None = None,
    ):
        check_input_size(input_size)
        self.scales = sorted_scales(scales)
        self.input_size = input_size or sidecar.input_size
        artifact = sidecar.artifact
        if fixed_sizes is None:
            fixed_sizes = artifact.input_sizes if artifact else ()
        self._fixed_sizes = fixed_sizes
        if fixed_sizes:
            sizes = ", ".join(f"{height}x{width}" for height, width in fixed_sizes)
            if input_size is not None:
                raise InputError(
                    f"expected no input size beside a model that takes {sizes} only. Received: {input_size}"
                )
            if self.scales != (1.0,):
                given = " ".join(f"{scale:g}" for scale in scales)
                raise InputError(f"expected no scales beside a model that takes {sizes} only. Received: {given}")
        check_smallest_map(self.scales, self.input_size)
        # The normalized value of each 8-bit value and channel, (1, 256, 3): a lookup takes a fifth of the time of the
        # arithmetic, with bit-identical results.
        self._table = None
        if artifact is None or artifact.input_type == "float32":
            scale, shift = normalization(sidecar.mean, sidecar.std)
            self._table = np.arange(256, dtype=np.float32)[None, :, None] * scale + shift

    def __call__(self, image: np.ndarray | str | os.PathLike) -> tuple[list[np.ndarray], Placement]:
        """Makes the network's inputs from one photo.

        Args:
            image: (H, W, 3) uint8 RGB, or the path of a file, which is turned upright by its EXIF orientation.

        Returns:
            For each scale, the largest first, an input (h, w, 3): normalized float32, or uint8 if the model normalizes
            by itself; and the photo's placement at scale 1.

        Raises:
            InputError: the file cannot be read, the array is not an image, or the photo is too elongated or too large.
        """
        if isinstance(image, str | os.PathLike):
            image = read_image(image, exif_orientation=True)
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise InputError(f"expected an image (H, W, 3) of uint8 RGB. Received: {image.shape} of {image.dtype}")
        if self._fixed_sizes:
            placement = best_fit(image.shape[:2], self._fixed_sizes)
        else:
            size = bounded_network_size(image.shape[:2], self.input_size)
            placement = Placement(size, geometry.resize_transform(image.shape[:2], size))
        return [self._resize(image, placement, scale) for scale in self.scales], placement

    def _resize(self, image: np.ndarray, placement: Placement, scale: float) -> np.ndarray:
        height, width = scaled_size(placement.size, scale)
        try:
            resized = cv2.warpAffine(image, scale * placement.transform, (width, height), flags=cv2.INTER_LINEAR)
        except cv2.error as error:
            # OpenCV 4 refuses sides of 32767 pixels or more.
            raise InputError(f"cannot resize an image of {image.shape[1]}x{image.shape[0]}: {error.err}") from error
        return resized if self._table is None else cv2.LUT(resized, self._table)


def normalization(mean: Sequence[float], std: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The normalization of a model's input as `image * scale + shift`, for arrays and tensors of any library.

    Args:
        mean: of RGB in 0..1, to be subtracted.
        std: divisor of the difference.

    Returns:
        scale and shift, (3,) float32, for RGB in 0..255.
    """
    mean, std = np.array(mean, np.float32), np.array(std, np.float32)
    return 1 / (255 * std), -mean / std


def most_pixels(input_size: int) -> int:
    """The most pixels that the network's input may hold when photos are resized to a short side of `input_size`."""
    return max(NETWORK_PIXELS, 4 * geometry.round_up(input_size) ** 2)


def bounded_network_size(image_size: tuple[int, int], input_size: int) -> tuple[int, int]:
    """The (height, width) of the network's input, with a bound for elongated images.

    It is `geometry.network_size`, with a short side lowered in steps of 64 while it holds more than `most_pixels`.

    Args:
        image_size: (height, width) of the image.
        input_size: pixels of the short side.

    Raises:
        InputError: even a short side of 64 gives too many pixels.
    """
    largest = most_pixels(input_size)
    for short in range(geometry.round_up(input_size), 0, -geometry.SIZE_MULTIPLE):
        height, width = geometry.network_size(image_size, short)
        if height * width <= largest:
            return height, width
    raise InputError(
        f"image too elongated: with a short side of {geometry.SIZE_MULTIPLE} it must fill at most {largest} pixels. "
        f"Received: {image_size[1]}x{image_size[0]}"
    )


def best_fit(image_size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> Placement:
    """The placement in the input that shows the image largest, the smallest one of several.

    Args:
        image_size: (height, width) of the image.
        sizes: (height, width) of each input.
    """
    placements = [Placement(size, geometry.fit_transform(image_size, size)) for size in sizes]
    return min(placements, key=lambda each: (-each.transform[0, 0], each.size[0] * each.size[1]))


def check_input_size(input_size: int | None) -> None:
    """Refuses a short side of the network's input that no model takes; None stands for the model's own.

    Raises:
        InputError: it is not positive.
    """
    if input_size is not None and input_size < 1:
        raise InputError(f"input size: expected a positive number of pixels. Received: {input_size}")


def sorted_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """The scales of a multi-scale test, largest first, so that the order in which they were given does not matter.

    Raises:
        InputError: there is none, or one is given twice or is not a positive number.
    """
    if not scales or len(set(scales)) != len(scales) or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise InputError(f"scales: expected positive numbers, each once. Received: {' '.join(map(str, scales))}")
    return tuple(sorted(map(float, scales), reverse=True))


def check_smallest_map(scales: Sequence[float], input_size: int) -> None:
    """Refuses scales at which a side of a map would have fewer than `MIN_CELLS` cells.

    Args:
        scales: of the test.
        input_size: pixels of the short side of the network's input at scale 1.

    Raises:
        InputError: the smallest scale is too small.
    """
    side = geometry.round_up(input_size)
    smallest = MIN_CELLS * geometry.OUTPUT_STRIDE
    if int(side * min(scales)) < smallest:
        raise InputError(
            f"scales: expected at least {smallest / side:g} at input size {side}, for a map of {MIN_CELLS} cells or "
            f"more. Received: {min(scales):g}"
        )


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """The (height, width) of the network's input at `scale`, multiples of 32; `size` is the one at scale 1."""
    height, width = (geometry.round_up(side * scale, geometry.COARSEST_STRIDE) for side in size)
    return height, width
