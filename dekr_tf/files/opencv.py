"""OpenCV's settings, which hold for the whole process: changed while a call needs it, then as they were."""

import contextlib
import threading
from collections.abc import Callable

import cv2


class Meanwhile(contextlib.AbstractContextManager):
    """Gives a setting of the process another value while any thread is inside.

    The first thread to enter sets it; the last one to leave puts back what was there.

    Args:
        get: reads the setting.
        put: changes it.
        value: to have meanwhile.
    """

    def __init__(self, get: Callable[[], int], put: Callable[[int], object], value: int):
        self._get, self._put, self._value = get, put, value
        self._lock = threading.Lock()
        self._inside = 0
        self._before = value

    def __enter__(self):
        with self._lock:
            if self._inside == 0:
                self._before = self._get()
                self._put(self._value)
            self._inside += 1

    def __exit__(self, *error):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._put(self._before)


# The functions moved between OpenCV 4 and 5.
_logging = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging

#: OpenCV works on the calling thread alone, for work that several threads do side by side already.
one_thread = Meanwhile(cv2.getNumThreads, cv2.setNumThreads, 1)
#: OpenCV logs nothing, for calls that report a broken file themselves.
silent = Meanwhile(_logging.getLogLevel, _logging.setLogLevel, 0)
