"""Importing the packages, and calling them, leaves the settings of the process as they were."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.files.images import decode_image
from dekr_tf.files.opencv import Meanwhile, one_thread, silent

ROOT = Path(__file__).parents[1]

#: Other packages come first: what they change is theirs.
IMPORT_ALL = """
import importlib, json, logging, os, pkgutil, random, signal, sys, warnings
import cv2, keras, litert_quantizer, matplotlib.figure, numpy, onnxruntime, pycocotools.mask, tensorflow as tf, tf2onnx
import tensorflow_serving.apis.predict_pb2, urllib3, yaml

def state():
    opencv = cv2 if hasattr(cv2, "getLogLevel") else cv2.utils.logging
    return {
        "environment": dict(os.environ),
        "OpenCV": [cv2.getNumThreads(), opencv.getLogLevel(), cv2.useOptimized()],
        "TensorFlow": [
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
            tf.config.get_soft_device_placement(),
            str(tf.config.get_visible_devices()),
            tf.get_logger().level,
        ],
        "Keras": [
            keras.backend.backend(),
            keras.config.floatx(),
            keras.config.epsilon(),
            keras.config.image_data_format(),
            keras.config.dtype_policy().name,
            keras.config.is_interactive_logging_enabled(),
            keras.config.is_traceback_filtering_enabled(),
        ],
        "logging": [logging.root.level, str(logging.root.handlers), logging.root.manager.disable],
        "warnings": [str(each) for each in warnings.filters],
        "NumPy": [numpy.geterr(), str(numpy.random.get_state())],
        "Python": [str(signal.getsignal(signal.SIGINT)), str(signal.getsignal(signal.SIGTERM)), str(random.getstate())],
    }

before = state()
names = []
for package in ("dekr_tf", "converters"):
    path = importlib.import_module(package).__path__
    names += [each.name for each in pkgutil.walk_packages(path, f"{package}.") if each.name != "dekr_tf.__main__"]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, before, state()]))
"""

pytestmark = pytest.mark.slow


def test_importing_everything_switches_nothing():
    run = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    names, before, after = json.loads(run.stdout.splitlines()[-1])
    files = [path for folder in ("dekr_tf", "converters") for path in (ROOT / folder).rglob("*.py")]
    # Every module but `__main__`; a package's `__init__` is imported under the name of the package.
    assert len(names) == len(files) - 3
    assert after == before


def log_level():
    return (cv2 if hasattr(cv2, "getLogLevel") else cv2.utils.logging).getLogLevel()


def test_reading_an_image_leaves_the_log_level_as_it_is(capfd):
    before = log_level(), cv2.getNumThreads()
    decoded = decode_image(cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes(), "", exif_orientation=True)
    assert decoded.shape == (4, 5, 3)
    with pytest.raises(InputError):
        decode_image(b"BM" + bytes(100), "photo", exif_orientation=True)
    assert (log_level(), cv2.getNumThreads()) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("setting", "get", "value"), [(silent, log_level, 0), (one_thread, cv2.getNumThreads, 1)])
def test_opencv_has_the_value_inside_only(setting, get, value):
    before = get()
    with setting:
        assert get() == value
    assert get() == before


def test_the_last_thread_to_leave_puts_the_value_back():
    values, entered, may_leave = [7], threading.Event(), threading.Event()
    setting = Meanwhile(lambda: values[-1], values.append, 0)

    def stay():
        with setting:
            entered.set()
            may_leave.wait()

    second = threading.Thread(target=stay)
    with pytest.raises(ZeroDivisionError), setting:
        second.start()
        entered.wait()
        raise ZeroDivisionError
    assert values == [7, 0]
    may_leave.set()
    second.join()
    assert values == [7, 0, 7]
