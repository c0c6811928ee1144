"""OpenCV's process-wide settings, changed while a call needs it and then restored."""

import contextlib
import threading
from collections.abc import Callable

import cv2


class Meanwhile(contextlib.AbstractContextManager):
    """Gives a process-wide setting another value while any thread is inside.

    The first thread to enter sets it; the last one to leave restores the value from before.

    Args:
        get: reads the setting.
        put: changes it.
        value: while a thread is inside.
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

#: OpenCV uses the calling thread alone, for work that several threads already do in parallel.
one_thread = Meanwhile(cv2.getNumThreads, cv2.setNumThreads, 1)
#: OpenCV logs nothing, for code that reports broken files itself.
silent = Meanwhile(_logging.getLogLevel, _logging.setLogLevel, 0)
