"""Whatever settings are accepted, all that is made of them can be made; the others are refused in one line."""

import json
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dekr_tf.config import Config, Settings, load_config, parse_settings
from dekr_tf.data.annotations import ImageRecord
from dekr_tf.data.samples import SampleEncoder
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.errors import InputError
from dekr_tf.inference.decoder import decode_maps
from dekr_tf.models.dekr import build_dekr
from dekr_tf.sidecar import Sidecar
from dekr_tf.training import trainer
from dekr_tf.training.schedules import learning_rate

SKELETON = {"name": "three", "names": ["left", "right", "top"], "flip_pairs": [["left", "right"]]}
#: A network that is made in no time.
BASE = {
    "keypoints": SKELETON,
    "input_size": 32,
    "model": {
        "width": 4,
        "stem_channels": 4,
        "stage1_channels": 4,
        "bottlenecks": 1,
        "modules": [1, 1, 1],
        "blocks": 1,
    },
    "data": {},
}
NUMBERS = st.sampled_from([1, 2, 3, 32, 0.05, 0.5])
ODD_NUMBERS = st.sampled_from(
    [-(2**70), -1, 0, 2**31, 2**32, 2**64, 1e-300, 1.5, 90, 1e9, 1e300, np.inf, -np.inf, np.nan]
)
ANYTHING = ODD_NUMBERS | st.none() | st.booleans() | st.sampled_from(["", "single", "coco", "1", [], {}, ["a"]])
SPECIAL = {
    "model.offset_head.branches": st.sampled_from(
        [[["left"], ["right"], ["top"]], [["top", "left"], ["right"]], [["left", "right"]], [[], SKELETON["names"]]]
    ),
    "keypoints": st.sampled_from(["coco", "crowdpose", {"names": ["point"]}, {"names": []}, {"names": "point"}]),
    "input_size": st.sampled_from([32, 64, 96]),
}

pytestmark = pytest.mark.slow


def fields(group: type[Settings], prefix: str = "") -> Iterator[tuple[str, typing.Any]]:
    """The names and types of all settings."""
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


def values_of(name: str, annotation) -> st.SearchStrategy:
    """Values for a setting: some that fit its type, and any others."""
    fitting = [SPECIAL[name]] if name in SPECIAL else []
    options = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    for option in options or (annotation,):
        if typing.get_origin(option) is typing.Literal:
            fitting.append(st.sampled_from(typing.get_args(option)))
        elif option is bool:
            fitting.append(st.booleans())
        elif typing.get_origin(option) is tuple:
            count = len(typing.get_args(option))
            shortest = 0 if Ellipsis in typing.get_args(option) else count
            fitting.append(st.lists(NUMBERS | ODD_NUMBERS, min_size=shortest, max_size=count))
            fitting.append(st.lists(NUMBERS, min_size=shortest, max_size=count))
    return st.one_of(*(fitting or [NUMBERS, NUMBERS]), ODD_NUMBERS, ANYTHING)


CHANGES = st.lists(
    st.one_of([st.tuples(st.just(name), values_of(name, annotation)) for name, annotation in fields(Config)]),
    min_size=1,
    max_size=3,
)


def changed(changes) -> dict:
    content = json.loads(json.dumps(BASE))
    for name, value in changes:
        *groups, last = name.split(".")
        group = content
        for each in groups:
            group = group.setdefault(each, {})
        group[last] = value
    # The other backbones have none of the settings of the small HRNet.
    if content["model"].get("backbone", "hrnet") != "hrnet":
        content["model"] = {name: value for name, value in content["model"].items() if name not in BASE["model"]}
    return content


@cache
def network_of(model: str, skeleton: str) -> keras.Model:
    config = Config.model_validate({"model": json.loads(model), "keypoints": json.loads(skeleton)})
    return build_dekr(config.model, config.schema)


def build(config, schema, image_size=(None, None)):
    """`build_dekr`, once for each network."""
    return network_of(config.model_dump_json(), json.dumps(schema.to_dict()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("configs")


@example([("training.learning_rate_drops", [1, 2, 32]), ("training.warmup_epochs", 1.5), ("targets.offset_radius", 32)])
@example([("training.accumulation_steps", 2), ("training.batch_size", 32), ("training.seed", 2**32 - 1)])
@example([("data.augmentation.scale", [0.05, 90.0]), ("data.augmentation.translation", 1000)])
@example([("model.offset_head.branches", [["top", "left"], ["right"]]), ("model.offset_head.blocks", 3)])
@example([("model.backbone", "efficientnet_lite0"), ("training.frozen_stages", 7)])
@settings(max_examples=100)
@given(CHANGES)
def test_accepted_settings_can_be_used(folder, changes):
    try:
        config = parse_settings(Config, changed(changes), "test")
    except InputError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("test: ") or "skeleton" in str(error)
        return
    # The settings survive the file of a run.
    path = Path(folder, "config.yaml")
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(path) == config
    sidecar = Sidecar.from_config(config)

    schema, generator = config.schema, np.random.default_rng(config.training.seed)
    keypoints = generator.uniform(-5, 60, (2, len(schema), 3)).astype(np.float32)
    keypoints[..., 2] = 2
    boxes = np.float32([[0, 0, 40, 60], [5, 5, 30, 30]])
    record = ImageRecord(1, "a.png", (48, 64), keypoints, np.float32([2400, 900]), boxes)
    encode = SampleEncoder(schema, config, sidecar.output_stride, 2)
    image, labels = encode(generator.integers(0, 256, (48, 64, 3), np.uint8), record, generator)
    assert image.shape == (config.input_size, config.input_size, 3)
    maps = draw_targets({name: values[None] for name, values in labels.items()}, config.targets)
    side = config.input_size // 4
    assert maps["heatmap"].shape == (1, side, side, len(schema) + 1)
    for name, values in maps.items():
        assert np.isfinite(values).all(), name

    keras.utils.set_random_seed(config.training.seed)
    rates = [float(learning_rate(config.training, 7)(step)) for step in (0, 6, 7, 10**6)]
    assert np.isfinite(rates).all() and min(rates) >= 0 and rates[0] > 0
    optimizer = trainer._optimizer(config.training, 7)
    assert isinstance(optimizer, keras.optimizers.Optimizer)

    network = build(config.model, schema)
    trainer.freeze(network, config.training)
    network.trainable = True
    assert network.output["offset"].shape[-1] == 2 * len(schema)
    heatmap = generator.random((side, side, len(schema) + 1), np.float32)
    offset = generator.normal(0, 3, (side, side, 2 * len(schema))).astype(np.float32)
    poses = decode_maps(heatmap, offset, config.decoder)
    assert len(poses) <= config.decoder.max_people
    assert np.isfinite(poses.keypoints).all()
