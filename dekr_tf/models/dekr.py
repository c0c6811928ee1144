"""DEKR: heatmap head and offset head on a backbone (paper section 3)."""

import keras
from keras import layers, ops

from dekr_tf.config import Config, ModelConfig, OffsetHeadConfig, parse_settings
from dekr_tf.errors import InputError
from dekr_tf.keypoints import COCO, KeypointSchema
from dekr_tf.layers.adaptive_conv import AdaptiveConv2D
from dekr_tf.layers.backend import check_keras_settings
from dekr_tf.layers.branch_conv import BranchConv2D
from dekr_tf.layers.resize import Upsample
from dekr_tf.models.efficientnet import efficientnet_lite0, pyramid
from dekr_tf.models.hrnet import basic_block, batch_norm, conv_bn, hrnet
from dekr_tf.models.mobilenet import mobilenet_v2, separable_block
from dekr_tf.sidecar import Sidecar

CHANNELS_PER_KEYPOINT = 15
#: Initial standard deviation in the last convolution of both heads, as in the reference: maps begin close to zero.
OUTPUT_STDDEV = 0.001
#: Initial bias before the sigmoid of a separable heatmap head: maps begin at 0.05.
SIGMOID_PRIOR = -3.0


def branch_groups(config: OffsetHeadConfig, schema: KeypointSchema) -> list[list[int]]:
    """The keypoint indices that each branch of the offset head regresses, in the order of the branches."""
    if config.branches == "separate":
        return [[index] for index in range(len(schema))]
    if config.branches == "single":
        return [list(range(len(schema)))]
    # Branches of one size are computed together, so their channels must be contiguous.
    groups = [[schema.names.index(name) for name in group] for group in config.branches]
    return sorted(groups, key=len)


def keypoint_channels(config: OffsetHeadConfig, schema: KeypointSchema) -> int:
    """Channels of the offset head for each keypoint."""
    return (config.channels or CHANNELS_PER_KEYPOINT * len(schema)) // len(schema)


