"""Poses that a rescoring net learns from: those that a model found in labeled images, with their OKS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.evaluation.scoring import Results, check_somebody_is_labeled, read_results
from dekr_tf.files.coco_format import ImageLabels, PersonLabels
from dekr_tf.inference.rescoring import count_features, read_arrays, write_arrays
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.oks import object_keypoint_similarity

ARRAYS = ("keypoints", "oks")


@dataclass(frozen=True, eq=False)
class RescoringSamples:
    """Poses and their OKS.

    Attributes:
        schema: the skeleton, with edges and normalization edges.
        keypoints: (N, K, 3) float32: x, y in pixels of the image, keypoint score.
        oks: (N,) float32, 0..1.

    Raises:
        InputError: there are no poses, they do not fit the skeleton, or a value is out of range.
    """

    schema: KeypointSchema
    keypoints: np.ndarray
    oks: np.ndarray

    def __post_init__(self):
        count_features(self.schema)
        count = self.oks.size
        if not count or self.oks.shape != (count,) or self.keypoints.shape != (count, len(self.schema), 3):
            raise InputError(
                f"expected keypoints (N, {len(self.schema)}, 3) and oks (N,) of at least one pose. "
                f"Received: keypoints {self.keypoints.shape}, oks {self.oks.shape}"
            )
        if not np.isfinite(self.keypoints).all() or not ((self.oks >= 0) & (self.oks <= 1)).all():
            raise InputError("keypoints must be finite, and oks in 0..1")

    def __len__(self) -> int:
        return len(self.oks)

    def save(self, path: str | Path) -> None:
        """Writes the samples as an `.npz` file.

        Raises:
            InputError: the file cannot be written.
        """
        write_arrays(path, self.schema, {name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> "RescoringSamples":
        """Reads samples that `save` wrote.

        Raises:
            InputError: the file cannot be read, is damaged or incomplete, or is of another version.
        """
        schema, arrays = read_arrays(path, "poses", ARRAYS)
        try:
            return cls(schema, **arrays)
        except InputError as error:
            raise InputError(f"poses {path}: {error}") from error


def collect_samples(
    labels: Sequence[ImageLabels],
    results: Results,
    schema: KeypointSchema,
    area: Callable[[PersonLabels], float] = lambda person: person.area,
) -> RescoringSamples:
    """Computes the OKS of poses.

    Each pose is compared with the labeled person of its image whom it fits best, whether or not another pose fits that
    person better. As in the reference (lib/utils/rescore.py), poses in images without labeled people are left out: they
    may be right. Unlike there, an image may have more than 20 poses, since all are rescored, and an OKS of 1 stays 1;
    the reference sets it to 0, since a pose within the box of an unlabeled person has it.

    Args:
        labels: of `coco_format.read_labels`.
        results: path or content of a COCO results file; see `scoring.Comparison`.
        schema: the skeleton of both.
        area: the area of a person in square pixels; `crowdpose.area_of_box` for CrowdPose.

    Raises:
        InputError: the skeleton has no edges or no normalization edges; nobody is labeled, or there are no poses where
            somebody is; results cannot be read, do not fit the skeleton, or one is of an image that has no labels.
    """
    count_features(schema)
    check_somebody_is_labeled(labels)
    people = {image.image_id: [person for person in image.people if person.labeled] for image in labels}
    found: dict[int | str, list[np.ndarray]] = {}
    for image_id, pose, _ in read_results(results, schema, people):
        if people[image_id]:
            found.setdefault(image_id, []).append(pose)
    if not found:
        raise InputError(f"there are no poses in the {sum(map(bool, people.values()))} images with labeled people")
    best = []
    for image_id, poses in found.items():
        similarity = object_keypoint_similarity(
            np.stack(poses),
            np.stack([person.keypoints for person in people[image_id]]),
            np.array([area(person) for person in people[image_id]]),
            np.array([person.box for person in people[image_id]]),
            np.array(schema.oks_sigmas),
        )
        best.append(similarity.max(axis=1))
    keypoints = np.concatenate([np.stack(poses) for poses in found.values()])
    return RescoringSamples(schema, keypoints.astype(np.float32), np.concatenate(best).astype(np.float32))
