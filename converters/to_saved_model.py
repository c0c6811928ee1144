"""SavedModels for TensorFlow and TF Serving."""

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from dekr_tf.geometry import SIZE_MULTIPLE, round_up
from dekr_tf.sidecar import Sidecar


def write_saved_model(graph: keras.Model, sidecar: Sidecar, folder: Path) -> None:
    """Writes a network as a SavedModel for any number of images and, unless `artifact.input_sizes` says one, any size.

    Signatures:
        serving_default: `image` (B, H, W, 3) float32, normalised RGB, H and W multiples of 32; returns what `graph`
            returns, keypoints in pixels of the input.
        uint8: the same from RGB as it is.
        encoded: `image_bytes` (B,), JPEG, PNG, BMP or GIF files, of any sizes; brings them to the network's size as
            `PoseDetector` does, and returns keypoints in pixels of each image. Of the graph `poses` only. EXIF
            orientation is not looked at.

    Args:
        graph: of `converters.graphs.build_graph`, with normalised float32 input.
        sidecar: its settings, with `artifact`.
        folder: to write to.
    """
    size = sidecar.artifact.input_sizes[0] if sidecar.artifact.input_sizes else (None, None)
    mean, std = tf.constant(sidecar.mean), tf.constant(sidecar.std)

    def normalized(image):
        return (tf.cast(image, tf.float32) / 255.0 - mean) / std

    def from_floats(image):
        return graph(image, training=False)

    def from_bytes(image):
        return graph(normalized(image), training=False)

    endpoints = {
        "serving_default": (from_floats, tf.TensorSpec((None, *size, 3), tf.float32, name="image")),
        "uint8": (from_bytes, tf.TensorSpec((None, *size, 3), tf.uint8, name="image")),
    }
    if sidecar.artifact.graph == "poses":
        encoded = encoded_images(lambda image: graph(normalized(image), training=False), sidecar)
        endpoints["encoded"] = (encoded, tf.TensorSpec((None,), tf.string, name="image_bytes"))
    archive = keras.export.ExportArchive()
    archive.track(graph)
    for name, (function, specification) in endpoints.items():
        archive.add_endpoint(name, function, [specification])
    archive.write_out(folder, verbose=False)


def encoded_images(network: Callable, sidecar: Sidecar) -> Callable:
    """A function from encoded images to poses in their own pixels.

    Args:
        network: from (B, H, W, 3), 0..255, to a dict with `keypoints` (B, N, K, 2) in input pixels.
        sidecar: its settings. With an input size in `artifact`, images are made as large as fit into it; else each
            gets the size that `PoseDetector` gives it, and, in a batch, black on the right and below up to the largest.
    """
    fixed = sidecar.artifact.input_sizes[0] if sidecar.artifact.input_sizes else None

    def infer(image_bytes):
        pixels, sizes = tf.map_fn(
            _decode,
            image_bytes,
            fn_output_signature=(tf.RaggedTensorSpec((None,), tf.uint8, 0), tf.TensorSpec((2,), tf.int32)),
        )
        if fixed:
            inner = tf.broadcast_to(tf.constant(fixed), tf.shape(sizes))
        else:
            inner = _network_sizes(sizes, sidecar.input_size)
        transforms = _transforms(tf.cast(sizes, tf.float64), tf.cast(inner, tf.float64))
        canvas = tf.reduce_max(inner, axis=0)

        def warp(values):
            flat, size, inside, transform = values
            image = tf.reshape(flat, (1, size[0], size[1], 3))
            image = tf.raw_ops.ImageProjectiveTransformV3(
                images=image,
                transforms=tf.cast(tf.concat([transform, [0.0, 0.0]], axis=0), tf.float32)[None],
                output_shape=inside,
                fill_value=0.0,
                interpolation="BILINEAR",
                fill_mode="CONSTANT",
            )[0]
            rest = canvas - inside
            return tf.pad(image, [[0, rest[0]], [0, rest[1]], [0, 0]])

        images = tf.map_fn(
            warp, (pixels, sizes, inner, transforms), fn_output_signature=tf.TensorSpec((None, None, 3), tf.uint8)
        )
        if fixed:
            images = tf.ensure_shape(images, (None, *fixed, 3))
        outputs = dict(network(images))
        zoom, shift_x, shift_y = (tf.cast(transforms[:, index], tf.float32) for index in (0, 2, 5))
        shift = tf.stack([shift_x, shift_y], axis=-1)
        keypoints = outputs["keypoints"] * zoom[:, None, None, None] + shift[:, None, None]
        found = outputs["center_scores"][..., None, None] > 0
        outputs["keypoints"] = tf.where(found, keypoints, 0.0)
        return outputs

    return infer


def _decode(content):
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    return tf.reshape(image, (-1,)), tf.shape(image)[:2]


def _network_sizes(sizes, input_size):
    """`geometry.network_size` of (B, 2) int32 heights and widths."""
    short = round_up(input_size)
    exact = short / tf.reduce_min(sizes, axis=1) * tf.cast(tf.reduce_max(sizes, axis=1), tf.float64)
    long = (tf.cast(exact, tf.int32) + (SIZE_MULTIPLE - 1)) // SIZE_MULTIPLE * SIZE_MULTIPLE
    short = tf.fill(tf.shape(long), short)
    upright = (sizes[:, 1] < sizes[:, 0])[:, None]
    return tf.where(upright, tf.stack([long, short], axis=1), tf.stack([short, long], axis=1))


def _transforms(sizes, inner):
    """The inverse of `geometry.fit_transform`, from network input to image: (B, 6) float64, row by row."""
    unzoom = tf.reduce_max(sizes / inner, axis=1)
    center = tf.floor(sizes / 2 + 0.5)
    shift_y, shift_x = tf.unstack(center - inner / 2 * unzoom[:, None], axis=1)
    zero = tf.zeros_like(unzoom)
    return tf.stack([unzoom, zero, shift_x, zero, unzoom, shift_y], axis=1)
