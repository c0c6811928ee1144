"""The devices and machines that a network is trained on."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import keras

from dekr_tf.errors import InputError, TrainingError

if TYPE_CHECKING:
    import tensorflow as tf


class OneDevice:
    """The strategy of the JAX and PyTorch backends: the device that Keras chooses."""

    num_replicas_in_sync = 1

    def scope(self) -> contextlib.AbstractContextManager:
        """The context in which to make a model and its optimizer."""
        return contextlib.nullcontext()


def open_strategy(devices: str) -> "tf.distribute.Strategy | OneDevice":
    """The strategy for the available devices; `TF_CONFIG` in the environment asks for several machines.

    Args:
        devices: `all`, `gpu` or `cpu`, see `TrainingConfig.devices`.

    Returns:
        With TensorFlow, its default strategy on one device, `MirroredStrategy` on several, and on several machines
        `MultiWorkerMirroredStrategy`, which waits until all of them are up. With another backend, `OneDevice`.

    Raises:
        InputError: `gpu` finds no GPU, `TF_CONFIG` is invalid, or it asks another backend for several machines.
    """
    cluster = read_cluster()
    backend = keras.backend.backend()
    if devices == "gpu" and not _has_gpu():
        raise InputError(f"training.devices: expected a GPU that {backend} can use. Received: gpu, without any")
    if backend != "tensorflow":
        if len(cluster) > 1:
            raise InputError(f"TF_CONFIG: expected several machines with TensorFlow only. Received: {backend}")
        return OneDevice()
    import tensorflow as tf

    if devices == "cpu":
        tf.config.set_visible_devices([], "GPU")
    if len(cluster) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(found) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in found])
    return tf.distribute.get_strategy()


def read_cluster() -> list[tuple[str, int]]:
    """The machines that `TF_CONFIG` lists as (kind, number), the chief first; one machine without it.

    Raises:
        InputError: it is not JSON of the form that TensorFlow describes, or has other machines than workers and at most
            one chief.
    """
    return _cluster_and_task()[0]


def is_chief() -> bool:
    """Whether this is the one machine that writes files; raises what `read_cluster` does."""
    machines, own = _cluster_and_task()
    return own == machines[0]


def _cluster_and_task() -> tuple[list[tuple[str, int]], tuple[str, int]]:
    """The machines, and which of them this is."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return [("worker", 0)], ("worker", 0)
    machines, own = [], None
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        content = json.loads(text)
        cluster, task = content["cluster"], content["task"]
        listed = all(
            isinstance(addresses, list) and all(isinstance(address, str) for address in addresses)
            for addresses in cluster.values()
        )
        if listed and cluster.keys() <= {"chief", "worker"} and len(cluster.get("chief", ())) <= 1:
            machines = [(kind, number) for kind in sorted(cluster) for number in range(len(cluster[kind]))]
            # TensorFlow takes a number in quotes as well.
            own = task["type"], int(task["index"])
    if own not in machines:
        raise InputError(
            'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}. '
            f"Received: {text}"
        )
    return machines, own


def placement(devices: str) -> contextlib.AbstractContextManager:
    """The context that puts arrays on the chosen device; TensorFlow, and devices other than `cpu`, need none.

    Args:
        devices: see `open_strategy`.
    """
    if devices == "cpu" and keras.backend.backend() != "tensorflow":
        return keras.device("cpu")
    return contextlib.nullcontext()


@contextlib.contextmanager
def lost_machines(strategy: "tf.distribute.Strategy | OneDevice") -> Iterator[None]:
    """Turns TensorFlow's errors about a lost machine into a `TrainingError` of one line."""
    if isinstance(strategy, OneDevice):
        yield
        return
    import tensorflow as tf

    # Timing decides which of them TensorFlow raises.
    errors = tf.errors
    lost = errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.InternalError
    try:
        yield
    except lost as error:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        reason = error.message.strip().splitlines()[0]
        raise TrainingError(
            f"training stopped: a machine of the job is gone; start all of them again with --resume. Received: {reason}"
        ) from error


def _has_gpu() -> bool:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if backend == "torch":
        import torch

        return torch.cuda.is_available()
    import jax

    return jax.default_backend() == "gpu"
