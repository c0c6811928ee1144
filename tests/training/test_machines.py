"""Two machines, in the form of two processes on this one."""

import csv
import json
import signal
import socket

import numpy as np
import pytest
import tensorflow as tf

from dekr_tf.config import load_config
from dekr_tf.data.annotations import read_annotations
from dekr_tf.data.pipeline import train_dataset
from dekr_tf.data.samples import LabeledImages

pytestmark = pytest.mark.slow


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def start_two(start_toy):
    """Starts a training on two machines; faults by machine."""
    processes = []

    def start_two(output, faults=("", "")):
        machines = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
        for index, fault in enumerate(faults):
            task = {"cluster": machines, "task": {"type": "worker", "index": index}}
            processes.append(start_toy(output, "--resume", TF_CONFIG=json.dumps(task), TOY_FAULT=fault))
        return processes[-2:]

    yield start_two
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("machines", [1, 2])
def test_devices_share_each_batch(toy_config, machines):
    """Four devices on one machine or on two: together, in turn, they get what one device would."""
    config = load_config(toy_config)
    records = read_annotations(config.data.train_annotations, config.schema)

    def images(context=None):
        data = LabeledImages(records, config.data.train_images)
        dataset = train_dataset(data, config, first_epoch=3, context=context)
        return [np.asarray(image) for image, _ in dataset.repeat().take(6 * len(dataset) // 3)]

    whole = images()
    assert len(whole) == 6, "two epochs"
    shares = [images(tf.distribute.InputContext(machines, machine, 4)) for machine in range(machines)]
    for step, batch in enumerate(whole):
        devices = 4 // machines
        parts = [part for share in shares for part in share[step * devices : (step + 1) * devices]]
        assert len(parts) == 4
        np.testing.assert_array_equal(np.concatenate(parts), batch)


def rows(folder):
    with open(folder / "log.csv", newline="") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def test_two_machines_learn_what_one_learns_even_after_one_was_lost(start_two, whole_run, tmp_path):
    # The other machine is killed in the third epoch.
    chief, other = start_two(tmp_path / "run", faults=("", "step:8"))
    errors = chief.communicate()[1].strip().splitlines()
    assert other.wait() == -signal.SIGKILL
    assert chief.returncode == 2
    assert errors[-1].startswith("dekr train: error: training stopped: a machine of the job is gone; start all of them")

    # Each takes the other for lost when it hears nothing for ten seconds, as on a machine that is short of everything.
    for _ in range(5):
        ends = [(process.communicate()[1], process.returncode) for process in start_two(tmp_path / "run")]
        if not any(code for _, code in ends):
            break
        assert any("a machine of the job is gone" in errors for errors, _ in ends), ends
    expected = rows(whole_run)
    assert len(rows(tmp_path / "run")) == len(expected) == 4
    for received, row in zip(rows(tmp_path / "run"), expected, strict=True):
        np.testing.assert_allclose(list(received.values()), list(row.values()), rtol=1e-4)
    names = {path.name for path in whole_run.iterdir()}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    with np.load(tmp_path / "run" / "state.npz") as received, np.load(whole_run / "state.npz") as state:
        for name in state.files:
            if name.startswith("network/"):
                np.testing.assert_allclose(received[name], state[name], atol=1e-4, err_msg=name)
