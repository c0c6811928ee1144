"""Settings of an experiment and of a model: typed, strict, read from YAML, overridden by `key=value` arguments."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dekr_tf.errors import InputError
from dekr_tf.files.inputs import parse_yaml, read_yaml
from dekr_tf.geometry import COARSEST_STRIDE
from dekr_tf.keypoints import KeypointSchema, load_schema

# The limits are far beyond any sensible value, but still within what float32, int32 and memory can hold.
Positive = Annotated[float, Field(ge=1e-12, le=1e6)]
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Count = Annotated[int, Field(gt=0, le=100)]
Channels = Annotated[int, Field(gt=0, le=4096)]
Sigma = Annotated[float, Field(ge=0.1, le=100)]
Zoom = Annotated[float, Field(ge=0.01, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]

#: Former names of settings and their present ones, for the error message about an old config.
RENAMED = {
    "model.units": "model.blocks",
    "training.accumulation": "training.accumulation_steps",
    "training.recompute": "training.gradient_checkpointing",
}


class Settings(BaseModel):
    """Base of all groups of settings: frozen, with errors for unknown keys and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class OffsetHeadConfig(Settings):
    """The offset head: kind of block, and how keypoints share branches (paper sections 3.1 and 3.4, Tables 1 and 5)."""

    #: `adaptive` convolutions, or `plain` 3x3 convolutions as in the paper's baseline.
    block: Literal["adaptive", "plain"] = "adaptive"
    #: Dilation of the 3x3 convolutions in plain blocks; ports without adaptive convolutions use 5.
    dilation: Count = 1
    #: `separate`: one branch per keypoint; `single`: one branch for all; or lists of keypoint names, one branch each.
    branches: Literal["separate", "single"] | list[list[str]] = "separate"
    #: Total feature channels, divided among the branches by their numbers of keypoints. Default: 15 K.
    channels: Annotated[int, Field(gt=0, lt=2**16)] | None = None
    #: Blocks per branch.
    blocks: Count = 2
    #: Map pixels per unit of the last convolution's output. Adam moves a weight by about the learning rate per step, so
    #: with 1, a network trained from scratch needs thousands of steps before its offsets span a large person.
    output_scale: Positive = 1.0


