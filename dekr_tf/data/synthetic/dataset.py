"""Writing a data set of synthetic people in COCO's keypoint format."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dekr_tf.data.synthetic.scene import draw_scene
from dekr_tf.errors import InputError
from dekr_tf.files.outputs import write_text
from dekr_tf.keypoints import COCO

MIN_SIDE = 64
_JPEG_QUALITY = 92


def write_dataset(
    folder: str | os.PathLike, *, train: int, val: int, size: tuple[int, int], seed: int
) -> dict[str, tuple[int, int]]:
    """Writes `train.json` and `val.json` in COCO's keypoint format, with images in `train/images` and `val/images`.

    Args:
        folder: where to write; made if missing.
        train: number of training images; with 0 the split is left out.
        val: number of validation images, likewise.
        size: (height, width) of the images.
        seed: the same seed gives the same images; an image does not depend on how many there are.

    Returns:
        (images, people) of each split written.

    Raises:
        InputError: the folder cannot be written to, there is no image to draw, the images are too small, or the seed
            is negative.
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
        "info": {"description": f"Synthetic people, {split}"},
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
    # Imported here, since not every install has it and images do not need it.
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
