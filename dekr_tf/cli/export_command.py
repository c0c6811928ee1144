"""Write a model for TensorFlow Serving, phones and Raspberry Pi, or ONNX Runtime.

It opens the result and compares it with the Keras model. If they differ too much, it leaves nothing behind.
Example: dekr export --model coco_w32.keras --format tflite --precision int8 --input-size 512x832 \\
    --calibration photos/ --output coco_w32_int8.tflite
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dekr_tf.cli.arguments import image_size
from dekr_tf.config import load_config
from dekr_tf.errors import InputError
from dekr_tf.weights import PRESET

T = TypeVar("T")

#: Synthetic images to compare on if no photos are given.
DRAWN = 4
#: Most photos to calibrate with and compare on. All of them are held in memory, and ranges hardly change with more.
MOST_PHOTOS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `dekr export`."""
    parser.add_argument(
        "--model",
        default=PRESET,
        metavar="FILE",
        help=".keras, .weights.h5 or .weights.npz file (default: %(default)s, which comes with the package)",
    )
    parser.add_argument("--config", metavar="FILE", help="settings to use instead of the sidecar's")
    parser.add_argument("--format", required=True, choices=("saved_model", "tflite", "onnx"), help="what to write")
    written = parser.add_mutually_exclusive_group(required=True)
    written.add_argument("--output", type=Path, metavar="PATH", help="file, or folder of a SavedModel")
    written.add_argument(
        "--serving",
        type=Path,
        metavar="MODELS/NAME/VERSION",
        help="folder of a model's version for TensorFlow Serving, whose signatures return final poses (saved_model)",
    )
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
        help="float32: normalized by the caller; uint8: RGB in 0 to 255, normalized inside",
    )
    parser.add_argument("--flip", action="store_true", help="put the flip test into the graph")
    parser.add_argument(
        "--final",
        action="store_true",
        help="put pose NMS and pose scores into the graph as well, which then outputs people, best first (tflite, "
        "onnx)",
    )
    parser.add_argument(
        "--rescore",
        metavar="FILE",
        help="with --final or --serving: rescoring net of `dekr rescore train`, put into the graph",
    )
    parser.add_argument(
        "--calibration",
        nargs="+",
        metavar="IMAGES",
        help="files, folders or patterns of photos like those that the model will see: int8 takes its ranges from "
        f"them, and the comparison runs on them (default: {DRAWN} synthetic images). Of more than {MOST_PHOTOS} "
        "photos, that many are used, evenly spread over the sorted names",
    )
    serving = parser.add_argument_group("with --serving")
    serving.add_argument(
        "--nms", action=argparse.BooleanOptionalAction, default=True, help="pose NMS in the graph (default: yes)"
    )
    serving.add_argument(
        "--skip-bad-images",
        action="store_true",
        help="refuse only the bad images of a batch, by an output `error`; needed for batching on the server, which "
        "combines the requests of several callers",
    )
    serving.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="larger images are refused before they are decoded (default and maximum: 16384 x 16384, as everywhere)",
    )


def evenly_spread(items: Sequence[T], most: int) -> list[T]:
    """The items themselves, or `most` of them (2 or more) at equal distances, from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr export`.

    Raises:
        InputError: the model, a photo or the output cannot be used, or the export differs too much.
    """
    if arguments.serving and arguments.format != "saved_model":
        raise InputError(f"--serving: expected --format saved_model. Received: {arguments.format}")
    served = {
        "--no-nms": not arguments.nms,
        "--skip-bad-images": arguments.skip_bad_images,
        "--max-pixels": arguments.max_pixels is not None,
    }
    for option, given in served.items():
        if given and not arguments.serving:
            raise InputError(f"{option}: expected --serving beside it. Received: --output")
    if arguments.final and arguments.serving:
        raise InputError("--final: expected --output beside it, as served poses are final. Received: --serving")
    if arguments.rescore is not None and not (arguments.final or arguments.serving):
        raise InputError("--rescore: expected --final or --serving beside it. Received: --output alone")
    from dekr_tf.files.images import MAX_PIXELS, find_images, read_image
    from dekr_tf.files.outputs import check_outputs
    from dekr_tf.inference.open_model import model_files

    config = load_config(arguments.config) if arguments.config else None
    images = find_images(arguments.calibration) if arguments.calibration else []
    inputs = [*images, *model_files(arguments.model), arguments.config, arguments.rescore]
    # A SavedModel's folder is new or empty.
    check_outputs([] if arguments.format == "saved_model" else model_files(arguments.output), inputs)
    chosen = evenly_spread(images, MOST_PHOTOS)
    if len(chosen) < len(images):
        print(f"calibration: {len(chosen)} of {len(images)} photos, evenly spread")
    photos = [read_image(path, exif_orientation=True) for path in chosen]

    from converters.export import export_model, synthetic_photos
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
        final=arguments.final,
    )
    taken = ", ".join(f"{height}x{width}" for height, width in sizes) or "any size"
    if arguments.serving:
        from converters.serving_files import docker_command
        from converters.serving_graph import ServingOptions
        from converters.to_serving import export_serving

        max_pixels = MAX_PIXELS if arguments.max_pixels is None else arguments.max_pixels
        options = ServingOptions(arguments.nms, arguments.rescore, arguments.skip_bad_images, max_pixels)
        found = photos or synthetic_photos(DRAWN)
        comparison = export_serving(model, sidecar, arguments.serving, artifact, options, found)
        print(f"{arguments.serving}: poses for TensorFlow Serving, input of {taken}")
        print(f"compared with Keras: {comparison}")
        print(docker_command(arguments.serving.absolute().parents[1]))
        return
    comparison = export_model(
        model,
        sidecar,
        arguments.output,
        arguments.format,
        artifact,
        photos or synthetic_photos(DRAWN),
        calibrate=bool(photos),
        rescore=arguments.rescore,
    )
    what = "final poses" if artifact.final else f"graph {artifact.graph}"
    print(f"{arguments.output}: {what}, {artifact.precision}, input {artifact.input_type} of {taken}")
    print(f"compared with Keras: {comparison}")
