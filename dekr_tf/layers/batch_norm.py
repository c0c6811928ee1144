"""Batch normalization, fused in training."""

import keras

from dekr_tf.layers.backend import normalize_by_batch


@keras.saving.register_keras_serializable("dekr_tf")
class FusedBatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of (B, H, W, C) with one operation in training, where Keras has about fifteen.

    Each of those would pass over the feature map and keep it for the gradient. The moving variance takes the batch's
    unbiased variance, as in PyTorch. With `synchronized=True`, and in inference, Keras' own code runs.
    """

    def call(self, inputs, training=None, mask=None):
        if self.synchronized or not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = normalize_by_batch(inputs, self.gamma, self.beta, self.epsilon)
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1.0 - self.momentum))
        return outputs
