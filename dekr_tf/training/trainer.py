"""Training a DEKR: everything around `fit`."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import yaml

from dekr_tf.config import Config, TrainingConfig, load_config
from dekr_tf.data.samples import LabeledImages, TrainingMix, open_training_data, report_people
from dekr_tf.errors import InputError
from dekr_tf.files.outputs import check_outputs, write_text
from dekr_tf.keypoints import SCHEMAS
from dekr_tf.layers.backend import replica_count
from dekr_tf.models.dekr import build_dekr
from dekr_tf.processors import available_processors
from dekr_tf.sidecar import Sidecar
from dekr_tf.training.callbacks import LOG, RunFiles, StopOnNan, copy_weights
from dekr_tf.training.devices import is_chief, lost_machines, open_strategy, placement
from dekr_tf.training.estimator import PoseEstimator, adam
from dekr_tf.training.initial_weights import load_backbone, load_initial_weights
from dekr_tf.training.schedules import learning_rate
from dekr_tf.training.state import STATE, Progress, load_state, remove_leftovers
from dekr_tf.training.validation import ValidationSet

_log = logging.getLogger(__name__)

CONFIG = "config.yaml"
#: Settings of `training` that may change when a run resumes.
CHANGEABLE = ("epochs", "devices")
#: Parts of the skeleton that may not; its edges only matter for drawing and rescoring.
SKELETON = ("names", "flip_pairs", "oks_sigmas")


def train(
    config: Config, output: Path, *, resume: bool = False, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> keras.Model:
    """Trains from scratch, from backbone weights or a trained model, or from where a run in the same folder stopped.

    After every epoch the folder holds `last.keras`, with validation images `best.keras`, and their sidecars; `log.csv`
    and `tensorboard/`; `config.yaml`; and `state.npz`, from which the run can resume. With several machines (see
    `devices.open_strategy`) the first writes them, and the others must see the folder.

    Python's, NumPy's and Keras' random numbers are seeded. TensorFlow's threads stay as they are, and OpenCV uses a
    single thread only while samples are made.

    Args:
        config: needs training data, see `open_training_data`.
        output: the run's folder.
        resume: resume the run in the folder, if there is one. The rest of the training is then the same as if it had
            never stopped.
        callbacks: more callbacks for `fit`.

    Returns:
        The trained network, float32, with averaged weights if the settings ask for them.

    Raises:
        InputError: a setting is missing or does not fit, the data cannot be read, or the folder holds a run already or
            cannot be written to.
        TrainingError: after the start, a loss is not finite, a machine is lost, or the folder can no longer be written
            to.
    """
    settings = config.training
    resuming = _check_folder(config, output, resume)
    # Without config.yaml, which a resumed run reads.
    names = (STATE, LOG, *(f"{name}.keras{suffix}" for name in ("last", "best") for suffix in ("", ".json")))
    check_outputs([output / name for name in names], config.files())
    data = open_training_data(config)
    if is_chief():
        _report_people(data, config)
        _warn_of_late_drops(settings)
    validation = ValidationSet(config) if config.data.val_annotations else None
    strategy = open_strategy(settings.devices)
    with placement(settings.devices), lost_machines(strategy), _input_errors():
        _check_batch(settings, strategy.num_replicas_in_sync)
        # A step of Keras is a micro-batch.
        steps = len(data) * config.data.repeat // settings.batch_size * settings.accumulation_steps
        keras.utils.set_random_seed(settings.seed)
        with strategy.scope():
            model = build_training(config, steps)
        progress = Progress()
        if resuming and (output / STATE).exists():
            progress = load_state(output / STATE, model)
        elif settings.backbone_weights is not None:
            load_backbone(model.network, settings.backbone_weights)
        elif settings.initial_weights is not None:
            taken = load_initial_weights(model.network, config, settings.initial_weights)
            if is_chief():
                print(f"initial weights {settings.initial_weights}: {taken}")
        network = build_dekr(config.model, config.schema)
        own = [StopOnNan(output, progress)]
        if is_chief():
            remove_leftovers(output)
            write_text(output / CONFIG, yaml.safe_dump(_settings_of_the_run(config), sort_keys=False))
            own.append(RunFiles(config, output, progress, network, validation))
            if progress.epochs >= settings.epochs:
                print(f"{output}: all {progress.epochs} epochs are done")
        with _batches(data, config, strategy, progress.epochs) as batches:
            model.fit(
                batches,
                initial_epoch=progress.epochs,
                epochs=settings.epochs,
                steps_per_epoch=steps if _on_tensorflow() else None,
                shuffle=False,  # The dataset shuffles itself.
                verbose=_verbosity(),
                callbacks=[*own, *callbacks],
            )
        copy_weights(model, network)
    return network


def _verbosity() -> int:
    """Keras' `verbose`: a progress bar in a terminal, one line per epoch elsewhere.

    Keras' "auto" draws the bar even into files, with control characters at each step.
    """
    if not is_chief():
        return 0
    return 1 if sys.stdout.isatty() else 2


def _check_folder(config: Config, output: Path, resume: bool) -> bool:
    """Whether the folder holds a run to resume.

    Raises:
        InputError: it holds one that is not to be resumed, or whose settings differ.
    """
    if not (output / CONFIG).exists():
        return False
    if not resume:
        raise InputError(
            f"expected a folder without a run as output; --resume goes on with one that is there. Received: {output}"
        )
    begun = load_config(output / CONFIG)
    for field in SKELETON:
        old, new = (getattr(settings.schema, field) for settings in (begun, config))
        if old != new:
            raise InputError(
                f"--resume: expected the skeleton's {field} as in {output / CONFIG}, {old}. Received: {new}"
            )
    before, now = (settings.model_dump(mode="json", exclude={"keypoints"}) for settings in (begun, config))
    for key in CHANGEABLE:
        del before["training"][key], now["training"][key]
    for group in now:
        for key, value in now[group].items() if isinstance(now[group], dict) else [("", now[group])]:
            old = before[group][key] if key else before[group]
            if old != value:
                name = f"{group}.{key}" if key else group
                raise InputError(f"--resume: expected {name} as in {output / CONFIG}, {old}. Received: {value}")
    return True


def _warn_of_late_drops(settings: TrainingConfig) -> None:
    late = [drop for drop in settings.learning_rate_drops if drop >= settings.epochs]
    # A short training need not hear of the defaults.
    if late and settings.schedule == "step" and "learning_rate_drops" in settings.model_fields_set:
        _log.warning("training.learning_rate_drops: %s have no effect in %d epochs", late, settings.epochs)


def _settings_of_the_run(config: Config) -> dict[str, Any]:
    """The content of the run's config file, which includes the skeleton, since its own file may change or move."""
    content = config.model_dump(mode="json")
    if isinstance(config.keypoints, str) and config.keypoints not in SCHEMAS:
        content["keypoints"] = config.schema.to_dict()
    return content


