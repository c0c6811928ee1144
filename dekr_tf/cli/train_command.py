"""Train a model on annotations in COCO keypoint format.

Writes OUTPUT/last.keras with its sidecar after every epoch, with validation images OUTPUT/best.keras as well; log.csv
and tensorboard/ with losses, learning rate and AP; config.yaml; and state.npz, from which --resume continues.
Example: dekr train --config configs/synthetic_small.yaml --output runs/first training.epochs=5
"""

import argparse
from pathlib import Path

from dekr_tf.config import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `dekr train`."""
    parser.add_argument("--config", required=True, help="YAML file of the experiment")
    parser.add_argument("--output", required=True, type=Path, help="folder for the model and its log")
    parser.add_argument("--resume", action="store_true", help="resume the run in the folder, if there is one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change, e.g. training.epochs=5")


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr train`."""
    config = load_config(arguments.config, arguments.overrides)
    from dekr_tf.training.trainer import train

    train(config, arguments.output, resume=arguments.resume)
