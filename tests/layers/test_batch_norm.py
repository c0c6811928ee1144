"""The fused batch normalization against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dekr_tf.layers.batch_norm import FusedBatchNorm

SHAPE = (2, 5, 4, 3)
VALUES = 2 * 5 * 4


def pair(**options):
    """Keras' layer and the fused one, with the same random weights, and an input."""
    generator = np.random.default_rng(0)
    layers = []
    for kind in (keras.layers.BatchNormalization, FusedBatchNorm):
        layer = kind(epsilon=1e-5, momentum=0.9, **options)
        layer.build(SHAPE)
        layers.append(layer)
    weights = [generator.uniform(0.5, 1.5, weight.shape) for weight in layers[0].weights]
    for layer in layers:
        layer.set_weights(weights)
    return *layers, tf.constant(generator.normal(0.3, 2.0, SHAPE), tf.float32)


def outputs_and_gradients(layer, x, jit_compile=False):
    @tf.function(jit_compile=jit_compile)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            total = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
        return y, *tape.gradient(total, [x, *layer.trainable_variables])

    return run(x)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_equals_keras(jit_compile):
    theirs, ours, x = pair()
    expected = outputs_and_gradients(theirs, x)
    for one, other in zip(outputs_and_gradients(ours, x, jit_compile), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)


def test_the_moving_variance_takes_the_unbiased_one():
    _, layer, x = pair()
    before = layer.moving_variance.numpy()
    layer(x, training=True)
    unbiased = x.numpy().reshape(VALUES, 3).var(axis=0, ddof=1)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * before + 0.1 * unbiased, rtol=1e-5)


@pytest.mark.parametrize("training", [False, None])
def test_out_of_training_it_is_the_moving_statistics(training):
    theirs, ours, x = pair()
    np.testing.assert_array_equal(ours(x, training=training), theirs(x, training=training))


def test_a_frozen_layer_keeps_its_statistics():
    theirs, ours, x = pair()
    ours.trainable = False
    np.testing.assert_array_equal(ours(x, training=True), theirs(x, training=False))


def test_float16_is_normalized_in_float32():
    theirs, ours, x = pair(dtype="mixed_float16")
    # Squares of these overflow float16.
    x = tf.cast(300 * x, tf.float16)
    for one, other in zip(outputs_and_gradients(ours, x), outputs_and_gradients(theirs, x), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=5e-3, atol=5e-3)
    assert ours.moving_variance.dtype == "float32"


def test_it_is_saved_and_read(tmp_path):
    _, layer, x = pair()
    image = keras.Input(SHAPE[1:])
    model = keras.Model(image, layer(image))
    model.save(tmp_path / "norm.keras")
    again = keras.models.load_model(tmp_path / "norm.keras")
    assert isinstance(again.layers[1], FusedBatchNorm)
    np.testing.assert_array_equal(again(x), model(x))
