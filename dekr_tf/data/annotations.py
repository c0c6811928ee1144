"""Reads keypoint annotations in COCO's format (COCO, CrowdPose, or any skeleton) into typed records."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from dekr_tf.errors import InputError
from dekr_tf.keypoints import KeypointSchema


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and the people annotated in it. N may be zero.

    Attributes:
        image_id: of the annotation file.
        file_name: relative to the folder of the images.
        size: (height, width) in pixels.
        keypoints: (N, K, 3) float32, people with at least one labelled keypoint: x, y in pixels of the stored image,
            visibility (0 unlabelled, 1 occluded, 2 visible).
        areas: (N,) float32, square pixels.
        ignored: regions that hold people without labels, as compressed run-length encodings.
        crowd_index: CrowdPose's measure of how crowded the image is, in [0, 1]; None elsewhere.
    """

    image_id: int
    file_name: str
    size: tuple[int, int]
    keypoints: np.ndarray
    areas: np.ndarray
    ignored: tuple[dict[str, Any], ...] = ()
    crowd_index: float | None = None

    def __len__(self) -> int:
        return len(self.areas)

    def valid_mask(self) -> np.ndarray:
        """(H, W) uint8: 0 in the ignored regions, 1 elsewhere."""
        if not self.ignored:
            return np.ones(self.size, np.uint8)
        return 1 - rle.decode(rle.merge(list(self.ignored)))


def read_annotations(path: str | os.PathLike, schema: KeypointSchema) -> list[ImageRecord]:
    """Reads an annotation file, in the order of its images.

    Crowds (`iscrowd`) and people without a labelled keypoint become ignored regions: their `segmentation` (polygons or
    run lengths), or their `bbox` where there is none. A person's area is `area`; where that is missing or zero, the
    area of `bbox`; where that is missing too, the area of the box around the labelled keypoints.

    Args:
        path: of the JSON file, https://cocodataset.org/#format-data.
        schema: the skeleton that the annotations must have.

    Raises:
        InputError: the file cannot be read, lacks something, has no image, or does not fit the schema. The message
            names the file, the image or annotation, and the key.
    """
    content = _read_json(path)
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise InputError(
                f"annotations {path}: expected a list under the top-level key {key}. Received: {_kind(content, key)}"
            )
    images: dict[int, Mapping[str, Any]] = {}
    for position, image in enumerate(content["images"]):
        where = _where(path, "image", image, position)
        image_id = _number(image, "id", where)
        if image_id in images:
            raise InputError(f"{where}: image ids must be unique. Received: id {image_id:g} twice")
        images[image_id] = image
    if not images:
        raise InputError(f"annotations {path}: expected at least one image. Received: an empty list under images")

    by_image: dict[int, list[tuple[Mapping[str, Any], str]]] = {image_id: [] for image_id in images}
    for position, annotation in enumerate(content["annotations"]):
        where = _where(path, "annotation", annotation, position)
        image_id = _number(annotation, "image_id", where)
        if image_id not in by_image:
            raise InputError(f"{where}: image_id is not among the images. Received: {image_id:g}")
        by_image[image_id].append((annotation, where))

    return [
        _record(image, by_image[image_id], _where(path, "image", image, position), schema)
        for position, (image_id, image) in enumerate(images.items())
    ]


def check_images(records: Iterable[ImageRecord], folder: str | os.PathLike) -> None:
    """Makes sure that every image file is there, before a long run starts.

    Raises:
        InputError: with the number of missing files and the first of them.
    """
    records = list(records)
    folder = Path(folder)
    missing = [record.file_name for record in records if not (folder / record.file_name).is_file()]
    if missing:
        raise InputError(
            f"images {folder}: {len(missing)} of {len(records)} annotated images are missing. "
            f"First: {folder / missing[0]}"
        )


