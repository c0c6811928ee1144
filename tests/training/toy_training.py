"""`dekr train` in a process of its own, with a toy in place of the network and with faults at chosen points.

usage: toy_training.py WORDS OF THE COMMAND ...

Environment: TOY_FAULT is `step:N` (killed after N steps), `state:N` (killed in the middle of writing the N-th state),
`before_state:N` (killed just before), `nan:N` (weights that are not finite after N steps), `full:N` (the disk is full
when the N-th state is written) or `limit:N` (no file may become larger than N bytes).
"""

import errno
import os
import resource
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from dekr_tf.cli.main import main
from dekr_tf.training import callbacks, state, trainer


def network(config, schema, image_size=(None, None)):
    """A network with the inputs and outputs of `build_dekr` that is made and traced in no time."""
    image = keras.Input((*image_size, 3), name="image")
    x = keras.layers.Conv2D(4, 4, 4, use_bias=False)(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    channels = {"heatmap": len(schema) + 1, "offset": 2 * len(schema)}
    maps = {name: keras.layers.Conv2D(count, 3, padding="same", dtype="float32")(x) for name, count in channels.items()}
    return keras.Model(image, maps, name="dekr")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def after_calls(number, function, act):
    """`function`, that calls `act` in place of the call of this number."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(None)
        return (act if len(calls) == number else function)(*args, **kwargs)

    return counted


def half_a_state(file, **arrays):
    file.write(bytes(1000))
    file.flush()
    kill()


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def spoil(callback, batch, logs=None):
    variable = callback.model.network.trainable_variables[0]
    variable.assign(keras.ops.full(variable.shape, np.nan))


fault, _, number = os.environ.get("TOY_FAULT", "").partition(":")
number = int(number or 0)
trainer.build_dekr = network
batch_end = callbacks.StopOnNan.on_train_batch_end
if fault in ("step", "nan"):
    act = spoil if fault == "nan" else lambda *args, **kwargs: kill()
    callbacks.StopOnNan.on_train_batch_end = after_calls(number, batch_end, act)
elif fault == "state":
    state.np.savez = after_calls(number, np.savez, half_a_state)
elif fault == "before_state":
    callbacks.save_state = after_calls(number, state.save_state, lambda *args: kill())
elif fault == "full":
    callbacks.save_state = after_calls(number, state.save_state, no_space)
elif fault == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))

# Without it, TensorFlow sums in another order from run to run.
tf.config.experimental.enable_op_determinism()
sys.exit(main(["train", *sys.argv[1:]]))
