from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dekr_tf.config import Config, load_config
from dekr_tf.errors import InputError
from dekr_tf.keypoints import COCO, CROWDPOSE

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def load(tmp_path, text="", overrides=()):
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def flatten(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_says_how_it_is_run_and_repeats_no_default(path):
    config = load_config(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#")
    assert f"configs/{path.name}" in "".join(line for line in text.splitlines() if line.startswith("#"))
    defaults = dict(flatten(Config().model_dump(mode="json")))
    for key, value in flatten(yaml.safe_load(text)):
        if not key.startswith("keypoints."):
            assert value != defaults.get(key), f"{key} repeats the default"
    assert len(config.schema) >= 1


def test_an_empty_file_is_the_defaults(tmp_path):
    config = load(tmp_path)
    assert config == Config()
    assert config.schema is COCO
    assert config.training.learning_rate_drops == (90, 120)


def test_the_file_changes_what_it_names(tmp_path):
    config = load(tmp_path, "keypoints: crowdpose\nmodel: {width: 48}\ndata: {val_images: photos/val}\n")
    assert config.schema is CROWDPOSE
    assert config.model.width == 48
    assert config.data.val_images == Path("photos/val")
    assert config.model.offset_head.block == "adaptive"


def test_overrides_win_over_the_file(tmp_path):
    overrides = ["training.epochs=2", "data.augmentation.scale=[0.5, 2]", "model.offset_head.branches=single"]
    config = load(tmp_path, "training: {epochs: 5, batch_size: 4}", overrides)
    assert (config.training.epochs, config.training.batch_size) == (2, 4)
    assert config.data.augmentation.scale == (0.5, 2.0)
    assert config.model.offset_head.branches == "single"


def test_a_skeleton_can_be_written_in_the_config(tmp_path):
    config = load(tmp_path, "keypoints: {name: stick, names: [top, bottom], edges: [[top, bottom]]}")
    assert config.schema.edges == ((0, 1),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainig: {epochs: 1}", "unknown key trainig$"),
        ("training: {epoch: 1}", "unknown key training.epoch$"),
        ("training: {epochs: 0}", "training.epochs: .*greater than 0. Received: 0"),
        ("training: {epochs: many}", "training.epochs: .*integer.*Received: 'many'"),
        ("training: {learning_rate: -1}", "training.learning_rate: .*Received: -1"),
        ("input_size: 500", "input_size: .*multiple of 32. Received: 500"),
        ("data: {augmentation: {flip: 1.5}}", "data.augmentation.flip: .*Received: 1.5"),
        ("data: {augmentation: {rotation: 200}}", "data.augmentation.rotation: .*Received: 200"),
        ("data: {augmentation: {scale: [0, 1]}}", "data.augmentation.scale.0: .*Received: 0"),
        ("targets: {person_size: largest}", "targets.person_size: .*'reference' or 'paper'. Received: 'largest'"),
        ("model: {offset_head: {block: deformable}}", "model.offset_head.block: .*Received: 'deformable'"),
        ("model: {offset_head: {channels: 250}}", "multiple of the number of keypoints, 17. Received: 250"),
        ("model: {offset_head: {branches: [[nose]]}}", r"every keypoint of the skeleton once.*: \[\['nose'\]\]"),
        ("model: {backbone: resnet}", "model.backbone: .*'hrnet' or 'efficientnet_lite0'. Received: 'resnet'"),
        (
            "model: {backbone: efficientnet_lite0, width: 16}",
            "yaml: model.backbone efficientnet_lite0 has no width. Received: 16$",
        ),
        ("model: {pyramid_channels: 32}", "yaml: model.backbone hrnet has no pyramid_channels. Received: 32$"),
        ("model: {stem_channels: 0}", "model.stem_channels: .*greater than 0. Received: 0"),
        ("decoder: {nms_keypoints: -1}", "decoder.nms_keypoints: .*Received: -1"),
        ("keypoints: horse", "skeleton: expected coco, crowdpose"),
        ("keypoints: {names: [a, a]}", "keypoint names must be unique"),
        ("- epochs", "expected a mapping. Received: list"),
        ("training: [", "expected YAML. Received: while parsing"),
    ],
)
def test_what_does_not_fit_is_named_with_its_value_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path, text)
    assert "experiment.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_all_problems_are_named_at_once(tmp_path):
    with pytest.raises(InputError, match=r"unknown key data.place; training.epochs: .*; unknown key speed$"):
        load(tmp_path, "speed: 1\ntraining: {epochs: 0}\ndata: {place: x}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "expected an override of the form group.key=value. Received: training.epochs"),
        ("=2", "of the form group.key=value"),
        ("training.epochs=[", "the value is not YAML"),
        ("training.epochs.last=2", "training.epochs.last=2: epochs is not a group of settings"),
        ("training.epoch=2", "unknown key training.epoch"),
    ],
)
def test_overrides_that_do_not_fit(tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, "training: {epochs: 1}", [override])


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read config .*gone.yaml"):
        load_config(tmp_path / "gone.yaml")


def test_branches_may_group_keypoints(tmp_path):
    text = "keypoints: {names: [a, b, c]}\nmodel: {offset_head: {branches: [[c, a], [b]], channels: 6}}"
    assert load(tmp_path, text).model.offset_head.branches == [["c", "a"], ["b"]]


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Config().input_size = 640
