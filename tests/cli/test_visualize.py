"""`dekr visualize` with real, tiny networks: what it draws, and what it says of bad input."""

import cv2
import keras
import numpy as np
import pytest
from networks import tiny_hrnet

from dekr_tf.cli import main as command_line
from dekr_tf.config import Config
from dekr_tf.models import build_dekr, save_model
from dekr_tf.sidecar import Sidecar

HANDS = {"name": "hands", "names": ["head", "left_hand", "right_hand"], "flip_pairs": [["left_hand", "right_hand"]]}
TINY = tiny_hrnet(2)
IDENTITY = (1, 0, 0, 1, 0, 0)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("eagerly_in_module")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with two models that find two people in whatever they see.

    The taps of `adaptive.keras` lie on regular grids, moved by the keypoint's index to the right.
    """
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    for block in ("adaptive", "plain"):
        config = Config(
            keypoints=HANDS,
            input_size=64,
            model={**TINY, "offset_head": {"block": block}},
            decoder={"max_people": 2, "nms_distance": 1e-6},
        )
        model = build_dekr(config.model, config.schema)
        model.get_layer("heatmap").bias.assign([0.5, 0.5, 0.5, 0.5])
        if block == "adaptive":
            offsets = np.array([(*IDENTITY[:5], shift) for shift in range(3)], np.float32)
            model.get_layer("offset_g1_block1_conv").offset_bias.assign(offsets)
        save_model(model, folder / f"{block}.keras", Sidecar.from_config(config))
    return folder


@pytest.fixture
def visualize(tmp_path, models, monkeypatch, capsys):
    """Runs `dekr visualize` in a folder with a gray photo; returns exit code, output and errors."""
    monkeypatch.setattr(command_line, "VERBS", ("visualize",))
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", np.full((96, 128, 3), 120, np.uint8))

    def run(*arguments, model="adaptive.keras"):
        code = command_line.main(["visualize", *arguments, "--model", str(models / model)])
        return code, *capsys.readouterr()

    return run


def draw(visualize, *arguments):
    code, output, errors = visualize(*arguments, "--output", "drawn", "--min-score", "0.01")
    assert (code, errors) == (0, "")
    assert output == "drawn/photo.png: 2 people\n"
    return cv2.imread("drawn/photo.png")[..., ::-1]


def test_activation(visualize):
    drawing = draw(visualize, "activation", "photo.png", "--keypoint", "right_hand")
    assert drawing.shape == (96, 128, 3)
    assert (drawing != 60).any()
    other = draw(visualize, "activation", "photo.png", "--keypoint", "head")
    assert (drawing != other).any()


def test_saliency(visualize):
    drawing = draw(visualize, "saliency", "photo.png", "--keypoint", "head", "--input-size", "128")
    assert drawing.shape == (96, 128, 3)
    # The colors of the heat, brighter than the photo in dark gray.
    assert ((drawing.max(axis=-1) > 100) & (np.ptp(drawing, axis=-1) > 50)).any()


def test_heatmap(visualize):
    drawing = draw(visualize, "heatmap", "photo.png")
    assert drawing.shape == (96, 256, 3)
    one = draw(visualize, "heatmap", "photo.png", "--keypoint", "head")
    # Green alone, halfway from the darkened photo.
    assert (one[40, 60] > 60).all() and one[40, 60].argmax() == 1
    assert (one[:, :128] != drawing[:, :128]).any()
    assert (one[:, 128:] == drawing[:, 128:]).all()


@pytest.mark.parametrize(
    ("arguments", "model", "named"),
    [
        (
            ["activation", "photo.png", "--keypoint", "tail"],
            "adaptive.keras",
            "head, left_hand, right_hand. Received: tail",
        ),
        (
            ["activation", "photo.png", "--keypoint", "head"],
            "plain.keras",
            "expected an offset head of adaptive",
        ),
        (["saliency", "none.png", "--keypoint", "head"], "adaptive.keras", "none.png"),
        (["heatmap", "photo.png"], "none.keras", "no such model: "),
        (["heatmap", "photo.png"], "model.tflite", "ends in .keras, .weights.h5 or .weights.npz"),
        (["heatmap", "photo.png", "--input-size", "0"], "adaptive.keras", "Received: 0"),
    ],
)
def test_bad_input_is_one_line(visualize, tmp_path, arguments, model, named):
    code, output, errors = visualize(*arguments, "--output", "drawn", model=model)
    assert (code, output) == (2, "")
    assert errors.startswith("dekr visualize: error: ") and errors.count("\n") == 1
    assert named in errors
    assert not (tmp_path / "drawn").exists()


def test_pictures_do_not_replace_the_photos(visualize):
    code, _, errors = visualize("heatmap", "photo.png", "--output", ".")
    assert code == 2 and "no input of the same command" in errors


def test_a_photo_that_cannot_be_used_is_named_and_the_others_go_on(visualize):
    cv2.imwrite("long.png", np.zeros((1, 20_000, 3), np.uint8))
    code, output, errors = visualize("heatmap", "long.png", "photo.png", "--output", "drawn")
    assert code == 2
    assert output.startswith("drawn/photo.png: ") and output.count("\n") == 1
    named, last = errors.splitlines()
    assert named.startswith("long.png: image too elongated")
    assert last == "dekr visualize: error: expected photos that can be used. Received: 1 of 2 that cannot"
