"""A detector's AP on labeled images, and pictures of the poses that it finds."""

from collections.abc import Iterator

import cv2
import numpy as np

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.evaluation.evaluator import evaluate_detector
from dekr_tf.evaluation.scoring import check_somebody_is_scored
from dekr_tf.files.coco_format import read_labels
from dekr_tf.files.images import check_images
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.visualization.drawing import draw_poses

#: Long side of a picture in pixels.
PICTURE_SIZE = 640


class ValidationSet:
    """The labeled images that training validates on.

    Args:
        config: `data.val_annotations` and `data.val_images` are needed.

    Raises:
        InputError: the labels cannot be read or have no person who counts, or images are missing.
    """

    def __init__(self, config: Config):
        if config.data.val_images is None:
            raise InputError("data.val_annotations needs data.val_images as well")
        self.config = config
        self.labels = read_labels(config.data.val_annotations, config.schema, category=config.data.category)
        check_somebody_is_scored(self.labels, f"annotations {config.data.val_annotations}")
        self.images = check_images([image.file_name for image in self.labels], config.data.val_images)

    def measure(self, detector: PoseDetector) -> float:
        """A detector's AP on the images, 0 to 1."""
        # A micro-batch at a time, which fits into memory as in training.
        batch_size = self.config.training.batch_size // self.config.training.accumulation_steps
        return evaluate_detector(detector, self.labels, self.config.data.val_images, batch_size=batch_size)[0]["AP"]

    def pictures(self, detector: PoseDetector) -> Iterator[tuple[str, np.ndarray]]:
        """File names of the first images, and (H, W, 3) uint8 RGB drawings of the poses that a detector finds there."""
        for image in self.labels[: self.config.training.pictures]:
            photo = self.images.read(image.file_name)
            drawing = draw_poses(photo, detector(photo))
            zoom = min(1.0, PICTURE_SIZE / max(drawing.shape))
            yield image.file_name, cv2.resize(drawing, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
