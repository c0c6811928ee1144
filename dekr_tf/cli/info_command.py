"""Print the size of a config's network and of its parts: parameters and multiply-adds.

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
    print(f"{config.input_size} x {config.input_size}, {len(config.schema)} keypoints")
    print(f"{'':16}{'parameters':>12}{'multiply-adds':>16}")
    _print_row("network", [counts])
    shown = None
    for name, part in counts["parts"].items():
        group, _, member = name.partition(".")
        if group != shown:
            shown = group
            of_group = [each for other, each in counts["parts"].items() if other.partition(".")[0] == group]
            _print_row(f"  {group.replace('_', ' ')}", of_group)
        if member:
            _print_row(f"    {member}", [part])


def _print_row(name, parts):
    parameters, gmacs = (sum(part[key] for part in parts) for key in ("parameters", "gmacs"))
    print(f"{name:16}{parameters:12,}{gmacs:14.3f} G")
