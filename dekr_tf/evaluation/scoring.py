"""Adapter to pycocotools, which matches poses with labeled people and computes precision and recall."""

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dekr_tf.errors import InputError
from dekr_tf.files.coco_format import (
    ImageLabels,
    PersonLabels,
    box_around,
    parse_keypoints,
)
from dekr_tf.files.inputs import read_json
from dekr_tf.files.json_values import is_finite_number, parse_id, received
from dekr_tf.keypoints import KeypointSchema

#: The names of `COCOeval.stats` for keypoints.
STATISTICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")

Entry = dict[str, Any]
Results = str | Path | Sequence[Mapping[str, Any]]


class Comparison:
    """Labeled people and found poses of the same images.

    Args:
        labels: of `coco_format.read_labels`; the people of all categories form one class.
        results: path or content of a COCO results file: entries with `image_id`, `keypoints` (3 K numbers: x, y,
            score) and `score`. `category_id` is not read.
        schema: the skeleton of both.
        area: the area of a person in square pixels, for OKS and size ranges. A person of area 0 is ignored, counted
            neither as found nor as missed, and so is one whose `num_keypoints` is 0.

    Attributes:
        images: for each image id, the number that stands for it; in the order of the ids, as pycocotools processes
            them.
        people: the labeled people, as pycocotools takes them.
        poses: the results, as pycocotools takes them, in their order.

    Raises:
        InputError: nobody is labeled or scored; results cannot be read, do not fit the skeleton, or one is of an image
            that has no labels.
    """

    def __init__(
        self,
        labels: Sequence[ImageLabels],
        results: Results,
        schema: KeypointSchema,
        area: Callable[[PersonLabels], float] = lambda person: person.area,
    ):
        check_somebody_is_scored(labels)
        # Ids may be numbers, texts or both.
        ids = sorted((image.image_id for image in labels), key=lambda image_id: (isinstance(image_id, str), image_id))
        self.images = {image_id: number for number, image_id in enumerate(ids)}
        self.people = _numbered(
            _person(self.images[image.image_id], person, area(person)) for image in labels for person in image.people
        )
        self.poses = _numbered(_poses(results, schema, self.images))
        self._oks_sigmas = np.array(schema.oks_sigmas)

    def score(self, images: Sequence[int] | None = None, poses: Sequence[Entry] | None = None) -> COCOeval:
        """Precision and recall over the thresholds .50:.05:.95, in `stats` by the names of `STATISTICS`.

        Args:
            images: numbers of the images to count, at least one; by default all.
            poses: to count instead of `self.poses`.
        """
        with contextlib.redirect_stdout(io.StringIO()):
            scorer = self._scorer(images, poses)
            scorer.evaluate()
            scorer.accumulate()
            scorer.summarize()
        return scorer

    def match(self, threshold: float) -> list[tuple[Entry, Entry]]:
        """Pairs of a pose and the labeled person that it is matched with, at one OKS threshold.

        As in pycocotools, the poses of an image choose in the order of their scores, at most twenty of them. Pairs with
        ignored people, such as crowds, are left out.
        """
        with contextlib.redirect_stdout(io.StringIO()):
            scorer = self._scorer(None, None)
            scorer.params.iouThrs = np.array([threshold])
            scorer.params.areaRng = scorer.params.areaRng[:1]
            scorer.evaluate()
        pairs = []
        for image in filter(None, scorer.evalImgs):
            for pose, person, ignored in zip(image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True):
                if person and not ignored:
                    pairs.append((self.poses[pose - 1], self.people[int(person) - 1]))
        return pairs

    def _scorer(self, images: Iterable[int] | None, poses: Sequence[Entry] | None) -> COCOeval:
        images = self.images.values() if images is None else images
        truth, found = _index(images, self.people), _index(images, self.poses if poses is None else poses)
        scorer = COCOeval(truth, found, "keypoints")
        scorer.params.kpt_oks_sigmas = self._oks_sigmas
        return scorer


def check_somebody_is_labeled(labels: Sequence[ImageLabels], name: str = "annotations") -> None:
    """Makes sure that there is something to measure; `name` begins the error message.

    Raises:
        InputError: no image has a person with labeled keypoints.
    """
    if not any(person.labeled for image in labels for person in image.people):
        raise InputError(f"{name}: no person in {len(labels)} images has labeled keypoints")


def check_somebody_is_scored(labels: Sequence[ImageLabels], name: str = "annotations") -> None:
    """Makes sure that the OKS metrics have somebody to find; `name` begins the error message.

    Raises:
        InputError: nobody is labeled, or everybody's `num_keypoints` is 0.
    """
    check_somebody_is_labeled(labels, name)
    if not any(person.scored for image in labels for person in image.people):
        raise InputError(f"{name}: no person in {len(labels)} images has num_keypoints above 0")


def read_results(
    source: Results, schema: KeypointSchema, images: Iterable[int | str]
) -> list[tuple[int | str, np.ndarray, float]]:
    """The poses of a COCO results file.

    Args:
        source: path or content.
        schema: the skeleton of the poses.
        images: ids of the images that are labeled.

    Returns:
        Image id, keypoints (K, 3) float64 (x, y, score) and pose score of each, in the order of the file.

    Raises:
        InputError: the file cannot be read, does not fit the skeleton, or has a pose in another image.
    """
    from_file = isinstance(source, str | Path)
    name = f"results {source}" if from_file else "results"
    content = read_json(source, "results") if from_file else source
    if not isinstance(content, list | tuple) or not all(isinstance(entry, Mapping) for entry in content):
        raise InputError(f"{name}: expected a list of mappings, one a pose. Received: {received(content)}")
    images = set(images)
    poses = []
    for number, entry in enumerate(content, 1):
        where = f"{name}: entry {number}"
        if entry.get("image_id") is None and "file_name" in entry:
            # `dekr predict` writes such entries.
            raise InputError(
                f"{where}: there is no image_id of the annotation file, and the name of "
                f"{received(entry['file_name'])} is not a number of its own"
            )
        image_id, score = parse_id(entry, "image_id", where), entry.get("score")
        if image_id not in images:
            raise InputError(f"{where}: expected an image_id of the annotation file. Received: {received(image_id)}")
        if not is_finite_number(score):
            raise InputError(f"{where}: expected a finite number as score. Received: {received(score)}")
        poses.append((image_id, parse_keypoints(entry.get("keypoints"), schema, where), score))
    return poses


def _index(images: Iterable[int], entries: Sequence[Entry]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in images],
        "annotations": list(entries),
        "categories": [{"id": 1}],
    }
    coco.createIndex()
    return coco


def _numbered(entries: Iterable[Entry]) -> list[Entry]:
    # From 1, as pycocotools takes the id 0 for "no match".
    return [{"id": number, "category_id": 1, **entry} for number, entry in enumerate(entries, 1)]


def _person(image: int, person: PersonLabels, area: float) -> Entry:
    return {
        "image_id": image,
        "keypoints": person.keypoints.ravel().tolist(),
        "bbox": person.box,
        "area": area,
        # pycocotools ignores people whose number is 0.
        "num_keypoints": person.num_keypoints if area else 0,
        "iscrowd": int(person.crowd),
    }


def _poses(results: Results, schema: KeypointSchema, images: Mapping[int | str, int]) -> Iterable[Entry]:
    for image_id, keypoints, score in read_results(results, schema, images):
        box = box_around(keypoints[:, :2])
        yield {
            "image_id": images[image_id],
            "keypoints": keypoints.ravel().tolist(),
            "score": score,
            "bbox": box,
            "area": box[2] * box[3],
        }
