"""How photos come into the network's input: size, place, scales and normalization."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.preprocessing import (
    Preprocessor,
    best_fit,
    bounded_network_size,
    check_smallest_map,
    most_pixels,
    normalization,
)
from dekr_tf.sidecar import Artifact, Sidecar

SIDECAR = Sidecar.from_config(Config(input_size=64))


def with_artifact(**settings):
    return SIDECAR.model_copy(update={"artifact": Artifact(graph="poses", **settings)})


def test_normalization_by_hand():
    scale, shift = normalization((0.5, 0.0, 0.25), (0.5, 1.0, 0.125))
    assert scale.dtype == shift.dtype == np.float32
    np.testing.assert_allclose(np.array([255, 51, 255]) * scale + shift, [1, 0.2, 6], rtol=1e-6)


def test_a_model_that_normalizes_itself_gets_bytes():
    photo = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    (pixels,), placement = Preprocessor(with_artifact(input_type="uint8"))(photo)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, photo)
    assert placement.size == (64, 128)


def test_points_go_to_the_photo_and_back():
    photo = np.zeros((130, 97, 3), np.uint8)
    _, placement = Preprocessor(SIDECAR)(photo)
    assert placement.size == (128, 64)
    points = np.array([[0.0, 0.0], [31.5, 64.0], [63.0, 127.0]])
    there = placement.to_photo(points)
    np.testing.assert_allclose(there @ placement.transform[:, :2].T + placement.transform[:, 2], points, atol=1e-9)
    # The middle of the input is the photo's middle, rounded to a whole pixel.
    np.testing.assert_allclose(placement.to_photo(np.array([32.0, 64.0])), [49, 65])


def test_each_scale_is_an_input_of_its_own():
    inputs, placement = Preprocessor(SIDECAR, scales=(0.5, 1, 2))(np.zeros((64, 100, 3), np.uint8))
    assert [each.shape for each in inputs] == [(128, 256, 3), (64, 128, 3), (32, 64, 3)]
    assert placement.size == (64, 128)


def test_of_fixed_sizes_the_best_is_taken_or_the_one_given():
    sidecar = with_artifact(input_sizes=((64, 64), (96, 64)))
    photo = np.zeros((300, 200, 3), np.uint8)
    assert Preprocessor(sidecar)(photo)[1].size == (96, 64)
    assert Preprocessor(sidecar, fixed_sizes=[(64, 64)])(photo)[1].size == (64, 64)
    # Where it is as large in both, the smaller input.
    assert best_fit((10, 10), [(64, 96), (64, 64)]).size == (64, 64)
    with pytest.raises(InputError, match=r"no input size beside a model that takes 64x64, 96x64 only. Received: 128"):
        Preprocessor(sidecar, 128)
    with pytest.raises(InputError, match=r"no scales beside .* only. Received: 0.5 1"):
        Preprocessor(sidecar, scales=(0.5, 1))


def test_the_most_pixels():
    assert [most_pixels(size) for size in (64, 512, 513, 544)] == [2**20, 2**20, 4 * 576**2, 4 * 576**2]


def test_every_pixel_value_is_normalized_to_the_bit_in_float32():
    photo = np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    (pixels,), (_, transform) = Preprocessor(SIDECAR)(photo)
    np.testing.assert_array_equal(transform, [[1, 0, 0], [0, 1, 0]])
    mean, std = np.float32(SIDECAR.mean), np.float32(SIDECAR.std)
    np.testing.assert_array_equal(pixels, photo.astype(np.float32) * (1 / (255 * std)) - mean / std)
    assert pixels.dtype == np.float32


@pytest.mark.parametrize(
    ("image_size", "input_size", "expected"),
    [
        ((425, 640), 512, (512, 832)),
        ((13_000, 20_000), 512, (512, 832)),
        ((100, 400), 512, (512, 2048)),
        # From 4:1 on, the short side gives way.
        ((100, 500), 512, (448, 2240)),
        ((20_000, 100), 512, (12_800, 64)),
        ((100, 1600), 256, (256, 4096)),
        # What was asked for is given, as long as the photo is of ordinary shape.
        ((1000, 2000), 1536, (1536, 3072)),
    ],
)
def test_elongated_photos_are_bounded(image_size, input_size, expected):
    assert bounded_network_size(image_size, input_size) == expected


@settings(max_examples=200)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1024))
def test_the_bound_holds_or_is_named(height, width, input_size):
    try:
        size = bounded_network_size((height, width), input_size)
    except InputError as error:
        assert max(height, width) / min(height, width) > 200
        assert f"Received: {width}x{height}" in str(error)
    else:
        assert size[0] * size[1] <= max(2**20, 4 * (input_size + 63) ** 2)
        assert size[0] % 64 == size[1] % 64 == 0


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_an_array_that_is_no_image(image):
    with pytest.raises(InputError, match="expected an image"):
        Preprocessor(SIDECAR)(image)


@pytest.mark.parametrize("photo", [np.full((64, 64, 3), np.nan), np.full((64, 64, 3), np.nan, np.float32)])
def test_an_image_of_no_numbers_is_refused(photo):
    with pytest.raises(
        InputError, match=r"expected an image \(H, W, 3\) of uint8 RGB. Received: \(64, 64, 3\) of float"
    ):
        Preprocessor(SIDECAR)(photo)


def test_the_smallest_scale():
    check_smallest_map((1, 0.125), 256)
    with pytest.raises(InputError, match=r"at least 0.125 at input size 256.* Received: 0.12$"):
        check_smallest_map((1, 0.12), 256)
