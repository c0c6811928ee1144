"""Gradients with less memory: what is inside a part of the network is computed again instead of kept."""

import itertools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from dekr_tf.config import ModelConfig
from dekr_tf.models.hrnet import STAGES


def segments(network: keras.Model, config: ModelConfig) -> list[keras.Model]:
    """Cuts a DEKR after each bottleneck and each module of its backbone.

    Args:
        network: of `build_dekr`.
        config: that it was built with.

    Returns:
        Models that share the layers of `network`; each takes the outputs of the one before, the first takes the image
        and the last gives the dict of maps.
    """
    cuts = [network.input]
    cuts += [network.get_layer(f"stage1_u{unit}_relu").output for unit in range(config.bottlenecks)]
    for stage, modules in zip(STAGES, config.modules, strict=True):
        for module in range(modules):
            cuts.append([network.get_layer(f"stage{stage}_m{module}_f{branch}_relu").output for branch in range(stage)])
    cuts.append(network.output)
    return [keras.Model(start, end) for start, end in itertools.pairwise(cuts)]


def recomputed_gradients(
    parts: Sequence[keras.Model], inputs: tf.Tensor, loss_of: Callable[[dict[str, tf.Tensor]], tf.Tensor]
) -> dict[int, tf.Tensor]:
    """Gradients of a loss of the last part's outputs, with a second pass through each part but the last.

    The second pass leaves the moving statistics of batch normalisation alone.

    Args:
        parts: of `segments`.
        inputs: of the first part.
        loss_of: gives the loss for the last part's outputs.

    Returns:
        Of each trainable variable, by its `id`.
    """
    starts = [inputs]
    for part in parts[:-1]:
        starts.append(part(starts[-1], training=True))
    gradients = {}
    upstream = None
    for part in reversed(parts):
        start = starts.pop()
        last = upstream is None
        if not last:
            # Behind the gradient of what follows: else the second pass could run early, or be merged with the first.
            with tf.control_dependencies(tf.nest.flatten(upstream)):
                start = tf.nest.map_structure(tf.identity, start)
        with tf.GradientTape() as tape:
            tape.watch(start)
            if last:
                result = loss_of(part(start, training=True))
            else:
                with keras.StatelessScope():
                    result = part(start, training=True)
        variables = part.trainable_variables
        upstream, found = tape.gradient(result, (start, variables), upstream)
        gradients.update(zip(map(id, variables), found, strict=True))
    return gradients
