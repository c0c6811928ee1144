"""The model under Keras' own `compile`, `fit` and callbacks, and one step on every backend of Keras."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from one_step import CONFIG

from dekr_tf.data.target_encoder import TargetEncoder
from dekr_tf.errors import InputError
from dekr_tf.models import build_dekr
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.estimator import PoseEstimator

HERE = Path(__file__).parent

pytestmark = pytest.mark.slow


def run(program, backend, *words):
    """What a program prints in a process of its own."""
    if backend != "tensorflow":
        pytest.importorskip(backend)
    process = subprocess.run(
        [sys.executable, HERE / program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(HERE.parents[1])},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module", params=["tensorflow", "torch", "jax"])
def results(request, tmp_path_factory):
    """What `keras_usage.py` prints on a backend."""
    return json.loads(run("keras_usage.py", request.param, tmp_path_factory.mktemp(request.param)))


@pytest.mark.parametrize("way", ["adam", "sgd", "averaged", "accumulated"])
def test_fit_learns_and_logs_every_loss(results, way):
    history = results[way]
    losses = ["heatmap_loss", "loss", "offset_loss"]
    assert sorted(history) == sorted([*losses, *(f"val_{name}" for name in losses)])
    for kind in ("", "val_"):
        np.testing.assert_allclose(
            history[f"{kind}loss"], np.add(history[f"{kind}heatmap_loss"], history[f"{kind}offset_loss"]), rtol=1e-5
        )
        assert history[f"{kind}offset_loss"][0] > 0
    assert history["loss"][2] < history["loss"][0]


def test_parts_of_a_batch_have_the_gradient_of_the_whole(results):
    for whole, parts in zip(*results["in parts"], strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_callbacks_stop_and_save(results):
    # The first epoch and two without the improvement that is asked for.
    assert results["epochs"] == 3
    assert results["evaluated"] == pytest.approx(results["last val"], rel=1e-4)
    trained, whole, weights = results["saved"]
    assert trained == whole == weights
    assert results["config"][0] == results["config"][1]
    for one, other in zip(*results["went on"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_backup_and_restore_goes_on_where_it_stopped(results):
    for uninterrupted, resumed in zip(*results["resumed"], strict=True):
        np.testing.assert_allclose(resumed, uninterrupted, rtol=1e-5, atol=1e-6)


def test_photos_and_labels_or_what_they_become(results):
    photos_and_labels, floats_and_maps = results["inputs"]
    assert floats_and_maps == pytest.approx(photos_and_labels, rel=1e-5)


def test_mixed_precision_scales_the_loss(results):
    assert results["half"] == ["LossScaleOptimizer", ["float32"]]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Losses, gradients and moving statistics of one step: `steps(backend, offset_cells)`."""
    folder = tmp_path_factory.mktemp("steps")
    generator = np.random.default_rng(0)
    network = build_dekr(CONFIG.model, CONFIG.schema)
    # Zeros would put the adaptive convolution's samples where its gradient jumps.
    weights = [
        np.asarray(variable) + 0.1 * generator.random(variable.shape, np.float32) for variable in network.variables
    ]
    people = np.append(generator.uniform(2, 14, (2, 2, 3, 2)), np.ones((2, 2, 3, 1)), axis=-1)
    encode = TargetEncoder(2, CONFIG.targets, max_people=2)
    labels = [encode(each, np.full(2, 9.0), np.ones((16, 16), np.uint8)) for each in people]
    arrays = {name: np.stack([each[name] for each in labels]) for name in labels[0]}
    arrays |= {f"weights/{number}": array for number, array in enumerate(weights)}
    arrays["photos"] = generator.integers(0, 256, (2, 64, 64, 3), np.uint8)
    np.savez(folder / "input.npz", **arrays)

    @functools.cache
    def step(backend, offset_cells):
        output = folder / f"{backend}_{offset_cells}.npz"
        run("one_step.py", backend, folder / "input.npz", output, offset_cells)
        with np.load(output) as file:
            return {name: file[name] for name in file.files}

    return step


@pytest.mark.parametrize("offset_cells", ["dense", "supervised"])
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_step_is_the_same_on_every_backend(steps, backend, offset_cells):
    received, wanted = (steps(name, offset_cells) for name in (backend, "tensorflow"))
    assert received.keys() == wanted.keys() >= {"loss", "heatmap_loss", "offset_loss", "offset_g1_final/kernel"}
    for name, expected in wanted.items():
        np.testing.assert_allclose(received[name], expected, rtol=1e-4, atol=1e-4 * abs(expected).max(), err_msg=name)


def test_sample_weights_are_refused():
    model = PoseEstimator(build_dekr(CONFIG.model, CONFIG.schema), Sidecar.from_config(CONFIG))
    with pytest.raises(InputError, match="sample_weight is not supported"):
        model.compute_loss(y={}, y_pred={}, sample_weight=np.ones(2))
