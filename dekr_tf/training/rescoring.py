"""Training of the rescoring net (paper section 3.3)."""

import keras
import numpy as np

from dekr_tf.errors import InputError, TrainingError
from dekr_tf.inference.rescoring import LAYERS, RescoringNet, rescoring_features
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.models.rescoring import build_rescoring_net
from dekr_tf.training.rescoring_samples import RescoringSamples


def train_rescoring_net(
    samples: RescoringSamples,
    validation: RescoringSamples | None = None,
    *,
    epochs: int = 20,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    seed: int = 0,
    verbose: bool = False,
) -> RescoringNet:
    """Fits a net to the OKS of poses: mean squared error and Adam, with the reference's settings as defaults.

    Args:
        samples: to learn from.
        validation: others, of the same skeleton, whose loss is printed too.
        epochs: passes over the samples.
        batch_size: poses in a step.
        learning_rate: of Adam.
        seed: of the initial weights and the order of the samples, 0 to 2^32 - 1.
        verbose: print the loss of every epoch.

    Raises:
        InputError: a setting is out of range, or the samples are of different skeletons.
        TrainingError: the loss is not finite.
    """
    for name, value in (("epochs", epochs), ("batch size", batch_size), ("learning rate", learning_rate)):
        if not 0 < value < np.inf:
            raise InputError(f"{name}: expected a positive number. Received: {value}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: expected a number of 0 to 2^32 - 1. Received: {seed}")
    if validation and validation.schema != samples.schema:
        raise InputError(
            f"expected validation poses of the skeleton {samples.schema.name}, as those to learn from. "
            f"Received: {validation.schema.name}, which differs"
        )

    def arrays(of: RescoringSamples):
        return rescoring_features(of.keypoints, of.schema), of.oks[:, None]

    keras.utils.set_random_seed(seed)
    features, oks = arrays(samples)
    model = build_rescoring_net(features.shape[1])
    # Compiling with XLA would take longer than training so small a net.
    model.compile(keras.optimizers.Adam(learning_rate), "mean_squared_error", jit_compile=False)
    report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(_line(epoch, epochs, logs)))
    history = model.fit(
        features,
        oks,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=arrays(validation) if validation else None,
        callbacks=[report] if verbose else [],
        verbose=0,
    )
    loss = history.history["loss"][-1]
    if not np.isfinite(loss):
        raise TrainingError(f"expected a finite loss; a lower learning rate may help. Received: {loss}")
    return to_rescoring_net(model, samples.schema)


def to_rescoring_net(model: keras.Model, schema: KeypointSchema) -> RescoringNet:
    """A copy of a trained model of `build_rescoring_net`, for inference.

    Raises:
        InputError: the model does not fit the skeleton, or has values that are not finite.
    """
    layers = (model.get_layer(name) for name in LAYERS)
    return RescoringNet(
        schema, tuple(tuple(map(keras.ops.convert_to_numpy, (layer.kernel, layer.bias))) for layer in layers)
    )


def _line(epoch: int, epochs: int, logs: dict[str, float]) -> str:
    return f"epoch {epoch + 1}/{epochs}: " + ", ".join(f"{name} {value:.5f}" for name, value in logs.items())
