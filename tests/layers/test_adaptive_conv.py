"""The adaptive convolution against the reference's values and gradients, a slow form of itself, and known answers."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dekr_tf.geometry import GRID
from dekr_tf.layers.adaptive_conv import AdaptiveConv2D, _at_every_cell, _convolve, _taps, sample_and_convolve

GOLDENS = Path(__file__).parents[1] / "goldens"
#: Largest difference from the golden, relative to its largest value.
TOLERANCE = 1e-5
IDENTITY = (1, 0, 0, 1)

pytestmark = pytest.mark.slow


def values_and_gradients(x, offsets, kernel, upstream):
    """The output, and the gradients of the sum of `upstream` times it for x, offsets and kernel."""
    with tf.GradientTape() as tape:
        tape.watch((x, offsets, kernel))
        y = sample_and_convolve(x, offsets, kernel)
        total = tf.reduce_sum(upstream * y)
    return y, *tape.gradient(total, (x, offsets, kernel))


def constants(generator, *shapes, scale=1.0):
    return [tf.constant(scale * generator.standard_normal(shape), tf.float32) for shape in shapes]


def offsets_of(matrix, translation, shape):
    """(G, B, H, W, 6) offsets that are the same at every pixel."""
    return tf.constant(np.broadcast_to(np.array([*matrix, *translation], np.float32), (*shape, 6)))


def slow_form(x, offsets, kernel):
    """`sample_and_convolve` read off the paper's formula, one value at a time."""
    branches, batch, height, width, _ = x.shape
    y = np.zeros((branches, batch, height, width, kernel.shape[-1]))
    for g, b, row, column in np.ndindex(branches, batch, height, width):
        yy, yx, xy, xx, ty, tx = offsets[g, b, row, column]
        for tap, (grid_y, grid_x) in enumerate(GRID):
            at_y = row + yy * grid_y + yx * grid_x + ty
            at_x = column + xy * grid_y + xx * grid_x + tx
            for corner_y in (int(np.floor(at_y)), int(np.floor(at_y)) + 1):
                for corner_x in (int(np.floor(at_x)), int(np.floor(at_x)) + 1):
                    if 0 <= corner_y < height and 0 <= corner_x < width:
                        share = (1 - abs(at_y - corner_y)) * (1 - abs(at_x - corner_x))
                        y[g, b, row, column] += share * x[g, b, corner_y, corner_x] @ kernel[g, tap]
    return y


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("known_size", [True, False])
def test_values_and_gradients_equal_the_reference(jit_compile, known_size):
    with np.load(GOLDENS / "adaptive_conv.npz") as arrays:
        golden = {name: np.float32(arrays[name]) for name in arrays}

    def channels_last(*names):
        return np.concatenate([np.moveaxis(golden[name], 1, -1) for name in names], axis=-1)[None]

    def taps(name):
        return golden[name].transpose(2, 3, 1, 0).reshape(1, 9, 6, 5)

    inputs = [channels_last("x"), channels_last("transform", "translation"), taps("kernel"), channels_last("upstream")]
    # The sizes of the maps may be unknown when the function is traced, those of the kernel are always known.
    signature = [
        tf.TensorSpec(each.shape if known_size or each is inputs[2] else (1, None, None, None, each.shape[-1]))
        for each in inputs
    ]
    function = tf.function(values_and_gradients, input_signature=signature, jit_compile=jit_compile)
    expected = [channels_last("y"), channels_last("dx"), channels_last("dtransform", "dtranslation"), taps("dkernel")]
    names = ("y", "dx", "doffsets", "dkernel")
    for name, received, wanted in zip(names, function(*map(tf.constant, inputs)), expected, strict=True):
        np.testing.assert_allclose(received, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max(), err_msg=name)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (6, 5), (15, 2), (16, 16), (17, 3), (20, 15)])
def test_equals_the_slow_form_for_any_number_of_channels(channels, filters):
    generator = np.random.default_rng(channels)
    x, kernel = constants(generator, (2, 2, 3, 4, channels), (2, 9, channels, filters))
    offsets = tf.constant((*IDENTITY, 0, 0), tf.float32) + constants(generator, (2, 2, 3, 4, 6))[0]
    expected = slow_form(*(each.numpy().astype(float) for each in (x, offsets, kernel)))
    y, *gradients = values_and_gradients(x, offsets, kernel, tf.ones(expected.shape))
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    assert [each.shape for each in gradients] == [x.shape, offsets.shape, kernel.shape]


