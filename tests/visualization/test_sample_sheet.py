"""What the picture of a training sample shows, and where."""

import numpy as np
import pytest

from dekr_tf.keypoints import KeypointSchema
from dekr_tf.visualization.drawing import LEFT_COLOR, RIGHT_COLOR
from dekr_tf.visualization.sample_sheet import CENTER_COLOR, MIDDLE_COLOR, draw_sample, make_sheet

SCHEMA = KeypointSchema(name="three", names=("left", "right", "tail"), flip_pairs=((0, 1),))
#: Pixels of a panel, and of a cell of the map of 16 cells.
PANEL, CELL = 384, 24


def targets():
    """A person with its center in the cell (8, 7) and keypoints 4 left, 4 right and 5 below; the last column masked."""
    maps = {name: np.zeros((16, 16, 4), np.float32) for name in ("heatmap", "heatmap_weight")}
    maps |= {name: np.zeros((16, 16, 6), np.float32) for name in ("offset", "offset_weight")}
    maps["heatmap_weight"][:, :15] = 0.1
    maps["heatmap_weight"][:, 0, :2] = 0
    maps["heatmap"][7, 8, 3] = maps["heatmap"][7, 4, 0] = maps["heatmap"][7, 12, 1] = maps["heatmap"][12, 8, 2] = 1
    maps["offset"][7, 8] = (4, 0, -4, 0, 0, -5)
    maps["offset_weight"][7, 8] = 1
    return maps


def test_both_panels():
    drawing = draw_sample(np.full((64, 64, 3), 100, np.uint8), targets(), SCHEMA)
    assert drawing.shape == (PANEL, 2 * PANEL, 3)
    heatmaps, offsets = drawing[:, :PANEL].astype(int), drawing[:, PANEL:].astype(int)
    spots = {(4, 7): LEFT_COLOR, (12, 7): RIGHT_COLOR, (8, 12): MIDDLE_COLOR, (8, 7): CENTER_COLOR}
    for (x, y), color in spots.items():
        np.testing.assert_allclose(heatmaps[CELL * y, CELL * x], 100 + 0.85 * (np.array(color) - 100), atol=1)
        if color is not CENTER_COLOR:
            np.testing.assert_array_equal(offsets[CELL * y, CELL * x], color)
    # Lines from the center, half way, with smoothed edges.
    np.testing.assert_allclose(offsets[CELL * 7, CELL * 6], LEFT_COLOR, atol=25)
    np.testing.assert_allclose(offsets[CELL * 7, CELL * 10], RIGHT_COLOR, atol=25)
    assert heatmaps[100, CELL * 15].tolist() == [150, 65, 65]
    # Two of four channels have no weight in the first column.
    assert heatmaps[100, 0].tolist() == [125, 82, 82]
    assert heatmaps[100, CELL * 13].tolist() == [100, 100, 100]
    assert offsets[100, 100].tolist() == [50, 50, 50]


def test_nothing_to_show_leaves_the_image():
    maps = {name: np.zeros_like(values) for name, values in targets().items()}
    maps["heatmap_weight"] += 1
    drawing = draw_sample(np.full((32, 32, 3), 80, np.uint8), maps, SCHEMA)
    assert (drawing[:, :PANEL] == 80).all() and (drawing[:, PANEL:] == 40).all()


@pytest.mark.parametrize(("count", "size"), [(1, (4, 5)), (2, (4, 16)), (3, (14, 16))])
def test_sheets(count, size):
    sheet = make_sheet([np.full((4, 5, 3), number, np.uint8) for number in range(count)])
    assert sheet.shape[:2] == size
    assert sheet[-1, 0, 0] == (count - 1) // 2 * 2 and sheet[-1, -1, 0] == (255 if count == 3 else count - 1)
