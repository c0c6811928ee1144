"""The optimizer of training."""

import keras
import tensorflow as tf
from keras import ops

from dekr_tf.layers.backend import sum_over_replicas


@keras.saving.register_keras_serializable("dekr_tf")
class FusedAdam(keras.optimizers.Adam):
    """Adam with one operation for each variable, where Keras has about forty; for the TensorFlow backend.

    With the 941 variables of DEKR-W32, Keras' own takes longer to trace than the network with its gradient. Arguments
    and results are those of `keras.optimizers.Adam`, without `amsgrad`.

    Under `tf.distribute` it clips and accumulates the gradient of the whole batch, as on one device. Keras clips before
    it adds up the gradients of the replicas, and fails when it accumulates.
    """

    def apply(self, grads, trainable_variables=None):
        """Updates the variables, and computes the values that they share only once."""
        step = ops.cast(self.iterations + 1, "float32")
        self._shared = {
            "beta1_power": self.beta_1**step,
            "beta2_power": self.beta_2**step,
            "beta1": tf.constant(self.beta_1, tf.float32),
            "beta2": tf.constant(self.beta_2, tf.float32),
            "epsilon": tf.constant(self.epsilon, tf.float32),
        }
        super().apply(sum_over_replicas(grads), trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its two moments."""
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            lr=learning_rate,
            grad=gradient,
            **self._shared,
        )

    # Every replica has the whole gradient and updates its own copies. Keras would synchronize the replicas here, which
    # TensorFlow forbids inside a conditional, and Keras accumulates gradients in one.

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable.value, learning_rate)

    def _backend_increment_gradient_accumulators(self, grads, acc_grads):
        for gradient, total in zip(grads, acc_grads, strict=True):
            total.assign_add(gradient)


@keras.saving.register_keras_serializable("dekr_tf")
class ReplicaLossScale(keras.optimizers.LossScaleOptimizer):
    """`keras.optimizers.LossScaleOptimizer`, but it skips a step if the gradients of any replica overflow.

    Keras' own checks only the first replica.
    """

    def check_finite(self, grads):
        overflow = ops.cast(ops.logical_not(super().check_finite(grads)), "float32")
        return ops.equal(sum_over_replicas(overflow), 0)
