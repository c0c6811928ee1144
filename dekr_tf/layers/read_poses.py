"""Poses from offsets at the centers, inside a graph; in NumPy see `inference.decoder.find_candidates`."""

import keras
from keras import ops

from dekr_tf.geometry import OUTPUT_STRIDE
from dekr_tf.layers.append_mirrored import mean_of_mirrored
from dekr_tf.layers.backend import gather_rows
from dekr_tf.layers.peaks import move_to_peaks


@keras.saving.register_keras_serializable("dekr_tf")
class ReadPoses(keras.layers.Layer):
    """From offsets at the centers to keypoints and scores (arithmetic of `inference.decoder`).

    Args:
        flip_indices: for the flip test, `KeypointSchema.flip_indices`. Heatmap, offset, rows and columns then have 2 B
            images, the mirrored ones last.
        peak_distance: `DecoderConfig.peak_distance`.

    Input: heatmap (B, h, w, K + 1), offset (B, N, 2 K), rows, columns and center scores (B, N), scores zero where there
    is no center. Output: dict of `keypoints`, `keypoint_scores` and `center_scores`, see `build_pose_model`.
    """

    def __init__(self, flip_indices=None, peak_distance=0.0, **kwargs):
        super().__init__(**kwargs)
        self.flip_indices = None if flip_indices is None else list(flip_indices)
        self.peak_distance = peak_distance

    def call(self, heatmap, offset, rows, columns, scores):
        images, _, width, channels = ops.shape(heatmap)
        people, count = ops.shape(rows)[1], channels - 1
        offset = ops.reshape(offset, (images, people * count, 2))
        cells = ops.stack([columns, rows], axis=-1)
        cells = ops.reshape(ops.repeat(cells, count, axis=1), (images, people * count, 2))
        x, y = ops.split(cells - offset, 2, axis=-1)
        x, y = (ops.reshape(each, (images, people, count)) for each in (x, y))
        if self.flip_indices is not None:
            (x, other_x), (y, other_y) = ops.split(x, 2, axis=0), ops.split(y, 2, axis=0)
            other_x, other_y = (ops.take(each, self.flip_indices, axis=2) for each in (other_x, other_y))
            x = (x + (ops.cast(width - 1, "float32") - other_x)) / 2.0
            y = (y + other_y) / 2.0
        x, y = x * float(OUTPUT_STRIDE), y * float(OUTPUT_STRIDE)
        if self.peak_distance:
            heatmaps = heatmap if self.flip_indices is None else mean_of_mirrored(heatmap, self.flip_indices)
            x, y = move_to_peaks(x, y, heatmaps[..., :-1], self.peak_distance, scores.shape[1])
        heat = self._heat_values(heatmap, x, y)
        found = scores[..., None]
        keypoints = ops.where(found[..., None] == 0.0, 0.0, ops.stack([x, y], axis=-1))
        return {"keypoints": keypoints, "keypoint_scores": found * heat, "center_scores": scores}

    def _heat_values(self, heatmap, x, y):
        """The heatmap's values at keypoints x, y (B, N, K) in input pixels, each interpolated from four cells."""
        images, height, width, channels = ops.shape(heatmap)
        values = ops.reshape(heatmap, (images * height * width * channels, 1))
        top, bottom, fraction_y = _cells_about(y, height)
        left, right, fraction_x = _cells_about(x, width)
        sources = [(0, list(range(channels - 1)), False)]
        if self.flip_indices is not None:
            images = images // 2
            sources.append((images, self.flip_indices, True))
        total = 0.0
        for first_image, keypoint_channels, mirrored in sources:
            first = (ops.arange(images, dtype="int32") + first_image) * (height * width * channels)
            first = first[:, None, None] + ops.convert_to_tensor(keypoint_channels, "int32")

            def read(row, column, first=first, mirrored=mirrored):
                column = width - 1 - column if mirrored else column
                index = (row * width + column) * channels + first
                return ops.reshape(gather_rows(values, ops.reshape(index, (-1,))), ops.shape(index))

            above = read(top, left) * (1.0 - fraction_x) + read(top, right) * fraction_x
            below = read(bottom, left) * (1.0 - fraction_x) + read(bottom, right) * fraction_x
            total = total + above * (1.0 - fraction_y) + below * fraction_y
        return total / float(len(sources))

    def compute_output_shape(self, heatmap_shape, offset_shape, rows_shape, columns_shape, scores_shape):
        count = heatmap_shape[-1] - 1
        return {
            "keypoints": (*scores_shape, count, 2),
            "keypoint_scores": (*scores_shape, count),
            "center_scores": scores_shape,
        }

    def get_config(self):
        return {**super().get_config(), "flip_indices": self.flip_indices, "peak_distance": self.peak_distance}


def _cells_about(position, cells):
    """The cells before and after the pixel of a position, int32, and how far between them the pixel is, 0 to 1.

    Args:
        position: x or y in input pixels, (B, N, K).
        cells: columns or rows of the map.
    """
    stride = float(OUTPUT_STRIDE)
    pixel = ops.clip(ops.floor(position), 0.0, ops.cast(cells, "float32") * stride - 1.0)
    cell = ops.floor(pixel / stride)
    before = ops.cast(cell, "int32")
    return before, ops.minimum(before + 1, cells - 1), pixel / stride - cell
