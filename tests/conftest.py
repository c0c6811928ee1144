"""Settings of all tests: quiet TensorFlow, seeded randomness, hypothesis without deadlines."""

import contextlib
import os
import random
import sys

# Read when TensorFlow and Keras are imported, so set before any test module is.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Read when the first video of the process is opened; the command line sets it.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# Tests compile much and compute little: without LLVM's optimization XLA is ready in a third of the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import numpy as np
import pytest
from hypothesis import settings

# On a server the examples are the same in every run, so that a failure there is the change's own.
settings.register_profile("dekr_tf", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dekr_tf")


@pytest.fixture
def eagerly():
    """Runs TensorFlow's functions as they are written: making and compiling graphs takes longer than a few calls."""
    with running_eagerly():
        yield


@pytest.fixture(scope="module")
def eagerly_in_module():
    """As `eagerly`, for all tests of a module and the fixtures that they share."""
    with running_eagerly():
        yield


@contextlib.contextmanager
def running_eagerly():
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(autouse=True)
def seeds():
    """The same random numbers for every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
