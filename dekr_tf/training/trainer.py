"""Training a DEKR with `model.fit`."""

from collections.abc import Sequence
from pathlib import Path

import keras
import yaml
from keras import ops

from dekr_tf.config import Config
from dekr_tf.data.pipeline import input_errors, open_training_data, train_dataset
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.errors import InputError
from dekr_tf.files import atomic_output
from dekr_tf.models.dekr import build_dekr
from dekr_tf.models.files import save_model
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.losses import heatmap_loss, offset_loss


@keras.saving.register_keras_serializable("dekr_tf")
class DekrTraining(keras.Model):
    """A DEKR with its losses; `fit` it on (image, labels) of `data.pipeline.train_dataset`.

    Args:
        network: of `build_dekr`.
        config: normalisation, target maps and the factors of the losses.
    """

    def __init__(self, network, config: Config, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.config = config
        self.sidecar = Sidecar.from_config(config)
        self.heatmap_mean = keras.metrics.Mean(name="heatmap_loss")
        self.offset_mean = keras.metrics.Mean(name="offset_loss")

    def call(self, inputs, training=None):
        images = (ops.cast(inputs, "float32") / 255.0 - self.sidecar.mean) / self.sidecar.std
        return self.network(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        maps, factors = draw_targets(y, self.config.targets), self.config.training
        heatmap = heatmap_loss(y_pred["heatmap"], maps["heatmap"], maps["heatmap_weight"])
        offset = offset_loss(y_pred["offset"], maps["offset"], maps["offset_weight"])
        heatmap, offset = factors.heatmap_loss_weight * heatmap, factors.offset_loss_weight * offset
        self.heatmap_mean.update_state(heatmap)
        self.offset_mean.update_state(offset)
        return heatmap + offset


class SaveNetwork(keras.callbacks.Callback):
    """Writes the network and its sidecar after every epoch; the file is always a whole one."""

    def __init__(self, path: Path, sidecar: Sidecar):
        super().__init__()
        self.path = path
        self.sidecar = sidecar

    def on_epoch_end(self, epoch, logs=None):
        save_model(self.model.network, self.path, self.sidecar)


def train(config: Config, output: Path, *, callbacks: Sequence[keras.callbacks.Callback] = ()) -> keras.Model:
    """Trains from scratch, or from backbone weights, and writes what belongs to the run.

    Args:
        config: `data.train_annotations` and `data.train_images` are needed, or `data.train_records`.
        output: folder for `last.keras` with its sidecar, `config.yaml` and `log.csv` (losses by epoch).
        callbacks: more callbacks for `fit`.

    Returns:
        The trained network.

    Raises:
        InputError: a setting is missing, or the data cannot be read.
    """
    data = open_training_data(config)
    keras.utils.set_random_seed(config.training.seed)
    dataset = train_dataset(data, config)
    network = build_dekr(config.model, config.schema)
    if config.training.backbone_weights is not None:
        load_backbone(network, config.training.backbone_weights)
    with atomic_output(output / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    model = DekrTraining(network, config)
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate(config, len(dataset))), jit_compile=config.training.jit_compile
    )
    with input_errors():
        model.fit(
            dataset,
            epochs=config.training.epochs,
            shuffle=False,  # The dataset shuffles itself.
            callbacks=[
                keras.callbacks.CSVLogger(output / "log.csv"),
                SaveNetwork(output / "last.keras", Sidecar.from_config(config)),
                *callbacks,
            ],
        )
    return network


def learning_rate(config: Config, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule | float:
    """The rate of each step: divided by ten after each of `learning_rate_drops` epochs (paper section 4.1)."""
    rate, drops = config.training.learning_rate, config.training.learning_rate_drops
    if not drops:
        return rate
    # Steps count from 0, and a boundary is the last step at the rate before it.
    boundaries = [epoch * steps_per_epoch - 1 for epoch in sorted(drops)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        boundaries, [rate * 0.1**count for count in range(len(drops) + 1)]
    )


def load_backbone(network: keras.Model, path: Path) -> None:
    """Copies the weights of an imported HRNet into the layers of the same names.

    Args:
        network: of `build_dekr`.
        path: a `.keras` file that `dekr import` wrote for an HRNet backbone.

    Raises:
        InputError: the file cannot be read, or a layer has other weights.
    """
    try:
        backbone = keras.models.load_model(path, compile=False)
    except Exception as error:  # A damaged file makes zipfile, HDF5 and Keras fail in every way there is.
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"cannot read backbone weights {path}: {reason}") from error
    for layer in backbone.layers:
        try:
            network.get_layer(layer.name).set_weights(layer.get_weights())
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"backbone weights {path} do not fit at layer {layer.name}: {reason}") from error
