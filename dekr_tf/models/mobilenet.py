"""MobileNetV2 of width 1.5 with a feature pyramid and heatmap head, as in MoveNet MultiPose Lightning (Google, 2021).

Sandler et al., CVPR 2018, section 3; pyramid and head as in MoveNet's graph. MoveNet's weights come with batch
normalization folded, so the convolutions here have biases instead: train this backbone from these weights, not from
random ones. Layer names follow the structure, since the weights are matched by them.
"""

from keras import layers

from dekr_tf.layers.resize import Upsample

STEM_CHANNELS = 48
#: Blocks, stride, expansion and output channels of stages 1 to 7.
STAGES = (
    (1, 1, 1, 24),
    (2, 2, 6, 40),
    (3, 2, 6, 48),
    (4, 2, 6, 96),
    (3, 1, 6, 144),
    (3, 2, 6, 240),
    (1, 1, 6, 480),
)
TOP_CHANNELS = 1280
#: The stages that enter the pyramid, each with its number of channels there; what is on top enters with `TOP_LATERAL`.
LATERALS = {2: 24, 3: 32, 4: 64}
TOP_LATERAL = 64
#: Pixels by which the image is shifted right and down before the stem: MoveNet's cell i stands for pixel 4 i + 2, and
#: those of DEKR for pixel 4 i.
SHIFT = 2
#: Depthwise filters of a feature channel in the heatmap head: one for the keypoints, one for the center.
DEPTH_MULTIPLIER = 2


def mobilenet_v2(image):
    """Builds backbone and pyramid on a symbolic image.

    Args:
        image: (B, H, W, 3), RGB in -1..1, H and W multiples of 32.

    Returns:
        (B, H / 4, W / 4, 24), at least 0.
    """
    x = layers.ZeroPadding2D(((SHIFT, 0), (SHIFT, 0)), name="stem_pad")(image)
    x = _relu6(_conv(x, STEM_CHANNELS, "stem", kernel_size=3, strides=2, padding="valid"), "stem")
    laterals = []
    for stage, (blocks, strides, expansion, filters) in enumerate(STAGES, start=1):
        for block in range(blocks):
            x = _inverted_residual(x, filters, f"stage{stage}_block{block}", 1 if block else strides, expansion)
        if stage in LATERALS:
            laterals.append(_conv(x, LATERALS[stage], f"pyramid_{len(laterals)}_lateral"))
    x = _relu6(_conv(x, TOP_CHANNELS, "top"), "top")
    x = _conv(x, TOP_LATERAL, f"pyramid_{len(laterals)}_lateral")
    for index, lateral in reversed(list(enumerate(laterals))):
        name = f"pyramid_{index}"
        x = layers.Add(name=f"{name}_add")([Upsample(2, "bilinear", name=f"{name}_upsample")(x), lateral])
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{name}_depthwise_conv")(x)
        # The next finer level has fewer channels.
        x = _conv(x, laterals[max(index - 1, 0)].shape[-1], f"{name}_pointwise")
        x = layers.ReLU(name=f"{name}_relu")(x)
    return x


def _inverted_residual(x, filters, name, strides, expansion):
    """1x1 expansion, depthwise convolution and linear 1x1 projection, with a shortcut where the shapes agree."""
    y = x
    if expansion > 1:
        y = _relu6(_conv(y, expansion * x.shape[-1], f"{name}_expand"), f"{name}_expand")
    y = layers.DepthwiseConv2D(3, strides, "same", name=f"{name}_depthwise_conv")(y)
    y = _relu6(y, f"{name}_depthwise")
    y = _conv(y, filters, f"{name}_project")
    if strides == 1 and x.shape[-1] == filters:
        y = layers.Add(name=f"{name}_add")([x, y])
    return y


def separable_block(x, filters, name):
    """A depthwise 3x3 convolution with `DEPTH_MULTIPLIER`, a 1x1 convolution and ReLU."""
    x = layers.DepthwiseConv2D(
        3, 1, "same", depth_multiplier=DEPTH_MULTIPLIER, use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    return layers.ReLU(name=f"{name}_relu")(_conv(x, filters, f"{name}_pointwise"))


def _conv(x, filters, name, *, kernel_size=1, strides=1, padding="same"):
    return layers.Conv2D(filters, kernel_size, strides, padding, kernel_initializer="he_normal", name=f"{name}_conv")(x)


def _relu6(x, name):
    return layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)
