"""The graph that TensorFlow Serving runs: from image files to final poses, with pose NMS and rescoring inside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from converters.encoded_images import MAX_IMAGES, encoded_images, with_checked_shape
from dekr_tf.config import DecoderConfig
from dekr_tf.files.coco_format import AREA_PER_BOX
from dekr_tf.files.images import MAX_PIXELS
from dekr_tf.geometry import COARSEST_STRIDE
from dekr_tf.inference.rescoring import MIN_SIZE, RescoringNet
from dekr_tf.models.folding import backbone_branches
from dekr_tf.models.pose_model import build_pose_model
from dekr_tf.preprocessing import most_pixels, normalization
from dekr_tf.sidecar import Sidecar


@dataclass(frozen=True)
class ServingOptions:
    """What a served graph does.

    Attributes:
        nms: pose NMS in the graph; else the candidates are returned.
        rescore: a rescoring net, or its path, to multiply the pose scores by the OKS that it expects.
        skip_bad_images: refuse only the bad images of a batch, with the reason as output `error`.
        max_pixels: larger images are refused; at most, and by default, the limit of `PoseDetector`.
    """

    nms: bool = True
    rescore: RescoringNet | str | Path | None = None
    skip_bad_images: bool = False
    max_pixels: int = MAX_PIXELS


def serving_signatures(
    model: keras.Model, sidecar: Sidecar, options: ServingOptions
) -> tuple[dict[str, tuple[Callable, tf.TensorSpec]], list[keras.Variable]]:
    """The three signatures of a served model, and their variables, for `to_saved_model.save_signatures`.

    Signatures:
        serving_default: `image_bytes` (B,), JPEG or PNG files, of any sizes; returns final poses in pixels of each.
        tensors: `image` (B, H, W, 3) uint8 RGB of a size that the network takes; returns final poses in its pixels.
        maps: the same; returns `heatmap` (B, H / 4, W / 4, K + 1) and `offset` (B, H / 4, W / 4, 2 K).

    Args:
        model: of `build_dekr`.
        sidecar: its settings, with `artifact`.
        options: what the graph does; a rescoring net is open.
    """
    graph = build_pose_model(model, sidecar, flip=sidecar.artifact.flip)
    size = sidecar.artifact.input_sizes[0] if sidecar.artifact.input_sizes else (None, None)
    scale, shift = normalization(sidecar.mean, sidecar.std)
    checked = _input_check(size, sidecar.input_size)

    def normalized(image):
        return tf.cast(image, tf.float32) * scale + shift

    def network(image):
        outputs = graph(normalized(image), training=False)
        if options.nms:
            outputs = select_poses(outputs, sidecar.decoder)
        if sidecar.decoder.keypoint_error:
            similarity = expected_similarity(outputs["keypoints"], sidecar)
            outputs["keypoint_scores"] *= similarity
        return outputs

    find = encoded_images(
        network, sidecar, max_pixels=options.max_pixels, max_images=MAX_IMAGES, skip_bad=options.skip_bad_images
    )

    def from_files(image_bytes):
        return final_poses(find(image_bytes), options.rescore)

    def from_tensors(image):
        return final_poses(network(checked(image)), options.rescore)

    # With the same backbone, so that its weights are there once.
    heatmap_and_branches = graph.get_layer("maps")
    offset_head = keras.Model(backbone_branches(model), model.output["offset"])

    def maps(image):
        heatmap, *branches = heatmap_and_branches(normalized(checked(image)), training=False)
        return {"heatmap": heatmap, "offset": offset_head(branches, training=False)}

    image = tf.TensorSpec((None, *size, 3), tf.uint8, name="image")
    endpoints = {
        "serving_default": (from_files, tf.TensorSpec((None,), tf.string, name="image_bytes")),
        "tensors": (from_tensors, image),
        "maps": (maps, image),
    }
    return endpoints, [*graph.variables, *offset_head.variables]


def _input_check(size, input_size):
    """A function that returns images (B, H, W, 3) as they are, or raises an error with the reason why not."""
    if all(size):
        kind = f"1 to {MAX_IMAGES} images of {size[0]}x{size[1]}x3"
    else:
        largest = most_pixels(input_size)
        kind = (
            f"1 to {MAX_IMAGES} images, sides multiples of {COARSEST_STRIDE} and at most {largest} pixels, of 3 colors"
        )

    def fits(shape):
        count, height, width, channels = tf.unstack(tf.cast(shape, tf.int64))
        if all(size):
            good = (height == size[0]) & (width == size[1])
        else:
            good = (height > 0) & (width > 0) & (height % COARSEST_STRIDE == 0) & (width % COARSEST_STRIDE == 0)
            good &= height * width <= largest
        return good & (count >= 1) & (count <= MAX_IMAGES) & (channels == 3)

    return lambda image: with_checked_shape(image, 4, fits, kind)


def select_poses(candidates: Mapping[str, tf.Tensor], config: DecoderConfig) -> dict[str, tf.Tensor]:
    """Pose NMS in the graph; keeps what `inference.decoder.select_poses` keeps, in the same order.

    Args:
        candidates: `keypoints` (B, N, K, 2), `keypoint_scores` (B, N, K) and `center_scores` (B, N), zero where there
            is no candidate.
        config: thresholds of pose NMS.

    Returns:
        The same, those that are kept first; zero behind them.
    """
    keypoints, keypoint_scores = candidates["keypoints"], candidates["keypoint_scores"]
    center_scores = candidates["center_scores"]
    images, people = tf.unstack(tf.shape(center_scores))
    count = keypoints.shape[2]
    threshold = count // 2 if config.nms_keypoints is None else config.nms_keypoints
    found = center_scores != 0
    heat = tf.math.divide_no_nan(tf.reduce_mean(keypoint_scores, axis=2), center_scores)

    extents = tf.reduce_max(keypoints, axis=2) - tf.reduce_min(keypoints, axis=2)
    limits = tf.square(config.nms_distance * tf.norm(extents, axis=-1))
    # Keypoint by keypoint: (B, N, N, K, 2) at once would be large.
    near = tf.zeros((images, people, people), tf.int32)
    for index in range(count):
        points = keypoints[:, :, index]
        squared = tf.reduce_sum(tf.square(points[:, :, None] - points[:, None]), axis=-1)
        near += tf.cast(squared <= limits[:, :, None], tf.int32)
    same_person = (near > threshold) | tf.eye(people, dtype=tf.bool)
    same_person &= found[:, None]

    def walk(index, suppressed, places, kept):
        group = same_person[:, index]
        best = tf.argmax(tf.where(group, heat, -np.inf), axis=1, output_type=tf.int32)
        best = tf.one_hot(best, people, on_value=True, off_value=False, dtype=tf.bool)
        free = ~suppressed[:, index] & found[:, index] & ~tf.reduce_any(best & suppressed, axis=1)
        places = tf.where(best & free[:, None], kept[:, None], places)
        return index + 1, suppressed | (group & free[:, None]), places, kept + tf.cast(free, tf.int32)

    # Places in the result; those that are not kept come last.
    start = 0, tf.zeros_like(found), tf.fill((images, people), people), tf.zeros((images,), tf.int32)
    _, _, places, kept = tf.while_loop(lambda index, *_: index < people, walk, start)
    order = tf.argsort(places, axis=1, stable=True)
    stays = tf.range(people) < kept[:, None]
    return {
        name: tf.where(
            tf.reshape(stays, (images, people, *[1] * (values.shape.rank - 2))),
            tf.gather(values, order, axis=1, batch_dims=1),
            0.0,
        )
        for name, values in candidates.items()
    }


def expected_similarity(keypoints: tf.Tensor, sidecar: Sidecar) -> tf.Tensor:
    """`oks.expected_similarity` in the graph: of poses (..., K, 2) in pixels of the network's input, (..., K)."""
    extents = tf.reduce_max(keypoints, axis=-2) - tf.reduce_min(keypoints, axis=-2)
    falloffs = np.square(2 * np.array(sidecar.schema.oks_sigmas, np.float32))
    variances = AREA_PER_BOX * tf.reduce_prod(extents, axis=-1)[..., None] * falloffs
    return variances / (variances + sidecar.decoder.keypoint_error**2)