def _report_people(data: TrainingMix, config: Config) -> None:
    for place, images in enumerate(data.sets):
        # TFRecord files hold no such numbers; `dekr data tfrecord` reported them.
        if isinstance(images, LabeledImages):
            name = "training data" if len(data.sets) == 1 else f"data.train.{place}"
            print(report_people(images.records, config.targets, name))


def _check_batch(settings, devices: int) -> None:
    if settings.batch_size % (devices * settings.accumulation_steps):
        raise InputError(
            f"training.batch_size must be a multiple of {devices} devices times {settings.accumulation_steps} parts of "
            f"training.accumulation_steps. Received: {settings.batch_size}"
        )


def build_training(config: Config, steps_per_epoch: int) -> PoseEstimator:
    """The compiled model; call it within the scope of the strategy.

    Args:
        config: see `train`.
        steps_per_epoch: steps of Keras, `training.accumulation_steps` of which make an update.
    """
    settings = config.training
    with _precision(settings.precision):
        network = build_dekr(config.model, config.schema)
    freeze(network, settings)
    # Other backends than TensorFlow train on one device, and Keras refuses the setting there.
    if settings.synchronized_batch_norm and _on_tensorflow():
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    model = PoseEstimator(
        network,
        Sidecar.from_config(config),
        settings.heatmap_loss_weight,
        settings.offset_loss_weight,
        targets=config.targets,
        gradient_checkpointing=settings.gradient_checkpointing,
        offset_cells=settings.offset_cells,
    )
    model.compile(_optimizer(settings, steps_per_epoch), jit_compile=settings.jit_compile)
    return model


def freeze(network: keras.Model, settings: TrainingConfig) -> None:
    """Freezes the stem and first stages of the backbone, its batch normalization, or named layers, as the settings say.

    Raises:
        InputError: no layer has a name that starts with one of `training.frozen_layers`.
    """
    for word in settings.frozen_layers:
        if not any(layer.name.startswith(word) for layer in network.layers):
            raise InputError(
                f"training.frozen_layers: expected the beginnings of names of layers. Received: {word}, no layer's"
            )
    stages = range(1, settings.frozen_stages + 1)
    frozen = ("stem_", *(f"stage{stage}_" for stage in stages)) if settings.frozen_stages else ()
    frozen += settings.frozen_layers
    for layer in network.layers:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        if layer.name.startswith(frozen) or (
            settings.frozen_batch_norm and is_norm and layer.name.startswith(("stem_", "stage"))
        ):
            layer.trainable = False


def _optimizer(settings: TrainingConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    options = {"global_clipnorm": settings.clip_norm}
    if settings.accumulation_steps > 1:
        options["gradient_accumulation_steps"] = settings.accumulation_steps
    if settings.ema_momentum is not None:
        # Keras updates the averages with every micro-batch.
        options |= {"use_ema": True, "ema_momentum": settings.ema_momentum ** (1 / settings.accumulation_steps)}
    rate = learning_rate(settings, steps_per_epoch)
    optimizer = adam(rate, **options)
    if settings.precision != "mixed_float16" or replica_count() == 1:
        return optimizer
    from dekr_tf.training.optimizer import ReplicaLossScale

    return ReplicaLossScale(optimizer)


@contextlib.contextmanager
def _batches(data, config: Config, strategy, first_epoch: int) -> Iterator:
    """The batches for `fit`, of all epochs from `first_epoch` on. After the block, no thread makes samples."""
    if not _on_tensorflow():
        from dekr_tf.data.batches import TrainingBatches

        with TrainingBatches(data, config, first_epoch=first_epoch, workers=available_processors()) as batches:
            yield batches
        return
    from dekr_tf.data.pipeline import end_iterators, train_dataset

    with end_iterators():
        yield strategy.distribute_datasets_from_function(
            lambda context: train_dataset(data, config, first_epoch=first_epoch, context=context).repeat()
        )


def _input_errors() -> contextlib.AbstractContextManager:
    if not _on_tensorflow():
        return contextlib.nullcontext()
    from dekr_tf.data.pipeline import input_errors

    return input_errors()


def _on_tensorflow() -> bool:
    return keras.backend.backend() == "tensorflow"


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    """Makes layers that are created inside the block compute in this precision."""
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(before)
