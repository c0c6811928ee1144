import re
import shlex
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dekr_tf.cli.main import build_parser, main
from dekr_tf.config import RENAMED, Config, load_config
from dekr_tf.errors import InputError
from dekr_tf.keypoints import COCO, CROWDPOSE
from dekr_tf.weights import WEIGHTS

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
#: The paper's two networks on its two data sets, and its ablations.
RECIPES = [path for path in CONFIGS if re.match(r"(coco_w32|coco_w48|crowdpose_w)", path.name)]


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


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_paper_is_the_reference_s(path):
    # IMAGES_PER_GPU of the reference's yaml and the number of GPUs in its README, by the network's width.
    width = load_config(path).model.width
    images, gpus, file = {32: (10, 4, "hrnet_w32-36af842e.pth"), 48: (5, 8, "hrnet_w48-8ef0771d.pth")}[width]
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    (override,) = re.findall(r"training\.accumulation_steps=\d+", header)
    config = load_config(path, [override])
    settings = config.training
    assert settings.batch_size == images * gpus
    assert settings.batch_size // settings.accumulation_steps == images
    assert (settings.learning_rate, settings.offset_loss_weight, settings.schedule) == (1e-3, 0.03, "step")
    crowdpose = config.schema is CROWDPOSE
    assert settings.epochs == (300 if crowdpose else 140)
    assert settings.learning_rate_drops == ((200, 260) if crowdpose else (90, 120))
    backbone = f"hrnet_w{width}_imagenet"
    assert settings.backbone_weights == Path(backbone)
    assert WEIGHTS[backbone].url.endswith(f"/{file}")
    assert f"dekr weights get {backbone}\n" in header
    assert re.search("Training selects best.keras on (the test set|val2017)", header)
    assert "We have not run this training" in header


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_command_line_takes_the_commands_of_every_header(path):
    text = re.sub(r"\\\n#", " ", path.read_text(encoding="utf-8"))
    commands = [shlex.split(line) for line in re.findall(r"^#(?: \w+:)? +dekr (.*)$", text, re.MULTILINE)]
    assert ["train", "--config", f"configs/{path.name}"] in [command[:3] for command in commands]
    for command in commands:
        build_parser().parse_args(command)


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
        (
            "data: {augmentation: {scale: [1.5, 0.5]}}",
            r"minimum and the maximum, in this order. Received: \[1.5, 0.5\]$",
        ),
        ("data: {augmentation: {translation: .inf}}", "data.augmentation.translation: .*finite.*Received: inf$"),
        ("decoder: {nms_distance: .inf}", "decoder.nms_distance: .*finite.*Received: inf$"),
        ("decoder: {center_threshold: .nan}", "decoder.center_threshold: .*finite.*Received: nan$"),
        ("decoder: {center_threshold: -1}", "decoder.center_threshold: .*Received: -1$"),
        (
            "{keypoints: {name: dot, names: [dot]}, decoder: {keypoint_error: 8}}",
            "decoder.keypoint_error needs a skeleton of two keypoints or more, .*Received: 8.0$",
        ),
        ("decoder: {max_people: 1000000000}", "decoder.max_people: .*Received: 1000000000$"),
        ("training: {seed: -1}", "training.seed: .*Received: -1$"),
        ("training: {seed: 4294967296}", "training.seed: .*Received: 4294967296$"),
        ("training: {clip_norm: .inf}", "training.clip_norm: .*finite.*Received: inf$"),
        ("training: {learning_rate_drops: [9, 9]}", r"drops must be different epochs. Received: \[9, 9\]$"),
        ("training: {accumulation_steps: 4}", "a multiple of training.accumulation_steps, 4. Received: 10$"),
        ("training: {frozen_stages: 5}", "at most 4 with model.backbone hrnet. Received: 5$"),
        ("targets: {heatmap_sigma: 1.0e-300}", "targets.heatmap_sigma: .*Received: 1e-300$"),
        ("targets: {person_size: largest}", "targets.person_size: .*'reference' or 'paper'. Received: 'largest'"),
        ("model: {offset_head: {block: deformable}}", "model.offset_head.block: .*Received: 'deformable'"),
        ("model: {offset_head: {channels: 250}}", "multiple of the number of keypoints, 17. Received: 250"),
        ("model: {offset_head: {branches: [[nose]]}}", r"every keypoint of the skeleton once.*: \[\['nose'\]\]"),
        ("model: {backbone: resnet}", "model.backbone: .*'efficientnet_lite0' or 'mobilenet_v2'. Received: 'resnet'"),
        (
            "model: {backbone: efficientnet_lite0, width: 16}",
            "yaml: model.backbone efficientnet_lite0 has no width. Received: 16$",
        ),
        (
            "model: {backbone: mobilenet_v2, pyramid_channels: 16}",
            "yaml: model.backbone mobilenet_v2 has no pyramid_channels. Received: 16$",
        ),
        ("model: {pyramid_channels: 32}", "yaml: model.backbone hrnet has no pyramid_channels. Received: 32$"),
        ("model: {stem_channels: 0}", "model.stem_channels: .*greater than 0. Received: 0"),
        (
            "{model: {offset_head: {block: plain}}, training: {offset_cells: supervised}}",
            "offset_cells: supervised needs one or two adaptive blocks in model.offset_head. Received: 2 plain$",
        ),
        (
            "{model: {offset_head: {blocks: 3}}, training: {offset_cells: supervised}}",
            "supervised needs one or two adaptive blocks in model.offset_head. Received: 3 adaptive$",
        ),
        (
            "training: {offset_cells: supervised, gradient_checkpointing: true}",
            "offset_cells: supervised needs training.gradient_checkpointing=false. Received: true$",
        ),
        (
            "training: {offset_cells: supervised, jit_compile: true}",
            "offset_cells: supervised needs training.jit_compile=false. Received: true$",
        ),
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


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_answered_with_the_new_one(tmp_path, capsys, old, new):
    settings = dict(flatten(Config().model_dump()))
    assert new in settings
    assert old not in settings
    group, name = old.split(".")
    path = tmp_path / "experiment.yaml"
    path.write_text(f"{group}: {{{name}: 1}}")
    message = f"config {path}: {old} has been renamed to {new}"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        load_config(path)
    assert main(["info", "--config", str(path)]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(InputError, match=f": {old} has been renamed to {new}$"):
        load(tmp_path, overrides=[f"{old}=1"])


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read config .*gone.yaml"):
        load_config(tmp_path / "gone.yaml")


def test_branches_may_group_keypoints(tmp_path):
    text = "keypoints: {names: [a, b, c]}\nmodel: {offset_head: {branches: [[c, a], [b]], channels: 6}}"
    assert load(tmp_path, text).model.offset_head.branches == [["c", "a"], ["b"]]


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Config().input_size = 640


def test_a_key_given_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"experiment\.yaml: expected YAML. Received: the key epochs twice"):
        load(tmp_path, "training:\n  epochs: 1\n  epochs: 2\n")
    with pytest.raises(InputError, match=r"override data=.*: the value is not YAML"):
        load(tmp_path, overrides=["data={repeat: 1, repeat: 2}"])


def test_the_files_that_a_config_names(tmp_path):
    config = load(
        tmp_path,
        "data:\n"
        "  train:\n"
        "  - {annotations: a.json, images: photos.zip}\n"
        "  - {records: gs://bucket/records}\n"
        "  val_annotations: val.json\n"
        "training: {initial_weights: first.keras}\n",
    )
    names = {str(path) for path in config.files()}
    assert names == {"a.json", "photos.zip", "val.json", "first.keras", "coco"}
