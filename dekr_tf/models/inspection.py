"""What a regressed keypoint depends on: where its adaptive convolutions read, and its gradient by input pixels."""

from collections.abc import Sequence

import keras
import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.geometry import GRID, OUTPUT_STRIDE
from dekr_tf.layers.adaptive_conv import AdaptiveConv2D
from dekr_tf.layers.branch_conv import branch_conv
from dekr_tf.models.dekr import branch_groups
from dekr_tf.sidecar import Sidecar


def activated_positions(
    model: keras.Model,
    sidecar: Sidecar,
    image: np.ndarray,
    rows: Sequence[int],
    columns: Sequence[int],
    keypoint: int,
) -> list[np.ndarray]:
    """The positions that the adaptive convolutions of a keypoint's branch read for its offset (paper Figure 4).

    The last block has nine taps about a cell; the block before it has nine about each of these, and so on. A tap that
    lies between cells reads up to four of them, each with its own matrix and translation: the taps returned for it are
    their mean, weighted as the interpolation weights the cells. The identity shortcuts read the cell itself.

    Args:
        model: of `build_dekr`.
        sidecar: its settings.
        image: (H, W, 3) network input.
        rows, columns: N cells of the map, such as people's centers.
        keypoint: index of the keypoint.

    Returns:
        For each block, the last one first, positions (N, 9, 2), (N, 81, 2) and so on: x, y in pixels of the network's
        input; NaN for the taps about a position outside the map, where nothing is read.

    Raises:
        InputError: the offset head has no adaptive convolutions.
    """
    groups = branch_groups(sidecar.model.offset_head, sidecar.schema)
    (group,) = (group for group in groups if keypoint in group)
    branch = [other for other in groups if len(other) == len(group)].index(group)
    prefix = f"offset_g{len(group)}_block"
    convs = [layer for layer in model.layers if layer.name.startswith(prefix) and layer.name.endswith("_conv")]
    if not convs or not all(isinstance(layer, AdaptiveConv2D) for layer in convs):
        raise InputError(
            f"expected an offset head of adaptive convolutions. Received: {sidecar.model.offset_head.block} blocks"
        )
    inputs = keras.Model(model.input, [layer.input for layer in convs])(image[None], training=False)
    positions = np.stack([np.asarray(rows), np.asarray(columns)], axis=-1).astype(np.float64)[:, None]
    activated = []
    for layer, features in reversed(list(zip(convs, inputs if len(convs) > 1 else [inputs], strict=True))):
        positions = _taps_at(positions, _branch_offsets(layer, features, branch))
        activated.append(positions[..., ::-1] * OUTPUT_STRIDE)
    return activated


def saliency(
    model: keras.Model, image: np.ndarray, rows: Sequence[int], columns: Sequence[int], keypoint: int
) -> np.ndarray:
    """How much each input pixel moves the keypoint that a cell regresses (paper Figure 1).

    That is the norm of the gradient of the keypoint's x and y with respect to the pixel's three colors. It needs
    Keras' TensorFlow backend, and takes two backward passes through the network for each cell.

    Args:
        model: of `build_dekr`, or any whose output `offset` (1, h, w, 2 K) is grid minus keypoint in map pixels.
        image: (H, W, 3) network input.
        rows, columns: N cells of the map, such as people's centers.
        keypoint: index of the keypoint.

    Returns:
        (N, H, W) float32, >= 0: input pixels for a change of 1 in normalized color.

    Raises:
        InputError: Keras runs on another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise InputError(f"saliency: expected TensorFlow as backend of Keras. Received: {keras.backend.backend()}")
    import tensorflow as tf

    images = tf.convert_to_tensor(image[None], tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        offset = model(images, training=False)["offset"]
        values = [
            [offset[0, row, column, 2 * keypoint + axis] for axis in (0, 1)]
            for row, column in zip(rows, columns, strict=True)
        ]
    lengths = []
    for cell in values:
        gradients = np.stack([tape.gradient(value, images)[0].numpy() for value in cell])
        lengths.append(OUTPUT_STRIDE * np.sqrt(np.square(gradients).sum(axis=(0, 3))))
    return np.array(lengths, np.float32).reshape(-1, *image.shape[:2])


def _branch_offsets(layer: AdaptiveConv2D, features, branch: int) -> np.ndarray:
    """The offsets that place the taps of a branch: (h, w, 6), see `sample_and_convolve`."""
    channels = features.shape[-1] // layer.branches
    part = keras.ops.cast(features, "float32")[None, ..., branch * channels : (branch + 1) * channels]
    kernel = keras.ops.convert_to_tensor(layer.offset_kernel)[branch : branch + 1]
    offsets = branch_conv(part, kernel) + keras.ops.convert_to_tensor(layer.offset_bias)[branch]
    return keras.ops.convert_to_numpy(offsets)[0, 0]


def _taps_at(positions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The taps of positions (N, P, 2), y and x in map pixels, by offsets (h, w, 6): (N, 9 P, 2)."""
    # A position of NaN goes outside the map, since it reads nothing either.
    positions = np.nan_to_num(positions, nan=-2.0)
    first = np.floor(positions)
    corners = first[..., None, :] + [(0, 0), (0, 1), (1, 0), (1, 1)]
    shares = (1 - np.abs(positions[..., None, :] - corners)).prod(axis=-1)
    last = np.array(offsets.shape[:2]) - 1
    shares *= ((corners >= 0) & (corners <= last)).all(axis=-1)
    cells = np.clip(corners, 0, last).astype(int)
    yy, yx, xy, xx, ty, tx = np.moveaxis(offsets[cells[..., 0], cells[..., 1]][..., None], -2, 0)
    grid_y, grid_x = np.array(GRID).T
    taps = np.stack([yy * grid_y + yx * grid_x + ty, xy * grid_y + xx * grid_x + tx], axis=-1) + corners[..., None, :]
    total = shares.sum(axis=-1)
    mean = (taps * shares[..., None, None]).sum(axis=2) / np.where(total > 0, total, np.nan)[..., None, None]
    return mean.reshape(len(positions), 9 * positions.shape[1], 2)
