"""Target encoder, first half: from labeled people to the small arrays that `target_maps` draws the target maps from.

In NumPy, for one sample. Paper section 4.1; in the reference, lib/dataset/target_generators and
lib/dataset/COCOKeypoints.py.
"""

import numpy as np

from dekr_tf.config import TargetConfig


def person_centers(keypoints: np.ndarray, areas: np.ndarray, min_center_area: float) -> np.ndarray:
    """The point that stands for a person: the mean of the labeled keypoints (paper section 4.1).

    Args:
        keypoints: (N, K, 3) x, y, visibility.
        areas: (N,) annotated areas in square pixels of the photo.
        min_center_area: people with a smaller area get no center.

    Returns:
        (N, 3) float64: x, y in the pixels of `keypoints`, and 1 where the person has a center, else 0.
    """
    labeled = keypoints[:, :, 2] > 0
    count = labeled.sum(axis=1)
    means = (keypoints[:, :, :2] * labeled[:, :, None]).sum(axis=1) / np.maximum(count, 1)[:, None]
    present = (count > 0) & (areas >= min_center_area)
    return np.concatenate([means, present[:, None]], axis=1)


def box_centers(boxes: np.ndarray, map_size: tuple[int, int], present: np.ndarray) -> np.ndarray:
    """The middle of each person's box, or of the part of it that is on the map.

    Args:
        boxes: (N, 4) left, top, right, bottom in map pixels.
        map_size: (height, width).
        present: (N,) 1 where the person has a center, else 0.

    Returns:
        (N, 3) float64: x, y in map pixels, and 1 where the person has a center on the map, else 0.
    """
    height, width = map_size
    parts = np.clip(boxes, 0, (width, height, width, height))
    on_map = (parts[:, :2] < parts[:, 2:]).all(axis=1)
    return np.concatenate([(parts[:, :2] + parts[:, 2:]) / 2, (present * on_map)[:, None]], axis=1)


def person_sizes(keypoints: np.ndarray, name: str) -> np.ndarray:
    """How large people are, as a squared length. It weights their offsets and decides who wins an overlap.

    Args:
        keypoints: (N, K, 3) x, y, visibility, in pixels of the photo as annotated, before any augmentation.
        name: `paper`: squared diagonal of the box around the labeled keypoints. `reference`: the published
            checkpoints were trained with a box that also holds the image's origin, since the reference computes it over
            all rows of the person while those of the center and of unlabeled keypoints are still zero. So a person
            counts as larger the further right and down they stand.

    Returns:
        (N,) float64, square pixels. A transform with zoom z multiplies it by z^2.
    """
    points, labeled = keypoints[:, :, :2], keypoints[:, :, 2:] > 0
    if name == "reference":
        high, low = points.max(axis=1, initial=0), points.min(axis=1, initial=0)
    else:
        high = np.where(labeled, points, -np.inf).max(axis=1)
        low = np.where(labeled, points, np.inf).min(axis=1)
    return np.square(high - low, dtype=np.float64).sum(axis=1)


