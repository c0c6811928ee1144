"""A DEKR with its two losses, as a model that Keras trains."""

from collections.abc import Sequence

import keras
from keras import ops

from dekr_tf.config import TargetConfig
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.errors import InputError
from dekr_tf.layers.backend import replica_count, several_machines, sum_over_replicas
from dekr_tf.models.supervised_offsets import SupervisedOffsets
from dekr_tf.preprocessing import normalization
from dekr_tf.sidecar import NORMALIZATION
from dekr_tf.training.losses import heatmap_loss, offset_loss
from dekr_tf.training.recompute import recomputing


@keras.saving.register_keras_serializable("dekr_tf")
class DekrTraining(keras.Model):
    """A DEKR that `compile`, `fit` and `evaluate` take as they take any Keras model, without a `loss` argument.

    The inputs are photos (B, S, S, 3) in uint8 RGB, which the model normalizes itself, or floats that are normalized
    already. The labels are what `TargetEncoder` gives, from which the model draws the target maps, or those maps as
    `draw_targets` gives them. The outputs are those of the network.

    Under `tf.distribute`, the replicas divide the offset loss by the positives of the whole batch, so that a step gives
    the same update on several replicas as on one. Batch statistics are those of a replica unless they are synchronized.

    Args:
        network: of `build_dekr`.
        heatmap_weight: factor of the heatmap loss in the total.
        offset_weight: factor of the offset loss.
        targets: how to draw target maps.
        mean: of the RGB values in 0..1 that normalization subtracts.
        std: that it divides by.
        recompute: whether training computes what is inside a module of the network again for the gradient.
        offset_cells: where training evaluates the offset head: `dense`, on the whole map, or `supervised`, at the cells
            that have targets (`models.supervised_offsets`).
    """

    def __init__(
        self,
        network: keras.Model,
        heatmap_weight: float = 1.0,
        offset_weight: float = 0.03,
        *,
        targets: TargetConfig | None = None,
        mean: Sequence[float] = NORMALIZATION["hrnet"][0],
        std: Sequence[float] = NORMALIZATION["hrnet"][1],
        recompute: bool = False,
        offset_cells: str = "dense",
        **kwargs,
    ):
        # The policy of the network tells `compile` whether to scale the loss; the layers cast their inputs themselves.
        super().__init__(**{"dtype": network.dtype_policy, "autocast": False, **kwargs})
        self.network = network
        self.heatmap_weight = heatmap_weight
        self.offset_weight = offset_weight
        self.targets = targets or TargetConfig()
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.recompute = recompute
        self.offset_cells = offset_cells
        self.heatmap_mean = keras.metrics.Mean(name="heatmap_loss")
        self.offset_mean = keras.metrics.Mean(name="offset_loss")
        # A function and not a model: Keras would save the layers under the name of whatever model it finds first.
        self._forward_in_training = recomputing(network) if recompute else None
        self._supervised_offsets = SupervisedOffsets(network) if offset_cells == "supervised" else None
        self.built = True

    def call(self, inputs, training=None):
        """The network's outputs for a batch of photos or normalized images.

        In training with supervised cells, the features that enter the offset head are in place of the offsets.
        """
        if keras.backend.standardize_dtype(inputs.dtype) == "uint8":
            scale, shift = map(ops.convert_to_tensor, normalization(self.mean, self.std))
            inputs = ops.cast(inputs, "float32") * scale + shift
        if training and self._supervised_offsets:
            return self._supervised_offsets.features(inputs, training=True)
        if training and self._forward_in_training:
            return self._forward_in_training(inputs)
        return self.network(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted sum of both losses; the metrics `heatmap_loss` and `offset_loss` get its terms."""
        if sample_weight is not None:
            raise InputError("expected no sample_weight: the labels have the weight of every value. Received: one")
        targets = y if "heatmap" in y else draw_targets(y, self.targets)
        heatmap = heatmap_loss(y_pred["heatmap"], targets["heatmap"], targets["heatmap_weight"])
        predicted, target, weight = self._offsets(y_pred, targets)
        # Keras knows means over a batch only, and this is a sum over the positives of all replicas.
        positives = sum_over_replicas(ops.sum(ops.cast(weight > 0, "float32")))
        offset = offset_loss(predicted, target, weight, positives) * replica_count()
        losses = self.heatmap_weight * heatmap, self.offset_weight * offset
        for metric, loss in zip((self.heatmap_mean, self.offset_mean), losses, strict=True):
            metric.update_state(loss, sample_weight=ops.shape(y_pred["heatmap"])[0])
        # Optimizers add up the gradients of all replicas; the losses that Keras has divide by their number as well.
        return sum(losses) / replica_count()

    def _offsets(self, y_pred, targets):
        """Predicted offsets, target offsets and their weights, which `offset_loss` takes."""
        if "features" in y_pred:
            return self._supervised_offsets(y_pred["features"], targets)
        return y_pred["offset"], targets["offset"], targets["offset_weight"]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As in Keras."""
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        # Keras reduces the results of several machines along their first axis, which scalars lack.
        return {name: value[None] for name, value in results.items()} if several_machines() else results

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Under a strategy, Keras would take the mean of the labels of all replicas, flags among them, to build what is
        # built, and start the data set twice.
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def get_config(self):
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "heatmap_weight": self.heatmap_weight,
            "offset_weight": self.offset_weight,
            "targets": self.targets.model_dump(mode="json"),
            "mean": self.mean,
            "std": self.std,
            "recompute": self.recompute,
            "offset_cells": self.offset_cells,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects)
        return cls(**{**config, "network": network, "targets": TargetConfig(**config["targets"])})
