"""Times what comes before training's first step, and a step: DEKR-W32 on the CPU.

Prints the seconds for building the model, for tracing the training step, for the first call (TensorFlow rewrites the
graph, XLA compiles the adaptive convolutions), and the median of the steps after it, each with its CPU seconds, which
other work on the machine changes less, and with the peak memory of the process until then.

python benchmarks/training_graph.py
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

from dekr_tf.config import Config
from dekr_tf.models import build_dekr
from dekr_tf.training.trainer import DekrTraining


def random_batch(config: Config, batch_size: int):
    """Images, and targets of which a fifth of the offsets count."""
    random = np.random.default_rng(0)
    side, count = config.input_size // 4, len(config.schema)

    def values(*shape):
        return tf.constant(random.standard_normal((batch_size, *shape)), tf.float32)

    weight = tf.cast(values(side, side, 2 * count) > 0.84, tf.float32) / 100
    heatmap = values(side, side, count + 1)
    targets = {
        "heatmap": heatmap,
        "heatmap_weight": tf.ones_like(heatmap),
        "offset": values(side, side, 2 * count),
        "offset_weight": weight,
    }
    return values(config.input_size, config.input_size, 3), targets


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
    parser.add_argument("--input-size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5, help="timed after the first")
    options = parser.parse_args()

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    config = Config(input_size=options.input_size)
    batch = random_batch(config, options.batch_size)
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {options.threads} threads, ", end="")
    print(f"batch {options.batch_size} of {options.input_size} px, load {os.getloadavg()[0]:.2f}")
    with timed("building the model"):
        model = DekrTraining(
            build_dekr(config.model, config.schema),
            config.training.heatmap_loss_weight,
            config.training.offset_loss_weight,
        )
        model.compile(optimizer=keras.optimizers.Adam(config.training.learning_rate))
    with timed("tracing"):
        step = tf.function(model.train_step, autograph=False).get_concrete_function(batch)
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
