"""Trains a toy network with nothing but Keras' own calls, in a process of its own, and prints what came out as JSON.

usage: keras_usage.py FOLDER
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from dekr_tf.config import Config, TargetConfig
from dekr_tf.data.target_encoder import TargetEncoder
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.estimator import PoseEstimator

FOLDER = Path(sys.argv[1])
SIDECAR = Sidecar.from_config(Config(keypoints={"name": "two", "names": ["left", "right"]}))


def network():
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 4, 4, use_bias=False)(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.5)(x))
    maps = {name: keras.layers.Conv2D(count, 1, dtype="float32")(x) for name, count in (("heatmap", 3), ("offset", 4))}
    return keras.Model(image, maps)


def model(optimizer, **options):
    keras.utils.set_random_seed(0)
    model = PoseEstimator(network(), SIDECAR, 1.0, 0.1, targets=TargetConfig(heatmap_sigma=1.0), **options)
    model.compile(optimizer)
    return model


def people(count):
    """Photos of noise with one person each, and their labels."""
    draw = np.random.default_rng(0)
    encode = TargetEncoder(2, TargetConfig(), max_people=2)
    keypoints = np.append(draw.uniform(1, 7, (count, 1, 3, 2)), np.ones((count, 1, 3, 1)), axis=-1)
    labels = [encode(each, np.ones(1), np.ones((8, 8), np.uint8)) for each in keypoints]
    photos = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return photos, {name: np.stack([each[name] for each in labels]) for name in labels[0]}


def values(model):
    return [keras.ops.convert_to_numpy(variable).tolist() for variable in model.variables]


photos, labels = people(12)
results = {}
data = {"x": photos, "y": labels, "batch_size": 4, "shuffle": False, "verbose": 0}

for name, optimizer in {
    "adam": "adam",
    "sgd": "sgd",
    "averaged": keras.optimizers.Adam(use_ema=True, ema_momentum=0.5),
    "accumulated": keras.optimizers.SGD(0.1, gradient_accumulation_steps=3),
}.items():
    results[name] = model(optimizer).fit(**data, epochs=3, validation_data=(photos, labels)).history

# One update for all images has the gradient of the mean; BatchNormalization sees parts, so it is left out.
flat = [model(keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps)) for steps in (None, 3)]
for trained, size in zip(flat, (12, 4), strict=True):
    trained.offset_weight = 0.0
    trained.network.layers[2].trainable = False
    trained.fit(**data | {"batch_size": size}, epochs=2)
results["in parts"] = [values(trained) for trained in flat]

first = model("adam")
callbacks = [
    keras.callbacks.ModelCheckpoint(FOLDER / "whole.keras", monitor="val_loss"),
    keras.callbacks.ModelCheckpoint(FOLDER / "only.weights.h5", save_weights_only=True),
    keras.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=2),
]
history = first.fit(**data, epochs=9, validation_data=(photos, labels), callbacks=callbacks).history
results["epochs"] = len(history["val_loss"])
results["evaluated"] = first.evaluate(photos, labels, batch_size=4, verbose=0, return_dict=True)
results["last val"] = {name: history[f"val_{name}"][-1] for name in results["evaluated"]}
whole = keras.models.load_model(FOLDER / "whole.keras")
weights = model("adam")
weights.optimizer.build(weights.trainable_variables)
weights.load_weights(FOLDER / "only.weights.h5")
results["saved"] = [values(each) for each in (first, whole, weights)]
results["config"] = [first.get_config(), whole.get_config()]
# They go on alike: the optimizer came with them.
for trained in (first, whole):
    trained.fit(**data, epochs=1)
results["went on"] = [values(first), values(whole)]


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


uninterrupted, stopped, resumed = (model("adam") for _ in range(3))
uninterrupted.fit(**data, epochs=4)
backup = keras.callbacks.BackupAndRestore(FOLDER / "backup")
try:
    stopped.fit(**data, epochs=4, callbacks=[backup, Stop()])
except KeyboardInterrupt:
    resumed.fit(**data, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(FOLDER / "backup")])
results["resumed"] = [values(uninterrupted), values(resumed)]

# Photos and the floats that they become, labels and the maps that are drawn of them, are the same to it.
tensors = {name: keras.ops.convert_to_tensor(each) for name, each in labels.items()}
maps = {name: keras.ops.convert_to_numpy(each) for name, each in draw_targets(tensors, first.targets).items()}
floats = ((photos.astype("float32") / 255.0 - SIDECAR.mean) / SIDECAR.std).astype("float32")
results["inputs"] = [
    first.evaluate(x, y, batch_size=12, verbose=0, return_dict=True) for x, y in ((photos, labels), (floats, maps))
]

keras.mixed_precision.set_dtype_policy("mixed_float16")
half = model("adam")
half.fit(**data, epochs=1)
results["half"] = [type(half.optimizer).__name__, sorted({variable.dtype for variable in half.network.variables})]
print(json.dumps(results))
