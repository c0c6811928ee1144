"""The net that learns how good a pose is (paper section 3.3, "scoring net")."""

import keras
from keras import layers

from dekr_tf.errors import InputError
from dekr_tf.keypoints import KeypointSchema

HIDDEN_UNITS = 256


def rescoring_features(schema: KeypointSchema) -> int:
    """The number of inputs: x, y and length of each skeleton edge and the score of each keypoint.

    Raises:
        InputError: the skeleton has no edges, or no normalization edges to measure them by.
    """
    if not schema.edges or not schema.normalization_edges:
        raise InputError(f"rescoring needs edges and normalization_edges. Received: skeleton {schema.name} without")
    return 3 * len(schema.edges) + len(schema)


def build_rescoring_net(num_features: int) -> keras.Model:
    """Two hidden layers of 256; from features (B, F) to the predicted OKS (B, 1)."""
    features = keras.Input((num_features,), name="features")
    x = layers.Dense(HIDDEN_UNITS, activation="relu", name="l1")(features)
    x = layers.Dense(HIDDEN_UNITS, activation="relu", name="l2")(x)
    return keras.Model(features, layers.Dense(1, name="l3")(x), name="rescoring")
