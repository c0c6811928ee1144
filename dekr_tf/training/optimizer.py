"""The optimizer of training."""

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable("dekr_tf")
class FusedAdam(keras.optimizers.Adam):
    """Adam with one operation for each variable, where Keras has about forty.

    With the 941 variables of DEKR-W32, Keras' own takes longer to trace than the network and its gradient. Arguments
    and results are those of `keras.optimizers.Adam`, without `amsgrad`.
    """

    def apply(self, grads, trainable_variables=None):
        """Updates the variables; what all of them share is computed once."""
        step = ops.cast(self.iterations + 1, "float32")
        self._shared = {
            "beta1_power": self.beta_1**step,
            "beta2_power": self.beta_2**step,
            "beta1": tf.constant(self.beta_1, tf.float32),
            "beta2": tf.constant(self.beta_2, tf.float32),
            "epsilon": tf.constant(self.epsilon, tf.float32),
        }
        super().apply(grads, trainable_variables)

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
