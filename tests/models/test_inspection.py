"""Where adaptive convolutions read, and the gradient of a keypoint, against what is computed by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import tiny_hrnet

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.models.dekr import build_dekr
from dekr_tf.models.inspection import activated_positions, saliency
from dekr_tf.sidecar import Sidecar

TINY = tiny_hrnet(4)
POINTS = {"names": ["a", "b", "c"]}
IMAGE = np.zeros((64, 96, 3), np.float32)
IDENTITY = (1, 0, 0, 1, 0, 0)
GRID = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)])

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("eagerly_in_module")]


def network(**head):
    """An untrained network, whose taps all lie on their cell, and its settings."""
    config = Config(keypoints=POINTS, model={**TINY, "offset_head": {"channels": 15, **head}})
    return build_dekr(config.model, config.schema), Sidecar.from_config(config)


def place(model, block, size, offsets):
    """Gives every cell the same matrix and translation: for each branch (A row-major, t), y first."""
    model.get_layer(f"offset_g{size}_block{block}_conv").offset_bias.assign(np.array(offsets, np.float32))


def test_untrained_taps_lie_on_the_center():
    last, first = activated_positions(*network(), IMAGE, [5, 9], [7, 3], keypoint=1)
    assert last.shape == (2, 9, 2) and first.shape == (2, 81, 2)
    for person, (x, y) in enumerate([(28, 20), (12, 36)]):
        assert (last[person] == (x, y)).all() and (first[person] == (x, y)).all()


def test_regular_grids():
    model, sidecar = network()
    for block in (0, 1):
        place(model, block, 1, [IDENTITY] * 3)
    last, first = activated_positions(model, sidecar, IMAGE, [5], [7], keypoint=0)
    x, y = np.meshgrid([24, 28, 32], [16, 20, 24])
    assert last[0].tolist() == np.stack([x, y], axis=-1).reshape(9, 2).tolist()
    # 3x3 about each of 3x3: the cells of a square of five, the middle one nine times.
    found, counts = np.unique(first[0], axis=0, return_counts=True)
    x, y = np.meshgrid([20, 24, 28, 32, 36], [12, 16, 20, 24, 28], indexing="ij")
    assert found.tolist() == np.stack([x, y], axis=-1).reshape(25, 2).tolist()
    assert counts.reshape(5, 5).tolist() == np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]).tolist()


def test_matrix_and_translation_of_the_keypoints_own_branch():
    model, sidecar = network()
    place(model, 1, 1, [IDENTITY, (2, 0.5, -0.5, 1.5, 0.25, -1), IDENTITY])
    place(model, 0, 1, [IDENTITY, (0.5, 0, 0.25, 1, 2, 0.5), IDENTITY])
    last, first = activated_positions(model, sidecar, IMAGE, [8], [10], keypoint=1)
    # The first tap, g = (-1, -1): y = 8 - 2 - 0.5 + 0.25, x = 10 + 0.5 - 1.5 - 1; in pixels, four times that.
    assert last[0, 0].tolist() == [32, 23]
    # The last one, g = (1, 1): y = 8 + 2 + 0.5 + 0.25, x = 10 - 0.5 + 1.5 - 1.
    assert last[0, 8].tolist() == [40, 43]
    # Of the block before, the taps g = (-1, 1) at the first and g = (0, 0) at the last of these.
    assert first[0, 2].tolist() == [4 * (8 - 0.25 + 1 + 0.5), 4 * (5.75 - 0.5 + 2)]
    assert first[0, 80].tolist() != first[0, 76].tolist() == [40 + 4 * 0.5, 43 + 4 * 2]


def test_branches_of_several_keypoints():
    model, sidecar = network(branches=[["b", "c"], ["a"]])
    place(model, 1, 2, [(0, 0, 0, 0, 1, 0)])
    place(model, 1, 1, [(0, 0, 0, 0, 0, 1)])
    for keypoint, shift in enumerate([(4, 0), (0, 4), (0, 4)]):
        last, _ = activated_positions(model, sidecar, IMAGE, [5], [7], keypoint)
        assert (last[0] == np.add((28, 20), shift)).all()


def test_nothing_is_read_outside_the_map():
    model, sidecar = network()
    for block in (0, 1):
        place(model, block, 1, [(1, 0, 0, 1, 0, 0.5)] * 3)
    last, first = activated_positions(model, sidecar, IMAGE, [0], [23], keypoint=0)
    assert np.isfinite(last).all()
    first = first.reshape(9, 9, 2)
    # The upper row lies outside. Of the others, the middle column is half outside, and reads the last cell only.
    y, x = np.divmod(np.arange(9), 3)
    assert np.array_equal(np.isnan(first).all(axis=(1, 2)), (y == 0) | (x == 2))
    assert np.array_equal(np.isnan(first).any(axis=(1, 2)), (y == 0) | (x == 2))
    np.testing.assert_array_equal(first[4], 4 * (np.array([23, 0]) + GRID[:, ::-1] + (0.5, 0)))
    np.testing.assert_array_equal(first[3], 4 * (np.array([22.5, 0]) + GRID[:, ::-1] + (0.5, 0)))


def test_the_last_block_has_a_gradient_where_it_reads():
    model, sidecar = network()
    rng = np.random.default_rng(0)
    for variable in model.get_layer("offset_g1_block1_conv").variables:
        regular = 2 * np.array(IDENTITY) if variable.name == "offset_bias" else 0
        spread = 0.02 if variable.name == "offset_kernel" else 0.4
        variable.assign(regular + spread * rng.standard_normal(variable.shape))
    image = rng.standard_normal(IMAGE.shape).astype(np.float32)
    row, column, keypoint = 8, 11, 2
    last, _ = activated_positions(model, sidecar, image, [row], [column], keypoint)

    layer = model.get_layer("offset_g1_block1_conv")
    features = keras.Model(model.input, layer.input)(image[None])
    with tf.GradientTape() as tape:
        tape.watch(features)
        value = tf.reduce_sum(layer(features)[0, row, column, 5 * keypoint : 5 * keypoint + 5])
    gradient = np.abs(tape.gradient(value, features)[0].numpy())
    assert not gradient[..., : 5 * keypoint].any()
    read = gradient.any(axis=-1)
    # The cells that say where the taps lie, and those around each tap.
    expected = np.zeros_like(read)
    expected[row - 1 : row + 2, column - 1 : column + 2] = True
    for x, y in np.floor(last[0] / 4).astype(int):
        expected[max(y, 0) : max(y + 2, 0), max(x, 0) : max(x + 2, 0)] = True
    assert expected.sum() > 20
    np.testing.assert_array_equal(read, expected)


def test_plain_convolutions_have_no_positions():
    with pytest.raises(InputError, match=r"adaptive convolutions\. Received: plain blocks"):
        activated_positions(*network(block="plain"), IMAGE, [1], [1], keypoint=0)


def test_saliency_of_a_linear_network():
    image = keras.Input((None, None, 3))
    offset = keras.layers.Conv2D(6, 4, strides=4, use_bias=False)
    model = keras.Model(image, {"offset": offset(image)})
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 6)).astype(np.float32)
    offset.kernel.assign(kernel)
    lengths = saliency(model, IMAGE, [0, 5], [3, 7], keypoint=1)
    assert lengths.shape == (2, 64, 96)
    expected = 4 * np.sqrt((kernel[..., 2:4] ** 2).sum(axis=(2, 3)))
    for length, (row, column) in zip(lengths, [(0, 3), (5, 7)], strict=True):
        patch = length[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_allclose(patch, expected, rtol=1e-6)
        assert np.count_nonzero(length) == 16


def test_saliency_of_nobody():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, {"offset": keras.layers.Conv2D(2, 4, strides=4)(image)})
    assert saliency(model, IMAGE, [], [], keypoint=0).shape == (0, 64, 96)
