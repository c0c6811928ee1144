"""Find people in photos with a model on TensorFlow Serving.

  dekr serve-client photos/ --url grpc://localhost:8500 --name dekr --output poses.json
  dekr serve-client photos/ --url http://localhost:8501 --name dekr --draw drawn/

Without --output and --draw, prints one line a photo. A photo that the server refuses is named, and the others go on.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path

from dekr_tf.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `dekr serve-client`."""
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns such as 'photos/*.jpg'")
    parser.add_argument("--url", required=True, help="grpc://HOST:8500, or http://HOST:8501; grpcs and https encrypt")
    parser.add_argument("--name", default="dekr", help="of the model on the server (default: %(default)s)")
    parser.add_argument("--version", type=int, metavar="N", help="of the model (default: the newest)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="for one photo (default: %(default)s)"
    )
    parser.add_argument(
        "--retries", type=int, default=5, metavar="N", help="tries more when the server is unavailable (default: 5)"
    )
    parser.add_argument(
        "--concurrency", type=int, default=4, metavar="N", help="photos on their way at once (default: %(default)s)"
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.1,
        metavar="S",
        help="people with a lower pose score are neither printed nor drawn (default: %(default)s); --output has all",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON list in COCO results format, with file_name added"
    )
    parser.add_argument("--draw", type=Path, metavar="DIR", help="folder for copies of the photos with skeletons")
    parser.add_argument(
        "--keypoints", default="coco", metavar="NAME", help="skeleton to draw: coco, crowdpose, a file (default: coco)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr serve-client`.

    Raises:
        InputError: the server cannot be asked; an output cannot be written; or, at the end, photos were refused.
    """
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from dekr_tf.cli.predict_command import drawing_paths, image_names, summary, write_drawing
    from dekr_tf.coco_format import poses_to_results
    from dekr_tf.files import atomic_output
    from dekr_tf.images import find_images, read_image
    from dekr_tf.keypoints import load_schema
    from dekr_tf.serving import Client, ServingError
    from dekr_tf.visualization.drawing import draw_poses

    if arguments.concurrency < 1:
        raise InputError(f"--concurrency: expected a positive number. Received: {arguments.concurrency}")
    images = find_images(arguments.images)
    drawings = drawing_paths(images, arguments.draw) if arguments.draw else {}
    schema = load_schema(arguments.keypoints)
    client = Client(
        arguments.url,
        name=arguments.name,
        version=arguments.version,
        timeout=arguments.timeout,
        retries=arguments.retries,
    )

    def ask(path):
        try:
            return client.detect(path)
        except ServingError as error:
            if error.code != "INVALID_ARGUMENT":
                raise
            return error
        except InputError as error:
            return error

    with ExitStack() as stack:
        # Opened before the work, so that a folder that cannot be written to is found first.
        output = stack.enter_context(atomic_output(arguments.output)) if arguments.output else None
        stack.enter_context(client)
        pool = ThreadPoolExecutor(arguments.concurrency)
        stack.callback(pool.shutdown, cancel_futures=True)
        results, refused = [], 0
        answers = zip(images, pool.map(ask, images), strict=True)
        for path, poses in tqdm(answers, total=len(images), unit="photo", disable=not sys.stderr.isatty()):
            if isinstance(poses, InputError):
                refused += 1
                tqdm.write(f"{path}: {poses}", file=sys.stderr)
                continue
            if output:
                results += poses_to_results(poses, image_names(path))
            if path in drawings:
                if len(poses) and poses.keypoints.shape[1] != len(schema):
                    raise InputError(
                        f"--keypoints: expected the model's skeleton of {poses.keypoints.shape[1]} keypoints. "
                        f"Received: {schema.name} of {len(schema)}"
                    )
                drawing = draw_poses(
                    read_image(path, exif_orientation=True), poses, schema, min_score=arguments.min_score
                )
                write_drawing(drawing, drawings[path])
            if not output and not drawings:
                # Keeps the progress bar below the printed lines.
                tqdm.write(summary(poses, path, arguments.min_score))
        if output:
            output.write_text(json.dumps(results), encoding="utf-8")
    if refused:
        raise InputError(f"expected photos that the server takes. Received: {refused} of {len(images)} that it refused")
