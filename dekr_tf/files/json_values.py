"""Checks of numbers and ids from JSON and YAML files, and how a message quotes a value that does not fit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dekr_tf.errors import InputError

#: Largest magnitude of a number in a file: float32 still holds the product of two of them.
LARGEST = 2.0**63


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number that the program can compute with: no boolean, NaN, or more than `LARGEST`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_whole_number(value: Any, low: float, high: float = LARGEST) -> bool:
    """Whether a value is a whole number from `low` to `high`; 3.0 is one, True is not."""
    return is_finite_number(value) and value % 1 == 0 and low <= value <= high


def parse_numbers(values: Any, dimensions: int = 1) -> np.ndarray | None:
    """A list of numbers, or lists of lists of equal lengths, as a float64 array.

    Args:
        values: of a JSON file, or a NumPy array.
        dimensions: how deep the lists are nested.

    Returns:
        The numbers; None for anything else, or if one of them is not a number by `is_finite_number`.
    """
    if not isinstance(values, list | tuple | np.ndarray):
        return None
    try:
        # As objects, since NumPy would turn booleans into numbers.
        numbers = np.array(values, object)
    except ValueError:
        return None
    kinds = set(map(type, numbers.flat))
    real = (int, float, np.integer, np.floating)
    if numbers.ndim != dimensions or bool in kinds or not all(issubclass(kind, real) for kind in kinds):
        return None
    try:
        numbers = numbers.astype(np.float64)
    except OverflowError:
        return None
    # The comparison is false for NaN too.
    return numbers if (np.abs(numbers) <= LARGEST).all() else None


def parse_id(mapping: Mapping[str, Any], key: str, where: str) -> int | str:
    """The id that an entry of a file has under `key`; `where` begins the error.

    Raises:
        InputError: it is neither a whole number nor a text.
    """
    value = mapping.get(key)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise InputError(f"{where}: expected a whole number or a text as {key}. Received: {received(value)}")
    return value


def received(value: Any) -> str:
    """A value as the end of a message quotes it, always short."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int | float) and LARGEST < abs(value) < float("inf"):
        # Python refuses to print whole numbers of more than 4300 digits.
        return f"a number beyond {LARGEST:.0e}"
    return repr(value)[:80] if isinstance(value, str | int | float) else f"a {type(value).__name__}"
