"""A training of one's own program that ends by an error, in a process of its own, which must end by itself too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dekr_tf.data.synthetic import write_dataset

#: Samples take so long that some are being made whenever the error comes.
PROGRAM = """
import sys, time
from pathlib import Path
import keras
from dekr_tf.config import load_config
from dekr_tf.data.samples import TrainingSamples
from dekr_tf.training import trainer

def network(config, schema, image_size=(None, None)):
    image = keras.Input((*image_size, 3), name="image")
    heatmap = keras.layers.Conv2D(len(schema) + 1, 4, 4, name="heatmap")(image)
    offset = keras.layers.Conv2D(2 * len(schema), 4, 4, name="offset")(image)
    return keras.Model(image, {"heatmap": heatmap, "offset": offset}, name="dekr")

def slow(self, *item):
    sample = make(self, *item)
    time.sleep(0.2)
    return sample

make, TrainingSamples.make, trainer.build_dekr = TrainingSamples.make, slow, network
trainer.train(load_config(sys.argv[1]), Path(sys.argv[2]))
"""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_the_program_ends_with_the_error(tmp_path, backend):
    pytest.importorskip(backend)
    write_dataset(tmp_path, train=8, val=0, size=(64, 64), seed=0)
    damaged = tmp_path / "train" / "images" / "000004.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-500])
    content = {
        "input_size": 64,
        "data": {
            "train_annotations": str(tmp_path / "train.json"),
            "train_images": str(damaged.parent),
            "repeat": 20,
        },
        "training": {"batch_size": 1, "epochs": 2, "learning_rate_drops": []},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(content))
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "config.yaml"), str(tmp_path / "run")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 1, run.stderr
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"dekr_tf.errors.InputError: image {damaged}: expected a whole image."), run.stderr
