"""Reading video files and cameras frame by frame, and writing video files.

FFmpeg, inside OpenCV, prints its complaints about a file to standard error. It reads the environment variable
`OPENCV_FFMPEG_LOGLEVEL` when the process opens its first video, and never again. The command line sets it to -8, which
silences FFmpeg; this module leaves it alone.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.files.images import check_pixels, opencv_name
from dekr_tf.files.inputs import is_file
from dekr_tf.files.opencv import silent
from dekr_tf.files.outputs import atomic_output

#: Files that count as videos, by suffix in lower case.
SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
#: Codec of written videos by suffix: those that OpenCV can encode everywhere.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
#: Frames per second, if a source does not say.
DEFAULT_RATE = 25.0

_CAMERA = re.compile(r"camera:(\d{1,4})")


def is_video(source: str | os.PathLike) -> bool:
    """Whether a source is a camera, `camera:0`, or has the suffix of a video file."""
    return is_camera(source) or Path(source).suffix.lower() in SUFFIXES


def is_camera(source: str | os.PathLike) -> bool:
    """Whether a source is a camera, `camera:0` and so on."""
    return bool(_CAMERA.fullmatch(os.fspath(source)))


class VideoReader:
    """Reads a video file or a camera; a context manager, to be iterated over once.

    Args:
        source: path of a file, or `camera:0` for the first camera.

    Attributes:
        size: (height, width) of the frames, which are turned upright as the file says.
        frame_rate: frames per second as the source says; 25 if that is nothing or no plausible rate.
        frame_count: approximate number of frames from the file's header; None for a camera, or if it has none.
        ended_early: known after the last frame: whether a camera stopped, or frames are missing by the file's header.

    Raises:
        InputError: there is no such file or camera, the file is not a video or has no frame, or its frames have more
            than `images.MAX_PIXELS`.
    """

    def __init__(self, source: str | os.PathLike):
        self.source = opencv_name(source)
        camera = _CAMERA.fullmatch(self.source)
        if not camera and not is_file(self.source):
            raise InputError(f"expected a video file. Received: {source}, which is not there")
        # FFmpeg reads all files, since some of OpenCV's other readers print to standard error.
        with silent:
            self._capture = (
                cv2.VideoCapture(int(camera[1])) if camera else cv2.VideoCapture(self.source, cv2.CAP_FFMPEG)
            )
        if not self._capture.isOpened():
            if camera:
                raise InputError(f"expected a camera that can be opened, camera:0 is the first. Received: {source}")
            raise InputError(f"expected a video file. Received: {source}, which cannot be read as a video")
        if camera:
            # A frame that waits in a buffer is out of date when it is read.
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        height, width = (int(self._capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        check_pixels((height, width), f"video {source}")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if 0 < rate < 1000 else DEFAULT_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count = int(count) if count > 0 and not camera else None
        self._start = time.monotonic() if camera else None
        self._seconds = -1 / self.frame_rate
        self._next = self._read()
        if self._next is None:
            self._capture.release()
            raise InputError(f"video {source}: no frame can be read")
        self.size = self._next[1].shape[:2]
        self.ended_early = False

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_):
        self._capture.release()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """The frames until the source ends.

        Yields:
            Seconds since the start of the file, or since the camera was opened, strictly increasing; and the frame,
            (H, W, 3) uint8 RGB.

        Raises:
            InputError: the size of the frames changes.
        """
        count = 0
        while self._next is not None:
            seconds, frame = self._next
            count += 1
            height, width = frame.shape[:2]
            if (height, width) != self.size:
                raise InputError(
                    f"video {self.source}: expected frames of {self.size[1]}x{self.size[0]}. Received: {width}x{height}"
                )
            yield seconds, frame
            self._next = self._read()
        # Compared by time, since some files hold fewer, longer frames than rate and duration imply. One is rounding.
        interval = seconds / (count - 1) if count > 1 else 1 / self.frame_rate
        duration = (self.frame_count or 0) / self.frame_rate
        self.ended_early = self._start is not None or duration - seconds > 2.5 * interval

    def _read(self) -> tuple[float, np.ndarray] | None:
        with silent:
            read, frame = self._capture.read()
        if not read:
            return None
        file_time = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        seconds = file_time if self._start is None else time.monotonic() - self._start
        # Some files have no timestamps, or the same for all frames.
        self._seconds = seconds if seconds > self._seconds else self._seconds + 1 / self.frame_rate
        return self._seconds, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def write_video(path: str | os.PathLike, size: tuple[int, int], frame_rate: float) -> Iterator[Callable[..., None]]:
    """Writes a video file, which appears under its name when the block ends without an exception.

    Args:
        path: of the file: .mp4 (MPEG-4) or .avi (Motion JPEG, larger).
        size: (height, width) of the frames. If a side is odd, the last row or column may be left out.
        frame_rate: frames per second, > 0.

    Yields:
        A function that adds a frame, (H, W, 3) uint8 RGB, and takes the time at which it appears, in seconds; without a
        time it follows the frame before. Since the file's rate is constant, a frame is repeated until the next one is
        due, and dropped if that is due at the same time.

    Raises:
        InputError: the suffix is another, OpenCV cannot encode such frames, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in CODECS:
        raise InputError(f"expected {' or '.join(CODECS)} as suffix of a video to write. Received: {path}")
    with atomic_output(path) as temporary:
        codec = cv2.VideoWriter_fourcc(*CODECS[path.suffix.lower()])
        with silent:
            writer = cv2.VideoWriter(opencv_name(temporary), cv2.CAP_FFMPEG, codec, frame_rate, size[::-1])
        if not writer.isOpened():
            raise InputError(
                f"cannot write {path}: expected frames that OpenCV can encode. "
                f"Received: {size[1]}x{size[0]} at {frame_rate:g} a second"
            )
        written, held, place = 0, None, -1

        def write_held(times):
            nonlocal written
            with silent:
                for _ in range(times):
                    writer.write(held)
            written += times

        def add(frame, seconds=None):
            nonlocal held, place
            due = place + 1 if seconds is None else max(place, round(seconds * frame_rate))
            if held is not None:
                write_held(due - place)
            held, place = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), due

        try:
            yield add
            if held is not None:
                write_held(1)
        finally:
            with silent:
                writer.release()
        # The writer does not report a full disk.
        with silent:
            capture = cv2.VideoCapture(opencv_name(temporary), cv2.CAP_FFMPEG)
            readable = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
            capture.release()
        if readable < written:
            raise InputError(f"cannot write {path}: only a part of it could be written; is the disk full?")
