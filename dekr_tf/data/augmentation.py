"""Random rotation, scale, shift and flip of a training sample, as one transform (paper section 4.1).

Keras' augmentation layers transform images, boxes and masks, but no keypoints.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dekr_tf.config import AugmentationConfig
from dekr_tf.geometry import similarity, transform_points


@dataclass(frozen=True, eq=False)
class Augmentation:
    """One transform from a photo to a square network input.

    Attributes:
        matrix: (2, 3) float64, photo pixels to input pixels, the flip included.
        zoom: input pixels per photo pixel.
        flip: whether left and right are exchanged.
        input_size: side of the input in pixels.
    """

    matrix: np.ndarray
    zoom: float
    flip: bool
    input_size: int

    def transform_image(self, image: np.ndarray) -> np.ndarray:
        """The photo (H, W, 3) uint8 as the input (S, S, 3) uint8: bilinear, black outside the photo."""
        return cv2.warpAffine(image, self.matrix, (self.input_size, self.input_size), flags=cv2.INTER_LINEAR)

    def transform_mask(self, mask: np.ndarray, stride: int, outside: int = 0) -> np.ndarray:
        """A mask (H, W) uint8 of 0 and 1 on the map (S / stride, S / stride), likewise; `outside` outside the photo."""
        side = self.input_size // stride
        matrix = self.matrix / stride
        return cv2.warpAffine(mask, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=outside)

    def transform_keypoints(self, keypoints: np.ndarray, flip_indices: tuple[int, ...]) -> np.ndarray:
        """Keypoints (N, K, 3) from photo to input pixels, left and right exchanged where the sample is flipped.

        Args:
            keypoints: x, y, visibility.
            flip_indices: see `KeypointSchema.flip_indices`; points after the first K stay in their places.

        Returns:
            (N, K, 3) float64.
        """
        points = transform_points(keypoints[..., :2].astype(np.float64), self.matrix)
        moved = np.concatenate([points, keypoints[..., 2:]], axis=-1)
        if self.flip:
            moved[:, : len(flip_indices)] = moved[:, list(flip_indices)]
        return moved

    def transform_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes from photo to input pixels: the upright box around the corners of each, which grows as they turn.

        Args:
            boxes: (N, 4) left, top, width, height.

        Returns:
            (N, 4) float64: left, top, right, bottom.
        """
        left, top, width, height = np.asarray(boxes, np.float64).T
        corners = np.stack([left, top, left + width, top, left, top + height, left + width, top + height], axis=-1)
        corners = transform_points(corners.reshape(-1, 4, 2), self.matrix)
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)


def make_augmentation(
    image_size: tuple[int, int],
    input_size: int,
    *,
    scale: float = 1.0,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: bool = False,
) -> Augmentation:
    """The transform with the given settings. A square of the photo fills the input.

    Args:
        image_size: (height, width) of the photo.
        input_size: side of the input, pixels.
        scale: side of the square over the photo's short side, > 0.
        rotation: degrees, as in `geometry.similarity`.
        shift: (x, y) from the middle of the photo to that of the square, photo pixels.
        flip: mirror the input about its middle, x -> input_size - 1 - x.
    """
    height, width = image_size
    zoom = input_size / (min(image_size) * scale)
    center = (width / 2 + shift[0], height / 2 + shift[1])
    matrix = similarity(center, zoom, rotation, (input_size, input_size))
    if flip:
        matrix[0] = (0, 0, input_size - 1) - matrix[0]
    return Augmentation(matrix, zoom, flip, input_size)


def random_augmentation(
    image_size: tuple[int, int], input_size: int, config: AugmentationConfig, generator: np.random.Generator
) -> Augmentation:
    """Samples a transform; every setting is uniform over its range.

    Args:
        image_size: (height, width) of the photo.
        input_size: side of the input, pixels.
        config: the ranges.
        generator: source of randomness; the same state gives the same transform.
    """
    scale = generator.uniform(*config.scale)
    # The shift is given for a crop of 200 pixels and grows with the crop.
    reach = config.translation * min(image_size) * scale / 200
    return make_augmentation(
        image_size,
        input_size,
        scale=scale,
        rotation=generator.uniform(-config.rotation, config.rotation),
        shift=(generator.uniform(-reach, reach), generator.uniform(-reach, reach)),
        flip=bool(generator.random() < config.flip),
    )