@pytest.mark.usefixtures("eagerly")
def test_gradients_are_slopes_of_the_slow_form():
    generator = np.random.default_rng(3)
    # Odd numbers of channels, several branches and images, and offsets that leave the map here and there.
    shapes = (2, 2, 3, 3, 3), (2, 2, 3, 3, 6), (2, 9, 3, 2), (2, 2, 3, 3, 2)
    arguments = constants(generator, *shapes)
    exact = [each.numpy().astype(float) for each in arguments]
    _, *gradients = values_and_gradients(*arguments)
    for index, gradient in enumerate(gradients):
        for place in generator.integers(gradient.shape, size=(12, len(gradient.shape))):
            totals = []
            for step in (-1e-6, 1e-6):
                moved = [each.copy() for each in exact]
                moved[index][tuple(place)] += step
                totals.append((slow_form(*moved[:3]) * moved[3]).sum())
            slope = (totals[1] - totals[0]) / 2e-6
            assert gradient.numpy()[tuple(place)] == pytest.approx(slope, rel=1e-4, abs=1e-4)


@pytest.mark.usefixtures("eagerly")
def test_without_a_transform_all_taps_read_the_center():
    x, kernel = constants(np.random.default_rng(0), (2, 1, 4, 5, 6), (2, 9, 6, 3))
    y = sample_and_convolve(x, tf.zeros((2, 1, 4, 5, 6)), kernel)
    np.testing.assert_allclose(y, tf.einsum("gbhwc,gtcf->gbhwf", x, kernel), atol=1e-5)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("translation", [(0, 0), (1, 0), (0, -2), (-3, 2), (2, 3)])
def test_integer_translations_give_shifted_convolutions(translation):
    x, kernel = constants(np.random.default_rng(1), (1, 2, 4, 5, 6), (1, 9, 6, 3))
    y = sample_and_convolve(x, offsets_of(IDENTITY, translation, x.shape[:-1]), kernel)
    margin = 4
    padded = tf.pad(x[0], ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    convolved = tf.nn.conv2d(padded, tf.reshape(kernel[0], (3, 3, 6, 3)), 1, "SAME")
    top, left = margin + translation[0], margin + translation[1]
    np.testing.assert_allclose(y[0], convolved[:, top : top + 4, left : left + 5], atol=1e-5)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("translation", [(6, 0), (0, -6.5), (-40.25, 7), (1e30, -1e30)])
def test_far_outside_is_zero_without_a_gradient(translation):
    x, kernel, upstream = constants(np.random.default_rng(2), (1, 1, 4, 5, 6), (1, 9, 6, 3), (1, 1, 4, 5, 3))
    results = values_and_gradients(x, offsets_of(IDENTITY, translation, x.shape[:-1]), kernel, upstream)
    for result in results:
        np.testing.assert_array_equal(result, np.zeros(result.shape))


@pytest.mark.usefixtures("eagerly")
def test_each_corner_outside_is_zero_on_its_own():
    x = tf.constant(np.arange(1.0, 5.0).reshape(1, 1, 2, 2, 1), tf.float32)
    kernel = tf.constant(np.eye(9)[4].reshape(1, 9, 1, 1), tf.float32)  # The middle tap alone.
    y = sample_and_convolve(x, offsets_of(IDENTITY, (-0.5, 0.25), x.shape[:-1]), kernel)
    # Between rows -1 and 0, and 0 and 1; a quarter of the way to the next column, which for the last is outside.
    expected = [[0.5 * (0.75 * 1 + 0.25 * 2), 0.5 * 0.75 * 2]]
    expected += [[0.5 * (0.75 * (1 + 3) + 0.25 * (2 + 4)), 0.5 * 0.75 * (2 + 4)]]
    np.testing.assert_allclose(y[0, 0, ..., 0], expected, rtol=1e-6)


@pytest.mark.usefixtures("eagerly")
@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3), st.floats(0, 5))
def test_branches_do_not_mix(seed, branches, batch, spread):
    generator = np.random.default_rng(seed)
    shape = (branches, batch, 3, 5)
    x, kernel, upstream = constants(generator, (*shape, 4), (branches, 9, 4, 3), (*shape, 3))
    (offsets,) = constants(generator, (*shape, 6), scale=spread)
    together = values_and_gradients(x, offsets, kernel, upstream)
    for branch in range(branches):
        alone = values_and_gradients(*(each[branch : branch + 1] for each in (x, offsets, kernel, upstream)))
        for joint, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(joint[branch], single[0], rtol=1e-5, atol=1e-5)


def bytes_kept(function, *shapes):
    """Bytes of the tensors that the gradient of `function` takes over from its forward pass."""
    kept = set()

    @tf.function(input_signature=[tf.TensorSpec(shape) for shape in shapes], autograph=False)
    def trace(*arguments):
        graph = tf.compat.v1.get_default_graph()
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = function(*arguments)
        forward = set(graph.get_operations())
        assert None not in tape.gradient(y, arguments)
        backward = set(graph.get_operations()) - forward
        kept.update(tensor.ref() for operation in backward for tensor in operation.inputs if tensor.op in forward)

    trace.get_concrete_function()
    return sum(ref.deref().shape.num_elements() * ref.deref().dtype.size for ref in kept)


