"""Reads keypoint annotations in COCO's format (COCO, CrowdPose, or any skeleton) into what training needs of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from dekr_tf.coco_format import ImageLabels, PersonLabels, is_finite_number, parse_numbers, read_labels, received
from dekr_tf.errors import InputError
from dekr_tf.files import read_json
from dekr_tf.keypoints import KeypointSchema, schema_from_categories


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
        boxes: (N, 4) float32, left, top, width, height in pixels.
        ignored: regions that hold people without labels, as compressed run-length encodings.
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


def read_annotations(path: str | os.PathLike, schema: KeypointSchema) -> list[ImageRecord]:
    """Reads an annotation file, in the order of its images; `coco_format.read_labels` says what may be missing.

    Crowds (`iscrowd`) and people without a labelled keypoint become ignored regions: their `segmentation` (polygons or
    run lengths), or their `bbox` where there is none.

    Args:
        path: of the JSON file, https://cocodataset.org/#format-data.
        schema: the skeleton that the annotations must have.

    Raises:
        InputError: the file cannot be read, lacks something, has no image, or does not fit the schema. The message
            names the file, the image or annotation, and the key.
    """
    return [_record(image, len(schema)) for image in read_labels(path, schema)]


def read_keypoint_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The names of the keypoints that the `categories` of an annotation file say; none where it has no names.

    Raises:
        InputError: the file cannot be read, or its categories do not say one skeleton.
    """
    categories = read_json(path, "annotations").get("categories") or []
    if not any(isinstance(category, Mapping) and category.get("keypoints") for category in categories):
        return ()
    return schema_from_categories(categories, Path(path).stem).names


def merge_annotations(paths: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """One annotation file of several splits of a data set, such as CrowdPose's train and val.

    Args:
        paths: of JSON files in COCO's format with the same categories.

    Returns:
        The content of the first file with the images and annotations of all. Annotations are numbered anew where two
        have the same id; nothing refers to them.

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
            raise InputError(f"annotations {path}: expected the categories of {paths[0]}. Received: others")
    images = [image for content in contents for image in content["images"]]
    seen = set()
    for image in images:
        if image.get("id") in seen:
            raise InputError(
                f"expected a different id for every image of all files. Received: {image.get('id')!r} twice"
            )
        seen.add(image.get("id"))
    people = [person for content in contents for person in content["annotations"]]
    if len({person.get("id") for person in people}) < len(people):
        people = [{**person, "id": number} for number, person in enumerate(people, start=1)]
    return {**contents[0], "images": images, "annotations": people}


def _record(image: ImageLabels, num_keypoints: int) -> ImageRecord:
    size = image.content.get("height"), image.content.get("width")
    if not all(isinstance(side, int) and side > 0 for side in size):
        raise InputError(
            f"{image.where}: expected positive whole numbers as height and width. "
            f"Received: {received(size[0])} and {received(size[1])}"
        )
    crowd_index = image.content.get("crowdIndex")
    if crowd_index is not None and not is_finite_number(crowd_index):
        raise InputError(f"{image.where}: expected a finite number as crowdIndex. Received: {received(crowd_index)}")
    people = [person for person in image.people if person.labelled]
    regions = [_region(person, size) for person in image.people if not person.labelled]
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
    """Run-length encoding of what the annotation covers; None where it covers nothing."""
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
        for polygon in polygons:
            if parse_numbers(polygon) is None:
                raise InputError(
                    f"{person.where}: expected finite numbers only in segmentation. Received: {str(polygon)[:80]}"
                )
        if polygons:
            return rle.merge(rle.frPyObjects([list(map(float, polygon)) for polygon in polygons], *size))
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


def _run_lengths(segmentation, where: str, size: tuple[int, int]) -> dict[str, Any]:
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        raise InputError(
            f"{where}: expected as segmentation.size that of the image, {list(size)}. "
            f"Received: {segmentation.get('size')}"
        )
    if isinstance(counts, str):
        region = {"size": list(size), "counts": counts.encode()}
        try:
            rle.decode(region)
        except ValueError as error:
            raise InputError(f"{where}: segmentation.counts does not describe the image. Received: {error}") from error
        return region
    numbers = parse_numbers(counts)
    if numbers is None or numbers.min(initial=0) < 0:
        raise InputError(
            f"{where}: expected a list of pixel counts, or a text, as segmentation.counts. Received: {received(counts)}"
        )
    if numbers.sum() != size[0] * size[1]:
        raise InputError(
            f"{where}: expected segmentation.counts to add up to the image's {size[0] * size[1]} pixels. "
            f"Received: {numbers.sum():g}"
        )
    return rle.frPyObjects({"size": list(size), "counts": numbers.astype(int).tolist()}, *size)
