"""Reads keypoint annotations in COCO's format (COCO, CrowdPose, or any skeleton) for training."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from dekr_tf.errors import InputError
from dekr_tf.files.coco_format import ImageLabels, PersonLabels, read_labels
from dekr_tf.files.images import check_pixels
from dekr_tf.files.inputs import read_json
from dekr_tf.files.json_values import is_finite_number, is_whole_number, parse_id, parse_numbers, received
from dekr_tf.keypoints import KeypointSchema, schema_from_categories


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and the people annotated in it. N may be zero.

    Attributes:
        image_id: as in the annotation file; from TFRecord files, the position in the data set.
        file_name: relative to the folder of the images.
        size: (height, width) in pixels.
        keypoints: (N, K, 3) float32, people with at least one labeled keypoint: x, y in pixels of the stored image,
            visibility (0 unlabeled, 1 occluded, 2 visible).
        areas: (N,) float32, square pixels.
        boxes: (N, 4) float32, left, top, width, height in pixels.
        ignored: regions with people who have no labels, as compressed run-length encodings.
        crowd_index: CrowdPose's measure of how crowded the image is, in [0, 1]; None elsewhere.
    """

    image_id: int | str
    file_name: str
    size: tuple[int, int]
    keypoints: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    ignored: tuple[dict[str, Any], ...] = ()
    crowd_index: float | None = None

    def __len__(self) -> int:
        return len(self.areas)

    def valid_mask(self) -> np.ndarray:
        """(H, W) uint8: 0 in the ignored regions, 1 elsewhere."""
        if not self.ignored:
            return np.ones(self.size, np.uint8)
        return 1 - rle.decode(rle.merge(list(self.ignored)))


def read_annotations(
    path: str | os.PathLike, schema: KeypointSchema, category: int | str | None = None
) -> list[ImageRecord]:
    """Reads an annotation file, in the order of its images; `coco_format.read_labels` says what may be missing.

    Crowds (`iscrowd`) and people without a labeled keypoint become ignored regions: their `segmentation` (polygons or
    run lengths), or their `bbox` where there is none.

    Args:
        path: of the JSON file, https://cocodataset.org/#format-data.
        schema: the skeleton that the annotations must have.
        category: name or id of the one category whose annotations count. Default: all with keypoints.

    Raises:
        InputError: the file cannot be read, lacks something, has no image, or does not fit the schema. The message
            names the file, the image or annotation, and the key.
    """
    return [_record(image, len(schema)) for image in read_labels(path, schema, category=category)]


def read_keypoint_names(path: str | os.PathLike, category: int | str | None = None) -> tuple[str, ...]:
    """The keypoint names in an annotation file's `categories`, or in one of them; empty if it has none.

    Raises:
        InputError: the file cannot be read, or its categories do not define one skeleton.
    """
    categories = read_json(path, "annotations").get("categories") or []
    if not any(isinstance(category, Mapping) and category.get("keypoints") for category in categories):
        return ()
    return schema_from_categories(categories, Path(path).stem, category).names


