"""Training on a few synthetic people: it learns, writes what it says, and can be repeated."""

import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from networks import tiny_hrnet

from dekr_tf.config import Config, TrainingConfig, load_config
from dekr_tf.data.synthetic import write_dataset
from dekr_tf.errors import InputError
from dekr_tf.models import build_backbone, build_dekr, load_model, save_model
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.estimator import PoseEstimator
from dekr_tf.training.trainer import _check_folder, _settings_of_the_run, _warn_of_late_drops, load_backbone, train

TINY = tiny_hrnet(8)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Settings of a short training on four images of synthetic people, of whom two keypoints count."""
    folder = tmp_path_factory.mktemp("people")
    write_dataset(folder, train=4, val=0, size=(96, 96), seed=0)
    content = json.loads((folder / "train.json").read_text())
    for person in content["annotations"]:
        person["keypoints"] = person["keypoints"][3 * 5 : 3 * 7]
    content["categories"][0]["keypoints"] = ["left", "right"]
    (folder / "train.json").write_text(json.dumps(content))
    return Config(
        keypoints={"name": "shoulders", "names": ["left", "right"], "flip_pairs": [["left", "right"]]},
        input_size=64,
        model=TINY,
        data={"train_annotations": folder / "train.json", "train_images": folder / "train" / "images"},
        targets={"min_center_area": 0},
        training={"batch_size": 2, "epochs": 8, "learning_rate": 0.01, "learning_rate_drops": (5, 7), "seed": 3},
    )


def with_training(config, **values):
    return config.model_copy(update={"training": config.training.model_copy(update=values)})


def losses_of(folder, name="loss"):
    """A column of the log, a value an epoch."""
    with open(folder / "log.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


class Watch(keras.callbacks.Callback):
    """Notes the network's parameters at the start, and the learning rate of every step."""

    def __init__(self):
        super().__init__()
        self.start = {}
        self.rates = []

    def on_train_begin(self, logs=None):
        self.start = {variable.path: np.array(variable) for variable in self.model.network.variables}

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A training from backbone weights: its config, backbone, folder, network and what was noted on the way."""
    folder = tmp_path_factory.mktemp("runs")
    keras.utils.set_random_seed(1)
    backbone = build_backbone(config.model)
    save_model(backbone, folder / "backbone.keras")
    config = with_training(config, backbone_weights=folder / "backbone.keras")
    watch = Watch()
    network = train(config, folder / "new" / "run", callbacks=[watch])
    return config, backbone, folder / "new" / "run", network, watch


def test_it_learns(run):
    losses = losses_of(run[2])
    assert len(losses) == 8
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < 0.8 * losses[0]


def test_the_total_is_the_sum_of_the_losses(run):
    parts = [losses_of(run[2], name) for name in ("heatmap_loss", "offset_loss")]
    np.testing.assert_allclose(losses_of(run[2]), np.sum(parts, axis=0), rtol=1e-5)
    assert np.min(parts) > 0


def test_everything_that_belongs_to_the_run_is_written(run):
    config, _, folder, network, _ = run
    names = ["config.yaml", "last.keras", "last.keras.json", "log.csv", "state.npz", "tensorboard"]
    assert sorted(path.name for path in folder.iterdir()) == names
    model, sidecar = load_model(folder / "last.keras")
    assert sidecar == Sidecar.from_config(config)
    assert sidecar.schema.names == ("left", "right")
    for received, expected in zip(model.variables, network.variables, strict=True):
        np.testing.assert_array_equal(received, expected)
    assert load_config(folder / "config.yaml") == config


def test_training_starts_from_the_backbone(run):
    _, backbone, _, network, watch = run
    for variable in backbone.variables:
        np.testing.assert_array_equal(watch.start[variable.path], variable, err_msg=variable.path)
    for variable in network.variables:
        assert np.any(variable != watch.start[variable.path]), variable.path


def test_the_learning_rate_drops_after_the_epochs_of_the_config(run):
    # Two steps an epoch.
    np.testing.assert_allclose(run[4].rates, [1e-2] * 10 + [1e-3] * 4 + [1e-4] * 2, rtol=1e-6)


def test_a_log_file_gets_a_line_an_epoch(config, tmp_path, capsys):
    train(with_training(config, epochs=2), tmp_path / "run")
    output = capsys.readouterr().out
    assert not {"\r", "\b", "\x1b"} & set(output)
    assert output.count("heatmap_loss") == 2


def test_frozen_layers_stay_as_they_were(config, tmp_path):
    watch = Watch()
    config = with_training(config, epochs=1, frozen_stages=1, frozen_layers=("stage2_", "heatmap"))
    network = train(config, tmp_path / "run", callbacks=[watch])
    for variable in network.variables:
        frozen = variable.path.startswith(("stem_", "stage1_", "stage2_", "heatmap"))
        assert np.any(variable != watch.start[variable.path]) != frozen, variable.path


def test_frozen_layers_that_are_not_there(config, tmp_path):
    with pytest.raises(InputError, match=r"frozen_layers: expected the beginnings of .* layers\. Received: pyramid, "):
        train(with_training(config, frozen_layers=("pyramid",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


TF_DATA_HAS_GRAPHS = pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")


@TF_DATA_HAS_GRAPHS
@pytest.mark.usefixtures("eagerly")
def test_the_same_seed_gives_the_same_losses(config, tmp_path):
    for name, seed in {"first": 3, "again": 3, "other": 4}.items():
        train(with_training(config, epochs=1, batch_size=4, seed=seed), tmp_path / name)
    losses = losses_of(tmp_path / "first")
    assert losses_of(tmp_path / "again") == losses
    assert losses_of(tmp_path / "other") != losses


def test_xla_can_compile_the_whole_step(config, tmp_path, monkeypatch):
    lowered = []

    def fit(self, dataset, **_):
        """Lowers the step, which meets every operation; making machine code of it would take a minute."""
        assert self.jit_compile
        step = tf.function(lambda *batch: self.train_step(batch), jit_compile=True)
        lowered.append(step.experimental_get_compiler_ir(*next(iter(dataset)))(stage="hlo"))

    monkeypatch.setattr(PoseEstimator, "fit", fit)
    train(with_training(config, jit_compile=True), tmp_path)
    assert "convolution" in lowered[0] and "scatter" in lowered[0]


@TF_DATA_HAS_GRAPHS
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(run, tmp_path, precision):
    config, _, folder, _, _ = run
    watch = Watch()
    network = train(with_training(config, epochs=1, precision=precision), tmp_path, callbacks=[watch])
    trained = watch.model.network
    assert trained.get_layer("stage1_u0_1_conv").compute_dtype == precision.removeprefix("mixed_")
    assert {variable.dtype for variable in trained.variables} == {"float32"}
    assert losses_of(tmp_path)[:1] == pytest.approx(losses_of(folder)[:1], rel=0.05)
    assert all(np.isfinite(variable).all() for variable in trained.variables)
    # For inference, the network is saved in float32.
    saved, _ = load_model(tmp_path / "last.keras")
    for model in (network, saved):
        assert {layer.compute_dtype for layer in model.layers} == {"float32"}
        for received, expected in zip(model.variables, trained.variables, strict=True):
            np.testing.assert_array_equal(received, expected)


@TF_DATA_HAS_GRAPHS
@pytest.mark.usefixtures("eagerly")
def test_offsets_trained_at_the_supervised_cells(run, tmp_path):
    config, _, folder, _, _ = run
    watch = Watch()
    network = train(with_training(config, epochs=2, offset_cells="supervised"), tmp_path, callbacks=[watch])
    # Only batch statistics differ from those of whole maps.
    for name in ("loss", "offset_loss"):
        assert losses_of(tmp_path, name) == pytest.approx(losses_of(folder, name)[:2], rel=0.1)
    for variable in network.variables:
        assert np.any(variable != watch.start[variable.path]), variable.path


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04"])
def test_backbones_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "backbone.keras"
    if content is not None:
        path.write_bytes(content)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(InputError, match=r"cannot read backbone weights .*backbone.keras"):
        load_backbone(network, path)


def test_backbones_of_another_size(config, tmp_path):
    network = build_dekr(config.model, config.schema)
    save_model(build_backbone(config.model.model_copy(update={"width": 16})), tmp_path / "wide.keras")
    with pytest.raises(InputError, match=r"wide.keras do not fit at layer stage2_t0_conv: "):
        load_backbone(network, tmp_path / "wide.keras")
    save_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")]), tmp_path / "dense.keras")
    with pytest.raises(InputError, match=r"do not fit at layer dense: No such layer"):
        load_backbone(network, tmp_path / "dense.keras")


def test_validation_sets_that_measure_nothing(config, tmp_path):
    empty = {"images": [{"id": 1, "file_name": "a.png", "height": 96, "width": 96}]}
    nobody = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "keypoints": [0] * 6}
    for content, message in [
        (
            empty | {"annotations": [nobody]},
            r"val.json: no person in 1 images has labeled keypoints",
        ),
        (
            empty | {"annotations": [nobody | {"keypoints": [1, 1, 2] * 2, "num_keypoints": 0}]},
            r"val.json: no person in 1 images has num_keypoints above 0",
        ),
        ({"images": [], "annotations": []}, "at least one image. Received: an empty list"),
    ]:
        (tmp_path / "val.json").write_text(json.dumps(content))
        data = config.data.model_copy(update={"val_annotations": tmp_path / "val.json", "val_images": tmp_path})
        with pytest.raises(InputError, match=message):
            train(config.model_copy(update={"data": data}), tmp_path / "run")
    data = config.data.model_copy(update={"val_annotations": tmp_path / "val.json"})
    with pytest.raises(InputError, match=r"data.val_annotations needs data.val_images as well"):
        train(config.model_copy(update={"data": data}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batches_that_cannot_be_shared(config, tmp_path):
    with pytest.raises(InputError, match=r"a multiple of 1 devices times 4 parts .* Received: 2"):
        train(with_training(config, accumulation_steps=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there(config, tmp_path):
    with pytest.raises(InputError, match=r"training.devices: expected a GPU .* Received: gpu, without any"):
        train(with_training(config, devices="gpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_are_not_written_over(run):
    config, _, folder, _, _ = run
    with pytest.raises(InputError, match=f"a folder without a run as output; --resume .* Received: {folder}"):
        train(config, folder)
    with pytest.raises(InputError, match=r"expected training.seed as in .*config.yaml, 3. Received: 4"):
        train(with_training(config, seed=4), folder, resume=True)
    with pytest.raises(InputError, match=r"expected input_size as in .*config.yaml, 64. Received: 128"):
        train(config.model_copy(update={"input_size": 128}), folder, resume=True)


def test_a_run_goes_on_with_its_own_skeleton(config, tmp_path):
    """Whatever becomes of the file that it is from."""
    skeleton = dict(config.keypoints)
    (tmp_path / "keypoints.json").write_text(json.dumps(skeleton))
    config = with_training(config.model_copy(update={"keypoints": str(tmp_path / "keypoints.json")}), epochs=1)
    # `model_copy` keeps what the copied config has computed.
    config = Config.model_validate(config.model_dump())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(_settings_of_the_run(config)))
    assert load_config(tmp_path / "run" / "config.yaml").schema.flip_pairs == ((0, 1),)
    for changes, message in [
        ({"flip_pairs": []}, r"flip_pairs as in .*config\.yaml, \(\(0, 1\),\)\. Received: \(\)$"),
        ({"names": ["right", "left"]}, r"names as in .*, \('left', 'right'\)\. Received: \('right', 'left'\)$"),
        ({"names": ["left", "right", "top"]}, r"names as in .* Received: \('left', 'right', 'top'\)$"),
        ({"oks_sigmas": [0.1, 0.2]}, r"oks_sigmas as in .*, \(0\.05, 0\.05\)\. Received: \(0\.1, 0\.2\)$"),
    ]:
        (tmp_path / "keypoints.json").write_text(json.dumps(skeleton | changes))
        changed = Config.model_validate(config.model_dump())
        with pytest.raises(InputError, match=f"^--resume: expected the skeleton's {message}"):
            train(changed, tmp_path / "run", resume=True)
    (tmp_path / "keypoints.json").write_text(json.dumps(skeleton | {"edges": [["left", "right"]], "name": "line"}))
    assert _check_folder(Config.model_validate(config.model_dump()), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rate_drops": (5, 8, 9)}, "[8, 9] have no effect in 8 epochs"),
        ({"learning_rate_drops": (5, 7)}, None),
        ({"learning_rate_drops": (9,), "schedule": "cosine"}, None),
        ({}, None),
    ],
)
def test_drops_after_the_last_epoch_are_said(caplog, values, said):
    _warn_of_late_drops(TrainingConfig(epochs=8, **values))
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ([] if said is None else [f"training.learning_rate_drops: {said}"])


def test_settings_that_are_missing(tmp_path):
    with pytest.raises(InputError, match=r"needs data.train_annotations and data.train_images"):
        train(Config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(config, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="cannot write"):
        train(config, tmp_path / "taken")
