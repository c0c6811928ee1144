"""From candidates to final poses inside a graph: pose NMS, the discount for keypoint errors, rescoring, sorting.

TensorFlow Serving's graph and the files for devices share it, so it has no loops and needs only builtin operators of
TFLite and ONNX. `inference.decoder` and `inference.rescoring` do the same in NumPy.
"""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from dekr_tf.config import DecoderConfig
from dekr_tf.files.coco_format import AREA_PER_BOX
from dekr_tf.inference.rescoring import MIN_SIZE, RescoringNet
from dekr_tf.layers.backend import gather_rows
from dekr_tf.sidecar import Sidecar

#: Finite, since some engines select by multiplication.
LOWEST = np.finfo(np.float32).min


class FinalPoses(keras.layers.Layer):
    """The last layer of an exported network whose `Artifact` is `final`.

    Args:
        sidecar: settings of the network.
        net: rescoring net, or None.

    Input: candidates of `build_pose_model`. Output: what `final_poses` returns, in pixels of the network's input.
    """

    def __init__(self, sidecar: Sidecar, net: RescoringNet | None, **kwargs):
        super().__init__(**kwargs)
        self.sidecar = sidecar
        self.net = net

    def call(self, candidates):
        kept = select_poses(candidates, self.sidecar.decoder)
        return final_poses(discount_scores(kept, self.sidecar), self.net)


def select_poses(candidates: Mapping[str, tf.Tensor], config: DecoderConfig) -> dict[str, tf.Tensor]:
    """Pose NMS in the graph; keeps the poses that `inference.decoder.select_poses` keeps, in the same order.

    Args:
        candidates: `keypoints` (B, N, K, 2), `keypoint_scores` (B, N, K) and `center_scores` (B, N), zero where there
            is no candidate.
        config: thresholds of pose NMS.

    Returns:
        The same. Each kept pose is at the place of the candidate that chose it; the other places are zero.
    """
    keypoints, keypoint_scores = candidates["keypoints"], candidates["keypoint_scores"]
    center_scores = candidates["center_scores"]
    people, count = keypoints.shape[1:3]
    threshold = count // 2 if config.nms_keypoints is None else config.nms_keypoints
    found = (center_scores != 0) & _all_finite(keypoint_scores, 2) & _all_finite(keypoints, (2, 3))
    ranks = tf.reduce_mean(keypoint_scores, axis=2)
    if not config.peak_distance:
        ranks = ranks / tf.where(found, center_scores, 1.0)

    extents = tf.reduce_max(keypoints, axis=2) - tf.reduce_min(keypoints, axis=2)
    limits = tf.square(config.nms_distance * tf.sqrt(tf.reduce_sum(tf.square(extents), axis=2)))
    squared_distances = 0.0
    for axis in range(2):
        along = keypoints[..., axis]
        squared_distances += tf.square(along[:, :, None] - along[:, None])  # (B, N, N, K)
    near = tf.reduce_sum(tf.cast(squared_distances <= limits[:, :, None, None], tf.float32), axis=3)
    same_person = ((near > threshold) | tf.eye(people, dtype=tf.bool)) & found[:, None]
    best = tf.argmax(tf.where(same_person, ranks[:, None], LOWEST), axis=2, output_type=tf.int32)

    # An earlier candidate that keeps a pose rules out a later one if its group contains that one, or the best of that
    # one's group: ruled_out[b, i, j] is 1 where i < j and i, if it keeps a pose, rules out j.
    groups = tf.transpose(tf.cast(same_person, tf.float32), (0, 2, 1))
    ruled_out = tf.transpose(tf.maximum(groups, _rows_of_images(groups, best)), (0, 2, 1))
    ruled_out *= np.triu(np.ones((people, people), np.float32), 1)
    # The first candidate is right from the start, and each round settles the next one, as those before it are settled.
    start = tf.cast(found, tf.float32)[:, None]
    keeps = start
    for _ in range(people - 1):
        keeps = tf.nn.relu(start - tf.matmul(keeps, ruled_out))
    keeps = keeps[:, 0] > 0
    return {name: _where(keeps, _rows_of_images(values, best)) for name, values in candidates.items()}


