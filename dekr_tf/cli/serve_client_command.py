"""Find people in photos with a model on TensorFlow Serving.

  dekr serve-client photos/ --url grpc://localhost:8500 --name dekr --output poses.json
  dekr serve-client photos/ --url http://localhost:8501 --name dekr --draw drawn/

Without --output and --draw, prints one line per photo. It names photos that the server refuses, and goes on with the
others.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from dekr_tf.cli.photos import drawing_paths, output_format, report_people
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
        "--retries", type=int, default=5, metavar="N", help="retries while the server is unavailable (default: 5)"
    )
    parser.add_argument(
        "--concurrency", type=int, default=4, metavar="N", help="photos in flight at once (default: %(default)s)"
    )
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
        help="people as .json, a list in COCO results format with file_name added, or as .csv, one row each",
    )
    parser.add_argument("--draw", type=Path, metavar="DIR", help="folder for copies of the photos with skeletons")
    parser.add_argument(
        "--keypoints",
        default="coco",
        metavar="NAME",
        help="skeleton to draw, and of the columns of .csv: coco, crowdpose, a file (default: coco)",
    )
    parser.add_argument(
        "--category", metavar="NAME|ID", help="whose skeleton, if --keypoints is an annotation file with several"
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr serve-client`.

    Raises:
        InputError: an output cannot be written; or, at the end, photos were refused.
        ServingError: the server cannot be reached, or its answer cannot be used.
    """
    from concurrent.futures import ThreadPoolExecutor

    from dekr_tf.files.images import find_images
    from dekr_tf.files.outputs import check_outputs
    from dekr_tf.keypoints import load_schema
    from dekr_tf.serving.client import Client, ServingError

    if arguments.concurrency < 1:
        raise InputError(f"--concurrency: expected a positive number. Received: {arguments.concurrency}")
    if arguments.output:
        output_format(arguments.output)
    images = find_images(arguments.images)
    drawings = drawing_paths(images, arguments.draw) if arguments.draw else {}
    check_outputs([arguments.output, *drawings.values()], [*images, arguments.keypoints])
    schema = load_schema(arguments.keypoints, arguments.category)
    client = Client(
        arguments.url,
        name=arguments.name,
        version=arguments.version,
        timeout=arguments.timeout,
        retries=arguments.retries,
    )

    def find(path):
        try:
            return client.detect(path), None
        except ServingError as error:
            if error.code != "INVALID_ARGUMENT":
                raise
            return InputError(str(error))
        except InputError as error:
            return error

    with ExitStack() as stack:
        stack.enter_context(client)
        pool = ThreadPoolExecutor(arguments.concurrency)
        stack.callback(pool.shutdown, cancel_futures=True)
        report_people(arguments, images, drawings, pool.map(find, images), schema)
