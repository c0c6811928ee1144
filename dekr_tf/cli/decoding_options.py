"""Options shared by the verbs that run a model on photos: how to decode its outputs."""

import argparse
from typing import Any


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--scales", type=float, nargs="+", metavar="S", help="also run at other sizes and merge, for example 0.5 1 2"
    )
    parser.add_argument("--match", action="store_true", help="move keypoints to the closest peaks of the heatmaps")
    parser.add_argument(
        "--nms-threshold",
        type=float,
        metavar="D",
        help="pose NMS: keypoints are close within this fraction of a pose's diagonal (default: the model's, 0.05; "
        "0.15 for several scales)",
    )


def decoding_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as arguments of `PoseDetector`."""
    return {
        "scales": arguments.scales or (1.0,),
        "match": arguments.match,
        "nms_threshold": arguments.nms_threshold,
    }
