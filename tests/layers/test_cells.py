"""Lists of cells against tables by hand, and statistics over them against NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dekr_tf.layers.cells import Cells, Grid, add_rows_at, compact, moments_at, neighbors, rows_at


def listed(places, valid):
    """The places of each row that are valid."""
    return [row[keep].tolist() for row, keep in zip(np.array(places), np.array(valid), strict=True)]


def marked(mask):
    return np.flatnonzero(np.array(mask)[0]).tolist()


def test_marked_places_in_order():
    places, valid = compact(tf.constant([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]]) > 0)
    assert listed(places, valid) == [[1, 3, 4], [], [0, 5]]


@pytest.mark.slow
@given(arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 2000))))
def test_no_place_is_lost(mask):
    places, valid = compact(tf.constant(mask))
    assert listed(places, valid) == [np.flatnonzero(row).tolist() for row in mask]
    # Few lengths, and never more than there are places.
    assert places.shape[1] in (256, 384, 512, 768, 1024, 1536, mask.shape[1])


# Maps of 2 rows and 3 columns, as rows of a table with a border: 5 by 6.
#   .  .  .  .  .  .
#   .  7  8  9  .  .
#   . 13 14 15  .  .
#   .  .  .  .  .  .
#   .  .  .  .  .  .
GRID = Grid(2, 2, 3)
CELLS = [7, 8, 9, 13, 14, 15]


def test_cells_of_a_grid():
    mask = GRID.table(tf.constant([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]]) > 0)
    assert marked(mask) == [7, 14, 30 + 9]
    cells = GRID.list(mask)
    assert listed(cells.rows, cells.valid) == [[7, 14, 39]]
    assert GRID.map_rows(cells.rows).numpy()[0, :3].tolist() == [0, 4, 6 + 2]
    # All others in the list can be read like a cell.
    assert set(cells.rows.numpy()[0, 3:]) == {7}


@pytest.mark.parametrize(
    ("cells", "around"),
    [
        ([], []),
        ([7], [7, 8, 13, 14]),
        ([14], CELLS),
        ([39], [38, 39, 44, 45]),
        ([9, 37], [8, 9, 14, 15, 37, 38, 43, 44]),
    ],
)
def test_cells_around(cells, around):
    mask = np.isin(np.arange(60), cells)[None]
    assert marked(GRID.around(tf.constant(mask))) == around


def test_neighbors_by_row():
    rows = neighbors(tf.constant([[7, 14]]), (2, 3))
    assert rows.numpy().tolist() == [[0, 1, 2, 6, 7, 8, 12, 13, 14, 7, 8, 9, 13, 14, 15, 19, 20, 21]]


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("tap", "read"),
    [
        (7, [7, 8, 13, 14]),
        (0, [7]),  # Above and left of the map.
        (9, [9, 15]),  # To the right of cell 9 is the border.
        (14, [14, 15]),
        (19, []),  # Below the map.
        (30, [37]),
    ],
)
def test_cells_read_by_taps(tap, read):
    taps = np.full((9, 1, 2), 7, np.int32)
    taps[:, :, 0] = tap
    assert marked(GRID.read_by(tf.constant(taps), tf.constant([[True, False]]))) == read


@pytest.mark.usefixtures("eagerly")
def test_rows_are_read_and_added():
    table = tf.constant(np.arange(12.0).reshape(2, 3, 2), tf.float32)
    rows = tf.constant([[2, 0], [1, 1]])
    with tf.GradientTape() as tape:
        tape.watch(table)
        values = rows_at(table, rows)
        total = tf.reduce_sum(values * [[[1.0], [2.0]], [[3.0], [4.0]]])
    assert values.numpy().tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    # Of what is read twice, the gradients add up.
    assert tape.gradient(total, table).numpy()[..., 0].tolist() == [[2, 0, 1], [0, 7, 0]]
    with tf.GradientTape() as tape:
        tape.watch((table, values))
        added = add_rows_at(table, rows, values)
        total = tf.reduce_sum(added * [[[1.0], [2.0], [3.0]]])
    assert added.numpy().tolist() == [[[0, 2], [2, 3], [8, 10]], [[6, 7], [24, 27], [10, 11]]]
    d_table, d_values = tape.gradient(total, (table, values))
    assert d_table.numpy()[..., 0].tolist() == [[1, 2, 3]] * 2
    assert d_values.numpy()[..., 0].tolist() == [[3, 1], [2, 2]]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_moments_are_those_of_the_valid_cells(count):
    x = np.random.default_rng(0).normal(3, 2, (2, 7, 3)).astype(np.float32)
    valid = np.random.default_rng(1).permutation(7) < count
    mean, variance, found = moments_at(tf.constant(x), tf.constant(valid[None]))
    assert found == count
    expected = [x[:, valid].mean(axis=1), x[:, valid].var(axis=1)] if count else np.zeros((2, 2, 3))
    np.testing.assert_allclose(mean[:, 0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(variance[:, 0], expected[1], rtol=1e-5, atol=1e-6)


def test_what_is_not_valid_is_zero():
    cells = Cells(None, None, tf.constant([[True, False]]))
    assert cells.valid_only(tf.constant([[[1.0], [2.0]], [[3.0], [4.0]]])).numpy().tolist() == [[[1], [0]], [[3], [0]]]