@keras.saving.register_keras_serializable("dekr_tf")
class PoseNetwork(keras.Model):
    """A functional model that keeps the settings of inference, also in files that its `save` writes."""

    sidecar: Sidecar

    def get_config(self):
        return {**super().get_config(), "sidecar": self.sidecar.model_dump(mode="json", exclude_none=True)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        functional = {key: value for key, value in config.items() if key != "sidecar"}
        model = super().from_config(functional, custom_objects)
        model.sidecar = Sidecar(**config["sidecar"])
        return model


def build_dekr(
    config: ModelConfig | None = None,
    schema: KeypointSchema = COCO,
    image_size: tuple[int | None, int | None] = (None, None),
    **settings,
) -> PoseNetwork:
    """Builds the network: `build_dekr(width=32, schema=COCO)`, or with the settings of an experiment.

    Args:
        config: backbone and heads; by default made from `settings`.
        schema: the skeleton of K keypoints.
        image_size: (height, width) of the input, multiples of 32; by default any.
        settings: of `ModelConfig`, instead of `config`.

    Returns:
        A functional model from `image` (B, H, W, 3), normalized RGB, to a dict of float32 maps at stride 4:
        `heatmap` (B, H / 4, W / 4, K + 1), keypoint scores around 0..1 with the center last, and `offset`
        (B, H / 4, W / 4, 2 K), x and y of (cell minus keypoint) in map pixels. Its `sidecar` has these settings, and
        the defaults for all others.

    Raises:
        InputError: a setting does not fit, or Keras' settings are not those that the network needs.
    """
    check_keras_settings()
    if config is None:
        config = parse_settings(ModelConfig, settings, "build_dekr")
    elif settings:
        raise InputError(f"build_dekr: expected a config or single settings, not both. Received: {', '.join(settings)}")
    image = keras.Input((*image_size, 3), name="image")
    if config.backbone == "hrnet":
        branches = hrnet(image, config)
        features = layers.Concatenate(name="features")(
            [branches[0]]
            + [Upsample(2**index, "bilinear", name=f"features_{index}")(x) for index, x in enumerate(branches) if index]
        )
    else:
        if config.backbone == "efficientnet_lite0":
            features = pyramid(efficientnet_lite0(image), config.pyramid_channels)
        else:
            features = mobilenet_v2(image)
        features = layers.Identity(name="features")(features)
    heatmap = _heatmap_head(features, config, len(schema))
    offset = _offset_head(features, config.offset_head, schema)
    network = PoseNetwork(image, {"heatmap": heatmap, "offset": offset}, name="dekr")
    network.sidecar = Sidecar.from_config(Config(keypoints=schema.to_dict(), model=config))
    return network


def build_backbone(config: ModelConfig) -> keras.Model:
    """The backbone alone, from `image` (B, H, W, 3), with the layer names of `build_dekr`; raises as it does.

    The outputs are HRNet's four branches or EfficientNet's levels before the pyramid, at strides 4, 8, 16 and 32; or,
    with MobileNetV2, the one map of its pyramid at stride 4.
    """
    check_keras_settings()
    image = keras.Input((None, None, 3), name="image")
    if config.backbone == "hrnet":
        outputs = hrnet(image, config)
    else:
        outputs = efficientnet_lite0(image) if config.backbone == "efficientnet_lite0" else mobilenet_v2(image)
    return keras.Model(image, outputs, name=config.backbone)


def _heatmap_head(features, config, num_keypoints):
    if config.heatmap_block == "separable":
        x = separable_block(features, config.heatmap_width, "heatmap")
        options = {"activation": "sigmoid", "bias_initializer": keras.initializers.Constant(SIGMOID_PRIOR)}
    else:
        x = conv_bn(features, config.heatmap_width, "heatmap_transition")
        x = basic_block(x, config.heatmap_width, "heatmap_u0")
        options = {}
    # The loss and the decoder need float32 even if the network computes in float16.
    return layers.Conv2D(
        num_keypoints + 1, 1, kernel_initializer=_output_initializer(), dtype="float32", name="heatmap", **options
    )(x)


def _offset_head(features, config, schema):
    groups = branch_groups(config, schema)
    channels = config.channels or CHANNELS_PER_KEYPOINT * len(schema)
    x = conv_bn(features, channels, "offset_transition")
    by_size = {}
    for group in groups:
        by_size.setdefault(len(group), []).append(group)
    outputs = []
    start = 0
    for size, members in by_size.items():
        count = channels * size * len(members) // len(schema)
        y = x
        if len(by_size) > 1:
            y = SliceChannels(start, count, name=f"offset_g{size}_slice")(x)
        for block in range(config.blocks):
            y = _offset_block(y, config, len(members), f"offset_g{size}_block{block}")
        outputs.append(
            BranchConv2D(
                len(members),
                2 * size,
                use_bias=True,
                kernel_initializer=_output_initializer(),
                output_scale=config.output_scale,
                dtype="float32",
                name=f"offset_g{size}_final",
            )(y)
        )
        start += count
    y = layers.Concatenate(name="offset_branches")(outputs) if len(outputs) > 1 else outputs[0]
    order = [index for group in groups for index in group]
    if order != sorted(order):
        y = OrderKeypoints(order, dtype="float32", name="offset_order")(y)
    return y


def _output_initializer():
    return keras.initializers.RandomNormal(stddev=OUTPUT_STDDEV)


def _offset_block(x, config, branches, name):
    """A 3x3 convolution, adaptive or plain, with batch normalization, identity shortcut and ReLU."""
    filters = x.shape[-1] // branches
    if config.block == "adaptive":
        y = AdaptiveConv2D(branches, filters, name=f"{name}_conv")(x)
    else:
        y = BranchConv2D(branches, filters, 3, config.dilation, name=f"{name}_conv")(x)
    y = batch_norm(y, f"{name}_bn")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


@keras.saving.register_keras_serializable("dekr_tf")
class SliceChannels(layers.Layer):
    """The channels [start, start + count) of (B, H, W, C)."""

    def __init__(self, start, count, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.count = count

    def call(self, inputs):
        return inputs[..., self.start : self.start + self.count]

    def get_config(self):
        return {**super().get_config(), "start": self.start, "count": self.count}


@keras.saving.register_keras_serializable("dekr_tf")
class OrderKeypoints(layers.Layer):
    """Puts offsets (..., 2 K), whose i-th pair belongs to keypoint `order[i]`, into keypoint order."""

    def __init__(self, order, **kwargs):
        super().__init__(**kwargs)
        self.order = order

    def call(self, inputs):
        positions = sorted(range(len(self.order)), key=self.order.__getitem__)
        return ops.take(inputs, [2 * position + axis for position in positions for axis in (0, 1)], axis=-1)

    def get_config(self):
        return {**super().get_config(), "order": self.order}
