"""Upsampling of feature maps."""

import keras
from keras import ops

from dekr_tf.layers.backend import upsample


@keras.saving.register_keras_serializable("dekr_tf")
class Upsample(keras.layers.Layer):
    """Upsamples a map by a whole factor, in float32: float16 interpolation is a known source of NaN in training.

    `keras.layers.UpSampling2D` interpolates in the compute dtype.

    Args:
        factor: whole number that multiplies both sides; for `nearest`, a power of two.
        interpolation: `nearest`, or `bilinear` with half-pixel centers.

    Input (B, H, W, C), output (B, factor H, factor W, C).
    """

    def __init__(self, factor, interpolation, **kwargs):
        super().__init__(**kwargs)
        if interpolation == "nearest" and factor & (factor - 1):
            raise ValueError(f"nearest upsampling: expected a power of two. Received: {factor}")
        self.factor = factor
        self.interpolation = interpolation

    def call(self, inputs):
        outputs = upsample(ops.cast(inputs, "float32"), self.factor, self.interpolation)
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, *(side if side is None else side * self.factor for side in (height, width)), channels)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor, "interpolation": self.interpolation}
