"""Options shared by `evaluate`, `analyze` and `rescore collect`: which poses are compared with which labels."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dekr_tf.cli.decoding_options import add_decoding_options, decoding_options
from dekr_tf.errors import InputError

if TYPE_CHECKING:
    from dekr_tf.files.coco_format import ImageLabels
    from dekr_tf.inference.detector import PoseDetector
    from dekr_tf.keypoints import KeypointSchema

MODEL_OPTIONS = ("images", "input_size", "flip", "dense", "scales", "match", "nms_threshold", "batch_size")


def add_options(parser: argparse.ArgumentParser, metrics: tuple[str, ...]) -> None:
    """Adds the options.

    Args:
        parser: of the verb.
        metrics: choices of `--metric`.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, metavar="FILE", help="model to run on the images")
    source.add_argument("--results", type=Path, metavar="FILE", help="COCO results file, instead of a model")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO keypoint labels")
    add_category_option(parser)
    parser.add_argument("--images", type=Path, metavar="PATH", help="folder or zip file of the images")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings to use instead of the sidecar's")
    parser.add_argument("--input-size", type=int, metavar="N", help="short side of the network's input in pixels")
    parser.add_argument("--flip", action="store_true", help="also run on the mirrored image and average")
    parser.add_argument("--dense", action="store_true", help="offset head on the whole map: same poses, slower")
    add_decoding_options(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="images in the network at once (default: 1)")
    parser.add_argument("--metric", choices=metrics, help="default: crowdpose for its skeleton and labels, else coco")


def add_category_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--category`, for verbs that read annotations."""
    parser.add_argument(
        "--category",
        metavar="NAME|ID",
        help="the only category that counts (default: that of the config, else all with keypoints)",
    )


def add_rescore_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--rescore`, for verbs whose outcome depends on the pose scores."""
    parser.add_argument("--rescore", type=Path, metavar="FILE", help="rescoring net of `dekr rescore train`")


def check_options(arguments: argparse.Namespace, *model_options: str) -> None:
    """Refuses options that do not go together.

    Args:
        arguments: of the command line.
        model_options: names of more options that need a model.

    Raises:
        InputError: an option of a model is given with `--results`, or `--model` without `--images`.
    """
    given = {name: getattr(arguments, name) for name in (*MODEL_OPTIONS, *model_options)}
    unused = [
        f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None and value is not False
    ]
    if arguments.results and unused:
        raise InputError(f"expected no option of a model beside --results. Received: {', '.join(unused)}")
    if arguments.model and not arguments.images:
        raise InputError("--model needs --images, the folder of the images")


def input_files(arguments: argparse.Namespace, labels: "Sequence[ImageLabels]" = ()) -> "Iterator[Path | None]":
    """The files that the verb reads, for `files.outputs.check_outputs`.

    Args:
        arguments: of the command line.
        labels: of the annotation file, once they are read, since they name the images.
    """
    from dekr_tf.inference.open_model import model_files

    yield from (arguments.results, arguments.annotations, arguments.images, arguments.config)
    yield getattr(arguments, "rescore", None)
    if arguments.model:
        yield from model_files(arguments.model)
        yield from (arguments.images / image.file_name for image in labels)


def open_source(arguments: argparse.Namespace) -> "tuple[PoseDetector | None, KeypointSchema, int | str | None]":
    """The detector (None for a results file), the skeleton, and the category that counts.

    Raises:
        InputError: model or config cannot be read.
    """
    from dekr_tf.config import load_config
    from dekr_tf.keypoints import COCO, CROWDPOSE

    config = load_config(arguments.config) if arguments.config else None
    category = arguments.category or (config.data.category if config else None)
    if arguments.model:
        from dekr_tf.inference.detector import PoseDetector

        names = ("input_size", "flip", "dense", "rescore")
        options = {name: getattr(arguments, name) for name in names if name in arguments}
        options |= decoding_options(arguments)
        detector = PoseDetector(arguments.model, config=config, **options)
        return detector, detector.sidecar.schema, category
    if config:
        return None, config.schema, category
    return None, CROWDPOSE if arguments.metric == "crowdpose" else COCO, category
