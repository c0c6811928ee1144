"""Print the size of a config's network: parameters and multiply-adds, whole and offset head.

Multiply-adds are those of the convolutions on a square image of `input_size`; the paper calls them GFLOPs.
Example: dekr info --config configs/coco_w32.yaml
"""

import argparse
import json

from dekr_tf.config import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `dekr info`."""
    parser.add_argument("--config", required=True, help="YAML file of the experiment")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr info`."""
    config = load_config(arguments.config, arguments.overrides)
    from dekr_tf.models.complexity import count_complexity

    counts = count_complexity(config)
    if arguments.json:
        print(json.dumps(counts))
        return
    print(f"input          {config.input_size} x {config.input_size}, {len(config.schema)} keypoints")
    print(f"parameters     {counts['parameters']:,}, offset head {counts['head_parameters']:,}")
    print(f"multiply-adds  {counts['gmacs']:.2f} G, offset head {counts['head_gmacs']:.2f} G")
