"""The number of processors, with the files of Linux' control groups in a folder of the test's own."""

import os
from types import SimpleNamespace

import pytest

from dekr_tf.errors import InputError
from dekr_tf.inference import engines
from dekr_tf.processors import available_processors


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch):
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        # Version 2: a container sees itself as the outermost group.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "5000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 8),
        # The group around it has the smaller limit.
        (
            {
                "proc/self/cgroup": "0::/pods/one\n",
                "sys/fs/cgroup/pods/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/pods/one/cpu.max": "400000 100000\n",
            },
            2,
        ),
        # Version 1, beside groups of other kinds; the container's path is that of the machine.
        (
            {
                "proc/self/cgroup": "9:cpuset:/\n4:cpu,cpuacct:/docker/abc\n0::/system.slice\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
            },
            5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_a_container_limits_the_processors(tmp_path, files, expected):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert available_processors(tmp_path) == expected


def test_affinity_limits_the_processors(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5})
    assert available_processors(tmp_path) == 2


def test_newer_pythons_count_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "process_cpu_count", lambda: 6, raising=False)
    assert available_processors(tmp_path) == 6


def test_other_systems_have_no_affinity(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert available_processors(tmp_path) == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_processors(tmp_path) == 1


@pytest.mark.parametrize(("threads", "expected"), [(None, 3), (2, 2)])
def test_it_is_the_default_of_litert(tmp_path, monkeypatch, threads, expected):
    def interpreter(path, num_threads):
        raise ValueError(f"{num_threads} threads")

    monkeypatch.setattr(engines, "available_processors", lambda: 3)
    monkeypatch.setattr(engines, "_litert", lambda: SimpleNamespace(Interpreter=interpreter))
    with pytest.raises(InputError, match=f"{expected} threads$"):
        engines.LiteRTEngine(tmp_path / "model.tflite", ["heatmap"], threads)