def _read_json(path) -> Mapping[str, Any]:
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read annotations {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"annotations {path}: expected JSON. Received: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"annotations {path}: expected a mapping. Received: {type(content).__name__}")
    return content


def _record(image, annotations, where: str, schema: KeypointSchema) -> ImageRecord:
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise InputError(f"{where}: expected a text under file_name. Received: {_kind(image, 'file_name')}")
    size = int(_number(image, "height", where)), int(_number(image, "width", where))
    if min(size) < 1:
        raise InputError(f"{where}: height and width must be positive. Received: {size[0]}x{size[1]}")
    crowd_index = _number(image, "crowdIndex", where) if "crowdIndex" in image else None

    people, areas, ignored = [], [], []
    for annotation, origin in annotations:
        box = _box(annotation, origin)
        if not annotation.get("iscrowd"):
            keypoints = _keypoints(annotation, origin, schema)
            labelled = keypoints[keypoints[:, 2] > 0, :2]
            if len(labelled):
                people.append(keypoints)
                areas.append(_area(annotation, origin, box, labelled))
                continue
        region = _region(annotation, origin, box, size)
        if region is not None:
            ignored.append(region)
    return ImageRecord(
        image_id=int(image["id"]),
        file_name=file_name,
        size=size,
        keypoints=np.asarray(people, np.float32).reshape(-1, len(schema), 3),
        areas=np.asarray(areas, np.float32),
        ignored=tuple(ignored),
        crowd_index=crowd_index,
    )


def _keypoints(annotation, where: str, schema: KeypointSchema) -> np.ndarray:
    """(K, 3) float64 of one annotation."""
    values = annotation.get("keypoints")
    expected = 3 * len(schema)
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != expected:
        raise InputError(
            f"{where}: keypoints must be a list of {expected} numbers, x, y, visibility of the {len(schema)} keypoints "
            f"of {schema.name}. Received: {_kind(annotation, 'keypoints')}"
        )
    return _numbers(values, "keypoints", where).reshape(-1, 3)


def _box(annotation, where: str) -> np.ndarray | None:
    """x, y, width, height, or None where the annotation has no box."""
    values = annotation.get("bbox")
    if values is None or values == []:
        return None
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 4:
        raise InputError(f"{where}: bbox must be a list of x, y, width, height. Received: {_kind(annotation, 'bbox')}")
    return _numbers(values, "bbox", where)


def _area(annotation, where: str, box, labelled: np.ndarray) -> float:
    area = _number(annotation, "area", where) if annotation.get("area") is not None else 0.0
    if area <= 0 and box is not None:
        area = box[2] * box[3]
    if area <= 0:
        area = np.prod(np.ptp(labelled, axis=0))
    return float(area)


def _region(annotation, where: str, box, size: tuple[int, int]) -> dict[str, Any] | None:
    """Run-length encoding of what the annotation covers; None where it covers nothing."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        return _run_lengths(segmentation, where, size)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str):
        # Fewer than three points enclose nothing, and four numbers would be read as a box.
        polygons = [
            _numbers(polygon, "segmentation", where).tolist()
            for polygon in segmentation
            if isinstance(polygon, Sequence) and len(polygon) >= 6 and len(polygon) % 2 == 0
        ]
        if polygons:
            return rle.merge(rle.frPyObjects(polygons, *size))
    elif segmentation is not None:
        raise InputError(
            f"{where}: segmentation must be polygons or run lengths. Received: {_kind(annotation, 'segmentation')}"
        )
    if box is None:
        return None
    left, top = np.clip(box[:2], 0, size[::-1])
    right, bottom = np.clip(box[:2] + box[2:], 0, size[::-1])
    if right <= left or bottom <= top:
        return None
    return rle.frPyObjects(np.array([[left, top, right - left, bottom - top]], np.float64), *size)[0]


def _run_lengths(segmentation, where: str, size: tuple[int, int]) -> dict[str, Any]:
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        raise InputError(
            f"{where}: segmentation.size must be that of the image, {list(size)}. Received: {segmentation.get('size')}"
        )
    if isinstance(counts, str):
        region = {"size": list(size), "counts": counts.encode()}
        try:
            rle.decode(region)
        except ValueError as error:
            raise InputError(f"{where}: segmentation.counts does not describe the image. Received: {error}") from error
        return region
    if not isinstance(counts, list):
        raise InputError(
            f"{where}: segmentation.counts must be a list or a text. Received: {_kind(segmentation, 'counts')}"
        )
    counts = _numbers(counts, "segmentation.counts", where)
    if counts.min(initial=0) < 0 or counts.sum() != size[0] * size[1]:
        raise InputError(
            f"{where}: segmentation.counts must add up to the image's {size[0] * size[1]} pixels. "
            f"Received: {counts.sum():g}"
        )
    return rle.frPyObjects({"size": list(size), "counts": counts.astype(int).tolist()}, *size)


def _number(mapping, key: str, where: str) -> float:
    value = mapping.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: expected a finite number under {key}. Received: {_kind(mapping, key)}")
    return value


def _numbers(values, key: str, where: str) -> np.ndarray:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {key} must hold numbers only. Received: {error}") from error
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise InputError(f"{where}: {key} must hold finite numbers only. Received: {str(values)[:80]}")
    return numbers


def _where(path, kind: str, item, position: int) -> str:
    if not isinstance(item, Mapping):
        raise InputError(
            f"annotations {path}: {kind} number {position} must be a mapping. Received: {type(item).__name__}"
        )
    return f"annotations {path}: {kind} {item.get('id', f'number {position}')}"


def _kind(mapping, key: str) -> str:
    """What stands under a key, short enough for a message."""
    if key not in mapping:
        return f"no {key}"
    value = mapping[key]
    if isinstance(value, (str, int, float)):
        return repr(value)[:80]
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
