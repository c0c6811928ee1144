"""Times what comes before training's first step, and a step: DEKR-W32 on the CPU, or the network of a config.

Prints the seconds for building the model, for tracing the training step, for the first call (TensorFlow rewrites the
graph, XLA compiles the adaptive convolutions), and the median of the steps after it, each with its CPU seconds, which
other work on the machine changes less, and with the peak memory of the process until then.

python benchmarks/training_graph.py
python benchmarks/training_graph.py training.gradient_checkpointing=true
"""

import argparse
import contextlib
import os
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
import tensorflow as tf

from dekr_tf.config import Config, load_config
from dekr_tf.data.target_encoder import TargetEncoder
from dekr_tf.training.trainer import build_training

CONFIG = Path(__file__).parents[1] / "configs" / "coco_w32.yaml"


def random_batch(config: Config, batch_size: int):
    """Images of noise, and five people on each with keypoints anywhere."""
    random = np.random.default_rng(0)
    side = config.input_size // 4
    people = random.uniform(0, side, (5, len(config.schema) + 1, 3))
    labels = TargetEncoder(len(config.schema), config.targets, 30)(
        people, np.full(5, 1000.0), np.ones((side, side), np.uint8)
    )
    images = random.integers(0, 256, (batch_size, config.input_size, config.input_size, 3), np.uint8)
    return tf.constant(images), {name: tf.constant(np.stack([part] * batch_size)) for name, part in labels.items()}


def report(what: str, seconds: float, cpu_seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:18}  {seconds:7.2f} s  CPU {cpu_seconds:7.2f} s  peak so far {peak:5.2f} GiB", flush=True)


@contextlib.contextmanager
def timed(what: str):
    """Reports how long the block took."""
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    report(what, time.perf_counter() - start, time.process_time() - cpu_start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="timed after the first")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="changes to the config")
    options = parser.parse_args()

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    config = load_config(options.config, options.settings)
    batch = random_batch(config, options.batch_size)
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {options.threads} threads, ", end="")
    print(f"batch {options.batch_size} of {config.input_size} px, load {os.getloadavg()[0]:.2f}")
    with timed("building the model"):
        model = build_training(config, steps_per_epoch=1)

    @tf.function(autograph=False)
    def step(batch):
        model.train_step(batch)
        return model.get_metrics_result()

    with timed("tracing"):
        step = step.get_concrete_function(batch)
    with timed("first call"):
        step(batch)
    times = []
    for _ in range(options.steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = step(batch)["loss"].numpy()
        times.append((time.perf_counter() - start, time.process_time() - cpu_start))
    report(f"step, of {options.steps}", *map(statistics.median, zip(*times, strict=True)))
    print(f"loss {loss:.3f}")


if __name__ == "__main__":
    main()
