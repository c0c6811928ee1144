"""The COCO keypoint metric, for any skeleton."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dekr_tf.errors import InputError
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.poses import Poses

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
COCO_LISTS = ("images", "annotations")
#: Area of a person per area of the bounding box, where a file has no areas; the CrowdPose toolkit's figure.
AREA_PER_BOX = 0.53


def read_annotations(source: str | Path | Mapping[str, Any], schema: KeypointSchema) -> dict[str, Any]:
    """Reads the images and people of a COCO keypoint file, with everything that scoring needs.

    An annotation counts as a person if it has `keypoints`, or shares its category with one that has; without them, it
    is a person of whom no keypoint is labelled. The people of all categories form one class. What an annotation lacks
    is filled in:

    - `bbox`: the bounding box of the labelled keypoints.
    - `area`, also where it is zero: 0.53 x box width x box height. A person who has no extent then is not scored.
    - `num_keypoints`: the number of keypoints with a visibility above 0.
    - `iscrowd`: 0.

    Args:
        source: path of the file, or its content.
        schema: the skeleton that the keypoints must fit.

    Returns:
        A new COCO mapping with `images`, `annotations` and `categories`; people are numbered from 1, all of the
        category that the file gives them first.

    Raises:
        InputError: the file cannot be read, is no COCO file, or has no keypoints of this skeleton.
    """
    content = _read_json(source, "annotations")
    name = "annotations" if isinstance(source, Mapping) else f"annotations {source}"
    if not isinstance(content, Mapping) or not all(map(_is_list_of_mappings, map(content.get, COCO_LISTS))):
        received = sorted(content) if isinstance(content, Mapping) else type(content).__name__
        raise InputError(f"{name}: expected a COCO file with lists of {' and '.join(COCO_LISTS)}. Received: {received}")
    images = [dict(image) for image in content["images"]]
    ids = [image.get("id") for image in images]
    if not all(isinstance(image_id, int | str) for image_id in ids) or len(set(ids)) < len(ids):
        raise InputError(f"{name}: expected images with an id each, all different. Received: ids {ids[:20]}")
    categories = [entry.get("category_id", 1) for entry in content["annotations"] if entry.get("keypoints")]
    if not categories:
        raise InputError(
            f"{name}: expected keypoints in the annotations. Received: {len(content['annotations'])} without any"
        )
    person = categories[0]
    people = []
    for entry in content["annotations"]:
        if entry.get("category_id", 1) in categories:
            where = f"{name}: annotation {entry.get('id', len(people))}"
            people.append({**_complete(entry, schema, where), "id": len(people) + 1, "category_id": person})
    return {"images": images, "annotations": people, "categories": [{"id": person, "name": "person"}]}


def poses_to_results(poses: Poses, image_id: int, category_id: int = 1) -> list[dict[str, Any]]:
    """The people found in one image as entries of a COCO results file."""
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": keypoints.ravel().tolist(),
            "score": float(score),
        }
        for keypoints, score in poses
    ]


def evaluate_coco(
    annotations: str | Path | Mapping[str, Any],
    results: str | Path | Sequence[Mapping[str, Any]],
    schema: KeypointSchema,
) -> dict[str, float]:
    """Average precision and recall over OKS thresholds, as pycocotools computes them.

    Every image of the annotation file counts, with its 20 best results. The schema's `oks_sigmas` are used.

    Args:
        annotations: path or content of a COCO keypoint file; `read_annotations` says what may be missing.
        results: path or content of a COCO results file: entries with `image_id`, `keypoints` (3 K numbers: x, y,
            score) and `score`. `category_id` is not read.
        schema: the skeleton of both.

    Returns:
        The `METRICS`, 0 to 1: mean over the thresholds .50:.05:.95, at .50, at .75, for people of medium size (area
        32^2 to 96^2) and large ones; precision first, then recall. -1 where the file has no such people.

    Raises:
        InputError: annotations or results cannot be read, do not fit the skeleton, or a result is of an image that the
            annotation file does not have.
    """
    truth = read_annotations(annotations, schema)
    found = {**truth, "annotations": _read_results(results, schema, truth)}
    with contextlib.redirect_stdout(io.StringIO()):
        scorer = COCOeval(_index(truth), _index(found), "keypoints")
        scorer.params.kpt_oks_sigmas = np.array(schema.oks_sigmas)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return dict(zip(METRICS, map(float, scorer.stats), strict=True))


def _read_json(source, kind: str):
    if not isinstance(source, str | Path):
        return source
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {kind} {source}: {error}") from error


def _is_list_of_mappings(value) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(entry, Mapping) for entry in value)


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _keypoints(values, schema: KeypointSchema, where: str) -> np.ndarray:
    try:
        keypoints = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        keypoints = np.zeros(0)
    if keypoints.shape != (3 * len(schema),) or not np.isfinite(keypoints).all():
        received = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise InputError(
            f"{where}: expected keypoints of {3 * len(schema)} finite numbers, 3 for each of the {len(schema)} "
            f"keypoints of {schema.name}. Received: {received}"
        )
    return keypoints.reshape(-1, 3)


def _box_around(points: np.ndarray) -> list[float]:
    if not len(points):
        return [0.0, 0.0, 0.0, 0.0]
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _complete(entry: Mapping[str, Any], schema: KeypointSchema, where: str) -> dict[str, Any]:
    keypoints = _keypoints(entry.get("keypoints") or [0] * 3 * len(schema), schema, where)
    labelled = keypoints[keypoints[:, 2] > 0, :2]
    box = entry.get("bbox") or _box_around(labelled)
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
        raise InputError(f"{where}: expected a bbox of left, top, width, height. Received: {box}")
    area = entry.get("area")
    if not isinstance(area, int | float | None):
        raise InputError(f"{where}: expected a number as area. Received: {area!r}")
    count = entry.get("num_keypoints", len(labelled))
    if not area:
        area = AREA_PER_BOX * box[2] * box[3]
        # pycocotools leaves people out who have no keypoints.
        count = count if area > 0 else 0
    return {
        "image_id": entry.get("image_id"),
        "keypoints": keypoints.ravel().tolist(),
        "bbox": box,
        "area": area,
        "num_keypoints": count,
        "iscrowd": entry.get("iscrowd", 0),
    }


def _read_results(source, schema: KeypointSchema, truth: dict[str, Any]) -> list[dict[str, Any]]:
    content = _read_json(source, "results")
    name = f"results {source}" if isinstance(source, str | Path) else "results"
    if not _is_list_of_mappings(content):
        raise InputError(f"{name}: expected a list of results, one a pose. Received: {type(content).__name__}")
    images = {image["id"] for image in truth["images"]}
    person = truth["categories"][0]["id"]
    found = []
    for number, entry in enumerate(content, 1):
        where = f"{name}: entry {number}"
        image_id = entry.get("image_id")
        if not isinstance(image_id, int | str) or image_id not in images:
            raise InputError(f"{where}: expected an image_id of the annotation file. Received: {image_id!r}")
        score = entry.get("score")
        if not isinstance(score, int | float) or not np.isfinite(score):
            raise InputError(f"{where}: expected a finite number as score. Received: {score!r}")
        keypoints = _keypoints(entry.get("keypoints"), schema, where)
        box = _box_around(keypoints[:, :2])
        found.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": person,
                "keypoints": keypoints.ravel().tolist(),
                "score": score,
                "bbox": box,
                "area": box[2] * box[3],
            }
        )
    return found
