"""Convolutions of several branches against one convolution for each."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from dekr_tf.layers.branch_conv import BranchConv2D, branch_conv, from_branches, to_branches


def random_layer(branches, channels, filters, kernel_size=3, **options):
    layer = BranchConv2D(branches, filters, kernel_size, **options)
    layer.build((None, None, None, branches * channels))
    for variable in layer.weights:
        variable.assign(np.random.standard_normal(variable.shape))
    return layer


def one_by_one(layer, x):
    """The layer's result from Keras' own convolution, branch by branch."""
    channels = x.shape[-1] // layer.branches
    outputs = [
        ops.conv(
            x[..., branch * channels : (branch + 1) * channels],
            layer.kernel[branch],
            padding="same",
            dilation_rate=layer.dilation,
        )
        for branch in range(layer.branches)
    ]
    y = ops.concatenate(outputs, axis=-1)
    return y + layer.bias if layer.use_bias else y


@pytest.mark.parametrize(
    ("branches", "kernel_size", "dilation", "use_bias"),
    [(1, 1, 1, True), (1, 3, 5, False), (3, 1, 1, True), (3, 3, 1, False), (2, 3, 5, True), (2, 5, 2, False)],
)
def test_values_and_gradients_equal_a_convolution_for_each_branch(branches, kernel_size, dilation, use_bias):
    layer = random_layer(branches, 3, 4, kernel_size, dilation=dilation, use_bias=use_bias)
    x = tf.random.normal((2, 7, 6, 3 * branches))
    results = []
    for function in (layer, lambda x: one_by_one(layer, x)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            total = tf.reduce_sum(y * tf.cos(y))
        results.append([y, *tape.gradient(total, [x, *layer.trainable_weights])])
    assert results[0][0].shape == layer.compute_output_shape(x.shape) == (2, 7, 6, 4 * branches)
    for received, expected in zip(*results, strict=True):
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_channels_of_a_branch_lie_together():
    x = np.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    branches = np.asarray(to_branches(tf.constant(x), 2))
    np.testing.assert_array_equal(branches[0], x[..., :3])
    np.testing.assert_array_equal(branches[1], x[..., 3:])
    np.testing.assert_array_equal(from_branches(tf.constant(branches)), x)


def test_size_of_the_map_may_be_unknown():
    layer = random_layer(2, 3, 4, dilation=2, use_bias=True)
    x = tf.random.normal((2, 6, 7, 6))
    function = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 6))])
    np.testing.assert_allclose(function(x), one_by_one(layer, x), atol=1e-5)


def test_taps_outside_the_map_are_zero():
    kernel = tf.constant(np.arange(9.0).reshape(1, 3, 3, 1, 1), tf.float32)
    y = branch_conv(tf.ones((1, 1, 1, 1, 1)), kernel)
    assert float(y[0, 0, 0, 0, 0]) == 4
    # With the taps further apart than the map is wide, still the middle one alone.
    y = branch_conv(tf.ones((1, 1, 4, 4, 1)), kernel, dilation=4)
    np.testing.assert_array_equal(y, np.full(y.shape, 4))


@pytest.mark.parametrize("branches", [1, 2])
def test_mixed_precision(branches):
    full = random_layer(branches, 3, 4, use_bias=True)
    half = BranchConv2D(branches, 4, 3, use_bias=True, dtype="mixed_float16")
    half.build((None, None, None, 3 * branches))
    half.set_weights(full.get_weights())
    x = tf.random.normal((1, 5, 6, 3 * branches))
    y = half(x)
    assert y.dtype == tf.float16
    np.testing.assert_allclose(y, full(x), rtol=0.01, atol=0.05)


@pytest.mark.parametrize("branches", [1, 2])
def test_kernels_start_as_he_says_by_fan_out(branches):
    layer = BranchConv2D(branches, 64, 3, use_bias=True)
    layer.build((None, None, None, 32 * branches))
    assert np.std(layer.kernel) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert not np.any(layer.bias)


def test_outputs_and_their_bias_are_scaled():
    layer = random_layer(2, 3, 4, use_bias=True)
    scaled = random_layer(2, 3, 4, use_bias=True, output_scale=8.0)
    x = tf.random.normal((1, 4, 5, 6))
    layer(x), scaled(x)
    scaled.set_weights(layer.get_weights())
    np.testing.assert_array_equal(scaled(x), 8 * layer(x).numpy())


def test_the_layer_is_saved_and_read(tmp_path):
    layer = random_layer(2, 3, 4, dilation=2, use_bias=True, output_scale=3.0, name="first")
    assert BranchConv2D.from_config(layer.get_config()).get_config() == layer.get_config()
    image = keras.Input((None, None, 6))
    model = keras.Model(image, layer(image))
    model.save(tmp_path / "layer.keras")
    again = keras.models.load_model(tmp_path / "layer.keras")
    x = tf.random.normal((2, 5, 7, 6))
    np.testing.assert_array_equal(model(x), again(x))


def test_channels_that_do_not_divide():
    with pytest.raises(ValueError, match=r"multiple of branches=4. Received: input_shape=\(1, 2, 2, 6\)"):
        BranchConv2D(4, 3).build((1, 2, 2, 6))
