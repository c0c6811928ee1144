"""Reads PyTorch checkpoints, of the reference, of mmpose or of ImageNet backbones, into Keras models."""

from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from converters.checkpoint_file import Tensor, read_checkpoint
from converters.mmpose import is_mmpose, reorder_features, to_reference
from converters.weight_map import Entry, backbone_entries, dekr_entries, rescoring_entries
from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.inference.rescoring import count_features
from dekr_tf.models.dekr import build_backbone, build_dekr
from dekr_tf.models.rescoring import build_rescoring_net

#: Wrappers that training scripts put around a state_dict.
WRAPPERS = ("state_dict", "model")
PREFIX = "module."
#: Tensors of a checkpoint that are not learned: counters and the constant 3x3 grid.
IGNORED_SUFFIXES = (".num_batches_tracked", ".regular_matrix")
#: A tensor that identifies each backbone.
KNOWN_BY = {"hrnet": "stage4.0.branches.0.0.conv1.weight", "efficientnet_lite0": "_blocks.0._depthwise_conv.weight"}
#: The tensors of an ImageNet classifier that are not its backbone's.
CLASSIFIER_PREFIXES = {
    "hrnet": ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier."),
    "efficientnet_lite0": ("_conv_head.", "_bn1.", "_fc."),
}


def import_checkpoint(
    path: str | Path, config: Config, *, rescoring: bool = False, edges: str = "reference"
) -> keras.Model:
    """Builds the model that a checkpoint belongs to, and fills it.

    The tensors tell what it is: a DEKR of the reference or of mmpose, a rescoring net, or a backbone trained on
    ImageNet (HRNet or EfficientNet-Lite0), whose classifier is left out.

    Args:
        path: `.pth` file; read as data only, no code in it is run.
        config: of the architecture that is expected.
        rescoring: take the rescoring net that an mmpose checkpoint has beside its network.
        edges: order of the skeleton's edges in a file with a rescoring net alone, `reference` or `mmpose`.

    Returns:
        A model of `build_dekr`, `build_rescoring_net` or `build_backbone`.

    Raises:
        InputError: the file is not a checkpoint, or a tensor is missing, left over, not finite, or of another shape.
    """
    tensors = read_state_dict(path)
    try:
        if is_mmpose(tensors):
            network, net = to_reference(tensors, config.schema)
            tensors = net if net and rescoring else network
        elif "l1.weight" in tensors and edges == "mmpose":
            tensors = reorder_features(tensors, config.schema)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if "l1.weight" in tensors:
        model, entries = build_rescoring_net(count_features(config.schema)), rescoring_entries()
    else:
        _check_architecture(tensors, config, path)
        if "transition_heatmap.0.weight" in tensors:
            model = build_dekr(config.model, config.schema)
            entries = dekr_entries(config.model, len(config.schema))
        else:
            model, entries = build_backbone(config.model), backbone_entries(config.model)
            classifier = CLASSIFIER_PREFIXES[config.model.backbone]
            tensors = {name: value for name, value in tensors.items() if not name.startswith(classifier)}
    assign_tensors(model, entries, tensors, str(path))
    return model


def _check_architecture(tensors, config, path):
    """Refuses a checkpoint of another backbone, width or skeleton as such, not by the many tensors that differ."""
    backbone = next((name for name, tensor in KNOWN_BY.items() if tensor in tensors), None)
    if backbone is None:
        raise InputError(
            f"{path}: expected the tensors of a DEKR, an HRNet or EfficientNet-Lite0 backbone, or a rescoring net. "
            f"Received: {', '.join(list(tensors)[:3]) or 'none'}, ..."
        )
    model = config.model
    if backbone != model.backbone:
        raise InputError(f"{path}: expected model.backbone {model.backbone}. Received: the tensors of {backbone}")
    sizes = (
        ("conv1.weight", model.stem_channels, f"a stem of {model.stem_channels} channels (model.stem_channels)"),
        (
            "layer1.0.conv1.weight",
            model.stage1_channels,
            f"a stage 1 of {model.stage1_channels} channels (model.stage1_channels)",
        ),
        ("transition1.0.0.weight", model.width, f"width {model.width} (model.width)"),
        ("head_heatmap.1.weight", len(config.schema) + 1, f"the keypoints of {config.schema.name} and a center"),
    )
    for name, size, meaning in sizes:
        if name in tensors and tensors[name].shape[:1] != (size,):
            raise InputError(
                f"{path}: expected {meaning}, {size} channels out of {name}. Received: shape {tensors[name].shape}"
            )


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a `.pth` file by name, out of any wrapper and without `module.` prefixes.

    Raises:
        InputError: the file cannot be read, or holds anything but tensors.
    """
    content = read_checkpoint(path)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: expected a state_dict of tensors. Received: {type(content).__name__}")
    with np.errstate(over="ignore"):  # Values that are too large become infinite, and are refused as such.
        return {
            str(name).removeprefix(PREFIX): value.numpy().astype(np.float32, copy=False)
            for name, value in content.items()
            if not str(name).endswith(IGNORED_SUFFIXES)
        }


def assign_tensors(model: keras.Model, entries: Iterable[Entry], tensors: dict[str, np.ndarray], source: str) -> None:
    """Fills every variable of `model`; each tensor is used once and each element of each variable is set once.

    Args:
        model: to fill; unchanged if anything does not fit.
        entries: where each tensor goes.
        tensors: by name in the checkpoint.
        source: name of the checkpoint, for messages.

    Raises:
        InputError: tensors are missing, left over, not finite, or of another shape.
        ValueError: the entries leave a part of a variable unset.
    """
    entries = list(entries)
    expected = {entry.source for entry in entries}
    problems = [f"missing {name}" for name in sorted(expected - set(tensors))]
    problems += [f"unexpected {name}" for name in sorted(set(tensors) - expected)]
    values = {variable.path: np.full(variable.shape, np.nan, np.float32) for variable in model.variables}
    for entry in entries:
        target = values[variable_path(model, entry)]
        shape = entry.source_shape(target)
        if entry.source not in tensors:
            continue
        received = tensors[entry.source]
        if received.shape != shape:
            problems.append(f"{entry.source} has shape {received.shape}, not {shape}")
            continue
        if not np.isfinite(received).all():
            problems.append(f"{entry.source} holds NaN or infinite values")
            continue
        entry.assign(target, received)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{source} does not fit the model: {'; '.join(problems[:3])}{more}")
    unset = [path for path, value in values.items() if np.isnan(value).any()]
    if unset:
        raise ValueError(f"the weight map leaves variables unset: {unset}")
    for variable in model.variables:
        variable.assign(values[variable.path])


def variable_path(model: keras.Model, entry: Entry) -> str:
    """The path of the variable that an entry names."""
    return getattr(model.get_layer(entry.layer), entry.variable).path
