"""The two losses of DEKR (paper section 3.2; lib/core/loss.py of the reference).

Keras' losses average over the channels before they apply weights; these weights differ from channel to channel, and the
offset loss is divided by the positives of the whole batch.
"""

from keras import ops

#: Where the smooth L1 loss turns from a parabola into a line, in map pixels.
SMOOTH_L1_BETA = 1.0 / 9.0


def heatmap_loss(predicted, target, weight):
    """Weighted squared error, averaged over every value of the batch.

    Args:
        predicted: (B, h, w, K + 1) heatmaps.
        target: likewise.
        weight: likewise; 0 in regions that do not count.

    Returns:
        A scalar.
    """
    return ops.mean(ops.square(predicted - target) * weight)


def heatmap_cross_entropy(predicted, target, weight):
    """Weighted binary cross-entropy, averaged over every value of the batch, for heatmaps from a sigmoid.

    Args:
        predicted: (B, h, w, K + 1) heatmaps, 0 to 1.
        target: likewise.
        weight: likewise; 0 in regions that do not count.

    Returns:
        A scalar.
    """
    return ops.mean(ops.binary_crossentropy(target, predicted) * weight)


def offset_loss(predicted, target, weight, positives=None):
    """Weighted smooth L1 distance, summed and divided by the number of values with a weight, at least 1.

    Args:
        predicted: offsets, grid minus keypoint in map pixels: (B, h, w, 2 K), or (N, 2 K) of single cells.
        target: likewise.
        weight: likewise; 0 where no offset is supervised.
        positives: number to divide by instead, for a part of a larger batch.

    Returns:
        A scalar.
    """
    distance = ops.abs(predicted - target)
    parabola = 0.5 / SMOOTH_L1_BETA * ops.square(distance)
    line = distance - 0.5 * SMOOTH_L1_BETA
    total = ops.sum(ops.where(distance < SMOOTH_L1_BETA, parabola, line) * weight)
    if positives is None:
        positives = ops.sum(ops.cast(weight > 0, weight.dtype))
    return total / ops.maximum(positives, 1)
