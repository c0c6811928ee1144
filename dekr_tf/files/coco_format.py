"""Reads labels in COCO's keypoint format, for any skeleton (https://cocodataset.org/#format-data)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.files.inputs import read_json
from dekr_tf.files.json_values import is_finite_number, is_whole_number, parse_id, parse_numbers, received
from dekr_tf.keypoints import KeypointSchema, describe_categories, find_categories

#: A person's area as a fraction of the bounding box, for files without areas; the CrowdPose toolkit's figure.
AREA_PER_BOX = 0.53


@dataclass(frozen=True, eq=False)
class PersonLabels:
    """One annotation of a person, or of a crowd.

    Attributes:
        keypoints: (K, 3) float64: x, y in pixels of the stored image, visibility (0 unlabeled, 1 occluded, 2 visible).
        box: left, top, width, height in pixels; the box around the labeled keypoints if the file has none.
        area: square pixels; 0 for a person without any extent.
        num_keypoints: as in the file; the number of labeled keypoints if the file has none. CrowdPose's files leave
            head and neck out of the count, so it may be 0 for a person with labeled keypoints.
        category_id: a number or a text; 1 if the file has none.
        crowd: whether the annotation covers a crowd.
        segmentation: as in the file.
        where: file and annotation, for messages.
    """

    keypoints: np.ndarray
    box: tuple[float, float, float, float]
    area: float
    num_keypoints: int
    category_id: int | str
    crowd: bool
    segmentation: Any
    where: str

    @property
    def labeled(self) -> bool:
        """Whether it is one person with at least one labeled keypoint."""
        return not self.crowd and bool((self.keypoints[:, 2] > 0).any())

    @property
    def scored(self) -> bool:
        """Whether the metrics of COCO and CrowdPose count the person as found or missed; the others are ignored."""
        return not self.crowd and self.num_keypoints > 0


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """One image of an annotation file.

    Attributes:
        image_id: a number or a text.
        people: with or without labeled keypoints, and crowds, in the order of the file.
        content: the image's entry in the file.
        where: file and image, for messages.
    """

    image_id: int | str
    people: tuple[PersonLabels, ...]
    content: Mapping[str, Any]
    where: str

    @property
    def file_name(self) -> str:
        """Path relative to the folder of the images, with `/` between folders even if the file is from Windows.

        Raises:
            InputError: the file has none, or it leads out of the folder.
        """
        name = self.content.get("file_name")
        if not isinstance(name, str) or not name:
            raise InputError(f"{self.where}: expected a text as file_name. Received: {received(name)}")
        # A Windows path knows all that may lead out of a folder: roots, drives and `..`, after either separator.
        path = PureWindowsPath(name)
        if path.anchor or ".." in path.parts or "\0" in name:
            raise InputError(
                f"{self.where}: expected as file_name a path in the folder of the images. Received: {received(name)}"
            )
        return path.as_posix()


def read_labels(
    source: str | Path | Mapping[str, Any],
    schema: KeypointSchema,
    *,
    need_people: bool = True,
    category: int | str | None = None,
) -> list[ImageLabels]:
    """Reads an annotation file of COCO, CrowdPose or one's own, in the order of its images.

    An annotation is a person if it has `keypoints`, or shares its `category_id` with one that has; without them, no
    keypoint of the person is labeled. Annotations of other categories are left out. A person's area is `area`. If that
    is missing or not positive, it is 0.53 of the area of `bbox`, or of the box around the labeled keypoints if `bbox`
    is missing or empty too. `num_keypoints` is trusted, whatever the visibilities say, as the toolkits do.

    Args:
        source: path of the JSON file, or its content.
        schema: the skeleton that the keypoints must fit.
        need_people: refuse a file without any keypoints. Otherwise its images have no people, like those of a test set
            whose labels are withheld.
        category: name or id of the one category whose annotations count. Default: all with keypoints.

    Raises:
        InputError: the file cannot be read, lacks something, has no image, or does not fit the schema. The message
            names the file, the image or annotation, and the key.
    """
    name = "annotations" if isinstance(source, Mapping) else f"annotations {source}"
    content = source if isinstance(source, Mapping) else read_json(source, "annotations")
    if not isinstance(content, Mapping):
        raise InputError(f"{name}: expected a mapping. Received: {received(content)}")
    if not need_people:
        content = {"annotations": [], **content}
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list | tuple):
            raise InputError(f"{name}: expected a list as {key}. Received: {received(content.get(key))}")
    if not content["images"]:
        raise InputError(f"{name}: expected at least one image. Received: an empty list")

    images = {}
    for position, image in enumerate(content["images"]):
        where = _where(name, "image", image, position)
        image_id = parse_id(image, "id", where)
        if image_id in images:
            raise InputError(f"{where}: expected a different id for every image. Received: {image_id!r} twice")
        images[image_id] = image, where, []
    entries = []
    for position, entry in enumerate(content["annotations"]):
        where = _where(name, "annotation", entry, position)
        entries.append((entry, parse_id(entry, "category_id", where) if "category_id" in entry else 1, where))
    categories = {category_id for entry, category_id, _ in entries if entry.get("keypoints")}
    if category is not None:
        categories &= {
            parse_id(each, "id", name) for each in find_categories(content.get("categories"), category, name)
        }
    if need_people and not categories:
        raise InputError(f"{name}: expected keypoints in the annotations. Received: {len(entries)} without any")
    for entry, category_id, where in entries:
        if category_id in categories:
            image_id = parse_id(entry, "image_id", where)
            if image_id not in images:
                raise InputError(f"{where}: expected the id of an image as image_id. Received: {image_id!r}")
            try:
                images[image_id][-1].append(_person(entry, category_id, schema, where))
            except InputError as error:
                if len(categories) == 1:
                    raise
                raise InputError(
                    f"{error}. Several categories have keypoints, {_names(content.get('categories'), categories)}; "
                    "--category or data.category chooses one"
                ) from error
    return [ImageLabels(image_id, tuple(people), image, where) for image_id, (image, where, people) in images.items()]


def parse_keypoints(values: Any, schema: KeypointSchema, where: str) -> np.ndarray:
    """A list of 3 K numbers as (K, 3) float64; `where` begins the error message.

    Raises:
        InputError: it is not such a list.
    """
    keypoints = parse_numbers(values)
    if keypoints is None or len(keypoints) != 3 * len(schema):
        wrong = values
        if isinstance(values, list | tuple):
            wrong = next((value for value in values if not is_finite_number(value)), values)
        raise InputError(
            f"{where}: expected as keypoints a list of {3 * len(schema)} finite numbers, 3 for each of the "
            f"{len(schema)} keypoints of {schema.name}. Received: {received(wrong)}"
        )
    return keypoints.reshape(-1, 3)


def box_around(points: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, width and height of the smallest box that holds points (N, 2); zeros if there are none."""
    if not len(points):
        return 0.0, 0.0, 0.0, 0.0
    low, high = points.min(axis=0), points.max(axis=0)
    return *low.tolist(), *(high - low).tolist()


