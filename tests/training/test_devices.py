"""One device or two, one machine or two: the same training."""

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from dekr_tf.errors import InputError, TrainingError
from dekr_tf.training.devices import is_chief, lost_machines, open_strategy, read_cluster

HERE = Path(__file__).parent

pytestmark = pytest.mark.slow


def flat(values):
    return np.concatenate([np.ravel(value) for value in values]) if values else np.zeros(0)


@pytest.fixture(scope="module")
def results():
    """What toy networks learn on one device and on two logical CPUs, by variant."""
    program = subprocess.run(
        [sys.executable, HERE / "two_devices.py"], capture_output=True, text=True, check=False, cwd=HERE.parents[1]
    )
    assert program.returncode == 0, program.stderr
    return json.loads(program.stdout)


@pytest.mark.parametrize("variant", ["plain", "clipped", "averaged", "in parts", "half"])
def test_two_devices_learn_what_one_learns(results, variant):
    one, two = results[variant]
    tolerance = 2e-2 if variant == "half" else 1e-5
    for name, losses in one["history"].items():
        np.testing.assert_allclose(two["history"][name], losses, rtol=tolerance, err_msg=name)
    np.testing.assert_allclose(flat(two["weights"]), flat(one["weights"]), atol=tolerance)
    np.testing.assert_allclose(flat(two["averages"]), flat(one["averages"]), atol=tolerance)
    assert one["steps"] == two["steps"] == 9
    assert one["history"]["loss"][-1] < one["history"]["loss"][0]


def test_what_is_equal_would_not_be_so_by_itself(results):
    """Batch statistics of a device, clipping and averages each change the result by far more than the tolerance."""
    one, two = results["not synchronized"]
    assert abs(flat(one["weights"]) - flat(two["weights"])).max() > 1e-3
    assert abs(flat(results["clipped"][0]["weights"]) - flat(results["plain"][0]["weights"])).max() > 1e-3
    averaged = results["averaged"][0]
    assert len(averaged["averages"]) > 0
    np.testing.assert_array_equal(flat(averaged["weights"]), flat(results["plain"][0]["weights"]))


def test_overflows_of_float16_are_left_out(results):
    for run in results["overflow"]:
        assert 0 < run["steps"] < 9
        assert np.isfinite(flat(run["weights"])).all()


def cluster(monkeypatch, content):
    monkeypatch.setenv("TF_CONFIG", content if isinstance(content, str) else json.dumps(content))


def test_one_machine_without_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert read_cluster() == [("worker", 0)]
    assert is_chief()


@pytest.mark.parametrize(
    ("machines", "task", "chief"),
    [
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 0}, True),
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 1}, False),
        ({"chief": ["a:1"], "worker": ["b:1"]}, {"type": "chief", "index": 0}, True),
        ({"chief": ["a:1"], "worker": ["b:1"]}, {"type": "worker", "index": 0}, False),
    ],
)
def test_the_first_machine_is_the_chief(monkeypatch, machines, task, chief):
    cluster(monkeypatch, {"cluster": machines, "task": task})
    assert len(read_cluster()) == 2
    assert is_chief() == chief


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        {"cluster": {"worker": ["a:1"]}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}},
        {"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a:1"], "chief": ["b:1", "c:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": 2}, "task": {"type": "worker", "index": 0}},
        {"cluster": ["a:1"], "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a:1"]}, "task": ["worker", 0]},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": ["worker"], "index": 0}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "first"}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": float("inf")}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": None}},
        {"cluster": {}, "task": {}},
        "[" * 100_000,
        "5",
        "null",
    ],
)
def test_a_tf_config_that_makes_no_sense(monkeypatch, content):
    cluster(monkeypatch, content)
    for read in (lambda: open_strategy("all"), is_chief):
        with pytest.raises(InputError, match=r"^TF_CONFIG: expected .* Received: "):
            read()


def test_a_lost_machine_ends_the_training_but_is_no_bad_input():
    lost = tf.errors.UnavailableError(None, None, "failed to connect\nmore")
    several = mock.Mock(spec=tf.distribute.MultiWorkerMirroredStrategy)
    message = r"training stopped: a machine of the job is gone; .* Received: failed to connect$"
    with pytest.raises(TrainingError, match=message), lost_machines(several):
        raise lost
    with pytest.raises(tf.errors.UnavailableError), lost_machines(tf.distribute.get_strategy()):
        raise lost
