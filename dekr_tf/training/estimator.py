"""A DEKR with its losses and settings: one Keras model that trains, finds people and exports itself."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from dekr_tf.config import Config, TargetConfig, TrainingConfig, parse_settings
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.errors import InputError
from dekr_tf.files.images import read_image
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.keypoints import COCO, KeypointSchema
from dekr_tf.layers.backend import replica_count, several_machines, sum_over_replicas
from dekr_tf.models.dekr import build_dekr
from dekr_tf.models.files import load_model
from dekr_tf.models.supervised_offsets import SupervisedOffsets
from dekr_tf.poses import Poses
from dekr_tf.preprocessing import normalization
from dekr_tf.sidecar import Artifact, Sidecar
from dekr_tf.training.gradient_checkpointing import checkpointed
from dekr_tf.training.losses import heatmap_cross_entropy, heatmap_loss, offset_loss
from dekr_tf.weights import PRESET

if TYPE_CHECKING:
    from converters.verify import Comparison
    from dekr_tf.inference.rescoring import RescoringNet


@keras.saving.register_keras_serializable("dekr_tf")
class PoseEstimator(keras.Model):
    """A DEKR with its losses and settings: a Keras model that needs no `loss` argument, and finds people in photos.

    `from_preset` opens a trained one, `from_scratch` makes a new one. `compile`, `fit`, `evaluate`, `save` and Keras'
    callbacks work as on any model; a saved file holds the settings and opens in `PoseDetector`, as the model does.

    The inputs are photos (B, S, S, 3) in uint8 RGB, which the model normalizes, or floats that are normalized already.
    The labels are batches from `TargetEncoder`, from which the model draws the target maps, or those maps themselves,
    from `draw_targets`. The outputs are those of the network.

    Under `tf.distribute`, the replicas divide the offset loss by the positives of the whole batch, so that a step makes
    the same update on several replicas as on one. Batch statistics are those of a replica unless they are synchronized.

    Args:
        network: of `build_dekr`.
        sidecar: the settings that inference needs, which the network gets too; by default the network's own.
        heatmap_weight: factor of the heatmap loss in the total.
        offset_weight: factor of the offset loss.
        targets: how to draw target maps.
        gradient_checkpointing: whether the backward pass recomputes the activations inside backbone modules.
        offset_cells: where training evaluates the offset head: `dense`, on the whole map, or `supervised`, at the cells
            that have targets (`models.supervised_offsets`).
    """

    def __init__(
        self,
        network: keras.Model,
        sidecar: Sidecar | None = None,
        heatmap_weight: float = 1.0,
        offset_weight: float = 0.03,
        *,
        targets: TargetConfig | None = None,
        gradient_checkpointing: bool = False,
        offset_cells: str = "dense",
        **kwargs,
    ):
        # The network's policy tells `compile` whether to scale the loss; the layers cast their inputs themselves.
        super().__init__(**{"dtype": network.dtype_policy, "autocast": False, **kwargs})
        self.network = network
        self.sidecar = network.sidecar = sidecar or network.sidecar
        self.heatmap_weight = heatmap_weight
        self.offset_weight = offset_weight
        self.targets = targets or TargetConfig()
        self.gradient_checkpointing = gradient_checkpointing
        self.offset_cells = offset_cells
        self.heatmap_mean = keras.metrics.Mean(name="heatmap_loss")
        self.offset_mean = keras.metrics.Mean(name="offset_loss")
        # A function, not a model: Keras would save the layers under the name of whatever model it finds first.
        self._forward_in_training = checkpointed(network) if gradient_checkpointing else None
        self._supervised_offsets = SupervisedOffsets(network) if offset_cells == "supervised" else None
        self._detector = None
        self.built = True

    @classmethod
    def from_preset(cls, preset: str | os.PathLike = PRESET, config: Config | None = None) -> "PoseEstimator":
        """Opens a trained model.

        Args:
            preset: a name that `dekr weights` lists, or the path of a `.keras`, `.weights.h5` or `.weights.npz` file;
                by default the model of the package.
            config: settings of a file that has none.

        Raises:
            InputError: as `models.load_model`.
        """
        return cls(*load_model(preset, config))

    @classmethod
    def from_scratch(cls, schema: KeypointSchema = COCO, input_size: int = 512, **model) -> "PoseEstimator":
        """Makes an untrained model.

        Args:
            schema: the skeleton.
            input_size: short side of the network's input in pixels, a multiple of 32.
            model: settings of `ModelConfig`, for example `width=32`.

        Raises:
            InputError: a setting does not fit.
        """
        values = {"keypoints": schema.to_dict(), "input_size": input_size, "model": model}
        config = parse_settings(Config, values, "PoseEstimator.from_scratch")
        return cls(build_dekr(config.model, config.schema), Sidecar.from_config(config))

    def compile(self, optimizer="auto", **kwargs):
        """As in Keras, but without `loss`, which the model has. The default is Adam at the paper's learning rate."""
        if optimizer == "auto":
            optimizer = adam(TrainingConfig().learning_rate)
        super().compile(optimizer, **kwargs)
        if self.optimizer is None:
            return
        # Keras builds the optimizer in the first step, but the model may be saved and loaded before that.
        strategy = getattr(self, "distribute_strategy", None)
        with strategy.scope() if strategy else contextlib.nullcontext():
            self.optimizer.build(self.trainable_variables)

    def compile_from_config(self, config):
        """As in Keras, which leaves models that override `compile` uncompiled."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def detect(self, image: np.ndarray | str | os.PathLike) -> Poses:
        """Finds the people in a photo with the weights that the model has now.

        `PoseDetector(model)` is faster, but keeps the weights that the model had when the detector was made.

        Args:
            image: (H, W, 3) uint8 RGB, or the path of a file, which is turned upright by its EXIF orientation.

        Returns:
            Poses in pixels of the (upright) photo.

        Raises:
            InputError: as `PoseDetector`.
        """
        if self._detector is None:
            # Only the dense head reads the network's own weights.
            self._detector = PoseDetector(self.network, self.sidecar, dense=True)
        return self._detector(image)

    def export(
        self,
        path: str | os.PathLike,
        format: str = "tflite",
        precision: str = "float32",
        calibration: Sequence[np.ndarray | str | os.PathLike] = (),
        rescore: "RescoringNet | str | Path | None" = None,
        **settings,
    ) -> "Comparison":
        """Writes the model for another engine, opens the result, and compares the two; see `dekr export`.

        Args:
            path: file, or folder of a SavedModel.
            format: `tflite`, `onnx` or `saved_model`.
            precision: of weights, `float16` or `dynamic_int8`, or also of activations, `int8`; with `tflite` only.
            calibration: photos like those that the model will see, files or (H, W, 3) uint8 RGB, from which `int8`
                takes its ranges. The comparison runs on them too; by default it runs on synthetic people.
            rescore: a rescoring net, its path or name, to put into the graph of final poses (`final=True`).
            settings: of `sidecar.Artifact`, for example `input_sizes=[(512, 832)]`, which is a square of the model's
                size by default for `tflite`.

        Returns:
            The comparison with this model.

        Raises:
            InputError: the model cannot be exported like this, or the difference is too large; then nothing is written.
        """
        from converters.export import export_model, synthetic_photos

        if format == "tflite":
            settings = {"input_sizes": [(self.sidecar.input_size,) * 2], **settings}
        values = {"graph": "poses", "precision": precision, **settings}
        artifact = parse_settings(Artifact, values, "PoseEstimator.export")
        photos = [
            image if isinstance(image, np.ndarray) else read_image(Path(image), exif_orientation=True)
            for image in calibration
        ]
        compared = photos or synthetic_photos()
        return export_model(
            self.network, self.sidecar, path, format, artifact, compared, calibrate=bool(photos), rescore=rescore
        )

    def call(self, inputs, training=None):
        """The network's outputs for a batch of photos or normalized images.

        In training with supervised cells, the features that enter the offset head take the place of offsets.
        """
        if keras.backend.standardize_dtype(inputs.dtype) == "uint8":
            scale, shift = map(ops.convert_to_tensor, normalization(self.sidecar.mean, self.sidecar.std))
            inputs = ops.cast(inputs, "float32") * scale + shift
        if training and self._supervised_offsets:
            return self._supervised_offsets.features(inputs, training=True)
        if training and self._forward_in_training:
            return self._forward_in_training(inputs)
        return self.network(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted sum of both losses; the metrics `heatmap_loss` and `offset_loss` get its weighted terms."""
        if sample_weight is not None:
            raise InputError("sample_weight is not supported: the labels already weight every value")
        targets = y if "heatmap" in y else draw_targets(y, self.targets)
        # A separable head ends in a sigmoid, with which a squared error has no gradient at empty maps.
        is_separable = self.sidecar.model.heatmap_block == "separable"
        loss_of = heatmap_cross_entropy if is_separable else heatmap_loss
        heatmap = loss_of(y_pred["heatmap"], targets["heatmap"], targets["heatmap_weight"])
        predicted, target, weight = self._offsets(y_pred, targets)
        # Keras only has means over a batch, but this loss is divided by the positives of all replicas.
        positives = sum_over_replicas(ops.sum(ops.cast(weight > 0, "float32")))
        offset = offset_loss(predicted, target, weight, positives) * replica_count()
        losses = self.heatmap_weight * heatmap, self.offset_weight * offset
        for metric, loss in zip((self.heatmap_mean, self.offset_mean), losses, strict=True):
            metric.update_state(loss, sample_weight=ops.shape(y_pred["heatmap"])[0])
        # Optimizers add up the gradients of all replicas, so this divides by their number, as Keras' own losses do.
        return sum(losses) / replica_count()

    def _offsets(self, y_pred, targets):
        """Predicted offsets, target offsets and their weights, which `offset_loss` takes."""
        if "features" in y_pred:
            return self._supervised_offsets(y_pred["features"], targets)
        return y_pred["offset"], targets["offset"], targets["offset_weight"]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As in Keras."""
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        # Keras reduces the results of several machines along the first axis, which scalars lack.
        return {name: value[None] for name, value in results.items()} if several_machines() else results

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing is left to build. Keras would start the data set twice, and average labels over replicas."""

    def get_config(self):
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "sidecar": self.sidecar.model_dump(mode="json", exclude_none=True),
            "heatmap_weight": self.heatmap_weight,
            "offset_weight": self.offset_weight,
            "targets": self.targets.model_dump(mode="json"),
            "gradient_checkpointing": self.gradient_checkpointing,
            "offset_cells": self.offset_cells,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects)
        settings = {"sidecar": Sidecar(**config["sidecar"]), "targets": TargetConfig(**config["targets"])}
        return cls(**{**config, "network": network, **settings})


def adam(learning_rate, **options) -> keras.optimizers.Adam:
    """Adam: Keras' own, or on TensorFlow ours, which traces faster."""
    if keras.backend.backend() != "tensorflow":
        return keras.optimizers.Adam(learning_rate, **options)
    from dekr_tf.training.optimizer import FusedAdam

    return FusedAdam(learning_rate, **options)