def discount_scores(poses: Mapping[str, tf.Tensor], sidecar: Sidecar) -> dict[str, tf.Tensor]:
    """`inference.decoder.discount_scores` in the graph.

    Args:
        poses: of `select_poses`, or candidates, in pixels of the network's input.
        sidecar: settings of the network.

    Returns:
        The same with discounted `keypoint_scores`.
    """
    if not sidecar.decoder.keypoint_error:
        return dict(poses)
    similarity = expected_similarity(poses["keypoints"], sidecar)
    return {**poses, "keypoint_scores": poses["keypoint_scores"] * similarity}


def expected_similarity(keypoints: tf.Tensor, sidecar: Sidecar) -> tf.Tensor:
    """`oks.expected_similarity` in the graph, (B, N, K), of poses (B, N, K, 2) in pixels of the network's input."""
    extents = tf.reduce_max(keypoints, axis=2) - tf.reduce_min(keypoints, axis=2)
    falloffs = np.square(2 * np.array(sidecar.schema.oks_sigmas, np.float32))
    variances = AREA_PER_BOX * (extents[..., :1] * extents[..., 1:]) * falloffs
    return variances / (variances + sidecar.decoder.keypoint_error**2)


def predict_oks(keypoints: tf.Tensor, net: RescoringNet) -> tf.Tensor:
    """`RescoringNet.predict_oks` in the graph: the predicted OKS (B, N) of poses (B, N, K, 3)."""
    people = keypoints.shape[1]

    def vectors(edges):
        first, second = (list(ends) for ends in zip(*edges, strict=True))
        points = keypoints[..., :2]
        return tf.gather(points, first, axis=2) - tf.gather(points, second, axis=2)

    def lengths(vectors):
        return tf.sqrt(tf.reduce_sum(tf.square(vectors), axis=3))

    size = tf.reduce_mean(lengths(vectors(net.schema.normalization_edges)), axis=2)
    edges = vectors(net.schema.edges) / tf.maximum(size, MIN_SIZE)[..., None, None]
    flat = tf.reshape(edges, (-1, people, 2 * len(net.schema.edges)))
    values = tf.concat([flat, lengths(edges), keypoints[..., 2]], axis=2)
    values = tf.reshape(values, (-1, values.shape[2]))
    for index, (kernel, bias) in enumerate(net.layers):
        values = tf.matmul(values, tf.constant(kernel)) + tf.constant(bias)
        if index + 1 < len(net.layers):
            values = tf.nn.relu(values)
    return tf.reshape(values, (-1, people))


def final_poses(poses: Mapping[str, tf.Tensor], net: RescoringNet | None) -> dict[str, tf.Tensor]:
    """The outputs of a graph that ends at final poses.

    Args:
        poses: of `discount_scores`.
        net: rescoring net, or None.

    Returns:
        `keypoints` (B, N, K, 3), x, y and score, and the pose scores `scores` (B, N), best first, zero after the last
        pose; `num_poses` (B,) int32.
    """
    found = poses["center_scores"] != 0
    keypoints = tf.concat([poses["keypoints"], poses["keypoint_scores"][..., None]], axis=3)
    scores = tf.reduce_mean(poses["keypoint_scores"], axis=2)
    if net is not None:
        scores *= predict_oks(keypoints, net)
    # Empty places come last, even after negative scores, which a rescoring net may cause.
    scores, order = tf.math.top_k(tf.where(found, scores, LOWEST), scores.shape[1])
    num_poses = tf.reduce_sum(tf.cast(found, tf.int32), axis=1)
    return {
        "keypoints": _rows_of_images(keypoints, order),
        "scores": tf.where(tf.range(scores.shape[1]) < num_poses[:, None], scores, 0.0),
        "num_poses": num_poses,
    }


def _all_finite(values, axes):
    """Whether all values along these axes are finite; TFLite has no `is_finite`."""
    return tf.reduce_all(tf.abs(values) <= -LOWEST, axis=axes)


def _where(chosen, values):
    """Values (B, N, ...) where `chosen` (B, N), else zero."""
    for _ in range(values.shape.rank - 2):
        chosen = chosen[..., None]
    return tf.where(chosen, values, 0.0)


def _rows_of_images(values, indices):
    """The rows `indices` (B, M) of each image's values (B, N, ...)."""
    _, people, *shape = values.shape
    first = tf.range(tf.shape(indices)[0])[:, None] * people
    rows = gather_rows(tf.reshape(values, (-1, *shape)), tf.reshape(indices + first, (-1,)))
    return tf.reshape(rows, (-1, indices.shape[1], *shape))
