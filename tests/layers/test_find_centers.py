"""Centers found in a graph are those of the NumPy decoder."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dekr_tf.inference.decoder import find_centers
from dekr_tf.layers.find_centers import FindCenters


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_centers_with_ties_in_the_decoders_order(height, width, max_people, seed):
    center_map = np.random.default_rng(seed).integers(-2, 4, (height, width)).astype(np.float32) / 4
    layer = FindCenters(max_people, 0.25)
    rows, columns, scores = (np.asarray(each)[0] for each in layer(center_map[None, ..., None]))
    expected = find_centers(center_map, max_people=max_people, threshold=0.25)
    count = len(expected[0])
    for found, values in zip((rows, columns, scores), expected, strict=True):
        np.testing.assert_array_equal(found[:count], values)
    assert not scores[count:].any()


@pytest.mark.parametrize("side", [200, 202, 300, 302])
def test_the_neighborhood_grows_with_the_map(side):
    """In a graph for maps of any size, and in one for this size."""
    center_map = np.random.default_rng(side).random((side + 4, side - 4), np.float32)
    expected = find_centers(center_map, max_people=300, threshold=0.9)
    layer = FindCenters(300, 0.9)
    any_size = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 1), tf.float32)])
    found = layer(center_map[None, ..., None]), any_size(center_map[None, ..., None])
    for arrays in found:
        for values, wanted in zip(arrays, expected, strict=True):
            np.testing.assert_array_equal(values[0], wanted)