class ModelConfig(Settings):
    """The network."""

    #: `hrnet`, or for small devices, with a top-down feature pyramid that ends at stride 4: `efficientnet_lite0`, or
    #: `mobilenet_v2` of width 1.5 with MoveNet's pyramid, which starts from MoveNet's weights.
    backbone: Literal["hrnet", "efficientnet_lite0", "mobilenet_v2"] = "hrnet"
    #: HRNet: width w; the four resolutions have w, 2w, 4w and 8w channels.
    width: Channels = 32
    #: HRNet: channels of the two stem convolutions.
    stem_channels: Channels = 64
    #: HRNet: inner channels of the bottleneck blocks in stage 1; their outputs have four times as many.
    stage1_channels: Channels = 64
    #: HRNet: bottleneck blocks in stage 1.
    bottlenecks: Count = 4
    #: HRNet: modules in stages 2, 3 and 4; fewer make a smaller network.
    modules: tuple[Count, Count, Count] = (1, 4, 3)
    #: HRNet: residual blocks per branch of a module.
    blocks: Count = 4
    #: EfficientNet: channels of the feature pyramid.
    pyramid_channels: Channels = 64
    #: The heatmap head: `residual` as in the paper, or `separable`, depthwise convolutions as in MoveNet's heads, which
    #: take a fraction of the arithmetic per channel and start from MoveNet's weights too.
    heatmap_block: Literal["residual", "separable"] = "residual"
    #: Channels of the heatmap head. Default: HRNet's width, half of `pyramid_channels`, or MobileNetV2's 24; for the
    #: separable head MoveNet's 192.
    heatmap_channels: Channels | None = None
    offset_head: OffsetHeadConfig = OffsetHeadConfig()

    @property
    def heatmap_width(self) -> int:
        """Channels of the heatmap head."""
        defaults = {
            "hrnet": self.width,
            "efficientnet_lite0": max(1, self.pyramid_channels // 2),
            "mobilenet_v2": 24,
        }
        default = 192 if self.heatmap_block == "separable" else defaults[self.backbone]
        return self.heatmap_channels or default

    @model_validator(mode="after")
    def _settings_belong_to_the_backbone(self):
        hrnet = {"width", "stem_channels", "stage1_channels", "bottlenecks", "modules", "blocks"}
        own = {"hrnet": hrnet, "efficientnet_lite0": {"pyramid_channels"}, "mobilenet_v2": set()}
        foreign = set.union(*own.values()) - own[self.backbone]
        changed = [name for name in sorted(foreign) if getattr(self, name) != type(self).model_fields[name].default]
        if changed:
            raise ValueError(
                f"model.backbone {self.backbone} has no {changed[0]}. Received: {getattr(self, changed[0])}"
            )
        return self


class DecoderConfig(Settings):
    """From maps to poses, as docs/decoding.md explains (paper section 3.3; the reference's TEST settings)."""

    #: Center candidates per image, and poses per result, at most.
    max_people: Annotated[int, Field(gt=0, le=1000)] = 30
    #: A center candidate needs a heatmap value above this.
    center_threshold: Fraction = 0.01
    #: Pose NMS: two keypoints are close if their distance is at most this fraction of the diagonal of the bounding box
    #: around the current candidate's keypoints.
    nms_distance: Positive = 0.05
    #: Pose NMS: two poses are the same person if more than this many of their keypoints are close. Default: K // 2.
    nms_keypoints: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    #: Moves each keypoint to the peak of its heatmap with the highest product of height and Gaussian of the distance,
    #: whose standard deviation is this fraction of the root of the area of the pose's box. 0 keeps keypoints where the
    #: offsets say, as the paper does.
    peak_distance: Annotated[float, Field(ge=0, le=10)] = 0.0
    #: `nms_distance` for the multi-scale test.
    multi_scale_nms_distance: Positive = 0.15
    #: Multi-scale test: center scores from other scales are rescaled so that their maximum is this fraction of the
    #: maximum at scale 1.
    multi_scale_damping: Annotated[float, Field(gt=0, le=1)] = 0.9
    #: Matching near the map's border: `reference` swaps rows and columns there, as the reference does, which may move a
    #: keypoint by many pixels; `cut` fits the part of the patch that is inside the map.
    match_border: Literal["reference", "cut"] = "reference"
    #: Standard deviation of keypoint errors along each axis, in pixels of the network's input. Decoding multiplies
    #: scores by the OKS to expect with such errors, which ranks small people below large ones; 0 keeps the paper's
    #: scores. Small networks benefit: `configs/people_mobilenet.yaml` sets 4.
    keypoint_error: Annotated[float, Field(ge=0, le=1000)] = 0.0
    #: Commands neither print nor draw people with a lower pose score; results have all people.
    min_score: Fraction = 0.1


class AugmentationConfig(Settings):
    """Random augmentation of training samples."""

    #: Maximum rotation in degrees, in either direction.
    rotation: Annotated[float, Field(ge=0, le=180)] = 30.0
    #: Minimum and maximum side of the square crop, as multiples of the photo's short side.
    scale: tuple[Zoom, Zoom] = (0.75, 1.5)
    #: Maximum shift in either direction, in 1/200 of the crop's side.
    translation: Annotated[float, Field(ge=0, le=1000)] = 40.0
    #: Probability of a horizontal flip.
    flip: Fraction = 0.5

    @model_validator(mode="after")
    def _least_before_largest(self):
        if self.scale[0] > self.scale[1]:
            raise ValueError(
                "data.augmentation.scale must be the minimum and the maximum, in this order. "
                f"Received: {list(self.scale)}"
            )
        return self


class TrainingSetConfig(Settings):
    """One of several data sets that one training mixes: annotations and images, or records."""

    #: Annotation file in COCO keypoint format.
    annotations: Path | None = None
    #: Folder or zip file of the images.
    images: Path | None = None
    #: Folder or address written by `dekr data tfrecord`, in place of annotations and images.
    records: str | None = None
    #: Passes through the set per epoch: with 0.5, each image is used every other epoch; with 2, twice per epoch.
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    @model_validator(mode="after")
    def _one_form(self):
        files = self.annotations is not None and self.images is not None, self.records is not None
        if sum(files) != 1 or (self.records is not None and (self.annotations or self.images)):
            raise ValueError("expected annotations and images, or records")
        return self


class DataConfig(Settings):
    """Training and validation data: annotation files in COCO keypoint format, and folders or zip files of images."""

    #: Annotation file of the training images.
    train_annotations: Path | None = None
    #: Folder or zip file of the training images.
    train_images: Path | None = None
    #: Instead of these two: output of `dekr data tfrecord`, a folder or an address such as gs://bucket/folder.
    train_records: str | None = None
    #: Instead of either: several data sets with the same keypoints.
    train: Annotated[list[TrainingSetConfig], Field(min_length=1)] | None = None
    #: Name or ID of the category that annotations and skeleton are taken from. Default: all categories with keypoints.
    category: int | str | None = None
    #: Annotation file of the validation images. Default: no validation.
    val_annotations: Path | None = None
    #: Folder or zip file of the validation images.
    val_images: Path | None = None
    #: Passes through all training data per epoch; more than 1 makes sense for a handful of images.
    repeat: Annotated[int, Field(gt=0, le=10**6)] = 1
    #: If a training image cannot be read: `stop` with an error, or `skip` it with one warning and use the next image.
    damaged_images: Literal["stop", "skip"] = "stop"
    augmentation: AugmentationConfig = AugmentationConfig()


class TargetConfig(Settings):
    """Target maps (paper sections 3.2 and 4.1, and the reference's heatmap and offset generators)."""

    #: Standard deviation of a keypoint's Gaussian, in map pixels.
    heatmap_sigma: Sigma = 2.0
    #: Standard deviation of the center's Gaussian, in map pixels.
    center_sigma: Sigma = 4.0
    #: Heatmap loss weight outside every Gaussian's patch; inside it is 1.
    background_weight: Fraction = 0.1
    #: Inside a person's box, the heatmap of a keypoint without a label learns `background`, as in the reference, or has
    #: no loss (`ignore`), for data whose labels leave out visible keypoints (faces, say).
    unlabeled_keypoints: Literal["background", "ignore"] = "background"
    #: Outside the photo, where a training crop is black, heatmaps have no loss (`ignore`), as in the reference, or
    #: learn `background`, for networks whose input is letterboxed: otherwise they may find people in its black corners.
    outside_photo: Literal["background", "ignore"] = "ignore"
    #: Offsets are supervised on the square [c - radius, c + radius) around the center c, in map pixels.
    offset_radius: Count = 4
    #: Person size in the offset loss weight. `reference` measures it from the image's origin, as for the published
    #: checkpoints; `paper` is the diagonal of the keypoints' bounding box and needs a smaller `offset_loss_weight`,
    #: about 0.002. Where people overlap, the smaller one supplies the offsets; `reference` compares sizes rounded to
    #: float32, so nearly equal people may be swapped.
    person_size: Literal["reference", "paper"] = "reference"
    #: Center of a person: mean of the labeled `keypoints`, or middle of the annotated `box` as far as it is on the map,
    #: for networks whose center map already knows it.
    center: Literal["keypoints", "box"] = "keypoints"
    #: People with a smaller annotated area, in square pixels of the photo, get no center.
    min_center_area: Annotated[float, Field(ge=0)] = 1024.0


class TrainingConfig(Settings):
    """The training loop (paper section 4.1)."""

    #: Passes through the training data; see `data.repeat` and the weights of `data.train`.
    epochs: PositiveInt = 140
    #: Images per optimizer step, on all devices and machines together.
    batch_size: PositiveInt = 10
    #: Micro-batches per optimizer step, to save memory. Batch statistics, and the number of positives that divides the
    #: offset loss, are those of a micro-batch.
    accumulation_steps: PositiveInt = 1
    #: Adam's learning rate after warm-up.
    learning_rate: Positive = 1e-3
    #: `step`: divide the learning rate by ten after each of the drops; `cosine`: decay to zero at the last epoch.
    schedule: Literal["step", "cosine"] = "step"
    #: Epochs after which the `step` schedule divides the learning rate by ten.
    learning_rate_drops: tuple[PositiveInt, ...] = (90, 120)
    #: Epochs of linear warm-up from zero; fractions are allowed.
    warmup_epochs: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    #: Maximum global gradient norm. Default: no clipping.
    clip_norm: Positive | None = None
    #: Momentum of a moving average of the weights, which validation and the saved models then use. Default: none.
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None
    #: Factor of the heatmap loss in the total loss.
    heatmap_loss_weight: Positive = 1.0
    #: Factor of the offset loss in the total loss; `targets.person_size` decides its scale.
    offset_loss_weight: Positive = 0.03
    #: Where training evaluates the offset head: `dense`, on the whole map, or `supervised`, only at the cells that have
    #: targets and at the cells that these read, whose batch statistics it then uses. That halves the step of a small
    #: network, except on the JAX backend, which needs arrays of fixed shape.
    offset_cells: Literal["dense", "supervised"] = "dense"
    #: Backbone weights to start from: a file written by `dekr import`, or a name that `dekr weights` lists.
    backbone_weights: Path | None = None
    #: Or a trained model to start from, even with another skeleton: training takes its backbone, and its heads for
    #: keypoints of the same name.
    initial_weights: Path | None = None
    #: Freezes the backbone's stem and this many of its first stages; HRNet has 4, the others 7. 0 trains everything.
    frozen_stages: Annotated[int, Field(ge=0)] = 0
    #: Freezes the layers whose names start with one of these words too, for example [top, pyramid, heatmap].
    frozen_layers: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    #: Freezes statistics, scale and shift of the backbone's batch normalization, for batches too small for statistics.
    #: Nothing then brings activations back into range, so training needs a small learning rate: at 1e-3, three quarters
    #: of the channels in EfficientNet-Lite0's stage 6 died within 16 epochs.
    frozen_batch_norm: bool = False
    #: Compute dtype of the layers, as a Keras policy; weights, losses and sampling positions always stay in float32.
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    #: Recompute activations inside backbone modules in the backward pass: less memory, about 20 % slower. HRNet only.
    gradient_checkpointing: bool = False
    #: `all`: every visible GPU, or the CPU if there is none; `gpu`: the same, but an error if there is none; `cpu`.
    devices: Literal["all", "gpu", "cpu"] = "all"
    #: Compute batch statistics over all devices and machines together.
    synchronized_batch_norm: bool = False
    #: Compile the whole training step with XLA.
    jit_compile: bool = False
    #: Seed of initial weights, image order and augmentation.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    #: Epochs between validations; the last epoch is always validated.
    validate_every: PositiveInt = 5
    #: How many of the first validation images TensorBoard shows with the poses found in them.
    pictures: Annotated[int, Field(ge=0)] = 4

    @model_validator(mode="after")
    def _no_drop_comes_twice(self):
        drops = self.learning_rate_drops
        if len(set(drops)) != len(drops):
            raise ValueError(f"training.learning_rate_drops must be different epochs. Received: {list(drops)}")
        return self

    @model_validator(mode="after")
    def _parts_make_a_batch(self):
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"training.batch_size must be a multiple of training.accumulation_steps, {self.accumulation_steps}. "
                f"Received: {self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_weights(self):
        if self.backbone_weights is not None and self.initial_weights is not None:
            raise ValueError(
                "training.backbone_weights cannot be combined with training.initial_weights, which brings a backbone"
            )
        return self


class Config(Settings):
    """All settings of an experiment."""

    #: Skeleton: `coco`, `crowdpose`, path of a YAML or annotation file, or a mapping for `KeypointSchema.from_dict`.
    keypoints: str | dict[str, Any] = "coco"
    #: Short side of the network's input, and side of the square training crops, in pixels.
    input_size: Annotated[int, Field(gt=0, le=8192, multiple_of=COARSEST_STRIDE)] = 512
    model: ModelConfig = ModelConfig()
    decoder: DecoderConfig = DecoderConfig()
    data: DataConfig = DataConfig()
    targets: TargetConfig = TargetConfig()
    training: TrainingConfig = TrainingConfig()

    @cached_property
    def schema(self) -> KeypointSchema:
        """The skeleton that `keypoints` names."""
        return load_schema(self.keypoints, self.data.category)

    def files(self) -> list[Path]:
        """The files and folders that the settings name, spelled as in the settings."""
        return [*_paths(self), *([Path(self.keypoints)] if isinstance(self.keypoints, str) else [])]

    @model_validator(mode="after")
    def _branches_cover_the_skeleton(self):
        head = self.model.offset_head
        names = list(self.schema.names)
        if not isinstance(head.branches, str):
            listed = [name for group in head.branches for name in group]
            if sorted(listed) != sorted(names) or not all(head.branches):
                raise ValueError(
                    "model.offset_head.branches must name every keypoint of the skeleton once, in groups of at least "
                    f"one. Received: {head.branches}"
                )
        if head.channels is not None and head.branches != "single" and head.channels % len(names):
            raise ValueError(
                f"model.offset_head.channels must be a multiple of the number of keypoints, {len(names)}. "
                f"Received: {head.channels}"
            )
        return self

    @model_validator(mode="after")
    def _poses_have_a_size(self):
        if self.decoder.keypoint_error and len(self.schema) == 1:
            raise ValueError(
                "decoder.keypoint_error needs a skeleton of two keypoints or more, whose poses have a size. "
                f"Received: {self.decoder.keypoint_error}"
            )
        return self

    @model_validator(mode="after")
    def _the_backbone_has_the_frozen_stages(self):
        stages = 4 if self.model.backbone == "hrnet" else 7
        if self.training.frozen_stages > stages:
            raise ValueError(
                f"training.frozen_stages must be at most {stages} with model.backbone {self.model.backbone}. "
                f"Received: {self.training.frozen_stages}"
            )
        return self

    @model_validator(mode="after")
    def _supervised_cells_fit_the_head_and_the_step(self):
        head, training = self.model.offset_head, self.training
        if training.offset_cells == "supervised":
            if head.block != "adaptive" or head.blocks > 2:
                raise ValueError(
                    "training.offset_cells: supervised needs one or two adaptive blocks in model.offset_head. "
                    f"Received: {head.blocks} {head.block}"
                )
            for name in ("gradient_checkpointing", "jit_compile"):
                if getattr(training, name):
                    raise ValueError(f"training.offset_cells: supervised needs training.{name}=false. Received: true")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file that holds what differs from the defaults, and applies `key=value` overrides.

    Args:
        path: of the YAML file; paths inside it are relative to the current folder.
        overrides: `group.key=value` with the value in YAML, for example `training.epochs=2`.

    Raises:
        InputError: the file cannot be read, a key is unknown or renamed, or a value is invalid.
    """
    values = read_yaml(path, "config")
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"config {path}: expected a mapping. Received: {type(values).__name__}")
    for override in overrides:
        _apply_override(values, override)
    return parse_settings(Config, values, f"config {path}")


def parse_settings(kind: type[Settings], values: Mapping[str, Any], source: str):
    """An instance of `kind` from plain values; `source` names their origin in the error.

    Raises:
        InputError: one line with every key that is unknown, renamed, or has an invalid value.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden" and key in RENAMED:
                problems.append(f"{key} has been renamed to {RENAMED[key]}")
            elif problem["type"] == "extra_forbidden":
                problems.append(f"unknown key {key}")
            elif problem["type"] == "value_error":  # From one of our validators, which names the key and the value.
                # The validator does not know which entry of a list it sees.
                where = f"{key}: " if any(isinstance(part, int) for part in problem["loc"]) else ""
                problems.append(where + problem["msg"].removeprefix("Value error, "))
            else:
                problems.append(f"{key}: {problem['msg']}. Received: {problem['input']!r}")
        raise InputError(f"{source}: {'; '.join(problems)}") from error


def _paths(settings: Settings) -> Iterator[Path]:
    for _, value in settings:
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, Settings):
                yield from _paths(each)
            elif isinstance(each, Path):
                yield each


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not key or not equals:
        raise InputError(f"expected an override of the form group.key=value. Received: {override}")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"override {override}: the value is not YAML") from error
    *groups, last = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise InputError(f"override {override}: {group} is not a group of settings")
    values[last] = value
