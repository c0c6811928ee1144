"""The graph that TensorFlow Serving runs: from image files to final poses, with pose NMS and rescoring inside."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from converters.encoded_images import MAX_IMAGES, encoded_images, with_checked_shape
from converters.final_poses import discount_scores, final_poses, select_poses
from dekr_tf.files.images import MAX_PIXELS
from dekr_tf.geometry import COARSEST_STRIDE
from dekr_tf.inference.rescoring import RescoringNet
from dekr_tf.models.folding import backbone_branches
from dekr_tf.models.pose_model import build_pose_model
from dekr_tf.preprocessing import most_pixels, normalization
from dekr_tf.sidecar import Sidecar


@dataclass(frozen=True)
class ServingOptions:
    """Options of a served graph.

    Attributes:
        nms: pose NMS in the graph; without it, all candidates are returned.
        rescore: a rescoring net, or its path, whose predicted OKS multiplies the pose scores.
        skip_bad_images: refuse only the bad images of a batch, with the reason as output `error`.
        max_pixels: larger images are refused; by default, and at most, the limit of `PoseDetector`.
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
        maps: from the same input; returns `heatmap` (B, H / 4, W / 4, K + 1) and `offset` (B, H / 4, W / 4, 2 K).

    Args:
        model: of `build_dekr`.
        sidecar: its settings, with `artifact`.
        options: of the graph; `rescore` must be an opened net.
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
        return discount_scores(outputs, sidecar)

    find = encoded_images(
        network, sidecar, max_pixels=options.max_pixels, max_images=MAX_IMAGES, skip_bad=options.skip_bad_images
    )

    def from_files(image_bytes):
        outputs = find(image_bytes)
        poses = final_poses(outputs, options.rescore)
        return {**poses, "error": outputs["error"]} if options.skip_bad_images else poses

    def from_tensors(image):
        return final_poses(network(checked(image)), options.rescore)

    # On the same backbone, so that its weights are stored once.
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
    """A function that returns images (B, H, W, 3) unchanged, or raises an error with the reason to refuse them."""
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
