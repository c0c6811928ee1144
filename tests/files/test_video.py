"""Videos written and read again, and what is said of files and cameras that give none."""

import os
import re

import cv2
import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.files.video import VideoReader, is_camera, is_video, write_video


def frames(count, height=48, width=64):
    """A white square that moves 4 pixels to the right with every frame, on gray that gets lighter."""
    for index in range(count):
        frame = np.full((height, width, 3), 4 * index, np.uint8)
        frame[16:32, 4 * index : 4 * index + 8] = (250, 120, 20)
        yield frame


def write(path, count, height=48, width=64):
    with write_video(path, (height, width), 20.0) as add:
        for frame in frames(count, height, width):
            add(frame)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".MP4"])
def test_round_trip(tmp_path, suffix):
    path = write(tmp_path / f"made{suffix}", 10)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with VideoReader(path) as video:
        assert (video.size, video.frame_rate, video.frame_count) == ((48, 64), 20.0, 10)
        times, found = zip(*video, strict=True)
        assert not video.ended_early
    np.testing.assert_allclose(times, np.arange(10) / 20, atol=1e-3)
    for frame, expected in zip(found, frames(10), strict=True):
        assert frame.dtype == np.uint8 and frame.shape == (48, 64, 3)
        # The codecs halve the resolution of colors.
        assert np.abs(frame.astype(int) - expected).mean() < 6
    # The last frame's square, in its own color and no other order of channels.
    np.testing.assert_allclose(found[-1][20:28, 38:42].mean(axis=(0, 1)), (250, 120, 20), atol=30)


def test_odd_sides_lose_their_last_row_or_column(tmp_path):
    for suffix in (".mp4", ".avi"):
        with VideoReader(write(tmp_path / f"odd{suffix}", 2, height=47, width=63)) as video:
            for _, frame in video:
                assert frame.shape[0] in (46, 47) and frame.shape[1] in (62, 63)


def test_a_video_that_ends_early_gives_the_frames_that_are_there(tmp_path, capfd):
    data = write(tmp_path / "whole.avi", 20).read_bytes()
    # After the headers come 20 frames, each with its mark.
    (tmp_path / "cut.avi").write_bytes(data[: [match.start() for match in re.finditer(b"00dc", data)][8]])
    with VideoReader(tmp_path / "cut.avi") as video:
        assert video.frame_count == 20
        # The last one waits in the decoder for its successor.
        assert len(list(video)) in (7, 8)
        assert video.ended_early
    assert capfd.readouterr() == ("", "")


def empty_video(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (64, 48))
    writer.release()


def test_a_video_without_frames(tmp_path):
    empty_video(tmp_path / "none.avi")
    with pytest.raises(InputError, match=r"none\.avi: no frame can be read"):
        VideoReader(tmp_path / "none.avi")


@pytest.mark.parametrize("content", [b"", b"not a video", None])
def test_what_is_no_video(tmp_path, capfd, content):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"expected a video file\. Received: .*clip\.mp4"):
        VideoReader(path)
    assert capfd.readouterr() == ("", "")


def test_a_camera_that_is_not_there(capfd):
    with pytest.raises(InputError, match=r"expected a camera that can be opened.* Received: camera:9876"):
        VideoReader("camera:9876")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("source", "video", "camera"),
    [
        ("camera:0", True, True),
        ("clip.MOV", True, False),
        ("some/clip.mp4", True, False),
        ("photo.jpg", False, False),
        ("camera", False, False),
        ("camera:x", False, False),
        ("photos", False, False),
    ],
)
def test_kinds_of_sources(source, video, camera):
    assert (is_video(source), is_camera(source)) == (video, camera)


def test_nothing_is_left_of_a_video_that_fails(tmp_path):
    def fail():
        with write_video(tmp_path / "made.mp4", (48, 64), 20.0) as add:
            add(next(frames(1)))
            raise InputError("it fails")

    with pytest.raises(InputError, match="it fails"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_refused_before_the_work(tmp_path):
    with (
        pytest.raises(InputError, match=r"\.mp4 or \.avi.* Received: .*made\.gif"),
        write_video(tmp_path / "made.gif", (48, 64), 20.0),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_frame_without_pixels_cannot_be_encoded(tmp_path):
    with (
        pytest.raises(InputError, match="Received: 0x48 at 20 a second"),
        write_video(tmp_path / "a.mp4", (48, 0), 20.0),
    ):
        raise AssertionError


def test_a_file_that_is_cut_off_is_not_taken_for_written(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    rng = np.random.default_rng(0)

    def write_noise():
        with write_video(tmp_path / "noise.avi", (128, 128), 20.0) as add:
            for _ in range(30):
                add(rng.integers(0, 255, (128, 128, 3), np.uint8))

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*noise\.avi"):
            write_noise()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / os.fsdecode(b"stra\xdfe.avi")
    path.touch()
    with pytest.raises(InputError, match=r"^expected a file name in UTF-8. Received: '.*stra\\udcdfe\.avi'$"):
        VideoReader(path)
    with pytest.raises(InputError, match="expected a file name in UTF-8"), write_video(path, (4, 4), 25.0):
        pytest.fail("the block must not run")


def test_too_large_frames_are_refused(tmp_path, monkeypatch):
    with write_video(tmp_path / "clip.avi", (48, 64), 25.0) as add:
        add(np.zeros((48, 64, 3), np.uint8))
    monkeypatch.setattr("dekr_tf.files.images.MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(
        InputError, match=r"clip\.avi: expected at most 3071 pixels\. Received: 48x64 \(height x width\)$"
    ):
        VideoReader(tmp_path / "clip.avi")
