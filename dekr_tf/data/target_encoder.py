"""From labelled people to the maps that the network is trained on.

Paper section 3; in the reference, lib/dataset/target_generators and lib/dataset/COCOKeypoints.py.
"""

import numpy as np

from dekr_tf.config import TargetConfig


def person_centers(keypoints: np.ndarray, areas: np.ndarray, min_center_area: float) -> np.ndarray:
    """The point that stands for a person: the mean of the labelled keypoints (paper section 3.1).

    Args:
        keypoints: (N, K, 3) x, y, visibility.
        areas: (N,) annotated areas in square pixels of the photo.
        min_center_area: people with a smaller area get no center.

    Returns:
        (N, 3) float64: x, y in the pixels of `keypoints`, and 1 where the person has a center, else 0.
    """
    labelled = keypoints[:, :, 2] > 0
    count = labelled.sum(axis=1)
    means = (keypoints[:, :, :2] * labelled[:, :, None]).sum(axis=1) / np.maximum(count, 1)[:, None]
    present = (count > 0) & (areas >= min_center_area)
    return np.concatenate([means, present[:, None]], axis=1)


def person_sizes(keypoints: np.ndarray, name: str) -> np.ndarray:
    """How large people are, as a squared length. It weighs their offsets and decides who wins an overlap.

    Args:
        keypoints: (N, K, 3) x, y, visibility, in pixels of the photo as annotated, before any augmentation.
        name: `paper`: squared diagonal of the box around the labelled keypoints. `reference`: the published
            checkpoints were trained with a box that also holds the image's origin, since the reference takes it over
            all rows of the person while the center's row and those of unlabelled keypoints are still zero. So a
            person counts as larger the further right and down it stands.

    Returns:
        (N,) float64, square pixels. A transform with zoom z multiplies it by z^2.
    """
    points, labelled = keypoints[:, :, :2], keypoints[:, :, 2:] > 0
    if name == "reference":
        high, low = points.max(axis=1, initial=0), points.min(axis=1, initial=0)
    else:
        high = np.where(labelled, points, -np.inf).max(axis=1)
        low = np.where(labelled, points, np.inf).min(axis=1)
    return np.square(high - low, dtype=np.float64).sum(axis=1)


