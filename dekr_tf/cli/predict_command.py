"""Find people in photos, a video, or a camera's stream.

  dekr predict photos/ --output poses.json --draw drawn/
  dekr predict street.mp4 --model best.keras --output poses.csv --draw drawn.mp4 --track
  dekr predict camera:0 --model best.keras --draw drawn.mp4
  dekr predict 's3://bucket/photos/*.jpg' --model best.tflite --shards poses/ --workers 4

Without --output and --draw, prints one line per photo or frame: the number of people and their scores. From a folder,
it takes the files in .bmp, .jfif, .jpe, .jpeg, .jpg, .png, .tif, .tiff and .webp. It names photos that cannot be used,
goes on with the others, and exits with code 2. A camera runs until ctrl-C, or for as many frames as --frames says. With
--shards, workers share very many photos; the same command continues a run that was stopped.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from dekr_tf.cli.decoding_options import add_decoding_options, decoding_options
from dekr_tf.cli.photos import drawing_paths, output_format, report_people
from dekr_tf.errors import InputError
from dekr_tf.weights import PRESET, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `dekr predict`."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders or patterns such as 'photos/*.jpg'; or one video; or camera:0, the first camera; with "
        "--shards also addresses such as s3://bucket/photos/ and .txt files that list photos",
    )
    parser.add_argument(
        "--model",
        default=PRESET,
        metavar="FILE",
        help="model file, or a name that `dekr weights` lists (default: %(default)s, which comes with the package)",
    )
    parser.add_argument("--config", metavar="FILE", help="experiment's YAML file, for a model file without settings")
    parser.add_argument(
        "--input-size", type=int, metavar="N", help="short side of the network's input, pixels (default: the model's)"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored photo: slower, more accurate")
    parser.add_argument("--dense", action="store_true", help="offset head on the whole map: same poses, slower")
    add_decoding_options(parser)
    parser.add_argument("--rescore", type=Path, metavar="FILE", help="rescoring net of `dekr rescore train`")
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="people with a lower pose score are neither printed nor drawn (default: the model's, usually 0.1); "
        "--output has all",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="people as .json, a list in COCO results format with file_name added, or as .csv, one row each; for a "
        "video, by frame",
    )
    parser.add_argument(
        "--draw",
        type=Path,
        metavar="PATH",
        help="folder for copies of the photos with skeletons; for a video, an .mp4 or .avi file, or a folder",
    )
    parser.add_argument("--track", action="store_true", help="video: number people and follow them")
    parser.add_argument("--frames", type=int, metavar="N", help="video: end after this many frames")
    parser.add_argument(
        "--shards",
        type=Path,
        metavar="DIR",
        help="folder for the people in very many photos, as .jsonl files with a line for each photo; needs the cluster "
        "tier",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="of --shards: processes at once (default: one for each processor)"
    )
    parser.add_argument("--shard-size", type=int, metavar="N", help="of --shards: photos per file (default: 500)")


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr predict`.

    Raises:
        InputError: the model or an output cannot be used; or, after everything else is done, photos could not.
    """
    from dekr_tf.config import load_config
    from dekr_tf.files.images import find_images, read_image
    from dekr_tf.files.inputs import exists
    from dekr_tf.files.outputs import check_outputs
    from dekr_tf.files.video import is_video
    from dekr_tf.inference.detector import PoseDetector
    from dekr_tf.inference.open_model import model_files

    config = load_config(arguments.config) if arguments.config else None
    if not exists(resolve(arguments.model, "network")):
        raise InputError(f"expected a model file. Received: {arguments.model}")
    if arguments.output:
        output_format(arguments.output)
    inputs = [*model_files(arguments.model), arguments.config, arguments.rescore]

    options = {name: getattr(arguments, name) for name in ("input_size", "flip", "dense", "rescore")}
    options |= {"config": config, **decoding_options(arguments)}

    def open_detector():
        detector = PoseDetector(arguments.model, **options)
        if arguments.min_score is None:
            arguments.min_score = detector.sidecar.decoder.min_score
        return detector

    if arguments.shards:
        _predict_shards(arguments, options)
        return
    if arguments.workers is not None or arguments.shard_size is not None:
        raise InputError("--workers and --shard-size are for --shards. Received: no --shards")
    if any(is_video(path) for path in arguments.images):
        from dekr_tf.cli.video_prediction import predict_video

        predict_video(arguments, inputs, open_detector)
        return
    if arguments.track or arguments.frames is not None:
        raise InputError(f"--track and --frames are for a video or a camera. Received: {arguments.images[0]}")
    images = find_images(arguments.images)
    drawings = drawing_paths(images, arguments.draw) if arguments.draw else {}
    check_outputs([arguments.output, *drawings.values()], [*images, *inputs])
    detector = open_detector()

    def find(path):
        try:
            photo = read_image(path, exif_orientation=True)
            return detector(photo), photo
        except InputError as error:
            return error

    report_people(arguments, images, drawings, map(find, images), detector.sidecar.schema)


def _predict_shards(arguments: argparse.Namespace, options: dict[str, Any]) -> None:
    """Runs `dekr predict --shards`.

    Raises:
        InputError: as `run`.
        WorkerError: see `predict_shards`.
    """
    from dekr_tf.files.video import is_video
    from dekr_tf.inference.shards import SHARD_SIZE, list_photos, predict_shards

    others = [name for name in ("output", "draw", "track", "frames") if getattr(arguments, name)]
    if others or any(is_video(path) for path in arguments.images):
        received = ", ".join(f"--{name}" for name in others) or "a video"
        raise InputError(f"--shards is for photos, and the only output. Received: {received}")
    # Ray reports usage statistics to its makers by default.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    photos = list_photos(arguments.images)
    shard_size = SHARD_SIZE if arguments.shard_size is None else arguments.shard_size
    # Ray prints messages about its workers to standard output.
    with contextlib.redirect_stdout(sys.stderr):
        bad = predict_shards(
            photos, arguments.shards, arguments.model, workers=arguments.workers, shard_size=shard_size, **options
        )
    if bad:
        raise InputError(
            f"expected photos that can be used. Received: {bad} of {len(photos)} that cannot, see "
            f"{arguments.shards / 'bad-*.jsonl'}"
        )