class TargetEncoder:
    """Encodes the people of one sample as small arrays, from which `target_maps.draw_targets` makes the target maps.

    The maps are many times larger than the image, so they are drawn in the training step, where the network runs. The
    decisions are made here: which keypoints lie inside the map, and who wins where people overlap.

    Offsets are supervised on the square [c - radius, c + radius) about a person's truncated center c, for labeled
    keypoints inside the map. Where the squares of people overlap, the smaller person wins. With `person_size:
    reference` this holds only as far as it does in the reference, which goes through people and keypoints in order and
    compares a person's size with one 32-bit copy of the size last written to the cell: after the first keypoint that a
    person wins in a cell, rounding of their own size decides over the others.

    Args:
        num_keypoints: K, without the center.
        config: see `TargetConfig`.
        max_people: P, the people that the arrays have room for, so that samples can be batched.
    """

    def __init__(self, num_keypoints: int, config: TargetConfig, max_people: int):
        self.num_keypoints = num_keypoints
        self.config = config
        self.max_people = max_people

    def __call__(
        self, keypoints: np.ndarray, sizes: np.ndarray, valid_mask: np.ndarray, boxes: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Encodes N people, 0 <= N <= P.

        People with a usable keypoint or center come first. With `unlabeled_keypoints: ignore`, those follow who only
        have a part of their box on the map and an unlabeled keypoint. Everyone else is left out.

        Args:
            keypoints: (N, K + 1, 3) x, y in map pixels, visibility; the center is last.
            sizes: (N,) of `person_sizes`, in square map pixels; smaller ones than 1 count as 1.
            valid_mask: (h, w) uint8 of 0 and 1, multiplies the weights of the heatmaps.
            boxes: (N, 4) left, top, right, bottom in map pixels; `unlabeled_keypoints: ignore` needs them.

        Returns:
            `cells` (P, K + 1, 2) int32 and `fractions` (P, K + 1, 2) float32: whole part and rest of x, y in map
            pixels, kept apart for precision; `usable` (P, K + 1) bool: labeled and inside the map; `offset_weights`
            (P,) float32: 1 / sqrt(size); `wins` (P, 2 radius, 2 radius, K) bool: where the offset maps hold the
            person's keypoints, by row and column of the person's square; `valid_mask` as given. With
            `unlabeled_keypoints: ignore` also `unlabeled` (P, K) bool, and `boxes` (P, 4) int32: the first column and
            row of the map that a person's box touches, then the last ones; they may lie one cell outside the map.
        """
        keypoints = np.asarray(keypoints, np.float64).reshape(-1, self.num_keypoints + 1, 3)
        height, width = valid_mask.shape
        points = keypoints[..., :2]
        usable = ((points >= 0) & (points < (width, height))).all(axis=-1) & (keypoints[..., 2] > 0)
        on_map = usable.any(axis=1)
        present = np.flatnonzero(on_map)
        ignoring = {}
        if self.config.unlabeled_keypoints == "ignore":
            unlabeled = keypoints[:, :-1, 2] == 0
            # A box far outside is clipped to the cells beyond the border, and touches none of the map.
            cells = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
            cells = np.clip(cells, -1, (width, height, width, height)).astype(np.int32)
            touches = (cells[:, :2] < (width, height)).all(axis=1) & (cells[:, 2:] >= 0).all(axis=1)
            present = np.append(present, np.flatnonzero(~on_map & touches & unlabeled.any(axis=1)))
            ignoring = {"unlabeled": unlabeled[present], "boxes": cells[present]}
        points, usable, sizes = points[present], usable[present], np.maximum(sizes[present], 1.0)
        # Points that are not usable may lie beyond what an integer can hold.
        points = np.where(usable[..., None], points, 0)
        cells = np.floor(points)
        labels = {
            "cells": cells.astype(np.int32),
            "fractions": (points - cells).astype(np.float32),
            "usable": usable,
            "offset_weights": (1 / np.sqrt(sizes)).astype(np.float32),
            "wins": self._wins(cells[:, -1].astype(int), usable, sizes, valid_mask.shape),
            **ignoring,
        }
        return {name: self._with_room(values) for name, values in labels.items()} | {"valid_mask": valid_mask}

    def _with_room(self, values):
        # np.pad takes ten times as long.
        room = np.zeros((self.max_people, *values.shape[1:]), values.dtype)
        room[: len(values)] = values
        return room

    def _wins(self, centers, usable, sizes, map_size):
        """(N, 2 radius, 2 radius, K) bool; every cell and keypoint has at most one winner."""
        height, width = map_size
        radius = self.config.offset_radius
        as_reference = self.config.person_size == "reference"
        owner = np.zeros((height, width, self.num_keypoints), np.int16)
        written_size = np.zeros((height, width), np.float32)
        squares = {}
        # Largest first, so that smaller people overwrite them.
        for person in range(len(sizes)) if as_reference else np.argsort(-sizes, kind="stable").tolist():
            *labeled, has_center = usable[person]
            if not has_center or not any(labeled):
                continue
            left, top = (centers[person] - radius).tolist()
            x0, x1 = max(left, 0), min(left + 2 * radius, width)
            y0, y1 = max(top, 0), min(top + 2 * radius, height)
            square = owner[y0:y1, x0:x1]
            squares[person] = square, np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            if as_reference:
                channels = np.flatnonzero(labeled)
                sizes_here = written_size[y0:y1, x0:x1]
                mine = np.zeros(square.shape, bool)
                mine[:, :, channels] = _reference_wins(square[:, :, channels] > 0, sizes_here, sizes[person])
                sizes_here[mine.any(axis=-1)] = sizes[person]
            else:
                mine = np.array(labeled)
            np.copyto(square, person + 1, where=mine)
        wins = np.zeros((len(sizes), 2 * radius, 2 * radius, self.num_keypoints), bool)
        for person, (square, part) in squares.items():
            wins[person][part] = square == person + 1
        return wins


def _reference_wins(taken: np.ndarray, written_size: np.ndarray, size: float) -> np.ndarray:
    """Which values a person writes under the reference's rule for overlaps.

    Args:
        taken: (h, w, C) whether another person has written the value.
        written_size: (h, w) size of the person that wrote the cell last, rounded to 32 bits.
        size: of this person, in 64 bits.

    Returns:
        (h, w, C) bool.
    """
    contested = taken & (written_size.astype(np.float64) < size)[:, :, None]
    # From its first value on, the person competes in this cell with its own rounded size.
    later = np.logical_or.accumulate(~contested, axis=-1)
    later[:, :, 1:] = later[:, :, :-1].copy()
    later[:, :, 0] = False
    return np.where(later, ~(taken & (np.float32(size) < size)), ~contested)
