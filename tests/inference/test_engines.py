"""The Keras engine gives what the model gives, for every image size; which engine a model gets."""

import keras
import numpy as np
import pytest

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.inference.candidates import MapDecoder
from dekr_tf.inference.engines import MAPS, FunctionEngine, KerasEngine
from dekr_tf.inference.open_model import open_model
from dekr_tf.sidecar import Sidecar


@pytest.fixture(scope="module")
def model():
    images = keras.Input((None, None, 3))
    patches = keras.layers.Conv2D(8, 4, 4, activation="relu")(images)
    normalized = keras.layers.BatchNormalization()(patches)
    return keras.Model(
        images, {"heatmap": keras.layers.Conv2D(4, 1)(normalized), "offset": keras.layers.Conv2D(6, 1)(normalized)}
    )


@pytest.mark.parametrize("size", [(1, 64, 64), (2, 64, 128), (1, 192, 64)])
def test_keras_maps(model, size):
    images = np.random.default_rng(0).standard_normal((*size, 3), np.float32)
    heatmap, offset = KerasEngine(model, MAPS).run(images)
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

    engine = KerasEngine(Counting(), MAPS)
    engine.run(np.zeros((1, 64, 64, 3), np.float32))
    traced = len(calls)
    for width in (64, 128, 192):
        assert engine.run(np.zeros((2, 64, width, 3), np.float32))[0].shape == (2, 16, width // 4, 3)
    assert len(calls) == traced


def test_a_keras_model_is_told_from_an_engine_and_a_function(model):
    decoder, sidecar = open_model(model, config=Config(input_size=256), dense=True)
    assert isinstance(decoder, MapDecoder)
    assert isinstance(decoder.network, KerasEngine)
    assert sidecar.input_size == 256

    def double(images):
        return images, 2 * images

    images = np.ones((1, 32, 32, 3), np.float32)
    engine = FunctionEngine(double)
    assert open_model(engine, sidecar) == (engine, sidecar)
    assert open_model(engine, sidecar, dense=True)[0].network is engine
    opened, _ = open_model(double, sidecar)
    outputs = opened.candidates(opened.run(images))
    np.testing.assert_array_equal(outputs, [images, 2 * images])
    assert opened.undelegated_operators() is None


def test_flip_test_is_a_matter_of_the_engine():
    with pytest.raises(InputError, match="flip test inside"):
        open_model(lambda images: None, config=Config(), flip=True)


def test_candidates_are_padded_with_zeros():
    """Two people in one image, none in the other: the rest of `max_people` rows is zero."""
    heatmap = np.zeros((2, 8, 8, 4), np.float32)
    heatmap[0, 2, 3] = 0.5
    heatmap[0, 6, 6] = 0.25
    sidecar = Sidecar.from_config(Config(keypoints={"names": ["a", "b", "c"]}, decoder={"max_people": 5}))
    engine = MapDecoder(FunctionEngine(lambda images: (heatmap, np.zeros((2, 8, 8, 6), np.float32))), sidecar)
    outputs = engine.run(np.zeros((2, 32, 32, 3), np.float32))
    keypoints, keypoint_scores, center_scores = engine.candidates(outputs)
    np.testing.assert_array_equal(center_scores, [[0.5, 0.25, 0, 0, 0], [0] * 5])
    np.testing.assert_array_equal(keypoints[0, :2, 1], [[12, 8], [24, 24]])
    np.testing.assert_array_equal(keypoint_scores[0, :2, 2], [0.25, 0.0625])
    assert not keypoints[0, 2:].any() and not keypoints[1].any()
    assert not keypoint_scores[0, 2:].any() and not keypoint_scores[1].any()


def test_a_flip_test_without_flip_pairs_is_warned_of(caplog):
    sidecar = Sidecar.from_config(Config(keypoints={"names": ["a", "b"]}))
    for flip, count in ((False, 0), (True, 1)):
        MapDecoder(FunctionEngine(lambda images: images), sidecar, flip)
        assert sum("the flip test mirrors people" in message for message in caplog.messages) == count
