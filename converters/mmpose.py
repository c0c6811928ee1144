"""mmpose's DEKR checkpoints under the names and conventions of the reference's.

The network is the same; what differs is how it is written down. Version 1 (mmpose/models/heads/hybrid_heads):

- The branches of the offset head are groups of one convolution, and translation and matrix are predicted together.
- A tap is displaced by A' g + t from its place q + g on the grid; the reference's A is I + A'.
- It predicts displacements, keypoint minus cell; the reference's offsets are their negatives.

Before version 1 the head is called `keypoint_head`, it predicts offsets as the reference does, and the center is the
first heatmap channel, not the last.
"""

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.inference.rescoring import count_features
from dekr_tf.keypoints import COCO, CROWDPOSE, KeypointSchema

#: Tensors that identify a checkpoint of each version.
KNOWN_BY = "head.displacement_conv_layers.0.conv.weight"
OLD_KNOWN_BY = "keypoint_head.offset_conv_layers.0.conv.weight"
OLD_PREFIXES = {
    "keypoint_head.offset_conv_layers.": "head.displacement_conv_layers.",
    "keypoint_head.": "head.",
    "rescore_net.": "head.rescore_net.",
}
#: Beginnings of names, the longest first where one is the beginning of another.
PREFIXES = {
    "backbone.": "",
    "head.heatmap_conv_layers.0.conv.": "transition_heatmap.0.",
    "head.heatmap_conv_layers.0.bn.": "transition_heatmap.1.",
    "head.heatmap_conv_layers.1.": "head_heatmap.0.0.",
    "head.heatmap_conv_layers.2.": "head_heatmap.1.",
    "head.displacement_conv_layers.0.conv.": "transition_offset.0.",
    "head.displacement_conv_layers.0.bn.": "transition_offset.1.",
    "head.rescore_net.": "",
}
HEATMAP = "head.heatmap_conv_layers.2."
BLOCKS = {"head.displacement_conv_layers.1.": 0, "head.displacement_conv_layers.2.": 1}
DISPLACEMENT = "head.displacement_conv_layers.3."
RESCORING = "head.rescore_net."
#: Rows of a branch's matrix and translation among (a_yy, a_yx, t_y, a_xy, a_xx, t_x).
MATRIX, TRANSLATION = [0, 1, 3, 4], [2, 5]
#: mmpose's order of the skeleton's edges, in which its rescoring nets take their features.
EDGES = {
    COCO.names: "15-13 13-11 16-14 14-12 11-12 5-11 6-12 5-6 5-7 6-8 7-9 8-10 1-2 0-1 0-2 1-3 2-4 3-5 4-6",
    CROWDPOSE.names: "10-8 8-6 11-9 9-7 6-7 0-6 1-7 0-1 0-2 1-3 2-4 3-5 12-13 1-13 0-13",
}


def is_mmpose(tensors: dict[str, np.ndarray]) -> bool:
    """Whether a state_dict is of an mmpose DEKR, of any version."""
    return KNOWN_BY in tensors or OLD_KNOWN_BY in tensors


def to_reference(tensors: dict[str, np.ndarray], schema: KeypointSchema) -> tuple[dict, dict]:
    """The same network in the reference's names and conventions.

    Args:
        tensors: a state_dict for which `is_mmpose` holds.
        schema: of the K keypoints.

    Returns:
        The tensors of the network, and those of the rescoring net that comes with it, empty if there is none. A tensor
        without a counterpart in the reference keeps its name.

    Raises:
        InputError: the rescoring net is of another skeleton than COCO's and CrowdPose's, whose edges are known.
    """
    if OLD_KNOWN_BY in tensors:
        tensors = _to_version_1(tensors)
    network, rescoring = {}, {}
    for name, value in tensors.items():
        block = next((prefix for prefix in BLOCKS if name.startswith(prefix)), None)
        if block:
            network |= _block(name.removeprefix(block), BLOCKS[block], value, len(schema))
        elif name.startswith(DISPLACEMENT):
            part = name.removeprefix(DISPLACEMENT)
            branches = _split(-value, len(schema))
            network |= {f"offset_final_layer.{index}.{part}": branch for index, branch in enumerate(branches)}
        else:
            target = rescoring if name.startswith(RESCORING) else network
            target[_renamed(name, PREFIXES)] = value
    return network, reorder_features(rescoring, schema) if rescoring else {}


def reorder_features(tensors: dict[str, np.ndarray], schema: KeypointSchema) -> dict[str, np.ndarray]:
    """A rescoring net of mmpose, changed to take its features in the order of the schema's edges.

    Args:
        tensors: `l1.weight` (256, F) and so on.
        schema: COCO's or CrowdPose's.

    Raises:
        InputError: another skeleton, or a net for other features.
    """
    if schema.names not in EDGES:
        raise InputError(f"mmpose's rescoring nets are for coco and crowdpose. Received: {schema.name}")
    weight = tensors.get("l1.weight")
    features = count_features(schema)
    if weight is None or weight.shape[1:] != (features,):
        received = "none" if weight is None else f"shape {weight.shape}"
        raise InputError(f"expected a rescoring net of {features} features. Received: l1.weight of {received}")
    edges = [tuple(map(int, edge.split("-"))) for edge in EDGES[schema.names].split()]
    ordered = weight.copy()
    for index, (first, second) in enumerate(schema.edges):
        turned = (first, second) not in edges
        there = edges.index((second, first) if turned else (first, second))
        vector = weight[:, 2 * there : 2 * there + 2]
        ordered[:, 2 * index : 2 * index + 2] = -vector if turned else vector
        ordered[:, 2 * len(edges) + index] = weight[:, 2 * len(edges) + there]
    return {**tensors, "l1.weight": ordered}


def _to_version_1(tensors):
    tensors = {_renamed(name, OLD_PREFIXES): value for name, value in tensors.items()}
    for name, value in tensors.items():
        if name.startswith(HEATMAP):
            tensors[name] = np.concatenate([value[1:], value[:1]])
        elif name.startswith(DISPLACEMENT):
            tensors[name] = -value
    return tensors


def _renamed(name, prefixes):
    theirs = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return prefixes.get(theirs, "") + name.removeprefix(theirs)


def _split(value, branches):
    """The shares of the branches, or the undivided value, which the check of shapes then refuses."""
    return np.split(value, branches) if value.ndim and len(value) % branches == 0 else [value]


def _block(part, block, value, branches):
    """Splits a tensor of an adaptive block, for all branches, into one or two for each."""
    kind, _, variable = part.rpartition(".")
    result = {}
    for index, share in enumerate(_split(value, branches)):
        source = f"offset_feature_layers.{index}.{block}"
        if kind != "transform_matrix_conv":
            result[f"{source}.{'bn' if kind == 'norm' else kind}.{variable}"] = share
            continue
        if len(share) != 6:
            return {f"{source}.{part}": value}
        matrix = share[MATRIX]
        if variable == "bias":
            matrix = matrix + np.array([1, 0, 0, 1], np.float32)
        result[f"{source}.transform_matrix_conv.{variable}"] = matrix
        result[f"{source}.translation_conv.{variable}"] = share[TRANSLATION]
    return result
