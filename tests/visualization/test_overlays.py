"""What is laid over a photo, and where."""

import numpy as np

from dekr_tf.keypoints import KeypointSchema
from dekr_tf.visualization.drawing import LEFT_COLOR, RIGHT_COLOR, person_color
from dekr_tf.visualization.overlays import draw_activation, draw_heatmaps, draw_saliency

PHOTO = np.full((120, 200, 3), 100, np.uint8)
FAR = np.array([[20.0, 110.0], [180.0, 110.0]])
HANDS = KeypointSchema("hands", ("head", "left_hand", "right_hand"), flip_pairs=((1, 2),))


def test_activation_is_drawn_in_the_persons_color():
    last = np.array([[[30.0, 20.0]] * 9, [[160.0, 20.0]] * 9])
    first = np.array([[[30.0, 60.0]] * 81, [[160.0, 60.0]] * 81])
    first[1, :] = np.nan
    drawing = draw_activation(PHOTO, FAR, FAR + np.array([20, 0]), [last, first])
    assert (PHOTO == 100).all()
    np.testing.assert_allclose(drawing[20, 30], person_color(0), atol=1)
    np.testing.assert_allclose(drawing[20, 160], person_color(1), atol=1)
    np.testing.assert_allclose(drawing[60, 30], person_color(0), atol=1)
    assert (drawing[50:70, 100:] == 50).all()
    # The dots of the last block are larger.
    sizes = [(drawing[top : top + 20, :100] != 50).any(axis=-1).sum() for top in (10, 50)]
    assert sizes[0] > 1.5 * sizes[1] > 0
    # From the center to the ring about the keypoint.
    assert (drawing[110, 20:34] > 150).all()
    assert (drawing[110, 35:45] > 200).any()
    assert (drawing[80:100] == 50).all()


def test_points_far_outside_draw_nothing_there():
    far = np.array([[1e30, -1e30]])
    drawing = draw_activation(PHOTO, far, far, [np.full((1, 9, 2), 1e30)])
    assert (drawing == 50).all()


def test_saliency_is_relative_to_each_persons_largest():
    saliency = np.zeros((2, 120, 200), np.float32)
    saliency[0, 30, 50], saliency[0, 30, 60] = 1e-3, 2e-4
    saliency[1, 30, 150] = 1e3
    drawing = draw_saliency(PHOTO, saliency, FAR, FAR).astype(int)
    assert (drawing[30, 50] == drawing[30, 150]).all()
    assert drawing[30, 50].sum() > drawing[30, 60].sum()
    assert not (drawing[30, 60] == 40).all()
    assert (drawing[:80, 100:140] == 40).all()


def test_saliency_of_nobody_is_the_photo_in_gray():
    nobody = np.zeros((0, 2))
    assert (draw_saliency(PHOTO, np.zeros((0, 120, 200), np.float32), nobody, nobody) == 40).all()


def test_heatmaps_beside_centers():
    heatmaps = np.zeros((4, 120, 200), np.float32)
    heatmaps[1, 20, 30] = 1.5
    heatmaps[2, 20, 60] = 1
    heatmaps[0, 20, 90] = 0.5
    heatmaps[0, 40, 90] = -3
    heatmaps[3, 20, 120] = 1
    drawing = draw_heatmaps(PHOTO, heatmaps, HANDS, [0, 1, 2], FAR[:1])
    assert drawing.shape == (120, 400, 3)
    left, right = drawing[:, :200], drawing[:, 200:]
    np.testing.assert_array_equal(left[20, 30], LEFT_COLOR)
    np.testing.assert_array_equal(left[20, 60], RIGHT_COLOR)
    assert left[20, 90, 1] == (50 + 220) / 2
    assert (left[21:] == 50).all() and (left[20, 120] == 50).all()
    assert (right[20, 120] == 255).all() and (right[20, :100] == 50).all()
    assert (right[100:, :40] != 50).any() and (right[100:, 40:] == 50).all()


def test_one_keypoints_heatmap():
    heatmaps = np.ones((4, 120, 200), np.float32)
    drawing = draw_heatmaps(PHOTO, heatmaps, HANDS, [2], np.zeros((0, 2)))
    assert (drawing[:, :200] == RIGHT_COLOR).all()
