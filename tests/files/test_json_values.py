"""Numbers and ids of files: what counts as one, and how others are quoted."""

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.files.json_values import LARGEST, is_finite_number, is_whole_number, parse_id, parse_numbers, received

HUGE = 10**400
NO_NUMBERS = [True, False, float("nan"), float("inf"), -float("inf"), HUGE, 1e39, None, "1", [1], {}]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=received)
def test_what_is_no_number(value):
    assert not is_finite_number(value)
    assert not is_whole_number(value, 0)
    assert parse_numbers([1, value]) is None
    assert parse_numbers([1.5, value]) is None


@pytest.mark.parametrize("value", [0, -3, 2.5, LARGEST, -LARGEST, 2**63, np.float64(4)])
def test_what_is_a_number(value):
    assert is_finite_number(value)
    assert parse_numbers([1, value]).tolist() == [1.0, float(value)]


def test_two_numbers_multiply_in_32_bits():
    assert np.isfinite(np.float32(LARGEST) * np.float32(LARGEST))


def test_whole_numbers_lie_in_a_range():
    assert [is_whole_number(value, 1, 3) for value in (0, 1, 3.0, 4, 2.5)] == [False, True, True, False, False]


def test_nested_lists_are_arrays_of_as_many_dimensions():
    np.testing.assert_array_equal(parse_numbers([[1, 2], [3, 4.5]], 2), [[1, 2], [3, 4.5]])
    assert parse_numbers([[1, 2], [3]], 2) is None
    assert parse_numbers([[1, True]], 2) is None
    assert parse_numbers([[1, 2]]) is None
    assert parse_numbers("12") is None
    assert parse_numbers([]).tolist() == []
    assert parse_numbers(np.arange(3)).tolist() == [0, 1, 2]


def test_ids_are_whole_numbers_or_texts():
    assert [parse_id({"id": value}, "id", "image") for value in (3, "a")] == [3, "a"]
    for value in (True, 1.0, None, [1], {}):
        with pytest.raises(InputError, match=r"^image: expected a whole number or a text as id. Received: "):
            parse_id({"id": value}, "id", "image")


def test_values_are_quoted_shortly():
    values = [None, [1] * 9, HUGE, 10**5000, 1e300, "x" * 100, {}, 2]
    assert [received(value) for value in values] == [
        "none",
        "a list of 9",
        *["a number beyond 9e+18"] * 3,
        "'" + "x" * 79,
        "a dict",
        "2",
    ]
