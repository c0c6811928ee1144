"""The net that learns how good a pose is (paper section 3.3, "scoring net"), as a Keras model for training.

`inference.rescoring` runs the trained net in NumPy.
"""

import keras
from keras import layers

HIDDEN_UNITS = 256


def build_rescoring_net(num_features: int) -> keras.Model:
    """Two hidden layers of 256 units, from features (B, F) to the predicted OKS (B, 1)."""
    features = keras.Input((num_features,), name="features")
    x = layers.Dense(HIDDEN_UNITS, activation="relu", name="l1")(features)
    x = layers.Dense(HIDDEN_UNITS, activation="relu", name="l2")(x)
    return keras.Model(features, layers.Dense(1, name="l3")(x), name="rescoring")
