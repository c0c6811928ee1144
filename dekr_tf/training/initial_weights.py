"""Weights that training starts from: those of an ImageNet backbone, or of a trained model with any skeleton."""

import re
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.models.dekr import keypoint_channels
from dekr_tf.models.files import load_model
from dekr_tf.weights import resolve

#: Layers of the offset head, which has channels or branches of its own for every keypoint.
OFFSET_HEAD = "offset_"


@dataclass(frozen=True)
class Transfer:
    """What a network has taken from a trained model.

    Attributes:
        heatmaps: keypoints whose heatmap channel was taken.
        branches: keypoints whose branch of the offset head was taken.
        fresh: keypoints that the trained model does not have.
        reason: why no branch was taken, or an empty string.
    """

    heatmaps: tuple[str, ...]
    branches: tuple[str, ...]
    fresh: tuple[str, ...]
    reason: str = ""

    def __str__(self):
        parts = [f"backbone, heatmap head and the heatmaps of {_count(self.heatmaps)}"]
        parts.append(f"offset branches of {_count(self.branches)}" + (f" ({self.reason})" if self.reason else ""))
        parts.append(f"new: {', '.join(self.fresh) or 'none'}")
        return "; ".join(parts)


def load_backbone(network: keras.Model, path: Path) -> None:
    """Copies the weights of an imported backbone into the layers of the same names.

    Args:
        network: of `build_dekr`.
        path: a `.keras` file that `dekr import` wrote for a backbone, or a name that `dekr weights` lists.

    Raises:
        InputError: the file cannot be read, or a layer has other weights.
    """
    path = resolve(path, "backbone")
    try:
        backbone = keras.models.load_model(path, compile=False)
    except Exception as error:  # On a damaged file, zipfile, HDF5 and Keras can raise almost any exception.
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"cannot read backbone weights {path}: {reason}") from error
    for layer in backbone.layers:
        try:
            network.get_layer(layer.name).set_weights(layer.get_weights())
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"backbone weights {path} do not fit at layer {layer.name}: {reason}") from error


def load_initial_weights(network: keras.Model, config: Config, path: Path) -> Transfer:
    """Copies the weights of a trained model into a network, which may have another skeleton.

    Backbone and heatmap head are taken whole, but heatmap channels and branches of the offset head only for keypoints
    with the same name. The others keep their fresh weights, and so do all branches if the two offset heads are built
    differently.

    Args:
        network: of `build_dekr` with `config`.
        config: of the training.
        path: a model that `dekr train` or `dekr import` wrote.

    Raises:
        InputError: the model cannot be read, or its backbone or heatmap head is of another kind or size.
    """
    source, sidecar = load_model(path)
    theirs, ours = (model.model_dump(exclude={"offset_head"}) for model in (sidecar.model, config.model))
    for name, value in ours.items():
        if theirs[name] != value:
            raise InputError(
                f"initial weights {path}: expected a model with model.{name} = {value}, as in the config. "
                f"Received: {theirs[name]}"
            )
    their_names, our_names = sidecar.schema.names, config.schema.names
    shared = [(their_names.index(name), index) for index, name in enumerate(our_names) if name in their_names]
    for layer in network.layers:
        if layer.weights and layer.name != "heatmap" and not layer.name.startswith(OFFSET_HEAD):
            layer.set_weights(source.get_layer(layer.name).get_weights())
    # The center is the channel after the keypoints.
    _copy_parts(source, network, "heatmap", [*shared, (len(their_names), len(our_names))], 1)

    reason = _head_difference(sidecar, config)
    head = config.model.offset_head
    channels = keypoint_channels(head, config.schema)
    for layer in network.layers:
        if reason or not layer.weights or not layer.name.startswith(OFFSET_HEAD):
            continue
        if head.branches == "separate":
            _copy_parts(source, network, layer.name, shared, channels)
        else:
            layer.set_weights(source.get_layer(layer.name).get_weights())
    taken = tuple(our_names[index] for _, index in shared)
    fresh = tuple(name for name in our_names if name not in taken)
    return Transfer(taken, () if reason else taken, fresh, reason)


def _head_difference(sidecar, config) -> str:
    """Why branches cannot be taken over, or an empty string."""
    theirs, ours = sidecar.model.offset_head, config.model.offset_head
    for name in ("block", "dilation", "branches", "blocks", "output_scale"):
        if getattr(theirs, name) != getattr(ours, name):
            return f"model.offset_head.{name} is {getattr(theirs, name)} there and {getattr(ours, name)} here"
    if ours.branches != "separate" and sidecar.schema.names != config.schema.names:
        return "their branches serve several keypoints of another skeleton"
    theirs, ours = (
        keypoint_channels(head, schema) for head, schema in ((theirs, sidecar.schema), (ours, config.schema))
    )
    if theirs != ours:
        return f"they have {theirs} channels a keypoint there and {ours} here"
    return ""


def _copy_parts(source, network, name, pairs, channels):
    """Copies the weights of keypoints from one model's layer to the other's; `pairs` are (index there, index here)."""
    layer = network.get_layer(name)
    values = layer.get_weights()
    given = source.get_layer(name).get_weights()
    for variable, value, other in zip(layer.weights, values, given, strict=True):
        axis, size = _keypoint_axis(name, variable.name, value.ndim, channels)
        ours, theirs = np.moveaxis(value, axis, 0), np.moveaxis(other, axis, 0)
        for there, here in pairs:
            ours[here * size : (here + 1) * size] = theirs[there * size : (there + 1) * size]
    layer.set_weights(values)


def _keypoint_axis(layer, variable, ndim, channels):
    """The axis along which a variable holds the keypoints, and the number of entries of each."""
    if re.fullmatch(r"offset_g1_(block\d+_conv|final)", layer):
        return 0, 2 if variable == "bias" else 1
    return ndim - 1, 1 if layer == "heatmap" else channels


def _count(names):
    return f"{len(names)} keypoint{'' if len(names) == 1 else 's'}"
