"""Candidate poses from the maps of a network, in NumPy."""

from collections.abc import Mapping

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.inference.decoder import average_heatmaps, find_candidates, mirror_input
from dekr_tf.inference.engines import Engine
from dekr_tf.inference.sparse_head import SparseOffsetMap
from dekr_tf.keypoints import warn_without_flip_pairs
from dekr_tf.sidecar import Sidecar


class MapDecoder(Engine):
    """An engine that finds the candidates in the maps of another one, in NumPy.

    Args:
        network: engine of the network, which outputs a heatmap (B, h, w, K + 1), the center last, and an offset map
            (B, h, w, 2 K), grid minus keypoint in map pixels; or, with `head`, instead of that the features
            (B, h, w, C) that enter the branches of the offset head.
        sidecar: settings of the network.
        flip: flip test: the network gets twice as many images, the mirrored ones last.
        heatmap: return the heatmap too.
        head: weights from `models.folding.fold_offset_head`, to evaluate the offset head at the centers.
    """

    def __init__(
        self,
        network: Engine,
        sidecar: Sidecar,
        flip: bool = False,
        heatmap: bool = False,
        head: Mapping[str, np.ndarray] | None = None,
    ):
        self.network = network
        self.sidecar = sidecar
        self.flip = flip
        if flip:
            warn_without_flip_pairs(sidecar.schema, "the flip test", "do without it")
        self.heatmap = heatmap
        self.head = head

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """The maps of images (B, H, W, 3), with flip test those of 2 B images; see `Engine`."""
        return self.network.run(np.concatenate([images, mirror_input(images)]) if self.flip else images)

    def undelegated_operators(self) -> dict[str, int] | None:
        """Those of the network's engine."""
        return self.network.undelegated_operators()

    def candidates(self, outputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """See `Engine`.

        Raises:
            InputError: the maps do not fit the skeleton.
        """
        heatmaps, offsets = outputs
        if self.head is not None:
            offsets = [SparseOffsetMap(features, self.head) for features in offsets]
        schema, decoder = self.sidecar.schema, self.sidecar.decoder
        count = len(heatmaps) // (1 + self.flip)
        if heatmaps.shape[-1] != len(schema) + 1 or offsets[0].shape[-1] != 2 * len(schema):
            raise InputError(
                f"skeleton {schema.name}: expected {len(schema) + 1} heatmap and {2 * len(schema)} offset channels of "
                f"the network. Received: {heatmaps.shape[-1]} and {offsets[0].shape[-1]}"
            )
        shapes = (len(schema), 2), (len(schema),), ()
        poses = tuple(np.zeros((count, decoder.max_people, *shape), np.float32) for shape in shapes)
        for index in range(count):
            mirrored = (heatmaps[count + index], offsets[count + index]) if self.flip else None
            candidates = find_candidates(
                heatmaps[index], offsets[index], decoder, mirrored=mirrored, flip_indices=schema.flip_indices
            )
            for array, values in zip(poses, candidates, strict=True):
                array[index, : len(values)] = values
        if not self.heatmap:
            return poses
        if self.flip:
            pairs = zip(heatmaps[:count], heatmaps[count:], strict=True)
            heatmaps = np.stack([average_heatmaps(*pair, schema.flip_indices) for pair in pairs])
        return *poses, heatmaps
