"""Turn a PyTorch checkpoint of the reference into a Keras model.

Reads DEKR models, ImageNet-trained HRNet backbones and rescoring nets of HRNet/DEKR, as data only: no code in the file
is run. Every tensor must find its place, or nothing is written.
Example: dekr import pose_dekr_hrnetw32_coco.pth --config configs/coco_w32.yaml --output coco_w32.keras
"""

import argparse

from dekr_tf.config import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `dekr import`."""
    parser.add_argument("checkpoint", help=".pth file of the reference")
    parser.add_argument("--config", required=True, help="YAML file of the architecture that the checkpoint has")
    parser.add_argument("--output", required=True, help=".keras file, or .weights.h5 for the weights alone")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr import`."""
    config = load_config(arguments.config, arguments.overrides)
    from converters.from_torch import import_checkpoint
    from dekr_tf.models.files import check_suffix, save_model
    from dekr_tf.sidecar import Sidecar

    check_suffix(arguments.output)
    model = import_checkpoint(arguments.checkpoint, config)
    save_model(model, arguments.output, Sidecar.from_config(config) if model.name == "dekr" else None)
    print(f"{arguments.output}: {model.name}, {model.count_params():,} values, all tensors of the checkpoint used")