def merge_annotations(paths: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """One annotation file of several splits of a data set, such as CrowdPose's train and val.

    Args:
        paths: of JSON files in COCO's format with the same categories.

    Returns:
        The content of the first file with the images and annotations of all. Annotations get new ids if two have the
        same one, or any has none; nothing refers to them.

    Raises:
        InputError: a file cannot be read or lacks something, the categories differ, or two images have the same id.
    """
    contents = [read_json(path, "annotations") for path in paths]
    for path, content in zip(paths, contents, strict=True):
        for key in ("images", "annotations", "categories"):
            entries = content.get(key) if isinstance(content, Mapping) else None
            if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
                raise InputError(
                    f"annotations {path}: expected a list of mappings as {key}. Received: {received(entries)}"
                )
        if content["categories"] != contents[0]["categories"]:
            raise InputError(f"annotations {path}: the categories differ from those of {paths[0]}")
    images = [image for content in contents for image in content["images"]]
    seen = set()
    for image in images:
        image_id = parse_id(image, "id", "images")
        if image_id in seen:
            raise InputError(f"expected a different id for every image of all files. Received: {image_id!r} twice")
        seen.add(image_id)
    people = [person for content in contents for person in content["annotations"]]
    if len({parse_id(person, "id", "annotations") for person in people if "id" in person}) < len(people):
        people = [{**person, "id": number} for number, person in enumerate(people, start=1)]
    return {**contents[0], "images": images, "annotations": people}


def _record(image: ImageLabels, num_keypoints: int) -> ImageRecord:
    size = image.content.get("height"), image.content.get("width")
    if not all(is_whole_number(side, 1) for side in size):
        raise InputError(
            f"{image.where}: expected positive whole numbers as height and width. "
            f"Received: {received(size[0])} and {received(size[1])}"
        )
    size = int(size[0]), int(size[1])
    check_pixels(size, image.where)
    crowd_index = image.content.get("crowdIndex")
    if crowd_index is not None and not is_finite_number(crowd_index):
        raise InputError(f"{image.where}: expected a finite number as crowdIndex. Received: {received(crowd_index)}")
    people = [person for person in image.people if person.labeled]
    regions = [_region(person, size) for person in image.people if not person.labeled]
    return ImageRecord(
        image_id=image.image_id,
        file_name=image.file_name,
        size=size,
        keypoints=np.asarray([person.keypoints for person in people], np.float32).reshape(-1, num_keypoints, 3),
        areas=np.asarray([person.area for person in people], np.float32),
        boxes=np.asarray([person.box for person in people], np.float32).reshape(-1, 4),
        ignored=tuple(region for region in regions if region is not None),
        crowd_index=crowd_index,
    )


def _region(person: PersonLabels, size: tuple[int, int]) -> dict[str, Any] | None:
    """Run-length encoding of what the annotation covers; None if it covers nothing."""
    segmentation = person.segmentation
    if isinstance(segmentation, Mapping):
        return _run_lengths(segmentation, person.where, size)
    if isinstance(segmentation, list | tuple):
        # Fewer than three points enclose nothing, and four numbers would be read as a box.
        polygons = [
            polygon
            for polygon in segmentation
            if isinstance(polygon, Sequence) and len(polygon) >= 6 and len(polygon) % 2 == 0
        ]
        outlines = []
        for polygon in polygons:
            numbers = parse_numbers(polygon)
            if numbers is None:
                raise InputError(
                    f"{person.where}: expected finite numbers only in segmentation. Received: {str(polygon)[:80]}"
                )
            outline = _clip_polygon(numbers.reshape(-1, 2).tolist(), size)
            if outline:
                outlines.append([value for point in outline for value in point])
        if outlines:
            return rle.merge(rle.frPyObjects(outlines, *size))
        if polygons:
            return None
    elif segmentation is not None:
        raise InputError(
            f"{person.where}: expected polygons or run lengths as segmentation. Received: {received(segmentation)}"
        )
    box = np.array(person.box)
    left, top = np.clip(box[:2], 0, size[::-1])
    right, bottom = np.clip(box[:2] + box[2:], 0, size[::-1])
    if right <= left or bottom <= top:
        return None
    return rle.frPyObjects(np.array([[left, top, right - left, bottom - top]], np.float64), *size)[0]


def _clip_polygon(points: list[list[float]], size: tuple[int, int]) -> list[list[float]]:
    """Clips a polygon to the picture and its neighborhood (Sutherland-Hodgman); empty if nothing is left.

    pycocotools takes memory for every pixel of an outline, wherever it lies, and its coordinates overflow. Polygons
    that extend beyond the picture by less than its size stay unchanged, so that they cover the same pixels.
    """
    height, width = size
    for axis, side in enumerate((width, height)):
        for limit, sign in ((-side, 1), (2 * side, -1)):
            kept = []
            for start, end in zip([points[-1], *points], points, strict=False):
                inside = [sign * (point[axis] - limit) >= 0 for point in (start, end)]
                if inside[0] != inside[1]:
                    part = (limit - start[axis]) / (end[axis] - start[axis])
                    crossing = [a + part * (b - a) for a, b in zip(start, end, strict=True)]
                    crossing[axis] = float(limit)
                    kept.append(crossing)
                if inside[1]:
                    kept.append(end)
            points = kept
            if not points:
                return []
    return points


def _run_lengths(segmentation, where: str, size: tuple[int, int]) -> dict[str, Any]:
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        raise InputError(
            f"{where}: expected as segmentation.size that of the image, {list(size)}. "
            f"Received: {str(segmentation.get('size'))[:80]}"
        )
    if isinstance(counts, str | bytes):
        lengths = _decompress(counts if isinstance(counts, bytes) else counts.encode())
        if lengths is None:
            raise InputError(
                f"{where}: expected compressed run lengths as segmentation.counts. Received: {counts!r:.80}"
            )
    else:
        numbers = parse_numbers(counts)
        lengths = None if numbers is None else numbers.tolist()
        if lengths is None or not all(is_whole_number(length, 0) for length in lengths):
            raise InputError(
                f"{where}: expected a list of pixel counts, or a text, as segmentation.counts. "
                f"Received: {received(counts)}"
            )
    total = sum(lengths)
    if total != size[0] * size[1] or min(lengths) < 0:
        raise InputError(
            f"{where}: expected segmentation.counts to add up to the image's {size[0] * size[1]} pixels. "
            f"Received: {f'{total:g}' if min(lengths, default=0) >= 0 else 'negative ones'}"
        )
    return rle.frPyObjects({"size": list(size), "counts": [int(length) for length in lengths]}, *size)


def _decompress(data: bytes) -> list[int] | None:
    """The pixel counts from COCO's compressed form; None if `data` is something else.

    Each is written in groups of five bits, the lowest first; the sixth bit says that another group follows, the fifth
    of the last one is the sign. From the fourth count on it is the difference from the count two before.
    """
    lengths, value, shift = [], 0, 0
    for code in data:
        group = code - 48
        if not 0 <= group < 64 or shift > 30:
            return None
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
            value = shift = 0
    return lengths if lengths and not shift else None
