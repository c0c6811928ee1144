"""Images, masks and keypoints take the same transform, and it is the reference's."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dekr_tf.config import AugmentationConfig
from dekr_tf.data.augmentation import make_augmentation, random_augmentation
from dekr_tf.geometry import transform_points
from dekr_tf.keypoints import COCO

GOLDENS = Path(__file__).parents[1] / "goldens"


def test_matrix_equals_the_reference():
    """The golden rows give center and scale; a photo of 200 pixels, shifted, has them."""
    rows = np.load(GOLDENS / "augment_affine.npz")["rows"]
    for x, y, scale, rotation, side, *matrix, area_factor in rows:
        augmentation = make_augmentation(
            (200, 200), int(side), scale=scale, rotation=rotation, shift=(x - 100, y - 100)
        )
        np.testing.assert_allclose(augmentation.matrix.ravel(), matrix, rtol=0, atol=1e-9 * side * 10)
        assert augmentation.zoom**2 == pytest.approx(area_factor, rel=1e-6)


@given(
    row=st.integers(4, 55),
    column=st.integers(4, 75),
    scale=st.floats(0.5, 2),
    rotation=st.floats(-180, 180),
    shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    flip=st.booleans(),
)
def test_one_white_pixel_through_every_transform(row, column, scale, rotation, shift, flip):
    augmentation = make_augmentation((60, 80), 128, scale=scale, rotation=rotation, shift=shift, flip=flip)
    keypoint = np.zeros((1, 17, 3))
    keypoint[0, 5] = column, row, 2
    moved = augmentation.transform_keypoints(keypoint, COCO.flip_indices)
    x, y, visibility = moved[0, 6 if flip else 5]
    assert visibility == 2
    if not (1 <= x <= 126 and 1 <= y <= 126):
        return
    image = np.zeros((60, 80, 3), np.uint8)
    image[row, column] = 255
    seen = augmentation.transform_image(image)[:, :, 1]
    # Where a source pixel is smaller than an output pixel, it can fall between two.
    if seen.max() > 60:
        peak = np.array(np.unravel_index(seen.argmax(), seen.shape))[::-1]
        assert np.abs(peak - (x, y)).max() <= 0.75
    else:
        assert augmentation.zoom < 2


@given(
    scale=st.floats(0.8, 2),
    rotation=st.floats(-180, 180),
    shift=st.tuples(st.floats(-6, 6), st.floats(-6, 6)),
    flip=st.booleans(),
)
def test_a_spot_in_the_mask_falls_on_the_keypoint_of_the_map(scale, rotation, shift, flip):
    augmentation = make_augmentation((60, 80), 256, scale=scale, rotation=rotation, shift=shift, flip=flip)
    mask = np.zeros((60, 80), np.uint8)
    mask[26:33, 36:43] = 1
    x, y = transform_points(np.array([39.0, 29.0]), augmentation.matrix) / 4
    assert 0 < x < 63 and 0 < y < 63
    rows, columns = np.nonzero(augmentation.transform_mask(mask, 4))
    np.testing.assert_allclose((columns.mean(), rows.mean()), (x, y), atol=0.5)


def test_boxes_by_hand():
    """A square of 100 pixels to 50, then turned by a right angle about the middle, then mirrored."""
    boxes = np.array([[10, 20, 30, 60], [0, 0, 0, 0]])
    moved = make_augmentation((100, 100), 50).transform_boxes(boxes)
    np.testing.assert_allclose(moved, [[5, 10, 20, 40], [0, 0, 0, 0]])
    mirrored = make_augmentation((100, 100), 50, flip=True).transform_boxes(boxes)
    np.testing.assert_allclose(mirrored, [[29, 10, 44, 40], [49, 0, 49, 0]])
    turned = make_augmentation((100, 100), 50, rotation=90).transform_boxes(boxes)
    np.testing.assert_allclose(turned[0, 2:] - turned[0, :2], (30, 15))
    assert make_augmentation((100, 100), 50).transform_boxes(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("rotation", [0.0, 25.0])
def test_a_flip_mirrors_image_and_keypoints_about_the_middle(rotation):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    keypoints = np.concatenate([generator.uniform(0, 50, (2, 18, 2)), np.full((2, 18, 1), 2)], axis=2)
    plain, flipped = (make_augmentation((50, 70), 64, rotation=rotation, flip=flip) for flip in (False, True))
    difference = flipped.transform_image(image)[:, ::-1].astype(int) - plain.transform_image(image)
    # Bilinear weights have 1/32 steps, which need not be the same from the other side.
    assert np.abs(difference).max() <= (0 if rotation == 0 else 16)
    expected = plain.transform_keypoints(keypoints, COCO.flip_indices)
    expected[..., 0] = 63 - expected[..., 0]
    swapped = flipped.transform_keypoints(keypoints, COCO.flip_indices)
    # The center, after the 17 keypoints, keeps its place.
    np.testing.assert_allclose(swapped[:, [*COCO.flip_indices, 17]], expected, atol=1e-9)


def test_flip_twice_is_the_identity():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    keypoints = np.random.default_rng(1).uniform(0, 64, (3, 17, 3))
    flip = make_augmentation((64, 64), 64, flip=True)
    np.testing.assert_array_equal(flip.transform_image(flip.transform_image(image)), image)
    twice = flip.transform_keypoints(flip.transform_keypoints(keypoints, COCO.flip_indices), COCO.flip_indices)
    np.testing.assert_allclose(twice, keypoints, atol=1e-12)


def test_the_short_side_fills_the_input():
    augmentation = make_augmentation((100, 300), 200, scale=1.0)
    assert augmentation.zoom == 2
    np.testing.assert_allclose(
        transform_points(np.array([[150, 50], [100, 0]]), augmentation.matrix), [[100, 100], [0, 0]]
    )
    assert make_augmentation((100, 300), 200, scale=2.0).zoom == 1


def test_outside_the_photo_is_black_and_masked():
    augmentation = make_augmentation((40, 40), 64, scale=2.0)
    assert augmentation.transform_image(np.full((40, 40, 3), 255, np.uint8))[0, 0].tolist() == [0, 0, 0]
    mask = augmentation.transform_mask(np.ones((40, 40), np.uint8), 4)
    assert mask.shape == (16, 16)
    assert not mask[0].any() and mask[8, 8]
    assert augmentation.transform_mask(np.ones((40, 40), np.uint8), 4, outside=1).all()


def test_draws_cover_their_ranges_and_follow_the_generator():
    config = AugmentationConfig(rotation=20, scale=(0.5, 1.5), translation=40, flip=0.25)
    generator = np.random.default_rng(3)
    drawn = [random_augmentation((100, 200), 64, config, generator) for _ in range(400)]
    scales = np.array([64 / (100 * each.zoom) for each in drawn])
    assert scales.min() == pytest.approx(0.5, abs=0.02) and scales.max() == pytest.approx(1.5, abs=0.02)
    assert np.mean([each.flip for each in drawn]) == pytest.approx(0.25, abs=0.06)
    angles, shifts = [], []
    for each, scale in zip(drawn, scales, strict=True):
        matrix = each.matrix.copy()
        if each.flip:
            matrix[0] = (0, 0, 63) - matrix[0]
        angles.append(np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0])))
        middle = np.linalg.solve(matrix[:, :2], (32, 32) - matrix[:, 2]) - (100, 50)
        shifts.append(middle / (100 * scale / 200))
    assert np.abs(angles).max() == pytest.approx(20, abs=0.5)
    assert np.abs(shifts).max() == pytest.approx(40, abs=0.5)
    again = random_augmentation((100, 200), 64, config, np.random.default_rng(3))
    np.testing.assert_array_equal(again.matrix, drawn[0].matrix)


def test_nothing_to_draw_gives_the_plain_crop():
    config = AugmentationConfig(rotation=0, scale=(1, 1), translation=0, flip=0)
    drawn = random_augmentation((90, 120), 64, config, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.matrix, make_augmentation((90, 120), 64).matrix)
