"""Make and prepare data sets.

dekr data synthetic --output DIR   drawn people with exact labels, in COCO's format
"""

import argparse
import re
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one subparser for every kind of data work."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    synthetic = actions.add_parser(
        "synthetic",
        help="draw people with exact labels",
        description="Draws people with exact labels: DIR/train.json, DIR/val.json, and images in DIR/train/images and "
        "DIR/val/images. The same seed gives the same images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    synthetic.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    synthetic.add_argument("--train", type=int, default=500, metavar="N", help="number of training images")
    synthetic.add_argument("--val", type=int, default=100, metavar="N", help="number of validation images")
    synthetic.add_argument("--size", type=_size, default="256x256", metavar="HxW", help="pixels of an image")
    synthetic.add_argument("--seed", type=int, default=0, help="of the random drawing, 0 or more")
    synthetic.set_defaults(act=_synthetic)


def run(arguments: argparse.Namespace) -> None:
    """Does what the chosen action says."""
    arguments.act(arguments)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, for example 256x320. Received: {text}")
    return int(match[1]), int(match[2])


def _synthetic(arguments: argparse.Namespace) -> None:
    from dekr_tf.data.synthetic import write_dataset

    counts = write_dataset(
        arguments.output, train=arguments.train, val=arguments.val, size=arguments.size, seed=arguments.seed
    )
    for split, (images, people) in counts.items():
        print(f"{arguments.output / split}.json: {images} images, {people} people")
