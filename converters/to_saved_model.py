"""SavedModels for TensorFlow and TensorFlow Serving."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from converters.encoded_images import encoded_images
from dekr_tf.data.records import write_errors
from dekr_tf.preprocessing import normalization
from dekr_tf.sidecar import Sidecar


def write_saved_model(graph: keras.Model, sidecar: Sidecar, folder: Path) -> None:
    """Writes a network as a SavedModel for any number of images and, unless `artifact.input_sizes` has one, any size.

    Signatures:
        serving_default: `image` (B, H, W, 3) float32, normalized RGB, H and W multiples of 32; returns the outputs of
            `graph`, with keypoints in pixels of the input.
        uint8: the same from uint8 RGB, which it normalizes.
        encoded: `image_bytes` (B,), JPEG or PNG files, of any sizes; returns keypoints in pixels of each image, see
            `converters.encoded_images`. Only for the graph `poses`.

    Args:
        graph: of `converters.graphs.build_graph`, with normalized float32 input.
        sidecar: its settings, with `artifact`.
        folder: to write to.
    """
    size = sidecar.artifact.input_sizes[0] if sidecar.artifact.input_sizes else (None, None)
    scale, shift = normalization(sidecar.mean, sidecar.std)

    def normalized(image):
        return tf.cast(image, tf.float32) * scale + shift

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
    save_signatures(endpoints, graph.variables, folder)


def save_signatures(
    endpoints: Mapping[str, tuple[Callable, tf.TensorSpec]], variables: Sequence[keras.Variable], folder: Path
) -> None:
    """Writes functions of one tensor as the signatures of a SavedModel.

    Args:
        endpoints: by name, the function and the specification of its input.
        variables: that the functions use.
        folder: to write to.
    """
    # `keras.export.ExportArchive` would store every weight twice.
    module = tf.Module()
    module.weights = list({id(each): each.value for each in variables}.values())
    signatures = {
        name: tf.function(function, input_signature=[specification], autograph=False)
        for name, (function, specification) in endpoints.items()
    }
    with write_errors(folder):
        tf.saved_model.save(module, str(folder), signatures=signatures)
