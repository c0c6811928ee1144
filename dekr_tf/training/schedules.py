"""Learning rates by epoch."""

import math

import keras
from keras import ops

from dekr_tf.config import TrainingConfig


@keras.saving.register_keras_serializable("dekr_tf")
class EpochSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of each step, from settings in epochs (paper section 4.1: drops by ten; warm-up and cosine are options).

    Of Keras' schedules, `PiecewiseConstantDecay` has no warm-up, and the decay of `CosineDecay` begins only after it.

    Args:
        rate: the highest.
        steps_per_epoch: steps of an epoch.
        drops: the rate is divided by ten after each of these epochs.
        cosine_epochs: the rate decays to zero over this many epochs, along half a cosine. Default: no decay.
        warmup_epochs: a factor of the rate rises linearly from zero to one over this many epochs.
    """

    def __init__(self, rate, steps_per_epoch, drops=(), cosine_epochs=None, warmup_epochs=0.0):
        super().__init__()
        self.rate = rate
        self.steps_per_epoch = steps_per_epoch
        self.drops = tuple(drops)
        self.cosine_epochs = cosine_epochs
        self.warmup_epochs = warmup_epochs

    def __call__(self, step):
        step = ops.cast(step, "float32")
        epoch = step / self.steps_per_epoch
        rate = ops.convert_to_tensor(self.rate, "float32")
        for drop in self.drops:
            rate = ops.where(epoch >= drop, rate * 0.1, rate)
        if self.cosine_epochs is not None:
            rate *= 0.5 + 0.5 * ops.cos(math.pi * ops.minimum(epoch / self.cosine_epochs, 1.0))
        warmup_steps = self.warmup_epochs * self.steps_per_epoch
        if warmup_steps:
            # Counted from 1, since a first step at rate zero would do nothing.
            rate *= ops.minimum((step + 1) / warmup_steps, 1.0)
        return rate

    def get_config(self):
        return {
            "rate": self.rate,
            "steps_per_epoch": self.steps_per_epoch,
            "drops": self.drops,
            "cosine_epochs": self.cosine_epochs,
            "warmup_epochs": self.warmup_epochs,
        }


def learning_rate(config: TrainingConfig, steps_per_epoch: int) -> EpochSchedule:
    """The schedule that the settings ask for."""
    cosine = config.schedule == "cosine"
    return EpochSchedule(
        config.learning_rate,
        steps_per_epoch,
        drops=() if cosine else config.learning_rate_drops,
        cosine_epochs=config.epochs if cosine else None,
        warmup_epochs=config.warmup_epochs,
    )
