"""The tf.data pipeline of training: photos and annotations in, batches of network inputs and labels out."""

import contextlib
import gc
import itertools
import logging
import re
import traceback
from collections.abc import Iterator

import tensorflow as tf

from dekr_tf.config import Config
from dekr_tf.data.samples import LabeledImages, TrainingData, TrainingMix, TrainingSamples, set_seed
from dekr_tf.errors import InputError

_log = logging.getLogger(__name__)


def train_dataset(
    data: TrainingData | TrainingMix,
    config: Config,
    *,
    first_epoch: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches for training; iterating once is one epoch, in a new order and with new augmentations every time.

    `TrainingSamples` says what an epoch is.

    Args:
        data: the labeled images.
        config: see `TrainingSamples`.
        first_epoch: number of the first iteration, for a resumed run.
        context: of a machine that shares each batch with others, or spreads it over several devices; it then makes only
            its share of every batch, and an element is the share of one device. With image files, the shares make up
            the batch that one machine would make. With TFRecord files, each machine reads its own shards, so the
            samples of a batch depend on the number of machines.

    Returns:
        (image, labels): image (B, S, S, 3) uint8 RGB; labels from `TargetEncoder`, batched, with room for the people of
        the fullest image. B is one device's share of a micro-batch. Iterate it within `input_errors`.

    Raises:
        InputError: there are fewer images than a batch holds.
    """
    context = context or tf.distribute.InputContext()
    batch_size = config.training.batch_size
    step_batch = batch_size // config.training.accumulation_steps
    machines, machine = context.num_input_pipelines, context.input_pipeline_id
    machine_batch = step_batch // machines
    device_batch = step_batch // context.num_replicas_in_sync
    samples = TrainingSamples(data, config)
    mix, seed = samples.mix, samples.seed
    divides_sets = _divides_sets(mix, machines)
    if divides_sets:
        mix = mix.share(machine, machines)
    machine_samples = samples.batches * batch_size // machines
    epochs = itertools.count(first_epoch)

    def rounds():
        return samples.rounds(next(epochs))

    def set_of_round(place, number):
        first, last, skipped = mix.span(place, number)
        keys = tf.data.Dataset.range(first, last + 1).flat_map(
            lambda number: _keys(mix.sets[place], number, set_seed(seed, place)).map(
                lambda key: (tf.constant(place, tf.int64), number, key)
            )
        )
        return keys.skip(skipped).take(mix.counts[place])

    def round_items(number):
        choices = tf.numpy_function(lambda number: mix.choices(int(number), seed), [number], tf.int64)
        choices.set_shape([None])
        return tf.data.Dataset.choose_from_datasets(
            [set_of_round(place, number) for place in range(len(mix.sets))],
            tf.data.Dataset.from_tensor_slices(choices),
            stop_on_empty_dataset=False,
        )

    def is_own(position, _):
        return position % step_batch // machine_batch == machine

    image_like, labels_like = samples.example()
    parts = [image_like, *labels_like.values()]

    def make_sample(place, number, key):
        image, labels = samples.make(int(place), int(number), key)
        return image, *labels.values()

    def sample(*item):
        image, *labels = made = tf.numpy_function(make_sample, item, [part.dtype for part in parts])
        for tensor, part in zip(made, parts, strict=True):
            tensor.set_shape(part.shape)
        return image, dict(zip(labels_like, labels, strict=True))

    def end():
        samples.mix.end_epoch()
        yield from ()

    items = (
        tf.data.Dataset.range(1)
        .flat_map(lambda _: tf.data.Dataset.from_tensor_slices(tf.numpy_function(rounds, [], tf.int64)))
        .flat_map(round_items)
    )
    if not divides_sets:
        items = items.take(samples.batches * batch_size).enumerate().filter(is_own).map(lambda _, item: item)
    dataset = items.take(machine_samples).map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return (
        dataset.concatenate(tf.data.Dataset.from_generator(end, output_signature=dataset.element_spec))
        .batch(device_batch, drop_remainder=True)
        .apply(tf.data.experimental.assert_cardinality(machine_samples // device_batch))
        .prefetch(2)
    )


def _divides_sets(mix: TrainingMix, machines: int) -> bool:
    """Whether each machine takes a part of each set, so that it reads no TFRecord file of another machine.

    Otherwise each takes a part of each batch, for which it goes through all keys; those of image files are just
    numbers.
    """
    if machines == 1 or all(isinstance(data, LabeledImages) for data in mix.sets):
        return False
    most_shares = min(data.most_shares for data in mix.sets)
    if most_shares < machines:
        _log.warning(
            "each of %d machines reads all training records, since a set has %d shards or images only; "
            "`dekr data tfrecord --shards N` writes more",
            machines,
            most_shares,
        )
        return False
    return True


def _keys(data: TrainingData, number: tf.Tensor, seed: int) -> tf.data.Dataset:
    """The keys of a pass as strings, whatever the kind of the set."""
    if not isinstance(data, LabeledImages):
        return data.order(number, seed)
    order = tf.numpy_function(lambda number: data.order(int(number), seed), [number], tf.int64)
    order.set_shape([None])
    return tf.data.Dataset.from_tensor_slices(tf.strings.as_string(order))


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Turns TensorFlow's error about a sample that could not be made back into the `InputError` that caused it."""
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
        cause = re.search(r"InputError: (.*)", error.message)
        if cause:
            raise InputError(cause[1]) from error
        if isinstance(error, tf.errors.DataLossError):
            reason = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message.splitlines()[0])
            raise InputError(f"cannot read training records: {reason}") from error
        raise


@contextlib.contextmanager
def end_iterators() -> Iterator[None]:
    """Ends the threads of the iterators that the block made, whether it returns or raises.

    They call Python to make samples. A thread that does so while Python finalizes hangs or aborts the program.
    """
    try:
        yield
    except BaseException as error:
        # The threads live as long as the iterator, which the local variables of the traceback's frames keep alive.
        # Keras removes its own frames from the traceback, but they are still the callers of those inside.
        for frame, _ in traceback.walk_tb(error.__traceback__):
            caller = frame
            with contextlib.suppress(RuntimeError):  # This frame and its callers still run.
                while caller is not None:
                    caller.clear()
                    caller = caller.f_back
        raise
    finally:
        # Keras' iterators are parts of reference cycles.
        gc.collect()
