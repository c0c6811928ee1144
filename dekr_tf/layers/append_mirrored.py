"""Mirrored copies of images, for the flip test inside a graph."""

import keras
from keras import ops

from dekr_tf.geometry import OUTPUT_STRIDE


@keras.saving.register_keras_serializable("dekr_tf")
class AppendMirrored(keras.layers.Layer):
    """Images (B, H, W, 3) followed by their mirrored copies: (2 B, H, W, 3).

    The copies are shifted left by the stride minus one, so that their cells fall on the same pixels; the last columns
    keep their content (`inference.decoder.mirror_input`).
    """

    def call(self, images):
        shift = OUTPUT_STRIDE - 1
        mirrored = ops.flip(images, axis=2)
        mirrored = ops.concatenate([mirrored[:, :, shift:], mirrored[:, :, -shift:]], axis=2)
        return ops.concatenate([images, mirrored], axis=0)


def mean_of_mirrored(heatmap, flip_indices):
    """The mean (B, h, w, K + 1) of the heatmaps of B images and of their mirrored copies, which follow them."""
    plain, mirrored = ops.split(heatmap, 2, axis=0)
    mirrored = ops.take(ops.flip(mirrored, axis=2), [*flip_indices, len(flip_indices)], axis=3)
    return (plain + mirrored) / 2.0
