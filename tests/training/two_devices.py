"""Trains toy networks on one device and on two, in a process of its own, and prints what came out as JSON.

TensorFlow takes the number of logical CPUs only before it has begun.
"""

import json
import sys
import traceback

import keras
import numpy as np
import tensorflow as tf

from dekr_tf.config import Config
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.devices import open_strategy
from dekr_tf.training.estimator import PoseEstimator
from dekr_tf.training.optimizer import FusedAdam, ReplicaLossScale

SIDECAR = Sidecar.from_config(Config())
CPU = tf.config.list_physical_devices("CPU")[0]
VARIANTS = {
    "plain": {},
    "clipped": {"global_clipnorm": 0.01},
    "averaged": {"use_ema": True, "ema_momentum": 0.5},
    "in parts": {"gradient_accumulation_steps": 2, "global_clipnorm": 0.01, "statistics": False},
    "half": {"precision": "mixed_float16", "scale": 2.0**10, "global_clipnorm": 0.01},
    "overflow": {"precision": "mixed_float16", "scale": 2.0**23},
    "not synchronized": {"synchronized": False},
}


def network(precision, synchronized, statistics):
    keras.mixed_precision.set_dtype_policy(precision)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(image)
    x = keras.layers.BatchNormalization(synchronized=synchronized, momentum=0.5, trainable=statistics)(x)
    x = keras.layers.ReLU()(x)
    maps = {name: keras.layers.Conv2D(2, 1, dtype="float32")(x) for name in ("heatmap", "offset")}
    keras.mixed_precision.set_dtype_policy("float32")
    return keras.Model(image, maps)


def arrays():
    draw = np.random.default_rng(0)
    images = draw.normal(size=(24, 8, 8, 3)).astype("float32")
    maps = {name: draw.normal(size=(24, 8, 8, 2)).astype("float32") for name in ("heatmap", "offset")}
    # The first images of each batch have most of the offsets.
    share = np.where(np.arange(24) % 8 < 4, 0.6, 0.05)[:, None, None, None]
    maps["offset_weight"] = (draw.random((24, 8, 8, 2)) < share).astype("float32")
    maps["heatmap_weight"] = draw.choice([0.1, 1.0], (24, 8, 8, 2)).astype("float32")
    return images, maps


def trained(strategy, *, precision="float32", scale=None, synchronized=True, statistics=True, **options):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = PoseEstimator(network(precision, synchronized, statistics), SIDECAR, 1.0, 0.1)
        optimizer = inner = FusedAdam(0.01, **options)
        if scale:
            optimizer = ReplicaLossScale(inner, initial_scale=scale)
        model.compile(optimizer, jit_compile=False)
    batch_size = 8 // (inner.gradient_accumulation_steps or 1)
    dataset = tf.data.Dataset.from_tensor_slices(arrays()).batch(batch_size, drop_remainder=True)
    weights = []
    # At its end, `fit` gives the model the averages of its weights.
    before_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: weights.append(values(model.network.variables)))
    history = model.fit(dataset, epochs=3, shuffle=False, verbose=0, callbacks=[before_end]).history
    averages = values(model.network.trainable_variables) if inner.use_ema else []
    steps = int(keras.ops.convert_to_numpy(inner.iterations))
    return {"history": history, "weights": weights[-1], "averages": averages, "steps": steps}


def values(variables):
    return [np.asarray(keras.ops.convert_to_numpy(variable)).tolist() for variable in variables]


tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)
# One for all: in one process, the collective operations of several would get in each other's way.
strategies = tf.distribute.get_strategy(), open_strategy("cpu")
results = {}
for name in sys.argv[1:] or VARIANTS:
    try:
        results[name] = [trained(strategy, **VARIANTS[name]) for strategy in strategies]
    except Exception:
        results[name] = traceback.format_exc()
print(json.dumps(results))
