"""Times a training step of a small network: offset head on whole maps, at the supervised cells, and left out.

Forward pass, losses, gradients and the optimizer's update, on one batch of random people; the sides take turns in one
process. Prints the median of each and its ratio to the step whose loss is that of the heatmaps only.

python benchmarks/supervised_cells.py
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf

from dekr_tf.config import Config
from dekr_tf.data.target_encoder import TargetEncoder
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.models import build_dekr
from dekr_tf.models.supervised_offsets import SupervisedOffsets
from dekr_tf.training.losses import heatmap_loss, offset_loss
from dekr_tf.training.optimizer import FusedAdam

SIDES = ("left out", "supervised", "dense")


def random_targets(config: Config, batch: int, people: int, size: int):
    """Target maps of a batch with so many people on each image."""
    random = np.random.default_rng(0)
    keypoints = len(config.schema)
    encoder = TargetEncoder(keypoints, config.targets, people)
    samples = []
    for _ in range(batch):
        centers = random.uniform(0.1 * size, 0.9 * size, (people, 1, 2))
        points = centers + random.normal(scale=0.1 * size, size=(people, keypoints + 1, 2))
        points[:, -1:] = centers
        labels = np.concatenate([points, np.full((people, keypoints + 1, 1), 2.0)], axis=-1)
        samples.append(encoder(labels, np.full(people, 0.1 * size**2), np.ones((size, size), np.uint8)))
    labels = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    return draw_targets(labels, config.targets)


def make_step(side: str, network, images, targets):
    """A compiled training step of one side."""
    offsets = SupervisedOffsets(network)
    models = {
        "left out": keras.Model(network.input, {"heatmap": network.get_layer("heatmap").output}),
        "supervised": offsets.features,
        "dense": network,
    }
    variables = (models if side == "left out" else {side: network})[side].trainable_variables
    optimizer = FusedAdam(1e-3)
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            outputs = models[side](images, training=True)
            loss = heatmap_loss(outputs["heatmap"], targets["heatmap"], targets["heatmap_weight"])
            if side == "supervised":
                loss += 0.03 * offset_loss(*offsets(outputs["features"], targets))
            elif side == "dense":
                loss += 0.03 * offset_loss(outputs["offset"], targets["offset"], targets["offset_weight"])
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="hrnet", choices=["hrnet", "efficientnet_lite0"], help="hrnet: W16")
    parser.add_argument("--size", type=int, default=256, help="of the images, pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--people", type=int, default=2, help="on each image")
    parser.add_argument("--radius", type=int, default=4, help="targets.offset_radius")
    parser.add_argument("--channels", type=int, default=8, help="of a branch")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    head = {"channels": 17 * options.channels}
    backbones = {
        "hrnet": {"width": 16, "bottlenecks": 1, "modules": (1, 1, 1), "blocks": 1},
        "efficientnet_lite0": {"backbone": "efficientnet_lite0"},
    }
    config = Config(
        model=backbones[options.backbone] | {"offset_head": head}, targets={"offset_radius": options.radius}
    )
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_dtype_policy(options.precision)
    network = build_dekr(config.model, config.schema)
    keras.mixed_precision.set_dtype_policy("float32")
    random = np.random.default_rng(0)
    for layer in network.layers:
        # A trained head spreads its taps, a new one reads one cell only.
        if layer.name.startswith("offset_g") and layer.name.endswith("_conv"):
            layer.offset_bias.assign(random.normal((1, 0, 0, 1, 0, 0), 0.3, layer.offset_bias.shape))
    targets = random_targets(config, options.batch, options.people, options.size // 4)
    images = tf.constant(random.standard_normal((options.batch, options.size, options.size, 3)), "float32")
    steps = {side: make_step(side, network, images, targets) for side in SIDES}
    for step in steps.values():
        step()
        step()
    times = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side, step in steps.items():
            start = time.perf_counter()
            step().numpy()
            times[side].append(time.perf_counter() - start)
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    print(f"CPU: {cpu.split(':')[-1].strip()}; {options.threads} threads, load {os.getloadavg()[0]:.2f}")
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {options.precision}, {options.backbone}")
    cells = np.any(targets["offset_weight"] > 0, axis=-1)
    print(f"{options.batch} images of {options.size} pixels, offsets at {cells.mean():.1%} of the cells")
    print("offset head  ms/image  ratio")
    medians = {side: statistics.median(values) for side, values in times.items()}
    for side, median in medians.items():
        print(f"{side:11}  {1e3 * median / options.batch:8.1f}  {median / medians['left out']:5.2f}")


if __name__ == "__main__":
    main()
