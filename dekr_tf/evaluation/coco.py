"""The COCO keypoint metric, for any skeleton."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dekr_tf.coco_format import (
    ImageLabels,
    PersonLabels,
    box_around,
    is_finite_number,
    parse_keypoints,
    received,
)
from dekr_tf.errors import InputError
from dekr_tf.files import read_json
from dekr_tf.keypoints import KeypointSchema

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def evaluate_coco(
    labels: Sequence[ImageLabels], results: str | Path | Sequence[Mapping[str, Any]], schema: KeypointSchema
) -> dict[str, float]:
    """Average precision and recall over OKS thresholds, as pycocotools computes them.

    Every image counts, with its 20 best results. The schema's `oks_sigmas` are used. A person without any extent is not
    scored.

    Args:
        labels: of `coco_format.read_labels`; the people of all categories form one class.
        results: path or content of a COCO results file: entries with `image_id`, `keypoints` (3 K numbers: x, y,
            score) and `score`. `category_id` is not read.
        schema: the skeleton of both.

    Returns:
        The `METRICS`, 0 to 1: mean over the thresholds .50:.05:.95, at .50, at .75, for people of medium size (area
        32^2 to 96^2) and large ones; precision first, then recall. -1 where there are no such people.

    Raises:
        InputError: results cannot be read, do not fit the skeleton, or one is of an image that has no labels.
    """
    # Numbered in the order of their ids, in which pycocotools goes through them; ids may be numbers, texts or both.
    ids = sorted((image.image_id for image in labels), key=lambda image_id: (isinstance(image_id, str), image_id))
    images = {image_id: number for number, image_id in enumerate(ids)}
    truth = [_truth(images[image.image_id], person) for image in labels for person in image.people]
    found = _read_results(results, schema, images)
    with contextlib.redirect_stdout(io.StringIO()):
        scorer = COCOeval(_index(images, truth), _index(images, found), "keypoints")
        scorer.params.kpt_oks_sigmas = np.array(schema.oks_sigmas)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return dict(zip(METRICS, map(float, scorer.stats), strict=True))


def _index(images: Mapping[int | str, int], entries: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in images.values()],
        "annotations": [{"id": number, "category_id": 1, **entry} for number, entry in enumerate(entries, 1)],
        "categories": [{"id": 1}],
    }
    coco.createIndex()
    return coco


def _truth(image_number: int, person: PersonLabels) -> dict[str, Any]:
    return {
        "image_id": image_number,
        "keypoints": person.keypoints.ravel().tolist(),
        "bbox": person.box,
        "area": person.area,
        # pycocotools leaves people out who have no keypoints.
        "num_keypoints": int((person.keypoints[:, 2] > 0).sum()) if person.area else 0,
        "iscrowd": int(person.crowd),
    }


def _read_results(source, schema: KeypointSchema, images: Mapping[int | str, int]) -> list[dict[str, Any]]:
    from_file = isinstance(source, str | Path)
    name = f"results {source}" if from_file else "results"
    content = read_json(source, "results") if from_file else source
    if not isinstance(content, list | tuple) or not all(isinstance(entry, Mapping) for entry in content):
        raise InputError(f"{name}: expected a list of mappings, one a pose. Received: {received(content)}")
    found = []
    for number, entry in enumerate(content, 1):
        where = f"{name}: entry {number}"
        image_id, score = entry.get("image_id"), entry.get("score")
        if not isinstance(image_id, int | str) or image_id not in images:
            raise InputError(f"{where}: expected an image_id of the annotation file. Received: {received(image_id)}")
        if not is_finite_number(score):
            raise InputError(f"{where}: expected a finite number as score. Received: {received(score)}")
        keypoints = parse_keypoints(entry.get("keypoints"), schema, where)
        box = box_around(keypoints[:, :2])
        found.append(
            {
                "image_id": images[image_id],
                "keypoints": keypoints.ravel().tolist(),
                "score": score,
                "bbox": box,
                "area": box[2] * box[3],
            }
        )
    return found
