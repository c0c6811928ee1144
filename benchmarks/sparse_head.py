"""Times the pose model against its own backbone and heatmap head: what finding the poses adds.

DEKR-W32 for COCO with random weights, one random image of the size that a 640x425 photo gets at a short side of 512,
TensorFlow on the CPU, graphs for images of any size. The parts take turns, so that a change in the machine's speed
meets all. The work does not depend on what is in the image. Before, the offset head's results are compared with those
of its NumPy form. Prints medians, the CPU time of both cores together, and ratios. Exits with 1 where results differ.

python benchmarks/sparse_head.py [--threads 2] [--rounds 15] [--flip]
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from dekr_tf.config import Config
from dekr_tf.inference.sparse_head import sparse_offsets
from dekr_tf.layers.sparse_offset_head import padded_channels
from dekr_tf.models.dekr import build_dekr
from dekr_tf.models.pose_model import build_pose_model, fold_offset_head
from dekr_tf.sidecar import Sidecar

PEOPLE, SIZE = 30, (512, 832)
#: Largest difference, in map pixels, that still counts as agreement.
TOLERANCE = 1e-3


def make_model(config: Config) -> keras.Model:
    """DEKR with taps spread by a pixel or so."""
    keras.utils.set_random_seed(0)
    model = build_dekr(config.model, config.schema)
    for layer in model.layers:
        if hasattr(layer, "offset_bias"):
            layer.offset_bias.assign(np.random.normal([1, 0, 0, 1, 0, 0], 0.3, layer.offset_bias.shape))
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="timings of each part")
    parser.add_argument("--flip", action="store_true", help="with flip test")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    print(f"CPU: {cpu.split(':')[-1].strip()}; {options.threads} threads, load {os.getloadavg()[0]:.2f}")
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}; image {SIZE[1]}x{SIZE[0]}, flip {options.flip}")

    config = Config()
    model = make_model(config)
    poses = build_pose_model(model, Sidecar.from_config(config), flip=options.flip)
    maps = keras.Model(model.input, model.get_layer("heatmap").output)
    sparse = poses.get_layer("sparse_offset_g1")

    images = 1 + options.flip
    image = np.random.standard_normal((1, *SIZE, 3)).astype(np.float32)
    count, padded = len(config.schema), padded_channels(15)
    height, width = (side // 4 for side in SIZE)
    features = np.zeros((images, height, width, count, padded), np.float32)
    features[..., :15] = np.random.standard_normal((*features.shape[:-1], 15)).clip(0)
    rows, columns = (np.random.randint(0, side, (images, PEOPLE)) for side in (height, width))

    def graph(function, *shapes):
        return tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32) for shape in shapes])

    any_image = (None, None, None, 3)
    stacked = np.concatenate([image] * images)
    parts = {
        "backbone and heatmap head": (graph(maps, any_image), (stacked,)),
        "pose model": (graph(poses, any_image), (image,)),
        "sparse offset head": (
            graph(sparse, (None, None, None, count * padded), (None, PEOPLE), (None, PEOPLE)),
            (features.reshape(images, height, width, -1), rows.astype(np.float32), columns.astype(np.float32)),
        ),
    }
    parts = {name: (function, [tf.constant(each) for each in inputs]) for name, (function, inputs) in parts.items()}

    function, inputs = parts["sparse offset head"]
    weights = fold_offset_head(model)
    start = time.perf_counter()
    expected = [
        sparse_offsets(features[i, ..., :15].reshape(height, width, -1), rows[i], columns[i], weights)
        for i in range(images)
    ]
    seconds = time.perf_counter() - start
    difference = np.abs(function(*inputs).numpy() - expected).max()
    print(f"largest difference from the NumPy form: {difference:.1e} map pixels; NumPy took {seconds * 1e3:.0f} ms")

    walls, cpus = {name: [] for name in parts}, {name: [] for name in parts}
    for function, inputs in parts.values():
        function(*inputs)
        function(*inputs)
    print(f"graphs are ready, load {os.getloadavg()[0]:.2f}")
    for _ in range(options.rounds):
        for name, (function, inputs) in parts.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            function(*inputs)
            walls[name].append(time.perf_counter() - start)
            cpus[name].append(time.process_time() - start_cpu)
    base = next(iter(parts))
    print(f"\n{'part':26}  {'ms':>7}  {'best':>7}  {'CPU ms':>7}  {'ratio':>6}  {'CPU ratio':>9}")
    for name in parts:
        wall, cpu = (statistics.median(times[name]) for times in (walls, cpus))
        ratios = [wall / statistics.median(walls[base]), cpu / statistics.median(cpus[base])]
        print(
            f"{name:26}  {wall * 1e3:7.1f}  {min(walls[name]) * 1e3:7.1f}  {cpu * 1e3:7.1f}  {ratios[0]:6.3f}  "
            f"{ratios[1]:9.3f}"
        )
    if difference > TOLERANCE:
        print(f"error: results differ by more than {TOLERANCE}", file=sys.stderr)
    return int(difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
