"""Learning rates, worked out by hand."""

import math

import keras
import numpy as np
import pytest

from dekr_tf.config import TrainingConfig
from dekr_tf.training.schedules import learning_rate


def rates(steps, steps_per_epoch, **settings):
    schedule = learning_rate(TrainingConfig(**settings), steps_per_epoch)
    return [float(schedule(step)) for step in range(steps)]


def test_drops_come_after_their_epochs():
    received = rates(14, 3, learning_rate=0.5, learning_rate_drops=(4, 2))
    np.testing.assert_allclose(received, [0.5] * 6 + [0.05] * 6 + [0.005] * 2, rtol=1e-6)
    assert set(rates(5, 1, learning_rate=0.25, learning_rate_drops=())) == {0.25}


def test_the_paper():
    schedule = learning_rate(TrainingConfig(), 6000)
    first, last = [0, 90 * 6000, 120 * 6000], [90 * 6000 - 1, 120 * 6000 - 1, 140 * 6000 - 1]
    for steps in (first, last):
        np.testing.assert_allclose([float(schedule(step)) for step in steps], [1e-3, 1e-4, 1e-5], rtol=1e-6)


def test_warm_up_rises_to_the_schedule():
    received = rates(8, 4, learning_rate=2.0, learning_rate_drops=(1,), warmup_epochs=1.5)
    expected = [2 * 1 / 6, 2 * 2 / 6, 2 * 3 / 6, 2 * 4 / 6, 0.2 * 5 / 6, 0.2, 0.2, 0.2]
    np.testing.assert_allclose(received, expected, rtol=1e-6)


def test_cosine_falls_to_zero():
    received = rates(9, 2, learning_rate=4.0, schedule="cosine", epochs=4)
    expected = [2 + 2 * math.cos(math.pi * step / 8) for step in range(9)]
    np.testing.assert_allclose(received, expected, atol=1e-6)
    assert received[:9:4] == pytest.approx([4, 2, 0], abs=1e-6)


def test_schedules_can_be_written_down():
    schedule = learning_rate(TrainingConfig(warmup_epochs=0.5), 10)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert again.get_config() == schedule.get_config()
    assert float(again(3)) == float(schedule(3)) > 0
