from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dekr_tf.geometry import invert, network_size, resize_transform, round_up, similarity, transform_points

with np.load(Path(__file__).parent / "goldens/preprocess.npz") as goldens:
    ROWS = goldens["rows"]

coordinates = st.floats(-2000, 2000)
sides = st.integers(1, 2000)
zooms = st.floats(0.05, 20)
angles = st.floats(-180, 180)


def test_sizes_and_matrices_equal_the_reference():
    assert len(ROWS) == 72
    for row in ROWS:
        image_size, input_size, scale = (int(row[0]), int(row[1])), int(row[2]), row[3]
        size = network_size(image_size, input_size, scale)
        assert size == (row[5], row[4]), row[:4]
        forward = resize_transform(image_size, size)
        np.testing.assert_allclose(forward, row[10:16].reshape(2, 3), rtol=0, atol=1e-9, err_msg=str(row[:4]))
        np.testing.assert_allclose(invert(forward), row[16:22].reshape(2, 3), rtol=0, atol=1e-9, err_msg=str(row[:4]))


@pytest.mark.parametrize(
    ("value", "rounded"), [(0, 0), (1, 64), (64, 64), (64.9, 64), (65, 128), (512, 512), (770.8, 832)]
)
def test_round_up_drops_a_fraction_first(value, rounded):
    assert round_up(value) == rounded


def test_quarter_turn_is_counter_clockwise_on_screen():
    # A point right of the center goes above it: y points down.
    matrix = similarity((10, 20), 2.0, 90.0, (100, 60))
    np.testing.assert_allclose(transform_points(np.array([[10, 20], [13, 20]]), matrix), [[30, 50], [30, 44]])


@given(center=st.tuples(coordinates, coordinates), zoom=zooms, angle=angles, size=st.tuples(sides, sides))
def test_a_similarity_keeps_its_center_lengths_and_angles(center, zoom, angle, size):
    matrix = similarity(center, zoom, angle, size)
    np.testing.assert_allclose(transform_points(np.array(center), matrix), [size[1] / 2, size[0] / 2], atol=1e-6)
    np.testing.assert_allclose(matrix[:, :2] @ matrix[:, :2].T, zoom**2 * np.eye(2), atol=1e-9 * zoom**2)
    assert np.linalg.det(matrix[:, :2]) > 0


@given(center=st.tuples(coordinates, coordinates), zoom=zooms, angle=angles, size=st.tuples(sides, sides))
def test_invert_undoes_a_similarity(center, zoom, angle, size):
    matrix = similarity(center, zoom, angle, size)
    points = np.array([[0.0, 0.0], [100.0, -3.5], [17.25, 640.0]])
    np.testing.assert_allclose(transform_points(transform_points(points, matrix), invert(matrix)), points, atol=1e-5)
    np.testing.assert_allclose(invert(invert(matrix)), matrix, rtol=1e-9, atol=1e-6)


@given(image=st.tuples(sides, sides), input_size=st.integers(32, 1024))
def test_the_short_side_fills_the_network_size(image, input_size):
    height, width = network_size(image, input_size)
    assert height % 64 == width % 64 == 0
    assert min(height, width) == round_up(input_size)
    assert (height >= width) == (image[0] > image[1] or height == width)
    # Opposite edges of the short side land on the edges of the output, up to the rounding of the center.
    matrix = resize_transform(image, (height, width))
    across = 0 if width <= height and image[1] < image[0] else 1
    zoom = (width, height)[across] / (image[1], image[0])[across]
    edges = transform_points(np.array([[0.0, 0.0], [image[1], image[0]]]), matrix)[:, across]
    np.testing.assert_allclose(edges, [0, (width, height)[across]], atol=0.5 * zoom + 1e-6)


def test_transform_points_keeps_leading_axes():
    points = np.arange(24.0).reshape(3, 4, 2)
    moved = transform_points(points, np.array([[1.0, 0, 5], [0, 2.0, -1]]))
    np.testing.assert_array_equal(moved[..., 0], points[..., 0] + 5)
    np.testing.assert_array_equal(moved[..., 1], points[..., 1] * 2 - 1)
    assert transform_points(np.zeros((0, 17, 2)), np.eye(2, 3)).shape == (0, 17, 2)
