"""Trainings that end before their end: killed, out of disk space, out of numbers."""

import signal

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dekr_tf.models import load_model

pytestmark = pytest.mark.slow


def assert_same_run(folder, expected):
    """The states and the models of two runs are equal, bit by bit, and the curves but for rounding.

    The logged sum of both losses was seen to differ in its last bit, where no weight did.
    """
    curves = [np.genfromtxt(run / "log.csv", delimiter=",", names=True) for run in (folder, expected)]
    assert curves[0].dtype == curves[1].dtype
    for name in curves[0].dtype.names:
        np.testing.assert_allclose(curves[0][name], curves[1][name], rtol=1e-6, err_msg=name)
    with np.load(folder / "state.npz") as received, np.load(expected / "state.npz") as state:
        assert received.files == state.files
        for name in set(state.files) - {"header"}:
            np.testing.assert_array_equal(received[name], state[name], err_msg=name)
    for name in ("last.keras", "best.keras"):
        received, _ = load_model(folder / name)
        model, _ = load_model(expected / name)
        for one, other in zip(received.variables, model.variables, strict=True):
            np.testing.assert_array_equal(one, other)


def summaries(folder):
    """What TensorBoard shows: (step, value) of each scalar, steps of each picture."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    return {name: [event.step for event in events.Tensors(name)] for name in events.Tags()["tensors"]}


def test_a_whole_run(whole_run):
    epochs = [line.split(",")[0] for line in (whole_run / "log.csv").read_text().splitlines()]
    assert epochs == ["epoch", "1", "2", "3", "4"]
    shown = summaries(whole_run)
    for name in ("loss", "heatmap_loss", "offset_loss", "learning_rate"):
        assert shown.pop(name) == [1, 2, 3, 4]
    assert shown.pop("val_AP") == [2, 4]
    assert list(shown.values()) == [[2, 4]], "pictures of one image"


def test_a_run_that_is_killed_over_and_over(run_toy, whole_run, tmp_path):
    killed = -signal.SIGKILL
    # In the first epoch, in the second, while the second state is written, and between the models and the state.
    for fault in ("step:2", "step:5", "state:1", "before_state:2"):
        assert run_toy(tmp_path / "run", "--resume", TOY_FAULT=fault)[0] == killed
    assert run_toy(tmp_path / "run", "--resume")[0] == 0
    assert_same_run(tmp_path / "run", whole_run)
    assert summaries(tmp_path / "run") == summaries(whole_run)
    names = {path.name for path in whole_run.iterdir()}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names, "something is left over"


def test_losses_that_are_not_finite(run_toy, tmp_path):
    code, error = run_toy(tmp_path / "run", TOY_FAULT="nan:4")
    assert code == 2
    assert error == (
        "dekr train: error: training stopped at step 2 of epoch 2: expected finite losses and weights; the last good "
        f"checkpoint is {tmp_path / 'run' / 'state.npz'}, after epoch 1. Received: heatmap_loss nan"
    )
    with np.load(tmp_path / "run" / "state.npz") as state:
        assert all(np.isfinite(state[name]).all() for name in state.files if name != "header")


def test_the_last_update_of_an_epoch_spoils_the_weights(run_toy, tmp_path):
    code, error = run_toy(tmp_path / "run", TOY_FAULT="nan:3")
    assert code == 2
    assert "training stopped at the end of epoch 1" in error and "there is no checkpoint yet" in error
    assert not (tmp_path / "run" / "state.npz").exists()
    assert not (tmp_path / "run" / "last.keras").exists()


def test_a_full_disk(run_toy, whole_run, tmp_path):
    code, error = run_toy(tmp_path / "run", TOY_FAULT="full:2")
    assert code == 2
    assert error == (
        f"dekr train: error: cannot write to {tmp_path / 'run'}; the last good checkpoint is "
        f"{tmp_path / 'run' / 'state.npz'}, after epoch 1. Received: No space left on device"
    )
    assert run_toy(tmp_path / "run", "--resume")[0] == 0
    assert_same_run(tmp_path / "run", whole_run)


@pytest.mark.parametrize("limit", [20_000, 40_000])
def test_files_that_cannot_grow(run_toy, tmp_path, limit):
    """A write that the system refuses half-way, that of the model or that of the state."""
    code, error = run_toy(tmp_path / "run", TOY_FAULT=f"limit:{limit}")
    assert code == 2
    assert error.startswith(f"dekr train: error: cannot write to {tmp_path / 'run'}; there is no checkpoint yet.")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert "state.npz" not in left and not any(name.startswith(".") for name in left)
