"""Times the pose model against its own backbone and heatmap head: what finding the poses adds.

DEKR-W32 for COCO with random weights, one random image of the size that a 640x425 photo gets at a short side of 512, on
the CPU, in TensorFlow (graphs for images of any size) and in LiteRT (float32 and int8, for this size). The parts take
turns, so that a change in the machine's speed meets all. The work does not depend on what is in the image. Before, the
offset head's results are compared with those of its NumPy form. Prints medians, CPU time of all cores together, and
ratios to backbone and heatmap head in float32, as they are trained, and folded as they are in the pose model. With
--peer-python the reference's dense offset head takes its turn too: two passes of `torchvision.ops.DeformConv2d` for all
17 branches, on a map of 128x128 cells. Exits with 1 where results differ.

python benchmarks/sparse_head.py [--threads 2] [--rounds 15] [--flip] [--peer-python PATH]
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from adaptive_conv import Worker, make_case
from ai_edge_litert.interpreter import Interpreter

from converters import to_tflite
from dekr_tf.config import Config
from dekr_tf.inference.sparse_head import sparse_offsets
from dekr_tf.layers.sparse_offset_head import padded_channels
from dekr_tf.models.dekr import build_dekr
from dekr_tf.models.folding import fold_offset_head
from dekr_tf.models.pose_model import build_pose_model
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


def in_tensorflow(model: keras.Model, *inputs: np.ndarray):
    """A graph for inputs of any size but of as many channels, called without arguments."""
    shapes = [each.shape if each.ndim < 4 else (None, None, None, each.shape[-1]) for each in inputs]
    graph = tf.function(model, input_signature=[tf.TensorSpec(shape, tf.float32) for shape in shapes])
    inputs = [tf.constant(each) for each in inputs]
    return lambda: graph(*inputs)


def in_litert(model: keras.Model, threads: int, *inputs: np.ndarray):
    """The model converted for inputs of this size, called without arguments."""
    names = [f"input_{index}" for index in range(len(inputs))]
    fixed = [keras.Input(batch_shape=each.shape, name=name) for name, each in zip(names, inputs, strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        content = tf.lite.TFLiteConverter.from_keras_model(keras.Model(fixed, model(*fixed))).convert()
    return _interpret(content, threads, dict(zip(names, inputs, strict=True)))


def in_litert_int8(model: keras.Model, threads: int, image: np.ndarray):
    """A model of images exported for this size in int8, with ranges from this image, called without arguments."""
    content = to_tflite.convert(model, [image.shape[1:3]], "float32")
    content = to_tflite.quantize(content, "int8", {"serving_default": [{"image": image}]})
    return _interpret(content, threads, {"image": image})


def _interpret(content: bytes, threads: int, inputs: dict[str, np.ndarray]):
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()
    return lambda: run(**inputs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="timings of each part")
    parser.add_argument("--flip", action="store_true", help="with flip test")
    parser.add_argument("--peer-python", metavar="PATH", help="Python with torchvision")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    print(f"CPU: {cpu.split(':')[-1].strip()}; {options.threads} threads, load {os.getloadavg()[0]:.2f}")
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}; image {SIZE[1]}x{SIZE[0]}, flip {options.flip}")

    config = Config()
    model = make_model(config)
    sidecar = Sidecar.from_config(config)
    poses = build_pose_model(model, sidecar, flip=options.flip)
    sparse = poses.get_layer("sparse_offset_g1")

    images = 1 + options.flip
    image = np.random.standard_normal((1, *SIZE, 3)).astype(np.float32)
    count, padded = len(config.schema), padded_channels(15)
    height, width = (side // 4 for side in SIZE)
    features = np.zeros((images, height, width, count, padded), np.float32)
    features[..., :15] = np.random.standard_normal((*features.shape[:-1], 15)).clip(0)
    rows, columns = (np.random.randint(0, side, (images, PEOPLE)) for side in (height, width))

    weights = fold_offset_head(model)
    expected = [
        sparse_offsets(features[i, ..., :15].reshape(height, width, -1), rows[i], columns[i], weights)
        for i in range(images)
    ]
    cells = features.reshape(images, height, width, -1), rows.astype(np.float32), columns.astype(np.float32)
    difference = np.abs(sparse(*cells).numpy() - expected).max()
    print(f"largest difference from the NumPy form: {difference:.1e} map pixels")

    stacked = np.concatenate([image] * images)
    trained = keras.Model(model.input, model.get_layer("heatmap").output)

    def models_of(poses):
        folded = poses.get_layer("maps")
        return {
            "backbone and heatmap head": (trained, stacked),
            "the same, folded": (keras.Model(folded.input, folded.output[0]), stacked),
            "pose model": (poses, image),
            "sparse offset head": (sparse, *cells),
        }

    parts = {}
    for name, (part, *inputs) in models_of(poses).items():
        parts[f"TensorFlow: {name}"] = in_tensorflow(part, *inputs)
    exported = models_of(build_pose_model(model, sidecar, flip=options.flip, fusible=True))
    for name, (part, *inputs) in exported.items():
        parts[f"LiteRT: {name}"] = in_litert(part, options.threads, *inputs)
    for name in ("the same, folded", "pose model"):
        part, inputs = exported[name]
        parts[f"LiteRT int8: {name}"] = in_litert_int8(part, options.threads, inputs)
    walls, cpus = {name: [] for name in parts}, {name: [] for name in parts}
    peer, dense = None, []
    if options.peer_python:
        with tempfile.TemporaryDirectory() as folder:
            arrays = Path(folder) / "case.npz"
            np.savez(arrays, **make_case(count, 128))
            peer = Worker("peer", arrays, options)
        peer.ask("forward")
    for function in parts.values():
        function()
        function()
    print(f"graphs are ready, load {os.getloadavg()[0]:.2f}")
    for _ in range(options.rounds):
        for name, function in parts.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            function()
            walls[name].append(time.perf_counter() - start)
            cpus[name].append(time.process_time() - start_cpu)
        if peer:
            dense.append(sum(peer.ask("forward")["ms"] for _ in range(2)))
    print(f"\n{'part':38}  {'ms':>7}  {'best':>7}  {'CPU ms':>7}  {'ratio':>6}  {'CPU ratio':>9}  {'to folded':>9}")
    for name in parts:
        # int8 stands beside float32.
        engine = name.partition(":")[0].removesuffix(" int8")
        wall, cpu = (statistics.median(times[name]) for times in (walls, cpus))
        trained, trained_cpu = (
            statistics.median(times[f"{engine}: backbone and heatmap head"]) for times in (walls, cpus)
        )
        in_pose_model = statistics.median(walls[f"{engine}: the same, folded"])
        print(
            f"{name:38}  {wall * 1e3:7.1f}  {min(walls[name]) * 1e3:7.1f}  {cpu * 1e3:7.1f}  {wall / trained:6.3f}  "
            f"{cpu / trained_cpu:9.3f}  {wall / in_pose_model:9.3f}"
        )
    if peer:
        peer.close()
        median = statistics.median(dense)
        print(f"{'torchvision: dense head, 128x128 cells':38}  {median:7.1f}  {min(dense):7.1f}")
    if difference > TOLERANCE:
        print(f"error: results differ by more than {TOLERANCE}", file=sys.stderr)
    return int(difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
