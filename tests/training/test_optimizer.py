"""The fused Adam against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dekr_tf.training.optimizer import FusedAdam

OPTIONS = {
    "plain": {},
    "moments": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4},
    "clipped and averaged": {"global_clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.7},
    "accumulated": {"gradient_accumulation_steps": 3},
    "schedule": {"learning_rate": keras.optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.1, 0.01, 0.001])},
}

pytestmark = pytest.mark.slow


def weights_after(optimizer, steps, jit_compile):
    generator = np.random.default_rng(0)
    shapes = (3, 4), (5,), ()
    variables = [keras.Variable(generator.standard_normal(shape), dtype="float32") for shape in shapes]
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(gradients):
        optimizer.apply(gradients, variables)

    for _ in range(steps):
        step([tf.constant(generator.standard_normal(shape), tf.float32) for shape in shapes])
    return [variable.numpy() for variable in [*variables, *optimizer.variables]]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_updates_are_those_of_keras(options, jit_compile):
    options = {"learning_rate": 0.1, **options}
    expected = weights_after(keras.optimizers.Adam(**options), 7, jit_compile)
    received = weights_after(FusedAdam(**options), 7, jit_compile)
    for one, other in zip(received, expected, strict=True):
        # Keras computes 1 - beta in double precision, where 1 - 0.999 is 1.3e-5 of itself smaller.
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)


def test_a_variable_takes_few_operations():
    def operations(count):
        variables = [keras.Variable(np.zeros(2), dtype="float32") for _ in range(count)]
        optimizer = FusedAdam()
        optimizer.build(variables)
        step = tf.function(lambda: optimizer.apply([tf.ones(2)] * count, variables), autograph=False)
        return len(step.get_concrete_function().graph.get_operations())

    assert (operations(12) - operations(2)) / 10 <= 6


def test_it_is_read_from_its_config():
    optimizer = FusedAdam(learning_rate=0.25, beta_1=0.8, global_clipnorm=2.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert isinstance(again, FusedAdam)
    assert again.get_config() == optimizer.get_config()
