"""HRNet: a backbone that keeps a high resolution from end to end (Sun et al., CVPR 2019).

Layer names follow the structure, since checkpoints are matched by them: `stage3_m0_b1_u2_1_conv` is the first
convolution of the third block of branch 1 in module 0 of stage 3; `stage3_m0_f0_2` is the path from branch 2 to
branch 0 in that module's fusion.
"""

from keras import layers

from dekr_tf.config import ModelConfig
from dekr_tf.layers.batch_norm import FusedBatchNorm
from dekr_tf.layers.resize import Upsample

BN_EPSILON = 1e-5
# Keras counts what is kept; the reference's PyTorch momentum of 0.1 counts what is replaced.
BN_MOMENTUM = 0.9

BOTTLENECK_EXPANSION = 4
#: The stages after the first; each has as many branches as its number.
STAGES = (2, 3, 4)


def batch_norm(x, name: str):
    """Batch normalization with the reference's constants."""
    return FusedBatchNorm(epsilon=BN_EPSILON, momentum=BN_MOMENTUM, name=name)(x)


def conv_bn(x, filters: int, name: str, *, kernel_size: int = 1, strides: int = 1, relu: bool = True):
    """Convolution without bias, batch normalization and, if wanted, ReLU; zero padding.

    Before a strided convolution, the input is padded equally on every side: Keras' own "same" would pad an even-sized
    map only after its end, and so sample other pixels than PyTorch.
    """
    padding = "same"
    if strides > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    x = layers.Conv2D(
        filters, kernel_size, strides, padding, use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    x = batch_norm(x, f"{name}_bn")
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def basic_block(x, filters: int, name: str):
    """Two 3x3 convolutions and an identity shortcut."""
    y = conv_bn(x, filters, f"{name}_1", kernel_size=3)
    y = conv_bn(y, filters, f"{name}_2", kernel_size=3, relu=False)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def bottleneck_block(x, filters: int, name: str):
    """1x1, 3x3 and 1x1 convolutions; the shortcut is projected if the channels differ."""
    out = filters * BOTTLENECK_EXPANSION
    y = conv_bn(x, filters, f"{name}_1")
    y = conv_bn(y, filters, f"{name}_2", kernel_size=3)
    y = conv_bn(y, out, f"{name}_3", relu=False)
    if x.shape[-1] != out:
        x = conv_bn(x, out, f"{name}_shortcut", relu=False)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def hrnet(image, config: ModelConfig):
    """Builds the backbone on a symbolic image.

    Args:
        image: (B, H, W, 3), H and W multiples of 32.
        config: width w (the branches have w, 2w, 4w and 8w channels), channels of the stem and of stage 1, and the
            depth of the stages.

    Returns:
        The four branches at strides 4, 8, 16 and 32, (B, H / stride, W / stride, channels).
    """
    x = conv_bn(image, config.stem_channels, "stem_1", kernel_size=3, strides=2)
    x = conv_bn(x, config.stem_channels, "stem_2", kernel_size=3, strides=2)
    for block in range(config.bottlenecks):
        x = bottleneck_block(x, config.stage1_channels, f"stage1_u{block}")
    branches = [x]
    for stage, modules in zip(STAGES, config.modules, strict=True):
        branches = _transition(branches, [config.width * 2**branch for branch in range(stage)], f"stage{stage}_t")
        for module in range(modules):
            name = f"stage{stage}_m{module}"
            for index in range(stage):
                for block in range(config.blocks):
                    branches[index] = basic_block(branches[index], config.width * 2**index, f"{name}_b{index}_u{block}")
            branches = [_fuse(branches, target, name) for target in range(stage)]
    return branches


def _transition(branches, channels, name):
    """The input of each branch of the next stage: unchanged, with other channels, or new at half resolution."""
    outputs = []
    for index, filters in enumerate(channels):
        if index == len(branches):
            outputs.append(conv_bn(branches[-1], filters, f"{name}{index}", kernel_size=3, strides=2))
        elif branches[index].shape[-1] != filters:
            outputs.append(conv_bn(branches[index], filters, f"{name}{index}", kernel_size=3))
        else:
            outputs.append(branches[index])
    return outputs


def _fuse(branches, target, name):
    """The sum of all branches at the resolution and with the channels of branch `target`."""
    filters = branches[target].shape[-1]
    terms = []
    for source, branch in enumerate(branches):
        path = f"{name}_f{target}_{source}"
        term = branch
        if source > target:
            term = conv_bn(term, filters, path, relu=False)
            term = Upsample(2 ** (source - target), "nearest", name=f"{path}_upsample")(term)
        for step in range(target - source):
            last = step == target - source - 1
            term = conv_bn(
                term,
                filters if last else branch.shape[-1],
                f"{path}_s{step}",
                kernel_size=3,
                strides=2,
                relu=not last,
            )
        terms.append(term)
    return layers.ReLU(name=f"{name}_f{target}_relu")(layers.Add(name=f"{name}_f{target}_add")(terms))