def predict_oks(keypoints: tf.Tensor, net: RescoringNet) -> tf.Tensor:
    """`RescoringNet.predict_oks` in the graph: of poses (..., K, 3), the OKS (...) to expect."""

    def vectors(edges):
        first, second = (list(ends) for ends in zip(*edges, strict=True))
        points = tf.cast(keypoints[..., :2], tf.float64)
        return tf.gather(points, first, axis=-2) - tf.gather(points, second, axis=-2)

    size = tf.reduce_mean(tf.norm(vectors(net.schema.normalization_edges), axis=-1), axis=-1)
    edges = vectors(net.schema.edges) / tf.maximum(size, MIN_SIZE)[..., None, None]
    flat = tf.reshape(edges, tf.concat([tf.shape(edges)[:-2], [2 * len(net.schema.edges)]], axis=0))
    scores = tf.cast(keypoints[..., 2], tf.float64)
    values = tf.cast(tf.concat([flat, tf.norm(edges, axis=-1), scores], axis=-1), tf.float32)
    for index, (kernel, bias) in enumerate(net.layers):
        values = tf.tensordot(values, tf.constant(kernel), 1) + tf.constant(bias)
        if index + 1 < len(net.layers):
            values = tf.nn.relu(values)
    return values[..., 0]


def final_poses(outputs, net):
    """What is answered, best first: keypoints (B, N, K, 3) with their scores, pose scores (B, N), num_poses (B,)."""
    keypoints = tf.concat([outputs["keypoints"], outputs["keypoint_scores"][..., None]], axis=-1)
    scores = tf.reduce_mean(outputs["keypoint_scores"], axis=-1)
    found = outputs["center_scores"] > 0
    if net is not None:
        scores = tf.where(found, scores * predict_oks(keypoints, net), 0.0)
    # What is no person stays behind them, as the scores of a rescoring net may be negative.
    order = tf.argsort(tf.where(found, -scores, np.inf), axis=1, stable=True)
    poses = {
        "keypoints": tf.gather(keypoints, order, axis=1, batch_dims=1),
        "scores": tf.gather(scores, order, axis=1, batch_dims=1),
        "num_poses": tf.math.count_nonzero(found, axis=1, dtype=tf.int32),
    }
    return {**poses, "error": outputs["error"]} if "error" in outputs else poses
