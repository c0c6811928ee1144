"""Find people in photos, a video, or a camera's stream.

  dekr predict photos/ --output poses.json --draw drawn/
  dekr predict street.mp4 --model best.keras --output poses.csv --draw drawn.mp4 --track
  dekr predict camera:0 --model best.keras --draw drawn.mp4

Without --output and --draw, prints one line per photo or frame: the number of people and their scores. From a folder,
it takes the files in .bmp, .jfif, .jpe, .jpeg, .jpg, .png, .tif, .tiff and .webp. It names photos that cannot be used,
goes on with the others, and exits with code 2. A camera runs until ctrl-C, or for as many frames as --frames says.
"""

import argparse
from pathlib import Path

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
        help="files, folders or patterns such as 'photos/*.jpg'; or one video; or camera:0, the first camera",
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
        default=0.1,
        metavar="S",
        help="people with a lower pose score are neither printed nor drawn (default: %(default)s); --output has all",
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

    def open_detector():
        options = {name: getattr(arguments, name) for name in ("input_size", "flip", "dense", "rescore")}
        options |= decoding_options(arguments)
        return PoseDetector(arguments.model, config=config, **options)

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
