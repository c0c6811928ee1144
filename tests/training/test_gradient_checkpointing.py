"""Training with a second pass: the same values, and the same moving statistics."""

import keras
import numpy as np
import pytest

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.models import build_dekr
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.estimator import PoseEstimator
from dekr_tf.training.gradient_checkpointing import segments

CHANNELS = {"heatmap": 3, "heatmap_weight": 3, "offset": 4, "offset_weight": 4}

pytestmark = pytest.mark.slow


def test_gradient_checkpointing_changes_nothing():
    config = Config(
        keypoints={"name": "two", "names": ["left", "right"]},
        model={"width": 2, "bottlenecks": 1, "modules": (1, 2, 1), "blocks": 1, "offset_head": {"block": "plain"}},
    )
    network = build_dekr(config.model, config.schema)
    parts = segments(network)
    # One up to the bottleneck, the module of stage 2, two modules of stage 3, one of stage 4, and the heads.
    assert len(parts) == 6
    assert {id(layer) for part in parts for layer in part.layers} >= {
        id(layer) for layer in network.layers if layer.weights
    }

    generator = np.random.default_rng(0)
    images = generator.standard_normal((2, 64, 64, 3), np.float32)
    maps = {name: generator.standard_normal((2, 16, 16, count), np.float32) for name, count in CHANNELS.items()}
    before = network.get_weights()
    results = []
    for checkpointing in (False, True):
        network.set_weights(before)
        model = PoseEstimator(network, Sidecar.from_config(config), 1.0, 1.0, gradient_checkpointing=checkpointing)
        # The update is the gradient.
        model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
        losses = model.train_on_batch(images, maps, return_dict=True)
        results.append((losses, [keras.ops.convert_to_numpy(variable) for variable in network.variables]))
    (losses, kept), (losses_again, recomputed) = results
    assert losses_again == pytest.approx(losses, rel=1e-5)
    for variable, start, one, other in zip(network.variables, before, kept, recomputed, strict=True):
        changes = one - start, other - start
        np.testing.assert_allclose(changes[1], changes[0], rtol=1e-4, atol=1e-5 * abs(changes[0]).max())
        assert np.any(changes[0]) or variable.name == "bias", variable.path


def test_a_network_without_modules():
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.Conv2D(2, 1)(image), name="plain")
    with pytest.raises(InputError, match=r"gradient_checkpointing: expected an HRNet as backbone. Received: plain"):
        PoseEstimator(network, Sidecar.from_config(Config()), gradient_checkpointing=True)