def test_the_gradient_keeps_nothing_that_was_sampled():
    shapes = (2, 1, 8, 8, 16), (2, 1, 8, 8, 6), (2, 9, 16, 16)
    arguments = 4 * sum(np.prod(shape) for shape in shapes)
    assert bytes_kept(sample_and_convolve, *shapes) <= arguments
    # What the measure says of the same arithmetic with TensorFlow's own gradient: nine taps of four values a pixel.

    def uncompiled_form(x, offsets, kernel):
        return _convolve.python_function(x, kernel, *_taps.python_function(*_at_every_cell(offsets)))

    assert bytes_kept(uncompiled_form, *shapes) > 4 * 9 * 4 * np.prod(shapes[0])


def test_the_layer_keeps_its_input_and_its_offsets():
    layer = AdaptiveConv2D(2, 16)
    shape = (1, 8, 8, 32)
    layer.build(shape)
    features, offsets = 4 * np.prod(shape), 4 * 8 * 8 * 2 * 6
    weights = 4 * layer.count_params()
    # The features as they came and as branches, and a few shapes.
    assert bytes_kept(layer, shape) <= 2 * features + offsets + weights + 128


def random_layer(generator, branches, channels, filters, **options):
    layer = AdaptiveConv2D(branches, filters, **options)
    layer.build((None, None, None, branches * channels))
    for variable in layer.weights:
        variable.assign(0.5 * generator.standard_normal(variable.shape))
    return layer


@pytest.mark.usefixtures("eagerly")
def test_the_layer_predicts_its_offsets_from_the_branch():
    generator = np.random.default_rng(5)
    layer = random_layer(generator, branches=2, channels=3, filters=4)
    (x,) = constants(generator, (2, 4, 5, 6))
    expected = []
    for branch in range(2):
        own = x[..., 3 * branch : 3 * branch + 3]
        offsets = tf.nn.conv2d(own, layer.offset_kernel[branch], 1, "SAME") + layer.offset_bias[branch]
        arguments = (each.numpy().astype(float)[None] for each in (own, offsets, layer.kernel[branch]))
        expected.append(slow_form(*arguments)[0])
    np.testing.assert_allclose(layer(x), np.concatenate(expected, axis=-1), rtol=0, atol=1e-4)
    assert layer.compute_output_shape(x.shape) == (2, 4, 5, 8)


def test_offsets_start_at_zero():
    layer = AdaptiveConv2D(2, 4)
    layer.build((None, None, None, 6))
    assert not np.any(layer.offset_kernel) and not np.any(layer.offset_bias)
    # He initialization by fan-out: 288 values of deviation sqrt(2 / (9 filters)).
    assert np.std(layer.kernel) == pytest.approx((2 / 36) ** 0.5, rel=0.15)


@pytest.mark.usefixtures("eagerly")
def test_every_variable_learns_from_the_first_step():
    layer = AdaptiveConv2D(2, 4)
    (x,) = constants(np.random.default_rng(6), (1, 4, 5, 6))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.square(layer(x)))
    for variable, gradient in zip(layer.weights, tape.gradient(total, layer.trainable_weights), strict=True):
        assert np.any(gradient != 0), variable.path


@pytest.mark.usefixtures("eagerly")
def test_float16_changes_the_result_by_its_rounding_only():
    generator = np.random.default_rng(7)
    full = random_layer(generator, branches=2, channels=3, filters=4)
    half = AdaptiveConv2D(2, 4, dtype="mixed_float16")
    half.build((None, None, None, 6))
    half.set_weights(full.get_weights())
    assert {variable.dtype for variable in half.weights} == {"float32"}
    x = tf.cast(constants(generator, (1, 4, 80, 6))[0], tf.float16)
    y = half(x)
    assert y.dtype == tf.float16
    np.testing.assert_allclose(y, full(tf.cast(x, tf.float32)), rtol=2**-11, atol=1e-6)


def test_the_layer_is_saved_and_read(tmp_path):
    layer = random_layer(np.random.default_rng(8), branches=2, channels=3, filters=4, name="first")
    assert AdaptiveConv2D.from_config(layer.get_config()).get_config() == layer.get_config()
    image = keras.Input((4, 5, 6))
    model = keras.Model(image, layer(image))
    model.save(tmp_path / "layer.keras")
    again = keras.models.load_model(tmp_path / "layer.keras")
    (x,) = constants(np.random.default_rng(9), (2, 4, 5, 6))
    np.testing.assert_array_equal(model(x), again(x))


def test_channels_that_do_not_divide():
    with pytest.raises(ValueError, match=r"multiple of branches=4. Received: input_shape=\(1, 2, 2, 6\)"):
        AdaptiveConv2D(4, 3).build((1, 2, 2, 6))
