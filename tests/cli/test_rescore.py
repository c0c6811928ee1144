"""`dekr rescore`: from a model to a rescoring net, and back into `predict`, `evaluate` and `analyze`."""

import json
from itertools import pairwise

import keras
import numpy as np
import pytest

from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.data.synthetic import write_dataset
from dekr_tf.inference.rescoring import RescoringNet, count_features
from dekr_tf.keypoints import COCO, CROWDPOSE
from dekr_tf.models import build_dekr, save_model
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.rescoring_samples import RescoringSamples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos with labels, and an untrained network for them."""
    folder = tmp_path_factory.mktemp("rescore")
    write_dataset(folder, train=3, val=1, size=(64, 80), seed=2)
    head = {"block": "plain", "blocks": 1}
    config = Config(input_size=64, model={"width": 2, "modules": [1, 1, 1], "blocks": 1, "offset_head": head})
    keras.utils.set_random_seed(0)
    save_model(build_dekr(config.model, config.schema), folder / "model.keras", Sidecar.from_config(config))
    return folder


def run(capsys, *words):
    code = main(list(map(str, words)))
    return code, *capsys.readouterr()


def untrained_net(schema):
    sizes = count_features(schema), 8, 8, 1
    random = np.random.default_rng(0)
    return RescoringNet(
        schema,
        tuple((random.normal(size=pair), np.zeros(pair[1])) for pair in pairwise(sizes)),
    )


# tf.data goes on making graphs of its own, and says so.
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
def test_from_a_model_to_a_net_and_back(eagerly, folder, tmp_path, capsys):
    poses, net = tmp_path / "poses.npz", tmp_path / "net.npz"
    model = ("--model", folder / "model.keras", "--flip")
    data = ("--annotations", folder / "train.json", "--images", folder / "train" / "images")
    labels = json.loads((folder / "train.json").read_text())
    # Images without people are not looked at.
    labels["images"].append({"id": 99, "file_name": "gone.jpg"})
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    collect = (*model, "--annotations", tmp_path / "labels.json", *data[2:], "--output", poses)
    code, printed, errors = run(capsys, "rescore", "collect", *collect)
    assert (code, errors) == (0, "")
    samples = RescoringSamples.load(poses)
    assert printed == f"{poses}: {len(samples)} poses, mean OKS {samples.oks.mean():.3f}\n"
    assert len(samples) > 3 and samples.schema == COCO

    words = ("--output", net, "--validation", poses, "--epochs", 2, "--batch-size", 8, "--seed", 1)
    code, printed, errors = run(capsys, "rescore", "train", poses, *words)
    assert (code, errors) == (0, "")
    first, *epochs, last = printed.splitlines()
    assert first.startswith(f"{len(samples)} poses, skeleton: coco, variance of the OKS: ")
    assert [line.split(":")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    assert last == f"{net}: rescoring net, 85,249 values"

    results = {}
    for name, options in {"plain": [], "rescored": ["--rescore", net]}.items():
        output = tmp_path / f"{name}.json"
        code, _, errors = run(
            capsys, "evaluate", *model, *data, *options, "--results-output", output, "--metric", "coco"
        )
        assert (code, errors) == (0, "")
        results[name] = json.loads(output.read_text())
    plain, rescored = results.values()
    # In another order, as each list is best first.
    plain, rescored = (sorted(entries, key=lambda each: each["keypoints"]) for entries in (plain, rescored))
    assert [entry["keypoints"] for entry in plain] == [entry["keypoints"] for entry in rescored]
    keypoints = np.array([entry["keypoints"] for entry in plain]).reshape(-1, 17, 3)
    expected = RescoringNet.load(net).predict_oks(keypoints) * [entry["score"] for entry in plain]
    # People of a few pixels, in coordinates of three digits.
    np.testing.assert_allclose([entry["score"] for entry in rescored], expected, rtol=0.02)

    output = tmp_path / "predicted.json"
    photos = folder / "train" / "images"
    assert run(capsys, "predict", photos, *model, "--rescore", net, "--output", output) == (0, "", "")
    scores = [entry["score"] for entry in json.loads(output.read_text())]
    np.testing.assert_allclose(sorted(scores), sorted(entry["score"] for entry in rescored), rtol=1e-5)


def test_poses_of_a_results_file_and_crowdposes_area(tmp_path, capsys):
    label = [10, 20, 2] * 14
    person = {"image_id": 1, "category_id": 1, "keypoints": label, "bbox": [0, 0, 40, 50], "area": 9999}
    image = {"id": 1, "file_name": "a.png", "crowdIndex": 0.5}
    (tmp_path / "labels.json").write_text(json.dumps({"images": [image], "annotations": [person]}))
    found = {"image_id": 1, "keypoints": [13, 24, 0.5] * 14, "score": 0.5}
    (tmp_path / "results.json").write_text(json.dumps([found]))
    (tmp_path / "crowdpose.yaml").write_text("keypoints: crowdpose")
    sigmas = np.array(CROWDPOSE.oks_sigmas)
    words = ("--results", tmp_path / "results.json", "--annotations", tmp_path / "labels.json")
    poses = tmp_path / "poses.npz"
    for metric, area in {(): 0.53 * 40 * 50, ("--metric", "coco"): 9999}.items():
        options = (*words, "--config", tmp_path / "crowdpose.yaml", *metric, "--output", poses)
        assert run(capsys, "rescore", "collect", *options)[::2] == (0, "")
        samples = RescoringSamples.load(poses)
        np.testing.assert_allclose(samples.oks, [np.exp(-25 / (2 * (2 * sigmas) ** 2 * area)).mean()], rtol=1e-6)
        np.testing.assert_array_equal(samples.keypoints, [[[13, 24, 0.5]] * 14])


def test_bad_input(folder, tmp_path, capsys):
    untrained_net(CROWDPOSE).save(tmp_path / "other.npz")
    (tmp_path / "bare.yaml").write_text(json.dumps({"keypoints": {"names": list(COCO.names)}}))
    before = sorted(tmp_path.iterdir())
    model = ("--model", folder / "model.keras")
    data = ("--annotations", folder / "val.json", "--images", folder / "val" / "images")
    output = ("--output", tmp_path / "output.npz")
    other = "expected the 17 keypoints of the model's skeleton coco. Received: the 14 of crowdpose"
    for words, message in {
        ("predict", folder / "val" / "images", *model, "--rescore", tmp_path / "other.npz"): other,
        ("evaluate", *model, *data, "--rescore", tmp_path / "other.npz", *output): other,
        ("evaluate", *model, *data, "--rescore", tmp_path / "gone.npz", *output): "gone.npz: No such file",
        ("evaluate", "--results", "r.json", *data[:2], "--rescore", "net.npz", *output): "Received: --rescore",
        ("rescore", "collect", *model, *data[:2], *output): "--model needs --images",
        ("rescore", "collect", *model, *data, "--config", tmp_path / "bare.yaml", *output): "Received: skeleton custom",
        ("rescore", "collect", *model, *data, "--output", folder / "val.json" / "p.npz"): "cannot write",
        ("rescore", "train", tmp_path / "gone.npz", *output): "cannot read poses",
        ("rescore", "train", tmp_path / "other.npz", *output): "a file without keypoints, oks",
    }.items():
        code, _, errors = run(capsys, *words)
        assert code == 2
        assert errors.startswith(f"dekr {words[0]}: error: ") and errors.count("\n") == 1
        assert message in errors
    assert sorted(tmp_path.iterdir()) == before
