"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite variant has ReLU6 and no squeeze-and-excitation), for devices.

Layer names follow the structure, since checkpoints are matched by them: `stage3_block1_depthwise_conv` is the depthwise
convolution of the second block of stage 3.
"""

from keras import initializers, layers

from dekr_tf.layers.batch_norm import FusedBatchNorm
from dekr_tf.layers.resize import Upsample

BN_EPSILON = 1e-3
BN_MOMENTUM = 0.99

STEM_CHANNELS = 32
#: Blocks, kernel size, stride, expansion and output channels of stages 1 to 7.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
#: The stages that end at strides 4, 8, 16 and 32.
LEVELS = (2, 3, 5, 7)


def efficientnet_lite0(image):
    """Builds the backbone on a symbolic image.

    Args:
        image: (B, H, W, 3), H and W multiples of 32.

    Returns:
        The outputs of stages 2, 3, 5 and 7 at strides 4, 8, 16 and 32: (B, H / stride, W / stride, channels) with 24,
        40, 112 and 320 channels, without an activation.
    """
    x = _conv_bn(image, STEM_CHANNELS, "stem", kernel_size=3, strides=2)
    outputs = {}
    for stage, (blocks, kernel_size, strides, expansion, filters) in enumerate(STAGES, start=1):
        for block in range(blocks):
            name = f"stage{stage}_block{block}"
            x = _inverted_residual(x, filters, name, kernel_size, 1 if block else strides, expansion)
        outputs[stage] = x
    return [outputs[stage] for stage in LEVELS]


def pyramid(levels, channels: int):
    """Merges backbone levels into one map at the finest stride, from the coarsest down (Lin et al., CVPR 2017).

    Each level passes a 1x1 convolution, is added to the upsampled output of the level above, and the sum passes a
    depthwise separable convolution.

    Args:
        levels: (B, h / 2^i, w / 2^i, C_i), each level at half the resolution of the one before.
        channels: of the pyramid.

    Returns:
        (B, h, w, channels).
    """
    x = None
    for index, level in reversed(list(enumerate(levels))):
        name = f"pyramid_{index}"
        lateral = _conv_bn(level, channels, f"{name}_lateral", activation=False)
        if x is not None:
            upsampled = Upsample(2, "nearest", name=f"{name}_upsample")(x)
            lateral = layers.Add(name=f"{name}_add")([upsampled, lateral])
        x = _depthwise_bn(lateral, f"{name}_depthwise", 3, activation=False)
        x = _conv_bn(x, channels, f"{name}_pointwise")
    return x


def _inverted_residual(x, filters, name, kernel_size, strides, expansion):
    """1x1 expansion, depthwise convolution and linear 1x1 projection, with a shortcut where the shapes agree."""
    y = x
    if expansion > 1:
        y = _conv_bn(y, expansion * x.shape[-1], f"{name}_expand")
    y = _depthwise_bn(y, f"{name}_depthwise", kernel_size, strides)
    y = _conv_bn(y, filters, f"{name}_project", activation=False)
    if strides == 1 and x.shape[-1] == filters:
        y = layers.Add(name=f"{name}_add")([x, y])
    return y


def _conv_bn(x, filters, name, *, kernel_size=1, strides=1, activation=True):
    # The checkpoints were trained in TensorFlow and need its padding: at stride 2, an even map gets one pixel less
    # before it than after it.
    conv = layers.Conv2D(
        filters,
        kernel_size,
        strides,
        "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )
    return _batch_norm(conv(x), name, activation)


def _depthwise_bn(x, name, kernel_size, strides=1, *, activation=True):
    # He initialization: Keras' own counts all channels as inputs of a depthwise convolution, but each output sees one.
    initializer = initializers.VarianceScaling(2.0, "fan_out")
    conv = layers.DepthwiseConv2D(
        kernel_size, strides, "same", use_bias=False, depthwise_initializer=initializer, name=f"{name}_conv"
    )
    return _batch_norm(conv(x), name, activation)


def _batch_norm(x, name, activation):
    x = FusedBatchNorm(epsilon=BN_EPSILON, momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(max_value=6.0, name=f"{name}_relu")(x) if activation else x
