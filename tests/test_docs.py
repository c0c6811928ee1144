"""The commands and snippets of README and docs/, on small inputs under the names that the pages use."""

import json
import re
import shlex
import shutil
import zipfile
from pathlib import Path

import cv2
import keras
import pytest
import tensorflow as tf
import yaml

from dekr_tf.cli.main import VERBS, build_parser, main
from dekr_tf.config import Config, load_config
from dekr_tf.data.synthetic import write_dataset
from dekr_tf.keypoints import COCO
from dekr_tf.models import build_dekr, save_model
from dekr_tf.sidecar import Sidecar

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = sorted((ROOT / "docs/results").glob("*.md"))

SMALL = {
    "input_size": 64,
    "model": {"width": 2, "modules": [1, 1, 1], "blocks": 1, "offset_head": {"channels": 34}},
}

#: What marks a command that is parsed but not run, and why.
NOT_RUN = {
    "camera:0": "there is no camera",
    "weights get": "it downloads; see tests/cli/test_weights.py",
    "dekr_w": "public weights are not there",
    ".pth": "checkpoints are imported in tests/converters",
    "configs/": "the networks of the recipes are large",
    "data synthetic": "it draws a thousand images; see tests/cli/test_data.py",
    "benchmark": "it starts a process for each model; see tests/cli/test_benchmark_command.py",
    "reproduce": "see tests/cli/test_reproduce.py",
    "TF_CONFIG": "see tests/training/test_machines.py",
    "KERAS_BACKEND": "a process has one backend; see tests/training/test_keras_training.py",
    "--serving": "see tests/serving",
    "serve-client": "see tests/serving",
    "RAY_ADDRESS": "there is no cluster",
    "dekr web": "npm may be missing; see tests/cli/test_web.py and make test-web",
}

#: Arguments that would take long.
SHORTER = {"training.epochs=200": "training.epochs=2"}

pytestmark = pytest.mark.slow


def blocks(page, language):
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page):
    """The `dekr` commands of a page, a line each."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(\w+=('.*?'|\S+) +)*dekr ", line):
                yield line


def words(command):
    """The arguments of a command, without variables of the environment before it and comments behind it."""
    found = shlex.split(command, comments=True)
    return found[found.index("dekr") + 1 :]


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda page: page.name)
def test_commands_can_be_parsed(page):
    for command in commands(page):
        arguments, rest = build_parser().parse_known_args(words(command))
        assert not rest or ("overrides" in arguments and all("=" in word for word in rest)), command


def test_every_verb_is_in_the_docs():
    verbs = {words(command)[0] for page in PAGES for command in commands(page)}
    assert verbs == set(VERBS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with what the pages name."""
    folder = tmp_path_factory.mktemp("inputs")
    write_dataset(folder, train=3, val=2, size=(96, 128), seed=1)
    for name in ("train", "val"):
        images = folder / name / "images"
        shutil.copytree(images, folder / "data" / name)
        shutil.copy(folder / f"{name}.json", folder / "data" / f"{name}.json")
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for image in images.iterdir():
                archive.write(image, image.name)
    shutil.copytree(folder / "data/val", folder / "photos")
    shutil.rmtree(folder / "val")
    shutil.copytree(folder / "data/val", folder / "val")
    photo = min(folder.glob("photos/*"))
    cv2.imwrite(str(folder / "photo.jpg"), cv2.imread(str(photo)))
    shutil.copytree(ROOT / "docs/photos", folder / "docs/photos")
    video = cv2.VideoWriter(str(folder / "street.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (128, 96))
    for _ in range(2):
        video.write(cv2.imread(str(photo)))
    video.release()

    labels = json.loads((folder / "val.json").read_text())
    person = labels["annotations"][0]
    result = {key: person[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 0.5}
    (folder / "results.json").write_text(json.dumps([result]))
    (folder / "crowdpose_train.json").write_text((folder / "train.json").read_text())
    for image in labels["images"]:
        image["id"] += 1000
    for person in labels["annotations"]:
        person["id"] += 1000
        person["image_id"] += 1000
    (folder / "crowdpose_val.json").write_text(json.dumps(labels))

    data = {f"{name}_annotations": f"data/{name}.json" for name in ("train", "val")}
    data |= {f"{name}_images": f"data/{name}" for name in ("train", "val")}
    training = {"epochs": 1, "batch_size": 2, "learning_rate_drops": [], "pictures": 0}
    (folder / "mine.yaml").write_text(yaml.safe_dump({**SMALL, "data": data, "training": training}))

    config = Config(**SMALL)
    keras.utils.set_random_seed(0)
    save_model(build_dekr(config.model, COCO), folder / "model.keras", Sidecar.from_config(config))
    assert main(["export", "--model", str(folder / "model.keras"), "--format", "tflite", "--output",
                 str(folder / "model_int8.tflite")]) == 0  # fmt: skip
    shutil.copy(folder / "model_int8.tflite", folder / "model.tflite")
    shutil.copy(folder / "model_int8.tflite.json", folder / "model.tflite.json")
    return folder


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """A copy of the inputs as the current folder."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page, here, capsys):
    for command in commands(page):
        if any(mark in command for mark in NOT_RUN):
            continue
        arguments = [SHORTER.get(word, word) for word in words(command)]
        # A graph takes longer to make than a few calls; an export is a graph.
        tf.config.run_functions_eagerly(arguments[0] != "export")
        try:
            code = main(arguments)
        finally:
            tf.config.run_functions_eagerly(False)
        assert code == 0, f"{command}\n{capsys.readouterr().err}"
        for option in ("--output", "--draw", "--plot", "--results-output", "--shards"):
            if option in arguments:
                assert (here / arguments[arguments.index(option) + 1]).exists(), command


@pytest.mark.parametrize("name", ["README.md", "docs/python.md", "docs/devices.md"])
def test_snippets_run(name, here):
    for snippet in blocks(ROOT / name, "python"):
        exec(compile(snippet, name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_are_accepted(page, here):
    for content in blocks(page, "yaml"):
        values = yaml.safe_load(content)
        if "names" in values:
            Config(keypoints=values)
            continue
        (here / "skeleton.yaml").write_text(yaml.safe_dump({"names": list(COCO.names[:14])}))
        (here / "config.yaml").write_text(content)
        load_config(here / "config.yaml")


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
