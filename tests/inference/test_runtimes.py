"""The Keras engine gives what the model gives, for every image size."""

import keras
import numpy as np
import pytest

from dekr_tf.config import Config
from dekr_tf.inference.runtimes import KerasRuntime, open_runtime


@pytest.fixture(scope="module")
def model():
    images = keras.Input((None, None, 3))
    patches = keras.layers.Conv2D(8, 4, 4, activation="relu")(images)
    normalised = keras.layers.BatchNormalization()(patches)
    return keras.Model(
        images, {"heatmap": keras.layers.Conv2D(4, 1)(normalised), "offset": keras.layers.Conv2D(6, 1)(normalised)}
    )


@pytest.mark.parametrize("size", [(1, 64, 64), (2, 64, 128), (1, 192, 64)])
def test_keras_maps(model, size):
    images = np.random.default_rng(0).standard_normal((*size, 3), np.float32)
    heatmap, offset = KerasRuntime(model)(images)
    expected = model(images, training=False)
    assert heatmap.dtype == offset.dtype == np.float32
    np.testing.assert_allclose(heatmap, expected["heatmap"], atol=1e-5)
    np.testing.assert_allclose(offset, expected["offset"], atol=1e-5)


def test_one_graph_serves_all_sizes():
    calls = []

    class Counting(keras.Model):
        def call(self, images):
            calls.append(images.shape)
            return {"heatmap": images[:, ::4, ::4], "offset": images[:, ::4, ::4]}

    runtime = KerasRuntime(Counting())
    runtime(np.zeros((1, 64, 64, 3), np.float32))
    traced = len(calls)
    for width in (64, 128, 192):
        assert runtime(np.zeros((2, 64, width, 3), np.float32))[0].shape == (2, 16, width // 4, 3)
    assert len(calls) == traced


def test_a_keras_model_is_told_from_a_runtime(model):
    runtime, sidecar = open_runtime(model, config=Config(input_size=256))
    assert isinstance(runtime, KerasRuntime)
    assert sidecar.input_size == 256

    def maps(images):
        return images, images

    assert open_runtime(maps, sidecar) == (maps, sidecar)
