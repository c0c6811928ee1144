"""Gradients with a second pass: the same values, and the same moving statistics."""

import keras
import numpy as np
import tensorflow as tf

from dekr_tf.config import Config
from dekr_tf.models import build_dekr
from dekr_tf.training.model import DekrTraining
from dekr_tf.training.recompute import segments


def test_recomputing_changes_nothing():
    config = Config(
        keypoints={"name": "two", "names": ["left", "right"]},
        model={"width": 2, "bottlenecks": 1, "modules": (1, 2, 1), "units": 1, "offset_head": {"block": "plain"}},
    )
    network = build_dekr(config.model, config.schema)
    parts = segments(network, config.model)
    # One up to the bottleneck, the module of stage 2, two modules of stage 3, one of stage 4, and the heads.
    assert len(parts) == 6
    assert {id(layer) for part in parts for layer in part.layers} >= {
        id(layer) for layer in network.layers if layer.weights
    }

    images = tf.random.stateless_normal((2, 64, 64, 3), (0, 1))
    maps = {name: tf.random.stateless_normal((2, 16, 16, count), (1, count)) for name, count in CHANNELS.items()}
    before = network.get_weights()
    gradients, statistics = [], []
    for chosen in ((), parts):
        network.set_weights(before)
        model = DekrTraining(network, 1.0, 1.0, parts=chosen)
        model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
        step = tf.function(lambda model=model: model._gradients(images, maps, tf.constant(100.0)), autograph=False)
        gradients.append([np.asarray(gradient) for gradient in step()])
        statistics.append([np.asarray(variable) for variable in network.non_trainable_variables])
    for variable, kept, recomputed in zip(network.trainable_variables, *gradients, strict=True):
        np.testing.assert_allclose(recomputed, kept, rtol=1e-4, atol=1e-5 * abs(kept).max(), err_msg=variable.path)
    for variable, kept, recomputed in zip(network.non_trainable_variables, *statistics, strict=True):
        np.testing.assert_allclose(recomputed, kept, rtol=1e-5, atol=1e-6, err_msg=variable.path)
        assert np.any(kept != (variable.name == "moving_variance")), "the first pass updates it"


CHANNELS = {"heatmap": 3, "heatmap_weight": 3, "offset": 4, "offset_weight": 4}
