"""Write a model for TensorFlow Serving, phones and Raspberry Pi, or ONNX Runtime.

What was written is opened again and compared with the Keras model. Where they differ too much, nothing is left.
Example: dekr export --model coco_w32.keras --format tflite --precision int8 --input-size 512x832 \\
    --calibration photos/ --output coco_w32_int8.tflite
"""

import argparse
from pathlib import Path

from dekr_tf.cli.arguments import image_size
from dekr_tf.config import load_config

#: Photos that are drawn to compare on where none are given.
DRAWN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `dekr export`."""
    parser.add_argument("--model", required=True, metavar="FILE", help=".keras or .weights.h5 file")
    parser.add_argument("--config", metavar="FILE", help="settings to use instead of the sidecar's")
    parser.add_argument("--format", required=True, choices=("saved_model", "tflite", "onnx"), help="what to write")
    parser.add_argument("--output", required=True, type=Path, metavar="PATH", help="file, or folder of a SavedModel")
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "dynamic_int8", "int8"),
        default="float32",
        help="of weights (float16, dynamic_int8) or also activations (int8); the offset head computes in float32",
    )
    parser.add_argument(
        "--graph",
        choices=("poses", "maps"),
        default="poses",
        help="poses: image in, candidate poses out; maps: ends at the heatmap and features, for accelerators",
    )
    parser.add_argument(
        "--input-size",
        nargs="+",
        default=[],
        type=image_size,
        metavar="HxW",
        help="fixed size of the input, multiples of 32; several for tflite (its default: a square of the model's size)",
    )
    parser.add_argument(
        "--input-type",
        choices=("float32", "uint8"),
        default="float32",
        help="float32: normalised by the caller; uint8: RGB as it is, normalised inside",
    )
    parser.add_argument("--flip", action="store_true", help="put the flip test into the graph")
    parser.add_argument(
        "--calibration",
        nargs="+",
        metavar="IMAGES",
        help="files, folders or patterns of photos such as the model will see: int8 takes its ranges from them, and "
        f"the comparison is made on them (default: on {DRAWN} drawn ones)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr export`.

    Raises:
        InputError: the model, a photo or the output is not usable, or the export differs too much.
    """
    from dekr_tf.images import find_images, read_image

    config = load_config(arguments.config) if arguments.config else None
    photos = []
    if arguments.calibration:
        photos = [read_image(path, exif_orientation=True) for path in find_images(arguments.calibration)]

    from converters.export import drawn_photos, export_model
    from dekr_tf.models import load_model
    from dekr_tf.sidecar import Artifact

    model, sidecar = load_model(arguments.model, config)
    sizes = tuple(arguments.input_size)
    if arguments.format == "tflite" and not sizes:
        sizes = ((sidecar.input_size, sidecar.input_size),)
    artifact = Artifact(
        graph=arguments.graph,
        precision=arguments.precision,
        input_sizes=sizes,
        input_type=arguments.input_type,
        flip=arguments.flip,
    )
    comparison = export_model(
        model,
        sidecar,
        arguments.output,
        arguments.format,
        artifact,
        photos or drawn_photos(DRAWN),
        calibrate=bool(photos),
    )
    taken = ", ".join(f"{height}x{width}" for height, width in sizes) or "any size"
    print(f"{arguments.output}: graph {artifact.graph}, {artifact.precision}, input {artifact.input_type} of {taken}")
    print(f"compared with Keras: {comparison}")
