"""One training step with the weights and the batch of a file, on the backend that KERAS_BACKEND names.

usage: one_step.py INPUT.npz OUTPUT.npz OFFSET_CELLS
"""

import sys

import keras
import numpy as np

from dekr_tf.config import Config
from dekr_tf.models import build_dekr
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.estimator import PoseEstimator

CONFIG = Config(
    keypoints={"name": "two", "names": ["left", "right"]},
    model={"width": 4, "bottlenecks": 1, "modules": (1, 1, 1), "blocks": 1},
)

if __name__ == "__main__":
    with np.load(sys.argv[1]) as file:
        arrays = {name: file[name] for name in file.files}
    network = build_dekr(CONFIG.model, CONFIG.schema)
    for number, variable in enumerate(network.variables):
        variable.assign(arrays.pop(f"weights/{number}"))
    model = PoseEstimator(network, Sidecar.from_config(CONFIG), 1.0, 0.1, offset_cells=sys.argv[3])
    # Its first momentum is the negative gradient.
    optimizer = keras.optimizers.SGD(1.0, momentum=0.5)
    model.compile(optimizer, jit_compile=False)
    history = model.fit(arrays.pop("photos"), arrays, batch_size=2, epochs=1, verbose=0).history
    pairs = zip(network.trainable_variables, optimizer.momentums, strict=True)
    gradients = {variable.path: -momentum for variable, momentum in pairs}
    statistics = {variable.path: variable.value for variable in network.non_trainable_variables}
    results = {name: keras.ops.convert_to_numpy(value) for name, value in (gradients | statistics).items()}
    np.savez(sys.argv[2], **results, **{name: values[0] for name, values in history.items()})
