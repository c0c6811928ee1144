"""One network from image to poses, for inference: the offset head is evaluated at the centers only."""

import keras
import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.keypoints import warn_without_flip_pairs
from dekr_tf.layers.append_mirrored import AppendMirrored, mean_of_mirrored
from dekr_tf.layers.find_centers import FindCenters
from dekr_tf.layers.read_poses import ReadPoses
from dekr_tf.layers.sparse_offset_head import SparseOffsetHead, padded_channels
from dekr_tf.models.dekr import OrderKeypoints
from dekr_tf.models.folding import branches_of_size, fold_batch_norm, fold_maps, fold_offset_head, transition
from dekr_tf.sidecar import Sidecar


def build_pose_model(
    model: keras.Model,
    sidecar: Sidecar,
    image_size: tuple[int | None, int | None] = (None, None),
    *,
    batch_size: int | None = None,
    flip: bool = False,
    heatmap_output: bool = False,
    fusible: bool = False,
) -> keras.Model:
    """Builds the network from image to candidate poses, with a copy of the weights that `model` has now.

    Batch normalization is folded into the convolutions. The offset head (paper section 3.1) is evaluated at the best
    centers only, with the result of the dense head there.

    Args:
        model: of `build_dekr`.
        sidecar: its settings, of which skeleton and decoder are used.
        image_size: (height, width) of the input, multiples of 32; by default any.
        batch_size: number of images; by default any.
        flip: flip test: the network also runs on each mirrored image, and the two results are averaged.
        heatmap_output: with the heatmap among the outputs, for the multi-scale test and matching.
        fusible: for engines other than TensorFlow, which may fuse convolutions with the additions after them.
            TensorFlow's fused kernel is not thread-safe, so by default subtractions of negatives take the place of
            additions, with bit-identical results.

    Returns:
        A functional model from `image` (B, H, W, 3), normalized RGB, to a dict of float32 arrays for the
        N = `decoder.max_people` best centers, highest first: `keypoints` (B, N, K, 2), x and y in input pixels;
        `keypoint_scores` (B, N, K), center score times heat value; `center_scores` (B, N). If fewer centers are above
        the threshold, the rest is zero in all three. With `heatmap_output` also `heatmap` (B, h, w, K + 1), which is
        the mean of the two with flip test.

    Raises:
        InputError: the model is not one of `build_dekr`, or has another skeleton.
    """
    schema, decoder = sidecar.schema, sidecar.decoder
    if flip:
        warn_without_flip_pairs(schema, "the flip test", "do without it")
    try:
        maps = fold_maps(model, fusible)
        entrance = fold_batch_norm(model, "offset_transition")
        head = fold_offset_head(model)
    except ValueError as error:
        raise InputError(f"expected a network of build_dekr. Received: {model.name}, {error}") from error
    channels = maps.outputs[0].shape[-1]
    if channels != len(schema) + 1:
        raise InputError(f"skeleton {schema.name}: expected {len(schema) + 1} heatmap channels. Received: {channels}")

    image = keras.Input((*image_size, 3), batch_size=batch_size, name="image")
    heatmap, *features = maps(AppendMirrored(name="append_mirrored")(image) if flip else image)
    centers = FindCenters(decoder.max_people, decoder.center_threshold, flip, name="find_centers")
    rows, columns, scores = centers(heatmap)
    offset = _offset_at(rows, columns, features, entrance, head)
    poses = ReadPoses(schema.flip_indices if flip else None, decoder.peak_distance, name="read_poses")
    outputs = poses(heatmap, offset, rows, columns, scores)
    if heatmap_output:
        outputs = {**outputs, "heatmap": mean_of_mirrored(heatmap, schema.flip_indices) if flip else heatmap}
    return keras.Model(image, outputs, name="dekr_poses")


def _offset_at(rows, columns, features, entrance, head):
    """The dense head's offsets (B, N, 2 K) at the cells of rows and columns (B, N).

    Args:
        features: the backbone's branches.
        entrance: kernel and bias of the head's transition, of `fold_batch_norm`.
        head: the rest of it, of `fold_offset_head`.
    """
    offsets = []
    start = 0
    for size in head["sizes"]:
        part = branches_of_size(head, size)
        branches, channels, outputs = part["final_kernel"].shape
        padded = padded_channels(channels)
        end = start + branches * channels
        enter = [_pad_branches(each[..., start:end], branches, padded) for each in entrance]
        start = end
        sparse = SparseOffsetHead(
            branches,
            padded,
            outputs,
            blocks=sum(name.startswith("kernel") for name in part),
            dilation=int(head["dilation"]),
            dtype="float32",
            name=f"sparse_offset_g{size}",
        )
        offsets.append(sparse(transition(features, *enter, f"sparse_transition_g{size}"), rows, columns))
        sparse.load(part)
    offset = keras.layers.Concatenate(name="offset_branches")(offsets) if len(offsets) > 1 else offsets[0]
    if list(head["order"]) == sorted(head["order"]):
        return offset
    return OrderKeypoints(head["order"].tolist(), dtype="float32", name="offset_order")(offset)


def _pad_branches(array, branches, padded):
    """(..., G C) -> (..., G padded), with zeros after the channels of each branch."""
    split = array.reshape(*array.shape[:-1], branches, -1)
    split = np.pad(split, [(0, 0)] * (split.ndim - 1) + [(0, padded - split.shape[-1])])
    return split.reshape(*array.shape[:-1], branches * padded)
