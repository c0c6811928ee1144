"""Kinds of errors in poses, and the AP that each costs (Ronchi and Perona, ICCV 2017, arxiv.org/abs/1707.05388)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dekr_tf.evaluation.scoring import Comparison, Entry, Results
from dekr_tf.files.coco_format import ImageLabels, PersonLabels
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.oks import keypoint_similarity

#: The kinds of keypoints; the first is no error.
KINDS = ("good", "jitter", "inversion", "swap", "miss")
GOOD, JITTER, INVERSION, SWAP, MISS = range(len(KINDS))

#: A pose belongs to a person from this OKS on, however bad its keypoints are.
MATCH = 0.1
#: A keypoint is near a label from the first similarity on, and good from the second, that of two human annotators.
NEAR, PRECISE = 0.5, 0.85


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """The result of `analyze_errors`.

    Attributes:
        schema: the skeleton.
        people: number of labeled people whom the metric counts.
        poses: number of results.
        matched: number of poses that belong to a labeled person.
        counts: (K, 5) int, labeled keypoints of the matched people by kind, in the order of `KINDS`.
        precision: AP of the poses as they are.
        corrected: AP with one kind of error corrected, by its name, and with all corrected, as `all`.
    """

    schema: KeypointSchema
    people: int
    poses: int
    matched: int
    counts: np.ndarray
    precision: float
    corrected: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Share of each kind among all keypoints, 0 to 1; all 0 if no pose belongs to a person."""
        counts = self.counts.sum(axis=0)
        return dict(zip(KINDS, (counts / max(counts.sum(), 1)).tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name, to be written as JSON."""
        return {
            "people": self.people,
            "poses": self.poses,
            "matched": self.matched,
            "shares": self.shares,
            "counts": {
                name: dict(zip(KINDS, counts, strict=True))
                for name, counts in zip(self.schema.names, self.counts.tolist(), strict=True)
            },
            "AP": self.precision,
            "AP_corrected": self.corrected,
        }


def analyze_errors(
    labels: Sequence[ImageLabels],
    results: Results,
    schema: KeypointSchema,
    area: Callable[[PersonLabels], float] = lambda person: person.area,
) -> ErrorAnalysis:
    """Classifies keypoints by kind of error, and measures what AP would be without each kind.

    Poses are matched with people as in pycocotools, in the order of their scores, from an OKS of 0.1 on. With the
    similarity of a keypoint and a label, exp(-d^2 / (2 (2 sigma)^2 area)), a labeled keypoint of a matched person is

    - good, if its similarity to its own label is 0.85 or more;
    - jitter, if that is 0.5 or more;
    - inversion, if its similarity to the same person's label of its mirrored keypoint (left and right) is 0.5 or more;
    - swap, if its similarity to another person's label of the same or the mirrored keypoint is 0.5 or more;
    - miss, otherwise.

    Where both inversion and swap hold, the label with the higher similarity decides. This is the paper's definition
    (section 3.1); its code (coco-analyze) also calls a keypoint swapped that is good, but even nearer to another
    person's label.

    Correcting a keypoint moves it to where its similarity to its own label is 0.85 for jitter, 0.5 for a miss, and for
    inversion and swap the similarity that it had to the wrong label. AP is then that of the COCO metric with all other
    keypoints and all scores unchanged, and poses matched anew.

    Args:
        labels: of `coco_format.read_labels`.
        results: path or content of a COCO results file; see `scoring.Comparison`.
        schema: the skeleton of both.
        area: the area of a person in square pixels; `crowdpose.area_of_box` for CrowdPose.

    Raises:
        InputError: nobody is labeled; results cannot be read, do not fit the skeleton, or one is of an image that has
            no labels.
    """
    comparison = Comparison(labels, results, schema, area)
    neighbors: dict[int, list[Entry]] = {}
    for person in comparison.people:
        if not person["iscrowd"]:
            neighbors.setdefault(person["image_id"], []).append(person)

    kinds = np.full((len(comparison.poses), len(schema)), -1)
    moved = np.array([pose["keypoints"] for pose in comparison.poses]).reshape(-1, len(schema), 3)
    pairs = comparison.match(MATCH)
    for pose, person in pairs:
        others = [entry for entry in neighbors[person["image_id"]] if entry is not person]
        row = pose["id"] - 1
        kinds[row], moved[row] = _judge(moved[row], person, others, schema)

    def corrected_precision(*which: int) -> float:
        chosen = np.isin(kinds, which)
        poses = []
        for pose, keypoints, correct in zip(comparison.poses, moved, chosen, strict=True):
            found = np.reshape(pose["keypoints"], (-1, 3))
            poses.append(pose | {"keypoints": np.where(correct[:, None], keypoints, found).ravel().tolist()})
        return float(comparison.score(poses=poses).stats[0])

    errors = (JITTER, INVERSION, SWAP, MISS)
    return ErrorAnalysis(
        schema=schema,
        people=sum(person.scored for image in labels for person in image.people),
        poses=len(comparison.poses),
        matched=len(pairs),
        counts=np.stack([(kinds == kind).sum(axis=0) for kind in range(len(KINDS))], axis=-1),
        precision=corrected_precision(),
        corrected={
            **{KINDS[kind]: corrected_precision(kind) for kind in errors},
            "all": corrected_precision(*errors),
        },
    )


def _judge(
    keypoints: np.ndarray, person: Entry, others: Sequence[Entry], schema: KeypointSchema
) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each keypoint, -1 where it is not labeled, and the keypoints (K, 3) with every error corrected.

    Args:
        keypoints: (K, 3) of a pose: x, y in pixels, score.
        person: whom the pose belongs to.
        others: the other people of the image.
        schema: the skeleton.
    """
    mirrored = list(schema.flip_indices)
    people = [person, *others]
    labels = np.array([entry["keypoints"] for entry in people], np.float64).reshape(len(people), -1, 3)
    areas = [entry["area"] for entry in people]

    def similarity(labels):
        near = keypoint_similarity(keypoints[:, :2] - labels[..., :2], areas, schema.oks_sigmas)
        return np.where(labels[..., 2] > 0, near, 0.0)

    to_same, to_mirrored = similarity(labels), similarity(labels[:, mirrored])
    own, inverted = to_same[0], to_mirrored[0]
    # A keypoint without a mirrored one, such as the nose, cannot be inverted.
    inverted = np.where(np.arange(len(schema)) == mirrored, 0.0, inverted)
    swapped = np.maximum(to_same[1:], to_mirrored[1:]).max(axis=0, initial=0.0)
    wrong = np.maximum(inverted, swapped)

    conditions = [labels[0, :, 2] == 0, own >= PRECISE, own >= NEAR, wrong < NEAR, inverted >= swapped]
    kinds = np.select(conditions, [-1, GOOD, JITTER, MISS, INVERSION], SWAP)
    target = np.select([kinds == JITTER, kinds == MISS], [PRECISE, NEAR], np.clip(wrong, NEAR, 1.0))
    # The distance at which the similarity is the target; the direction makes no difference to OKS.
    distances = np.sqrt(-2 * np.log(target) * areas[0]) * 2 * np.array(schema.oks_sigmas)
    moved = keypoints.copy()
    errors = kinds > GOOD
    moved[errors, :2] = labels[0, errors, :2]
    moved[errors, 0] += distances[errors]
    return kinds, moved
