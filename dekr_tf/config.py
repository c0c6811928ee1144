"""Settings of an experiment and of a model: typed and strict, in YAML, changed by `key=value` on the command line."""

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

# The limits lie far from all that makes sense, and within what float32, int32 and a computer's memory hold.
Positive = Annotated[float, Field(ge=1e-12, le=1e6)]
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Count = Annotated[int, Field(gt=0, le=100)]
Channels = Annotated[int, Field(gt=0, le=4096)]
Sigma = Annotated[float, Field(ge=0.1, le=100)]
Zoom = Annotated[float, Field(ge=0.01, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all groups of settings: frozen, and an unknown key is an error, as is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class OffsetHeadConfig(Settings):
    """The offset head's family (paper sections 3.1 and 3.4, Tables 1 and 5)."""

    block: Literal["adaptive", "plain"] = "adaptive"
    #: Of the 3x3 convolutions of plain blocks; 5 is what ports without adaptive convolution use.
    dilation: Count = 1
    #: `separate` = a branch per keypoint, `single` = one branch, or lists of keypoint names, a branch each.
    branches: Literal["separate", "single"] | list[list[str]] = "separate"
    #: Feature channels of all branches together; a branch gets its share by its number of keypoints. Default: 15 K.
    channels: Annotated[int, Field(gt=0, lt=2**16)] | None = None
    blocks: Count = 2
    #: Map pixels of one unit of the last convolution. Adam moves a weight by about its learning rate a step, so that
    #: with 1 it takes thousands of steps until a network from fresh weights reaches across a large person.
    output_scale: Positive = 1.0


class ModelConfig(Settings):
    """The network."""

    #: `hrnet`, or for small devices `efficientnet_lite0`, brought to stride 4 by a top-down pyramid.
    backbone: Literal["hrnet", "efficientnet_lite0"] = "hrnet"
    #: HRNet width w; the four resolutions have w, 2w, 4w and 8w channels.
    width: Channels = 32
    #: HRNet: channels of the two stem convolutions.
    stem_channels: Channels = 64
    #: HRNet: inner channels of the bottleneck units of stage 1; their outputs have four times as many.
    stage1_channels: Channels = 64
    #: HRNet: bottleneck units of stage 1.
    bottlenecks: Count = 4
    #: HRNet: modules in stages 2, 3 and 4, and residual units of a branch in each; fewer make a smaller network.
    modules: tuple[Count, Count, Count] = (1, 4, 3)
    units: Count = 4
    #: EfficientNet: channels of the pyramid.
    pyramid_channels: Channels = 64
    #: Channels of the heatmap head. Default: HRNet's width, or half the channels of the pyramid.
    heatmap_channels: Channels | None = None
    offset_head: OffsetHeadConfig = OffsetHeadConfig()

    @property
    def heatmap_width(self) -> int:
        """Channels of the heatmap head."""
        default = self.width if self.backbone == "hrnet" else max(1, self.pyramid_channels // 2)
        return self.heatmap_channels or default

    @model_validator(mode="after")
    def _settings_belong_to_the_backbone(self):
        hrnet = {"width", "stem_channels", "stage1_channels", "bottlenecks", "modules", "units"}
        foreign = {"pyramid_channels"} if self.backbone == "hrnet" else hrnet
        changed = [name for name in sorted(foreign) if getattr(self, name) != type(self).model_fields[name].default]
        if changed:
            raise ValueError(
                f"model.backbone {self.backbone} has no {changed[0]}. Received: {getattr(self, changed[0])}"
            )
        return self


class DecoderConfig(Settings):
    """From maps to poses (paper section 3.3; the reference's TEST settings)."""

    max_people: Annotated[int, Field(gt=0, le=1000)] = 30
    #: A center counts from this heatmap value on.
    center_threshold: Fraction = 0.01
    #: Keypoints of two poses are near within this fraction of the bounding box diagonal of the candidate being walked.
    nms_distance: Positive = 0.05
    #: Poses are the same person when more than this many keypoints are near. Default: K // 2.
    nms_keypoints: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    #: `nms_distance` of the multi-scale test.
    multi_scale_nms_distance: Positive = 0.15
    #: In the multi-scale test, center scores of other scales are brought to the highest of scale 1 times this.
    multi_scale_damping: Annotated[float, Field(gt=0, le=1)] = 0.9
    #: Matching near the map's border: `reference`: as the reference does, which takes rows for columns there and may
    #: move a keypoint by many pixels; `cut`: a fit to what is inside.
    match_border: Literal["reference", "cut"] = "reference"
    #: How far keypoints are off: the standard deviation along each axis, pixels of the network's input. Scores are
    #: multiplied by the similarity (OKS) that this leaves to expect, which ranks small people after large ones; 0:
    #: scores as in the paper. Small networks gain: people_lite0 had an AP of .034 without, .083 with 8.
    keypoint_error: Annotated[float, Field(ge=0, le=1000)] = 0.0


class AugmentationConfig(Settings):
    """Random changes of a training sample."""

    #: Largest rotation, degrees either way.
    rotation: Annotated[float, Field(ge=0, le=180)] = 30.0
    #: Least and largest side of the crop, in short sides of the photo.
    scale: tuple[Zoom, Zoom] = (0.75, 1.5)
    #: Largest shift, pixels either way, for a photo with a short side of 200; larger photos shift in proportion.
    translation: Annotated[float, Field(ge=0, le=1000)] = 40.0
    #: Probability of a horizontal flip.
    flip: Fraction = 0.5

    @model_validator(mode="after")
    def _least_before_largest(self):
        if self.scale[0] > self.scale[1]:
            raise ValueError(
                "data.augmentation.scale must be the least and the largest, in this order. "
                f"Received: {list(self.scale)}"
            )
        return self


class TrainingSetConfig(Settings):
    """One of several data sets that are trained on together: annotations and images, or records."""

    annotations: Path | None = None
    images: Path | None = None
    #: What `dekr data tfrecord` wrote.
    records: str | None = None
    #: How often an epoch goes through the set: with 0.5 an image comes every other epoch, with 2 twice an epoch.
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    @model_validator(mode="after")
    def _one_form(self):
        files = self.annotations is not None and self.images is not None, self.records is not None
        if sum(files) != 1 or (self.records is not None and (self.annotations or self.images)):
            raise ValueError("expected annotations and images, or records")
        return self


class DataConfig(Settings):
    """Annotation files in COCO keypoint format, and their images: folders or zip files."""

    train_annotations: Path | None = None
    train_images: Path | None = None
    #: Instead of these two: what `dekr data tfrecord` wrote, a folder or an address such as gs://bucket/folder.
    train_records: str | None = None
    #: Instead of either: several data sets with the same keypoints, in one training.
    train: Annotated[list[TrainingSetConfig], Field(min_length=1)] | None = None
    #: Name or id of the category whose annotations, and whose skeleton, count. Default: all with keypoints.
    category: int | str | None = None
    val_annotations: Path | None = None
    val_images: Path | None = None
    #: How often an epoch goes through all of it; more than 1 makes sense for a handful of images.
    repeat: Annotated[int, Field(gt=0, le=10**6)] = 1
    #: Training images that cannot be read: `stop`, or `skip`: name each once and take the next image in its place.
    damaged_images: Literal["stop", "skip"] = "stop"
    augmentation: AugmentationConfig = AugmentationConfig()


class TargetConfig(Settings):
    """What the network is asked for (paper sections 3.2 and 4.1, and the reference's heatmap and offset generators)."""

    #: Gaussian of a keypoint, map pixels.
    heatmap_sigma: Sigma = 2.0
    #: Gaussian of the center, map pixels.
    center_sigma: Sigma = 4.0
    #: Heatmap loss weight of pixels far from every person.
    background_weight: Fraction = 0.1
    #: What the heatmap of a keypoint without a label is taught inside the person's box: `background`: that nothing is
    #: there, as in the reference; `ignore`: nothing at all, for data whose labels leave keypoints out (faces, say).
    unlabeled_keypoints: Literal["background", "ignore"] = "background"
    #: Offsets are asked for on the square [c - radius, c + radius) about the center.
    offset_radius: Count = 4
    #: `reference`: person size measured from the image origin, as the published checkpoints were trained; `paper`:
    #: diagonal of the keypoints' bounding box (needs a smaller offset loss weight, about 0.002). `reference` also
    #: compares sizes rounded to 32 bits where people overlap, so that not always the smaller one wins.
    person_size: Literal["reference", "paper"] = "reference"
    #: People with a smaller annotated area (square pixels of the photo) get no center.
    min_center_area: Annotated[float, Field(ge=0)] = 1024.0


class TrainingConfig(Settings):
    """How the network is trained (paper section 4.1)."""

    epochs: PositiveInt = 140
    #: Images of one step, on all devices and machines together.
    batch_size: PositiveInt = 10
    #: Parts of a batch that pass through the network one after another, for little memory. Batch statistics are those
    #: of a part, and the offset loss of a part is divided by its own positives.
    accumulation: PositiveInt = 1
    learning_rate: Positive = 1e-3
    #: `step`: divided by ten after each of the drops; `cosine`: half a cosine from the start to zero at the end.
    schedule: Literal["step", "cosine"] = "step"
    #: Epochs after which the learning rate is divided by ten.
    learning_rate_drops: tuple[PositiveInt, ...] = (90, 120)
    #: Epochs, also parts of one, over which the learning rate rises from zero.
    warmup_epochs: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    #: Largest norm of all gradients together; longer ones are scaled down to it.
    clip_norm: Positive | None = None
    #: Keeps a moving average of the weights, with this momentum, for validation and for the saved models.
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None
    heatmap_loss_weight: Positive = 1.0
    offset_loss_weight: Positive = 0.03
    #: Where training evaluates the offset head: `dense`: on the whole map; `supervised`: at the cells that have targets
    #: and at what these read, with batch statistics of those cells. It saves half of a small network's step, except on
    #: the JAX backend, which wants arrays of fixed size.
    offset_cells: Literal["dense", "supervised"] = "dense"
    #: Backbone weights to start from: a file of `dekr import`, or a name that `dekr weights` lists.
    backbone_weights: Path | None = None
    #: Or a trained model to start from, also one of another skeleton: the backbone whole, the heads keypoint by
    #: keypoint.
    initial_weights: Path | None = None
    #: Keeps the weights of the backbone's stem and first stages, of which HRNet has 4 and EfficientNet 7, as they are;
    #: 0: trains them all.
    frozen_stages: Annotated[int, Field(ge=0)] = 0
    #: Freezes statistics, scale and shift of the backbone's batch normalization, for batches too small for statistics.
    #: Nothing then brings activations back into range, so it needs a small learning rate: at 1e-3, three quarters of
    #: the channels of EfficientNet-Lite0's stage 6 died within 16 epochs.
    frozen_batch_norm: bool = False
    #: What the layers compute in; weights, losses and sampling positions are float32 in any case.
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    #: Forgets what is inside a module of the network and computes it again for the gradient: less memory, more time.
    recompute: bool = False
    #: `all`: every visible GPU, or the CPU where there is none. `gpu` is an error where there is none.
    devices: Literal["all", "gpu", "cpu"] = "all"
    #: Batch statistics over all devices and machines together.
    synchronized_batch_norm: bool = False
    jit_compile: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    #: Epochs from one validation to the next; the last epoch has one in any case.
    validate_every: PositiveInt = 5
    #: Validation images, the first ones, of which TensorBoard gets pictures with the poses found.
    pictures: Annotated[int, Field(ge=0)] = 4

    @model_validator(mode="after")
    def _no_drop_comes_twice(self):
        drops = self.learning_rate_drops
        if len(set(drops)) != len(drops):
            raise ValueError(f"training.learning_rate_drops must be different epochs. Received: {list(drops)}")
        return self

    @model_validator(mode="after")
    def _parts_make_a_batch(self):
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"training.batch_size must be a multiple of training.accumulation, {self.accumulation}. "
                f"Received: {self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_weights(self):
        if self.backbone_weights is not None and self.initial_weights is not None:
            raise ValueError(
                "training.backbone_weights and training.initial_weights exclude each other. Received: both"
            )
        return self


class Config(Settings):
    """Everything about an experiment."""

    #: `coco`, `crowdpose`, the path of a YAML file, or a mapping that `KeypointSchema.from_dict` reads.
    keypoints: str | dict[str, Any] = "coco"
    #: Short side of the network's input in pixels; training crops are squares of it.
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
        """The files and folders that the settings name, as they are written."""
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
    def _the_backbone_has_the_frozen_stages(self):
        stages = {"hrnet": 4, "efficientnet_lite0": 7}[self.model.backbone]
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
            for name in ("recompute", "jit_compile"):
                if getattr(training, name):
                    raise ValueError(f"training.offset_cells: supervised needs training.{name}=false. Received: true")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file that holds what differs from the defaults, and applies `key=value` overrides.

    Args:
        path: of the YAML file; relative paths inside it are taken from the current folder.
        overrides: `group.key=value`, the value in YAML, for example `training.epochs=2`.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value does not fit.
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
        InputError: one line with every key that is unknown or does not fit.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                problems.append(f"unknown key {key}")
            elif problem["type"] == "value_error":  # One of our validators; it names the key and the value.
                # But it does not know which entry of a list it sees.
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
