"""Two machines, in the form of two processes on this one."""

import csv
import json
import signal
import socket

import numpy as np
import pytest


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

    for process in start_two(tmp_path / "run"):
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
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
