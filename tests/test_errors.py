"""The tree of the project's errors."""

import pytest

from dekr_tf.errors import DekrError, InputError, ServingError, TrainingError, WorkerError
from dekr_tf.serving.client import ServingError as ErrorOfTheClient


@pytest.mark.parametrize(
    ("kind", "is_bad_input"),
    [(DekrError, False), (InputError, True), (ServingError, False), (TrainingError, False), (WorkerError, False)],
)
def test_only_bad_input_is_a_value_error(kind, is_bad_input):
    assert issubclass(kind, DekrError)
    assert issubclass(kind, ValueError) == is_bad_input
    assert issubclass(kind, InputError) == is_bad_input


def test_the_client_raises_the_error_of_the_tree():
    assert ErrorOfTheClient is ServingError
    error = ServingError("NOT_FOUND", "no\x1b model\n" + 600 * "x")
    assert error.code == "NOT_FOUND"
    assert str(error) == "NOT_FOUND: no model " + 491 * "x"
