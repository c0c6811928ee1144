"""Enlarging maps: factors worked out by hand, gradients with and without XLA, mixed precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dekr_tf.layers.resize import Upsample

ROW = [1.0, 3.0, 7.0]
# Half-pixel centers: the middle of output cell i lies at (i + 0.5) / factor - 0.5 of the input, held at the border.
UPSAMPLED = {
    ("nearest", 1): ROW,
    ("nearest", 2): [1, 1, 3, 3, 7, 7],
    ("nearest", 4): [1] * 4 + [3] * 4 + [7] * 4,
    ("bilinear", 1): ROW,
    ("bilinear", 2): [1, 1.5, 2.5, 4, 6, 7],
    ("bilinear", 4): [1, 1, 1.25, 1.75, 2.25, 2.75, 3.5, 4.5, 5.5, 6.5, 7, 7],
}


@pytest.mark.parametrize(("interpolation", "factor"), UPSAMPLED)
@pytest.mark.parametrize("axis", [1, 2])
def test_factors_by_hand(interpolation, factor, axis):
    shape = [1, 1, 1, 1]
    shape[axis] = 3
    y = Upsample(factor, interpolation)(tf.reshape(tf.constant(ROW), shape))
    assert y.shape[axis] == 3 * factor
    assert y.shape[3 - axis] == factor
    expected = np.repeat([UPSAMPLED[interpolation, factor]], factor, axis=0)
    np.testing.assert_allclose(tf.squeeze(y if axis == 2 else tf.transpose(y, (0, 2, 1, 3)), (0, 3)), expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("known_size", [True, False])
def test_gradient(interpolation, jit_compile, known_size):
    layer = Upsample(2, interpolation)
    x = tf.random.normal((2, 3, 4, 5))
    upstream = tf.random.normal((2, 6, 8, 5))
    size = (3, 4) if known_size else (None, None)

    @tf.function(input_signature=[tf.TensorSpec((2, *size, 5))], jit_compile=jit_compile)
    def function(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            total = tf.reduce_sum(upstream * y)
        return y, tape.gradient(total, x)

    y, gradient = function(x)
    np.testing.assert_allclose(y, layer(x), rtol=1e-6, atol=1e-6)
    # Enlarging is linear: its gradient is the transpose of the matrix that it multiplies by.
    basis = layer(tf.reshape(tf.eye(12), (12, 3, 4, 1)))[..., 0]
    expected = tf.einsum("bhwc,phw->bpc", upstream, basis)
    np.testing.assert_allclose(gradient, tf.reshape(expected, x.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_the_forward_graph_has_no_more_than_it_needs(interpolation):
    layer = Upsample(2, interpolation)
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec((1, 3, 4, 5))).graph
    kinds = {operation.type for operation in graph.get_operations()} - {"Placeholder", "Const", "Identity", "IdentityN"}
    assert kinds == ({"ConcatV2", "DepthToSpace"} if interpolation == "nearest" else {"ResizeBilinear"})


def test_nearest_takes_powers_of_two():
    with pytest.raises(ValueError, match="power of two"):
        Upsample(6, "nearest")
    assert Upsample(1, "nearest")(tf.zeros((1, 2, 3, 4))).shape == (1, 2, 3, 4)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_mixed_precision_interpolates_in_float32(interpolation):
    layer = Upsample(2, interpolation, dtype="mixed_float16")
    x = tf.cast(tf.random.normal((1, 3, 4, 5)), tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        # Four of these make a gradient near the end of float16's range.
        total = tf.reduce_sum(tf.cast(y, tf.float32)) * 12_000
    assert y.dtype == tf.float16
    expected = Upsample(2, interpolation)(tf.cast(x, tf.float32))
    np.testing.assert_array_equal(y, tf.cast(expected, tf.float16))
    gradient = tape.gradient(total, x)
    assert np.isfinite(gradient).all()
    assert float(tf.reduce_sum(tf.cast(gradient, tf.float32))) == pytest.approx(240 * 12_000, rel=1e-3)


def test_the_layer_is_saved_and_read(tmp_path):
    image = keras.Input((None, None, 5))
    layer = Upsample(4, "nearest", name="first")
    model = keras.Model(image, layer(image))
    assert model.output_shape == (None, None, None, 5)
    assert layer.compute_output_shape((2, 3, None, 5)) == (2, 12, None, 5)
    model.save(tmp_path / "layer.keras")
    again = keras.models.load_model(tmp_path / "layer.keras")
    assert again.get_layer("first").get_config() == layer.get_config()
    x = tf.random.normal((2, 3, 4, 5))
    np.testing.assert_array_equal(model(x), again(x))