class TargetEncoder:
    """Encodes the people of one sample as heatmaps and offset maps, with the loss weight of every value.

    Heatmaps hold a Gaussian at each labelled keypoint and center inside the map, of value exp(-d^2 / (2 sigma^2)) on a
    patch that reaches 3 sigma + 1 beyond it; where people meet the larger value counts. Their weight is 1 on patches of
    the same channel and `background_weight` elsewhere. Offset maps are grid minus keypoint in map pixels, x then y, on
    the square [c - radius, c + radius) about the truncated center c, for labelled keypoints inside the map; their
    weight is 1 / sqrt(person size).

    Where the squares of people overlap, the smaller one's keypoints are asked for. With `person_size: reference` this
    holds only as far as it does in the reference, which goes through people and keypoints in order and compares a
    person's size with one 32-bit copy of the size last written to the cell: from the first keypoint that a person
    wins in a cell on, rounding of its own size decides over the others.

    Args:
        num_keypoints: K, without the center.
        config: see `TargetConfig`.
    """

    def __init__(self, num_keypoints: int, config: TargetConfig):
        self.num_keypoints = num_keypoints
        self.config = config
        self._sigmas = np.append(np.full(num_keypoints, config.heatmap_sigma), config.center_sigma)

    def __call__(
        self,
        keypoints: np.ndarray,
        sizes: np.ndarray,
        map_size: tuple[int, int],
        valid_mask: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Encodes N people, N >= 0.

        Args:
            keypoints: (N, K + 1, 3) x, y in map pixels, visibility; the center is last.
            sizes: (N,) squared person sizes in square map pixels; smaller ones than 1 count as 1.
            map_size: (height, width) of the maps.
            valid_mask: (height, width), multiplies the weights of the heatmaps; default: 1 everywhere.

        Returns:
            float32 maps: `heatmap` and `heatmap_weight` (h, w, K + 1), `offset` and `offset_weight` (h, w, 2 K).
        """
        keypoints = np.asarray(keypoints, np.float64).reshape(-1, self.num_keypoints + 1, 3)
        height, width = map_size
        inside = (keypoints[..., :2] >= 0).all(-1) & (keypoints[..., 0] < width) & (keypoints[..., 1] < height)
        usable = inside & (keypoints[..., 2] > 0)
        heatmap, heatmap_weight = self._heatmaps(keypoints, usable, map_size)
        if valid_mask is not None:
            heatmap_weight *= np.asarray(valid_mask, np.float32)[:, :, None]
        offset, offset_weight = self._offsets(keypoints, usable, np.maximum(sizes, 1.0), map_size)
        return {
            "heatmap": heatmap,
            "heatmap_weight": heatmap_weight,
            "offset": offset,
            "offset_weight": offset_weight,
        }

    def _heatmaps(self, keypoints, usable, map_size):
        height, width = map_size
        heatmap = np.zeros((height, width, self.num_keypoints + 1), np.float32)
        weight = np.full(heatmap.shape, self.config.background_weight, np.float32)
        people, channels = np.nonzero(usable)
        points, sigmas = keypoints[people, channels, :2], self._sigmas[channels, None]
        low = np.floor(points - 3 * sigmas - 1).astype(int)
        high = np.ceil(points + 3 * sigmas + 2).astype(int)
        # A Gaussian is the product of a row and a column; all of them at once, each over the longest patch.
        steps = np.arange((high - low).max(initial=0))
        distance = (low[:, :, None] + steps - points[:, :, None]) / sigmas[:, :, None]
        profiles = np.exp(-0.5 * np.square(distance)).astype(np.float32)
        start = np.maximum(low, 0)
        stop = np.minimum(high, (width, height))
        for channel, (x0, y0), (x1, y1), (left, top), (row, column) in zip(
            channels.tolist(), start.tolist(), stop.tolist(), low.tolist(), profiles, strict=True
        ):
            patch = column[y0 - top : y1 - top, None] * row[x0 - left : x1 - left]
            cells = heatmap[y0:y1, x0:x1, channel]
            np.maximum(cells, patch, out=cells)
            weight[y0:y1, x0:x1, channel] = 1
        return heatmap, weight

    def _offsets(self, keypoints, usable, sizes, map_size):
        height, width = map_size
        radius = self.config.offset_radius
        as_reference = self.config.person_size == "reference"
        offset = np.zeros((height, width, self.num_keypoints, 2), np.float32)
        weight = np.zeros_like(offset)
        written_size = np.zeros((height, width), np.float32)
        # Largest first, so that smaller people overwrite them.
        for person in range(len(sizes)) if as_reference else np.argsort(-sizes, kind="stable"):
            *labelled, has_center = usable[person]
            channels = np.flatnonzero(labelled)
            if not has_center or not len(channels):
                continue
            center_x, center_y = keypoints[person, -1, :2].astype(int)
            x0, x1 = max(center_x - radius, 0), min(center_x + radius, width)
            y0, y1 = max(center_y - radius, 0), min(center_y + radius, height)
            square = np.s_[y0:y1, x0:x1]
            wins = np.ones((y1 - y0, x1 - x0, len(channels)), bool)
            if as_reference:
                wins = _reference_wins(weight[square][:, :, channels, 0] > 0, written_size[square], sizes[person])
                written_size[square][wins.any(axis=-1)] = sizes[person]
            grid = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), axis=-1)
            values = grid[:, :, None] - keypoints[person, channels, :2]
            for cells, new in ((offset[square], values), (weight[square], 1 / np.sqrt(sizes[person]))):
                cells[:, :, channels] = np.where(wins[..., None], new, cells[:, :, channels])
        shape = (height, width, 2 * self.num_keypoints)
        return offset.reshape(shape), weight.reshape(shape)


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
