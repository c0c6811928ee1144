"""Gradient checkpointing: the backward pass recomputes activations, which takes less memory than keeping them."""

import itertools
import re
from collections.abc import Callable

import keras

from dekr_tf.errors import InputError

#: The layers after which a DEKR is cut: the ends of a bottleneck, or of a module's branches.
ENDS = re.compile(r"(stage1_u\d+)_relu|(stage\d+_m\d+)_f\d+_relu")


def segments(network: keras.Model) -> list[keras.Model]:
    """Cuts a DEKR after each bottleneck and each module of its backbone.

    Args:
        network: of `build_dekr`.

    Returns:
        Models that share the layers of `network`; each takes the outputs of the one before, the first takes the image,
        and the last returns the dict of maps.
    """
    ends = {}
    for layer in network.layers:
        if end := ENDS.fullmatch(layer.name):
            ends.setdefault(end[1] or end[2], []).append(layer.output)
    cuts = [network.input, *ends.values(), network.output]
    return [keras.Model(start, end) for start, end in itertools.pairwise(cuts)]


def checkpointed(network: keras.Model) -> Callable:
    """The forward pass of training that keeps, for the gradient, only the inputs of each part except the last.

    Args:
        network: of `build_dekr`.

    Returns:
        A function from the network's inputs to its outputs.

    Raises:
        InputError: the backbone is not HRNet.
    """
    *parts, last = segments(network)
    if not parts:
        raise InputError(
            f"training.gradient_checkpointing: expected an HRNet as backbone. Received: {network.name} without modules"
        )

    def forward(inputs):
        for part in parts:
            inputs = _checkpointed_part(part, inputs)
        return last(inputs, training=True)

    return forward


def _checkpointed_part(part: keras.Model, inputs):
    # `keras.RematScope` fails in TensorFlow's graphs, and a second pass through a stateful layer would update the
    # moving statistics twice. So the passes are stateless, and the first one's statistics are assigned here.
    def forward(weights, statistics, inputs):
        return part.stateless_call(weights, statistics, inputs, training=True)

    weights, statistics = (
        [variable.value for variable in variables]
        for variables in (part.trainable_variables, part.non_trainable_variables)
    )
    outputs, statistics = keras.remat(forward)(weights, statistics, inputs)
    for variable, value in zip(part.non_trainable_variables, statistics, strict=True):
        variable.assign(value)
    return outputs
