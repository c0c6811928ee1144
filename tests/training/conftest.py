"""Trainings in processes of their own, which can be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dekr_tf.data.synthetic import write_dataset

PROGRAM = Path(__file__).with_name("toy_training.py")


@pytest.fixture(scope="session")
def toy_config(tmp_path_factory):
    """A config file for `toy_training.py`: four epochs of three steps with all that has a state."""
    folder = tmp_path_factory.mktemp("toy")
    write_dataset(folder, train=6, val=2, size=(96, 96), seed=0)
    data = {
        f"{split}_{kind}": str(folder / name)
        for split in ("train", "val")
        for kind, name in {"annotations": f"{split}.json", "images": f"{split}/images"}.items()
    }
    training = {"batch_size": 4, "epochs": 4, "learning_rate": 0.01, "learning_rate_drops": [3], "validate_every": 2}
    training |= {"ema_momentum": 0.9, "clip_norm": 1.0, "synchronized_batch_norm": True, "pictures": 1}
    content = {"input_size": 64, "data": data | {"repeat": 2}, "targets": {"min_center_area": 0}, "training": training}
    (folder / "config.yaml").write_text(json.dumps(content))
    return folder / "config.yaml"


@pytest.fixture(scope="session")
def start_toy(toy_config):
    """Starts `dekr train` with a toy network: `start_toy(output, *words, **environment)`."""

    def start_toy(output, *words, **environment):
        command = [sys.executable, PROGRAM, "--config", toy_config, "--output", output, *words]
        return subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, **environment},
            cwd=PROGRAM.parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start_toy


@pytest.fixture(scope="session")
def run_toy(start_toy):
    """As `start_toy`, to the end; the exit code and the last line on standard error."""

    def run_toy(*words, **environment):
        process = start_toy(*words, **environment)
        errors = process.communicate()[1].strip().splitlines()
        return process.returncode, errors[-1] if errors else ""

    return run_toy


@pytest.fixture(scope="session")
def whole_run(run_toy, tmp_path_factory):
    """The folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, error = run_toy(folder)
    assert code == 0, error
    return folder
