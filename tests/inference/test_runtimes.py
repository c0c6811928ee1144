"""The Keras engine gives what the model gives, for every image size; which runtime a model gets."""

import keras
import numpy as np
import pytest

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.inference.runtimes import MAPS, KerasRuntime, MapDecoder, open_runtime
from dekr_tf.sidecar import Sidecar


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
    heatmap, offset = KerasRuntime(model, MAPS)(images)
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

    runtime = KerasRuntime(Counting(), MAPS)
    runtime(np.zeros((1, 64, 64, 3), np.float32))
    traced = len(calls)
    for width in (64, 128, 192):
        assert runtime(np.zeros((2, 64, width, 3), np.float32))[0].shape == (2, 16, width // 4, 3)
    assert len(calls) == traced


def test_a_keras_model_is_told_from_a_runtime(model):
    runtime, sidecar = open_runtime(model, config=Config(input_size=256), dense=True)
    assert isinstance(runtime, MapDecoder)
    assert isinstance(runtime.maps, KerasRuntime)
    assert sidecar.input_size == 256

    def engine(images):
        return images, images, images

    assert open_runtime(engine, sidecar) == (engine, sidecar)
    assert open_runtime(engine, sidecar, dense=True)[0].maps is engine


def test_flip_test_is_a_matter_of_the_runtime():
    with pytest.raises(InputError, match="flip test inside"):
        open_runtime(lambda images: None, config=Config(), flip=True)


def test_candidates_are_padded_with_zeros():
    """Two people in one image, none in the other: the rest of `max_people` rows is zero."""
    heatmap = np.zeros((2, 8, 8, 4), np.float32)
    heatmap[0, 2, 3] = 0.5
    heatmap[0, 6, 6] = 0.25
    sidecar = Sidecar.from_config(Config(keypoints={"names": ["a", "b", "c"]}, decoder={"max_people": 5}))
    runtime = MapDecoder(lambda images: (heatmap, np.zeros((2, 8, 8, 6), np.float32)), sidecar)
    keypoints, keypoint_scores, center_scores = runtime(np.zeros((2, 32, 32, 3), np.float32))
    np.testing.assert_array_equal(center_scores, [[0.5, 0.25, 0, 0, 0], [0] * 5])
    np.testing.assert_array_equal(keypoints[0, :2, 1], [[12, 8], [24, 24]])
    np.testing.assert_array_equal(keypoint_scores[0, :2, 2], [0.25, 0.0625])
    assert not keypoints[0, 2:].any() and not keypoints[1].any()
    assert not keypoint_scores[0, 2:].any() and not keypoint_scores[1].any()


def test_a_flip_test_without_flip_pairs_is_warned_of(caplog):
    sidecar = Sidecar.from_config(Config(keypoints={"names": ["a", "b"]}))
    for flip, count in ((False, 0), (True, 1)):
        MapDecoder(lambda images: images, sidecar, flip)
        assert sum("the flip test mirrors people" in message for message in caplog.messages) == count
