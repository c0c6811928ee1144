"""The losses against the reference's, and worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dekr_tf.training.losses import heatmap_cross_entropy, heatmap_loss, offset_loss

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.mark.parametrize("skeleton", ["coco", "crowdpose"])
def test_equal_the_reference(skeleton):
    with np.load(GOLDENS / f"targets_{skeleton}.npz") as arrays:
        targets = {
            name: arrays[name].transpose(1, 2, 0)[None]
            for name in ("heatmap", "heatmap_weight", "offset", "offset_weight")
        }
    # Predicted offsets without a weight are set to zero in the file, as they do not count.
    with np.load(GOLDENS / f"losses_{skeleton}.npz") as arrays:
        golden = {name: np.float32(arrays[name]) for name in arrays}
    heatmap = heatmap_loss(golden["pred_heatmap"], targets["heatmap"], targets["heatmap_weight"])
    offset = offset_loss(golden["pred_offset"], targets["offset"], targets["offset_weight"])
    assert float(heatmap) == pytest.approx(float(golden["heatmap_loss"]), rel=1e-5)
    # The reference gives the offset loss with its factor.
    assert 0.03 * float(offset) == pytest.approx(float(golden["offset_loss"]), rel=1e-5)


def test_heatmap_loss_by_hand():
    predicted = tf.constant([[[[0.5], [1.0]], [[0.0], [0.25]]]])
    target = tf.constant([[[[0.0], [1.0]], [[1.0], [0.0]]]])
    weight = tf.constant([[[[0.1], [1.0]], [[1.0], [0.0]]]])
    assert float(heatmap_loss(predicted, target, weight)) == pytest.approx((0.1 * 0.25 + 0 + 1 + 0) / 4)


def test_heatmap_cross_entropy_by_hand():
    predicted = tf.Variable([[[[0.5], [0.25]], [[1e-4], [0.25]]]])
    target = tf.constant([[[[0.0], [1.0]], [[1.0], [0.25]]]])
    weight = tf.constant([[[[0.1], [1.0]], [[1.0], [0.0]]]])
    with tf.GradientTape() as tape:
        loss = heatmap_cross_entropy(predicted, target, weight)
    assert float(loss) == pytest.approx((0.1 * np.log(2) + np.log(4) + np.log(1e4)) / 4, rel=1e-4)
    # Before the sigmoid, the slope is predicted minus target, also for a peak that the network misses altogether.
    slope = tape.gradient(loss, predicted) * predicted * (1 - predicted)
    np.testing.assert_allclose(np.ravel(4 * slope), [0.05, -0.75, 1e-4 - 1, 0], rtol=1e-4)


def test_offset_loss_by_hand():
    # Below 1/9 a parabola, 4.5 d^2, from there on a line, d - 1/18; with a slope of 1 where they meet.
    distance = tf.constant([0.0, 0.1, 1 / 9, -1 / 9, 2.0, -3.0, 100.0])
    weight = tf.constant([1.0, 0.5, 1.0, 1.0, 0.25, 2.0, 0.0])
    expected = 0 + 0.5 * 4.5 * 0.01 + 2 / 18 + 0.25 * (2 - 1 / 18) + 2 * (3 - 1 / 18)
    assert float(offset_loss(distance, tf.zeros(7), weight)) == pytest.approx(expected / 6, rel=1e-5)
    assert float(offset_loss(tf.zeros(7), distance, weight)) == pytest.approx(expected / 6, rel=1e-5)


def test_offset_loss_is_smooth():
    distance = tf.constant([-5.0, -0.2, -0.05, 0.0, 1 / 9 - 1e-4, 1 / 9 + 1e-4, 4.0])
    with tf.GradientTape() as tape:
        tape.watch(distance)
        loss = offset_loss(distance, tf.zeros(7), tf.ones(7))
    slopes = 7 * tape.gradient(loss, distance)
    np.testing.assert_allclose(slopes, [-1, -1, -0.45, 0, 1, 1, 1], atol=1e-3)


def test_a_perfect_prediction_costs_nothing():
    maps = tf.random.normal((2, 4, 5, 6))
    assert float(heatmap_loss(maps, maps, tf.ones_like(maps))) == 0
    assert float(offset_loss(maps, maps, tf.ones_like(maps))) == 0


def test_an_image_without_people_costs_no_offsets():
    predicted = tf.Variable(tf.random.normal((1, 4, 4, 2)))
    with tf.GradientTape() as tape:
        loss = offset_loss(predicted, tf.zeros((1, 4, 4, 2)), tf.zeros((1, 4, 4, 2)))
    assert float(loss) == 0
    np.testing.assert_array_equal(tape.gradient(loss, predicted), np.zeros((1, 4, 4, 2)))


def test_cells_without_a_weight_do_not_count():
    maps, target = tf.random.normal((1, 4, 4, 2)), tf.random.normal((1, 4, 4, 2))
    weight = tf.cast(tf.random.uniform((1, 4, 4, 2)) < 0.5, tf.float32)
    elsewhere = maps + 7 * (1 - weight)
    for loss in (heatmap_loss, offset_loss):
        assert float(loss(elsewhere, target, weight)) == float(loss(maps, target, weight)) > 0
