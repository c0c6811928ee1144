"""EfficientNet-Lite0 as a backbone: its place in the network, its pyramid, precision; its values: `test_from_torch`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dekr_tf.config import Config
from dekr_tf.models.dekr import build_backbone, build_dekr
from dekr_tf.models.efficientnet import BN_EPSILON, pyramid
from dekr_tf.training.losses import heatmap_loss, offset_loss

CONFIG = Config(
    keypoints={"names": ["a", "b"]},
    model={"backbone": "efficientnet_lite0", "pyramid_channels": 8, "offset_head": {"block": "plain"}},
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return build_dekr(CONFIG.model, CONFIG.schema)


def test_levels_and_maps(network):
    image = np.zeros((2, 96, 32, 3), np.float32)
    backbone = build_backbone(CONFIG.model)
    assert [level.shape for level in backbone(image)] == [
        (2, 24, 8, 24),
        (2, 12, 4, 40),
        (2, 6, 2, 112),
        (2, 3, 1, 320),
    ]
    assert {name: value.shape for name, value in network(image).items()} == {
        "heatmap": (2, 24, 8, 3),
        "offset": (2, 24, 8, 4),
    }
    # Half the channels of the pyramid, unless the settings say otherwise.
    assert network.get_layer("heatmap_transition_conv").filters == 4
    more = CONFIG.model.model_copy(update={"heatmap_channels": 5})
    assert build_dekr(more, CONFIG.schema).get_layer("heatmap_transition_conv").filters == 5


def test_the_backbone_has_the_names_that_it_has_in_the_whole(network):
    whole = {layer.name: layer for layer in network.layers}
    backbone = build_backbone(CONFIG.model)
    others = {name for name in whole if name.startswith(("pyramid", "features", "heatmap", "offset"))}
    assert {layer.name for layer in backbone.layers} == set(whole) - others
    for layer in backbone.layers:
        assert [v.shape for v in layer.weights] == [v.shape for v in whole[layer.name].weights]


def test_untrained_kernels_keep_the_scale(network):
    """Twice the variance over the inputs that an output sees (He et al., ICCV 2015)."""
    for name, inputs in (("depthwise", 25), ("project", 1152)):
        kernel = network.get_layer(f"stage6_block1_{name}_conv").kernel
        assert np.std(kernel) == pytest.approx((2 / inputs) ** 0.5, rel=0.02)


def slow_pyramid(levels, weights):
    """The pyramid in NumPy; `weights` gives those of a layer."""

    def norm(x, name):
        gamma, beta, mean, variance = weights(f"{name}_bn")
        return (x - mean) / np.sqrt(variance + BN_EPSILON) * gamma + beta

    x = 0
    for index in reversed(range(len(levels))):
        name = f"pyramid_{index}"
        (kernel,) = weights(f"{name}_lateral_conv")
        x = x + norm(levels[index] @ kernel[0, 0], f"{name}_lateral")
        (kernel,) = weights(f"{name}_depthwise_conv")
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = x.shape[1:3]
        taps = [padded[:, i : i + height, j : j + width] * kernel[i, j, :, 0] for i in range(3) for j in range(3)]
        x = norm(sum(taps), f"{name}_depthwise")
        (kernel,) = weights(f"{name}_pointwise_conv")
        x = np.clip(norm(x @ kernel[0, 0], f"{name}_pointwise"), 0, 6)
        if index:
            x = x.repeat(2, axis=1).repeat(2, axis=2)
    return x


def test_the_pyramid_equals_a_slow_one():
    shapes = [(8, 12, 5), (4, 6, 3), (2, 3, 7)]
    inputs = [keras.Input(shape) for shape in shapes]
    model = keras.Model(inputs, pyramid(inputs, 4))
    for variable in model.variables:
        low, high = (0.5, 1.5) if variable.name in ("gamma", "moving_variance") else (-1, 1)
        variable.assign(np.random.uniform(low, high, variable.shape))
    levels = [np.random.standard_normal((2, *shape)).astype(np.float32) for shape in shapes]
    expected = slow_pyramid(levels, lambda name: model.get_layer(name).get_weights())
    assert expected.shape == (2, 8, 12, 4) and 0 < (expected == 0).mean() < 0.9
    np.testing.assert_allclose(model(levels), expected, rtol=1e-4, atol=1e-5)


def test_every_variable_learns_and_is_saved(network, tmp_path):
    image = tf.random.normal((2, 64, 64, 3))
    heatmap, offset = tf.random.uniform((2, 16, 16, 3)), tf.random.normal((2, 16, 16, 4))
    with tf.GradientTape() as tape:
        maps = network(image, training=True)
        loss = heatmap_loss(maps["heatmap"], heatmap, 1.0) + offset_loss(maps["offset"], offset, tf.ones_like(offset))
    variables = network.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        assert np.isfinite(gradient).all() and np.any(gradient != 0), variable.path
    network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for name, value in network(image).items():
        np.testing.assert_array_equal(again(image)[name], value)


def test_mixed_precision(network):
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        half = build_dekr(CONFIG.model, CONFIG.schema)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    half.set_weights(network.get_weights())
    image = np.random.standard_normal((1, 64, 64, 3)).astype(np.float32)
    maps = half(image)
    assert half.get_layer("stage7_block0_depthwise_conv").compute_dtype == "float16"
    for name, value in network(image).items():
        assert maps[name].dtype == tf.float32
        np.testing.assert_allclose(maps[name], value, rtol=0, atol=0.03 * np.abs(value).max())
