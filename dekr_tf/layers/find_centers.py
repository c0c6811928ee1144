"""People's centers in a heatmap, inside a graph; in NumPy see `inference.decoder.find_centers`."""

import keras
from keras import ops

from dekr_tf.geometry import CENTER_NMS_SIDES
from dekr_tf.layers.top_k import top_k


@keras.saving.register_keras_serializable("dekr_tf")
class FindCenters(keras.layers.Layer):
    """The best cells of the center map (paper section 3.3; the arithmetic of `inference.decoder.find_centers`).

    Args:
        max_people: N.
        threshold: a center's score must be above it.
        mirrored: the second half of the batch holds the maps of mirrored images, to be averaged with the first half.

    Input: heatmap (B, h, w, K + 1). Output: rows and columns, float32 whole numbers (B, N), and scores (B, N), highest
    first; all three are zero after the last center. If `mirrored`, there are scores for B / 2 images, and the columns
    of the second half are mirrored.
    """

    def __init__(self, max_people, threshold, mirrored=False, **kwargs):
        super().__init__(**kwargs)
        self.max_people = max_people
        self.threshold = threshold
        self.mirrored = mirrored

    def call(self, heatmap):
        center_map = heatmap[..., -1:]
        if self.mirrored:
            plain, other = ops.split(center_map, 2, axis=0)
            center_map = (plain + ops.flip(other, axis=2)) / 2.0
        images, height, width, _ = ops.shape(center_map)
        scores = ops.where(center_map == _pool(center_map), center_map, self.threshold)
        scores = ops.reshape(scores, (images, 1, height * width))
        scores, cells = top_k(scores, self.max_people, self.threshold)
        scores, cells = (ops.reshape(each, (images, self.max_people)) for each in (scores, cells))
        found = scores > self.threshold
        cells = ops.where(found, cells, 0)
        rows = ops.floor_divide(cells, width)
        columns = ops.cast(cells - rows * width, "float32")
        rows = ops.cast(rows, "float32")
        if self.mirrored:
            rows = ops.concatenate([rows, rows], axis=0)
            columns = ops.concatenate([columns, ops.cast(width - 1, "float32") - columns], axis=0)
        return rows, columns, ops.where(found, scores, 0.0)

    def get_config(self):
        return {
            **super().get_config(),
            "max_people": self.max_people,
            "threshold": self.threshold,
            "mirrored": self.mirrored,
        }


def _pool(center_map):
    """The highest value around each cell of (B, h, w, 1): among 3x3 cells, more on large maps."""
    _, height, width, _ = ops.shape(center_map)
    pooled = _highest_of_nine(center_map)
    for side in CENTER_NMS_SIDES:
        larger = height + width > 2 * side
        if isinstance(larger, bool):
            pooled = _highest_of_nine(pooled) if larger else pooled
        else:
            pooled = ops.where(larger, _highest_of_nine(pooled), pooled)
    return pooled


def _highest_of_nine(center_map):
    return ops.max_pool(center_map, 3, 1, "same", data_format="channels_last")
