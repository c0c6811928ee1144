"""Find people in photos, a video, or what a camera sees.

  dekr predict photos/ --model best.keras --output poses.json --draw drawn/
  dekr predict street.mp4 --model best.keras --output poses.csv --draw drawn.mp4 --track
  dekr predict camera:0 --model best.keras --draw drawn.mp4

Without --output and --draw, prints one line a photo or frame: the number of people and their scores. A camera is looked
at until ctrl-C, or for so many --frames.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dekr_tf.cli.decoding_options import add_decoding_options, decoding_options
from dekr_tf.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from dekr_tf.poses import Poses

# Suffixes in lower case of photos whose drawing stays without loss.
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `dekr predict`."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders or patterns such as 'photos/*.jpg'; or one video; or camera:0, the first camera",
    )
    parser.add_argument("--model", required=True, metavar="FILE", help="model file")
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
        help="JSON list in COCO results format, with file_name added; of a video, .json or .csv, by frame",
    )
    parser.add_argument(
        "--draw",
        type=Path,
        metavar="PATH",
        help="folder for copies of the photos with skeletons; of a video, an .mp4 or .avi file, or a folder",
    )
    parser.add_argument("--track", action="store_true", help="video: number the people, and follow them")
    parser.add_argument("--frames", type=int, metavar="N", help="video: end after so many frames")


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr predict`.

    Raises:
        InputError: a photo, the model or an output is not usable; then nothing is written but drawings of the photos
            before. All photos are decoded once before the model is loaded.
    """
    from tqdm import tqdm

    from dekr_tf.coco_format import poses_to_results
    from dekr_tf.config import load_config
    from dekr_tf.files import atomic_output
    from dekr_tf.images import find_images, read_image
    from dekr_tf.inference.detector import PoseDetector
    from dekr_tf.video import is_video
    from dekr_tf.visualization.drawing import draw_poses

    config = load_config(arguments.config) if arguments.config else None
    if not Path(arguments.model).exists():
        raise InputError(f"expected a model file. Received: {arguments.model}")

    def open_detector():
        options = {name: getattr(arguments, name) for name in ("input_size", "flip", "dense", "rescore")}
        options |= decoding_options(arguments)
        return PoseDetector(arguments.model, config=config, **options)

    if any(is_video(path) for path in arguments.images):
        from dekr_tf.cli.video_prediction import predict_video

        predict_video(arguments, open_detector)
        return
    if arguments.track or arguments.frames is not None:
        raise InputError(f"--track and --frames are for a video or a camera. Received: {arguments.images[0]}")
    images = find_images(arguments.images)
    drawings = drawing_paths(images, arguments.draw) if arguments.draw else {}
    for path in images:
        read_image(path, exif_orientation=True)

    with ExitStack() as stack:
        # Opened before the work, so that a folder that cannot be written to is found first.
        output = stack.enter_context(atomic_output(arguments.output)) if arguments.output else None
        detector = open_detector()
        results = []
        for path in tqdm(images, unit="photo", disable=not sys.stderr.isatty()):
            image = read_image(path, exif_orientation=True)
            try:
                poses = detector(image)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            if output:
                results += poses_to_results(poses, image_names(path))
            if path in drawings:
                drawing = draw_poses(image, poses, detector.sidecar.schema, min_score=arguments.min_score)
                write_drawing(drawing, drawings[path])
            if not output and not drawings:
                # Keeps the progress bar below the printed lines.
                tqdm.write(summary(poses, path, arguments.min_score))
        if output:
            output.write_text(json.dumps(results), encoding="utf-8")


def image_names(path: Path) -> dict[str, Any]:
    """What names a photo in COCO results format.

    `file_name` is the path as found; `image_id` is the number that a name such as COCO's 000000000785.jpg stands for,
    and is left out for other names.
    """
    number = {"image_id": int(path.stem)} if path.stem.isdecimal() else {}
    return {**number, "file_name": path.as_posix()}


def summary(poses: "Poses", path: Path | str, min_score: float) -> str:
    """One line for people to read, best person first."""
    scores = sorted((score for score in poses.scores if score >= min_score), reverse=True)
    line = f"{path}: 1 person" if len(scores) == 1 else f"{path}: {len(scores)} people"
    return f"{line}, scores {' '.join(f'{score:.2f}' for score in scores)}" if scores else line


def drawing_paths(images: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where the drawing of each photo goes: its name in `folder`, numbered where several photos share it.

    Raises:
        InputError: a drawing would replace one of the photos.
    """
    taken = set()
    paths = {}
    for image in images:
        suffix = ".png" if image.suffix.lower() in _LOSSLESS else ".jpg"
        name, number = image.stem + suffix, 2
        # Some file systems do not tell upper case from lower case.
        while name.lower() in taken:
            name, number = f"{image.stem}_{number}{suffix}", number + 1
        taken.add(name.lower())
        paths[image] = folder / name
    photos = {image.resolve() for image in images}
    for path in paths.values():
        if path.resolve() in photos:
            raise InputError(f"expected a folder for drawings that does not hold the photos. Received: {folder}")
    return paths


def write_drawing(image: "np.ndarray", path: Path) -> None:
    """Writes a picture (H, W, 3) uint8 RGB in the format that the suffix says."""
    import cv2

    from dekr_tf.files import atomic_output

    with atomic_output(path) as temporary:
        encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        temporary.write_bytes(encoded.tobytes())
