"""What is drawn, where, and in which colors, for skeletons of any size."""

from dataclasses import replace

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.keypoints import COCO, KeypointSchema
from dekr_tf.poses import Poses
from dekr_tf.visualization.drawing import LEFT_COLOR, OUTLINE_COLOR, RIGHT_COLOR, draw_poses

T_SHAPE = KeypointSchema(
    "t", ("head", "left_hand", "right_hand", "foot"), flip_pairs=((1, 2),), edges=((0, 1), (0, 2), (0, 3))
)
POINTS = np.array([[200, 200, 1], [350, 200, 1], [50, 200, 1], [200, 350, 1]], np.float32)


def person(scores=(1, 1, 1, 1), shift=(0, 0), score=0.5):
    keypoints = POINTS.copy()
    keypoints[:, :2] += shift
    keypoints[:, 2] = scores
    return Poses(keypoints[None], np.array([score]), T_SHAPE)


def black(height=400, width=400):
    return np.zeros((height, width, 3), np.uint8)


def test_sides_have_their_colors():
    drawing = draw_poses(black(), person())
    np.testing.assert_allclose(drawing[200, 275], LEFT_COLOR, atol=30)
    np.testing.assert_allclose(drawing[200, 125], RIGHT_COLOR, atol=30)
    np.testing.assert_allclose(drawing[200, 350], LEFT_COLOR, atol=2)
    np.testing.assert_allclose(drawing[200, 50], RIGHT_COLOR, atol=2)
    middle = drawing[275, 200].astype(int)
    assert middle.max() > 150
    assert np.abs(middle - LEFT_COLOR).max() > 60 and np.abs(middle - RIGHT_COLOR).max() > 60


def test_people_have_colors_of_their_own():
    one, two = person(), person(shift=(400, 0))
    both = Poses(np.concatenate([one.keypoints, two.keypoints]), np.array([0.5, 0.5]), T_SHAPE)
    drawing = draw_poses(black(width=800), both).astype(int)
    assert np.abs(drawing[275, 200] - drawing[275, 600]).max() > 60


def test_the_photo_is_not_changed_and_far_pixels_stay():
    photo = np.full((400, 400, 3), 90, np.uint8)
    drawing = draw_poses(photo, person())
    assert (photo == 90).all()
    assert (drawing[380:] == 90).all() and (drawing[:120, :100] == 90).all()
    assert (drawing != photo).any()


def test_uncertain_keypoints_are_faded_and_the_least_left_out():
    drawing = draw_poses(black(), person(scores=(1, 0.2, 0.05, 1))).astype(int)
    assert 50 < drawing[200, 275].max() < 180  # Faded limb.
    assert not drawing[200, 40:140].any()  # Neither limb nor keypoint.
    assert drawing[275, 200].max() > 200


def test_track_ids_choose_colors_and_labels():
    plain, first, second = (
        draw_poses(black(), replace(person(), track_ids=number)) for number in (None, np.array([0]), np.array([5]))
    )
    np.testing.assert_array_equal(plain[275, 200], first[275, 200])
    assert np.abs(first[275, 200].astype(int) - second[275, 200]).max() > 60
    assert (plain[:200] != first[:200]).any()


def test_lines_grow_with_the_person():
    def limb_width(size):
        keypoints = POINTS.copy()
        keypoints[:, :2] = (keypoints[:, :2] - 200) * size + 500
        drawing = draw_poses(black(1000, 1000), Poses(keypoints[None], np.array([0.5]), T_SHAPE))
        # Below the label.
        return (drawing[494:507, round(500 + 75 * size)].max(axis=-1) > 100).sum()

    assert limb_width(0.1) <= 2 < limb_width(1) < limb_width(3)


@pytest.mark.parametrize("shift", [(-1000, 0), (1e5, -1e5), (3e38, 0), (np.nan, 0), (np.inf, -np.inf)])
def test_people_outside_leave_only_their_label_or_nothing(shift):
    drawing = draw_poses(black(), person(shift=shift))
    assert (drawing != 0).any(axis=-1).mean() < 0.02


def test_a_limb_that_leaves_the_image_is_drawn_up_to_its_border():
    drawing = draw_poses(black(), person(shift=(190, 0)))
    np.testing.assert_allclose(drawing[200, 399], LEFT_COLOR, atol=30)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2, 500)])
def test_tiny_images(size):
    drawing = draw_poses(black(*size), person())
    assert drawing.shape == (*size, 3) and drawing.dtype == np.uint8


def test_nobody_and_a_person_without_visible_keypoints_draw_nothing():
    assert not draw_poses(black(), replace(Poses.empty(17), schema=COCO)).any()
    assert not draw_poses(black(), person(scores=(0, 0, 0, 0))).any()


def test_one_keypoint_without_edges():
    schema = KeypointSchema("point", ("point",))
    drawing = draw_poses(black(), Poses(np.array([[[200, 200, 0.4]]]), np.array([0.4]), schema))
    assert drawing[200, 200].max() > 200
    np.testing.assert_allclose(drawing[200, 203], OUTLINE_COLOR, atol=40)


def test_poses_without_a_skeleton_are_refused():
    with pytest.raises(InputError, match=r"^drawing: expected poses with a skeleton"):
        draw_poses(black(), replace(person(), schema=None))
