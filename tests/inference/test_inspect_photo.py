"""What lies between a photo and the people in it."""

import numpy as np

from dekr_tf.config import Config, DecoderConfig
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.inspect_photo import inspect_photo
from dekr_tf.sidecar import Sidecar

HANDS = {"name": "hands", "names": ["head", "left_hand", "right_hand"], "flip_pairs": [["left_hand", "right_hand"]]}


def test_people_are_where_the_network_sees_them():
    def two_people(images):
        """Of pose score 0.4 and 0.04; each keypoint lies 2 cells further right than the one before it."""
        batch, height, width, _ = images.shape
        heatmap = np.full((batch, height // 4, width // 4, 4), 0.5, np.float32)
        heatmap[..., -1] = 0
        heatmap[:, 4, 8, -1], heatmap[:, 10, 4, -1] = 0.8, 0.08
        offset = np.zeros((batch, height // 4, width // 4, 6), np.float32)
        offset[..., 2], offset[..., 4] = -2, -4
        return heatmap, offset

    sidecar = Sidecar.from_config(Config(keypoints=HANDS, input_size=64))
    photo = np.zeros((128, 200, 3), np.uint8)
    detector = PoseDetector(two_people, sidecar, dense=True)
    assert inspect_photo(photo, detector, 0.0).rows.tolist() == [4, 10]
    seen = inspect_photo(photo, detector, 0.1)
    assert (seen.rows.tolist(), seen.columns.tolist()) == ([4], [8])
    # As in the detector, people whose box has no height have a score of 0 where keypoints err.
    erring = sidecar.model_copy(update={"decoder": DecoderConfig(keypoint_error=1)})
    assert not len(inspect_photo(photo, PoseDetector(two_people, erring, dense=True), 0.1).rows)
    # 200x128 is made 100x64, in the middle of 128x64: two pixels of the photo for one of the input.
    assert seen.pixels.shape == (64, 128, 3)
    np.testing.assert_allclose(seen.centers, [[(32 - 64) * 2 + 100, 32]])
    np.testing.assert_allclose(seen.keypoints, [[[36, 32], [52, 32], [68, 32]]])
    one = np.zeros((2, 16, 32), np.float32)
    one[1, 4, 8] = 1
    warped = seen.warped(one, 4)
    assert warped.shape == (2, 128, 200)
    assert np.argwhere(warped == 1).tolist() == [[1, 32, 36]]


def test_centers_whose_keypoints_are_nowhere_are_passed_over():
    """Of three centers the second has no finite keypoints; the third must keep its own cell."""

    def network(images):
        heatmap = np.full((1, 16, 16, 4), 0.5, np.float32)
        heatmap[..., -1] = 0
        heatmap[0, [2, 7, 12], 5, -1] = 0.9, 0.8, 0.7
        offset = np.zeros((1, 16, 16, 6), np.float32)
        offset[..., 2], offset[..., 4] = -2, -4
        offset[0, 7, 5, 0] = np.inf
        return heatmap, offset

    detector = PoseDetector(network, Sidecar.from_config(Config(keypoints=HANDS, input_size=64)), dense=True)
    seen = inspect_photo(np.zeros((64, 64, 3), np.uint8), detector, 0.0)
    assert seen.rows.tolist() == [2, 12]
    np.testing.assert_array_equal(seen.keypoints[:, 0], [[20, 8], [20, 48]])