def _person(entry, category: int | str, schema: KeypointSchema, where: str) -> PersonLabels:
    keypoints = parse_keypoints(entry.get("keypoints") or [0] * 3 * len(schema), schema, where)
    around = box_around(keypoints[keypoints[:, 2] > 0, :2])
    box = entry.get("bbox")
    if box is None or (isinstance(box, Sequence) and not len(box)):
        box = around
    numbers = parse_numbers(box)
    if numbers is None or len(numbers) != 4 or min(numbers[2:]) < 0:
        raise InputError(f"{where}: expected as bbox left, top, width, height. Received: {str(box)[:80]}")
    area = entry.get("area")
    if area is not None and not is_finite_number(area):
        raise InputError(f"{where}: expected a finite number as area. Received: {received(area)}")
    if not area or area < 0:
        area = AREA_PER_BOX * (numbers[2] * numbers[3] or around[2] * around[3])
    num_keypoints = entry.get("num_keypoints")
    if num_keypoints is None:
        num_keypoints = (keypoints[:, 2] > 0).sum()
    elif not is_whole_number(num_keypoints, 0):
        raise InputError(
            f"{where}: expected a whole number from 0 on as num_keypoints. Received: {received(num_keypoints)}"
        )
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise InputError(f"{where}: expected 0 or 1 as iscrowd. Received: {received(crowd)}")
    return PersonLabels(
        keypoints=keypoints,
        box=tuple(numbers.tolist()),
        area=float(area),
        num_keypoints=int(num_keypoints),
        category_id=category,
        crowd=bool(crowd),
        segmentation=entry.get("segmentation"),
        where=where,
    )


def _names(entries, categories) -> str:
    """Names and ids of categories; ids alone if the file does not name them all."""
    try:
        return describe_categories([find_categories(entries, each, "")[0] for each in sorted(categories, key=str)])
    except InputError:
        return ", ".join(sorted(map(str, categories)))


def _where(name: str, kind: str, item, position: int) -> str:
    if not isinstance(item, Mapping):
        raise InputError(f"{name}: {kind} number {position}: expected a mapping. Received: {received(item)}")
    return f"{name}: {kind} {item.get('id', f'number {position}')}"
