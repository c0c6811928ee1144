import cv2
import numpy as np
import pytest

from dekr_tf.evaluation.error_analysis import KINDS
from dekr_tf.visualization.error_chart import COLORS, FORMATS, error_chart

COUNTS = {
    "nose": {"good": 6, "jitter": 2, "inversion": 0, "swap": 1, "miss": 1},
    "tail": {"good": 1, "jitter": 1, "inversion": 1, "swap": 1, "miss": 0},
    "ear": dict.fromkeys(COLORS, 0),
}
CORRECTED = {"jitter": 0.5, "inversion": 0.45, "swap": 0.4, "miss": 0.6, "all": 0.9}


def test_there_is_a_color_for_every_kind():
    assert tuple(COLORS) == KINDS


def test_bars_are_as_long_as_the_shares():
    shares, gains = error_chart(COUNTS, 0.4, CORRECTED).axes
    # One container a kind, with a bar for all keypoints and for each.
    lengths = np.array([[bar.get_width() for bar in kind] for kind in shares.containers])
    starts = np.array([[bar.get_x() for bar in kind] for kind in shares.containers])
    np.testing.assert_allclose(lengths[:, 1], [60, 20, 0, 10, 10])
    np.testing.assert_allclose(lengths[:, 0], np.array([7, 3, 1, 2, 1]) / 14 * 100)
    np.testing.assert_allclose(lengths[:, 3], 0)
    np.testing.assert_allclose(starts[:, 2], [0, 25, 50, 75, 100])
    assert [label.get_text() for label in shares.get_yticklabels()] == ["all keypoints", "nose", "tail", "ear"]
    heights = [bar.get_height() for bar in gains.containers[0]]
    np.testing.assert_allclose(heights, [0.1, 0.05, 0, 0.2, 0.5], atol=1e-12)


@pytest.mark.parametrize("suffix", FORMATS)
def test_it_can_be_saved(tmp_path, suffix):
    path = tmp_path / f"chart{suffix}"
    error_chart(COUNTS, 0.4, CORRECTED).savefig(path)
    assert path.stat().st_size > 5000
    if suffix == ".png":
        image = cv2.imread(str(path))
        for color in COLORS.values():
            blue_green_red = [int(color[start : start + 2], 16) for start in (5, 3, 1)]
            assert (image == blue_green_red).all(axis=-1).sum() > 500
