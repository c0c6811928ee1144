"""`dekr predict` of videos and cameras with a stand-in for the network."""

import csv
import json
import os
import re
import signal

import cv2
import numpy as np
import pytest

from dekr_tf.cli import main as command_line
from dekr_tf.config import Config
from dekr_tf.files.video import VideoReader, write_video
from dekr_tf.inference.candidates import MapDecoder
from dekr_tf.inference.engines import FunctionEngine
from dekr_tf.sidecar import Sidecar

SKELETON = {"name": "pair", "names": ["head", "foot"], "edges": [["head", "foot"]], "oks_sigmas": [0.1, 0.1]}


def bright_columns(images):
    """A person of score 0.4 in every bright column of cells, from row 4 to row 12; and a weak one in the corner."""
    batch, height, width, _ = images.shape
    heatmap = np.full((batch, height // 4, width // 4, 3), 0.5, np.float32)
    heatmap[..., -1] = 0
    offset = np.zeros((batch, height // 4, width // 4, 4), np.float32)
    for index in range(batch):
        for column in np.flatnonzero(images[index, height // 2, ::4, 1] > 1):
            heatmap[index, 8, column, -1] = 0.8
            offset[index, 8, column] = 0, 4, 0, -4
    heatmap[:, 0, 0, -1] = 0.02
    return heatmap, offset


def made_frame(*columns):
    frame = np.zeros((64, 128, 3), np.uint8)
    for column in columns:
        frame[:, 4 * column : 4 * column + 4] = 255
    return frame


#: Two people come towards each other; the second is not to be seen in the middle.
FRAMES = [made_frame(4, 28), made_frame(5, 27), made_frame(6), made_frame(7, 26)]


@pytest.fixture
def predict(tmp_path, monkeypatch, capfd):
    """Runs `dekr predict` in a folder with a video of `FRAMES`; returns exit code, output and errors."""

    def open_model(model, sidecar, config, *, flip, **options):
        sidecar = Sidecar.from_config(Config(keypoints=SKELETON, input_size=64))
        return MapDecoder(FunctionEngine(bright_columns), sidecar, flip), sidecar

    monkeypatch.setattr("dekr_tf.inference.detector.open_model", open_model)
    monkeypatch.setattr(command_line, "VERBS", ("predict",))
    monkeypatch.chdir(tmp_path)
    with write_video("clip.avi", (64, 128), 20.0) as add:
        for frame in FRAMES:
            add(frame)
    (tmp_path / "model.keras").touch()

    def run(*arguments):
        code = command_line.main(["predict", *arguments, "--model", "model.keras"])
        return code, *capfd.readouterr()

    return run


LAST_LINE = re.compile(r"clip\.avi: 4 frames, [\d.]+ frames/s")


def test_prints_a_line_a_frame(predict):
    code, output, errors = predict("clip.avi")
    assert (code, errors) == (0, "")
    *lines, last = output.splitlines()
    two, one = "2 people, scores 0.40 0.40", "1 person, scores 0.40"
    assert lines == [f"clip.avi frame {index}: {people}" for index, people in enumerate((two, two, one, two))]
    assert LAST_LINE.fullmatch(last)


def test_json_by_frame(predict, tmp_path):
    code, output, errors = predict("clip.avi", "--output", "poses.json", "--track")
    assert (code, errors) == (0, "")
    assert LAST_LINE.match(output) and output.endswith("people followed: 2\n")
    content = json.loads((tmp_path / "poses.json").read_text())
    frames = content.pop("frames")
    assert content == {
        "source": "clip.avi",
        "width": 128,
        "height": 64,
        "frame_rate": 20.0,
        "keypoints": ["head", "foot"],
    }
    assert [(frame["frame"], frame["time"]) for frame in frames] == [(0, 0), (1, 0.05), (2, 0.1), (3, 0.15)]
    tracks = [{pose["keypoints"][0]: pose["track_id"] for pose in frame["poses"]} for frame in frames]
    first, second = tracks[0][16], tracks[0][112]
    assert {first, second} == {1, 2}
    # The weak one in the corner has no number.
    assert tracks == [
        {16: first, 112: second, 0: None},
        {20: first, 108: second, 0: None},
        {24: first, 0: None},
        {28: first, 104: second, 0: None},
    ]
    pose = min(frames[0]["poses"], key=lambda each: each["keypoints"][0] != 16)
    assert pose == {"track_id": first, "category_id": 1, "keypoints": [16, 16, 0.4, 16, 48, 0.4], "score": 0.4}


def test_csv_has_a_row_a_person(predict, tmp_path):
    assert predict("clip.avi", "--output", "poses.csv", "--frames", "3")[0] == 0
    head, *rows = csv.reader((tmp_path / "poses.csv").read_text().splitlines())
    assert ",".join(head) == "frame,time,track_id,score,head_x,head_y,head_score,foot_x,foot_y,foot_score"
    assert [row[:4] for row in rows if row[3] == "0.4"] == [
        ["0", "0.0", "", "0.4"],
        ["0", "0.0", "", "0.4"],
        ["1", "0.05", "", "0.4"],
        ["1", "0.05", "", "0.4"],
        ["2", "0.1", "", "0.4"],
    ]
    assert rows[-2][4:] == ["24.0", "16.0", "0.4", "24.0", "48.0", "0.4"]
    assert len(rows) == 8


@pytest.mark.parametrize(("draw", "drawn"), [("a.mp4", "a.mp4"), ("a.avi", "a.avi"), ("folder", "folder/clip.mp4")])
def test_drawn_video(predict, tmp_path, draw, drawn):
    assert predict("clip.avi", "--draw", draw)[0] == 0
    with VideoReader(tmp_path / drawn) as video:
        assert (video.size, video.frame_rate) == ((64, 128), 20.0)
        drawings = [frame for _, frame in video]
    assert len(drawings) == 4
    for drawing, frame in zip(drawings, FRAMES, strict=True):
        changed = np.abs(drawing.astype(int) - frame).max(axis=-1) > 100
        # Dots on the feet, in the color of the person.
        bright = np.flatnonzero(frame[32, ::4, 0])
        assert all(changed[44:52, 4 * column - 4 : 4 * column + 6].any() for column in bright)
        assert not changed[54:].any()


def test_a_video_that_ends_early_is_said_and_kept(predict, tmp_path):
    with write_video("long.avi", (64, 128), 20.0) as add:
        for _ in range(20):
            add(FRAMES[0])
    data = (tmp_path / "long.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: [match.start() for match in re.finditer(b"00dc", data)][8]])
    code, _, errors = predict("cut.avi", "--output", "poses.json")
    assert code == 0
    assert re.fullmatch(r"dekr predict: warning: cut\.avi ends early, after [78] of 20 frames\n", errors)
    assert len(json.loads((tmp_path / "poses.json").read_text())["frames"]) in (7, 8)
    assert predict("cut.avi", "--frames", "5")[2] == ""


class Camera:
    """Gives frames without end; presses ctrl-C at the third."""

    def __init__(self, source):
        assert source == 0
        self.count = 0

    def isOpened(self):
        return True

    def set(self, *_):
        return True

    def get(self, property):
        return 10.0 if property == cv2.CAP_PROP_FPS else -1.0

    def read(self):
        self.count += 1
        if self.count == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return True, made_frame(4)

    def release(self):
        pass


def test_camera_until_ctrl_c(predict, tmp_path, monkeypatch):
    monkeypatch.setattr("cv2.VideoCapture", Camera)
    before = signal.getsignal(signal.SIGINT)
    code, output, errors = predict("camera:0", "--output", "poses.json", "--track")
    assert (code, errors) == (0, "")
    assert re.fullmatch(r"camera:0: 3 frames, [\d.]+ frames/s, people followed: 1\n", output)
    assert len(json.loads((tmp_path / "poses.json").read_text())["frames"]) == 3
    assert signal.getsignal(signal.SIGINT) is before


class SlowReader(VideoReader):
    """A camera of 10 frames a second, of which two are read in a second."""

    def __init__(self, source):
        self.source, self.size, self.frame_rate, self.frame_count = source, (64, 128), 10.0, None
        self.ended_early = True

    def __iter__(self):
        yield from zip((0.0, 0.5, 1.0), FRAMES, strict=False)

    def __exit__(self, *_):
        pass


def test_video_of_a_camera_is_as_fast_as_life(predict, tmp_path, monkeypatch):
    monkeypatch.setattr("dekr_tf.files.video.VideoReader", SlowReader)
    code, _, errors = predict("camera:0", "--draw", ".")
    assert (code, errors) == (0, "dekr predict: warning: camera:0 ends early, after 3 frames\n")
    monkeypatch.undo()
    with VideoReader(tmp_path / "camera_0.mp4") as video:
        assert video.frame_rate == 10.0
        middles = [frame[20, ::4].mean(axis=1) for _, frame in video]
    assert len(middles) == 11
    assert [tuple(np.flatnonzero(middle > 128)) for middle in middles] == 5 * [(4, 28)] + 5 * [(5, 27)] + [(6,)]


def variable_video(path, frames, milliseconds):
    """A Matroska file of Motion JPEG, whose frames come at the given times."""

    def element(name, content):
        if isinstance(content, int):
            content = content.to_bytes(4, "big")
        return bytes.fromhex(name) + (len(content) | 1 << 28).to_bytes(4, "big") + content

    height, width = frames[0].shape[:2]
    head = element("1a45dfa3", element("4282", b"matroska"))
    info = element("1549a966", element("2ad7b1", 1_000_000))
    size = element("e0", element("b0", width) + element("ba", height))
    track = element("d7", 1) + element("73c5", 1) + element("83", 1) + element("86", b"V_MJPEG") + size
    blocks = b"".join(
        element("a3", b"\x81" + time.to_bytes(2, "big") + b"\x80" + cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes())
        for frame, time in zip(frames, milliseconds, strict=True)
    )
    cluster = element("1f43b675", element("e7", 0) + blocks)
    path.write_bytes(head + element("18538067", info + element("1654ae6b", element("ae", track)) + cluster))


def test_a_drawn_video_is_as_fast_as_one_of_variable_rate(predict, tmp_path):
    times = [0, 100, 200, 1200, 1250, 1300, 2700]
    columns = range(2, 30, 4)
    variable_video(tmp_path / "phone.mkv", [made_frame(column) for column in columns], times)
    assert predict("phone.mkv", "--output", "poses.json", "--draw", "drawn.avi")[0] == 0
    frames = json.loads((tmp_path / "poses.json").read_text())["frames"]
    assert [frame["time"] for frame in frames] == [time / 1000 for time in times]
    with VideoReader(tmp_path / "drawn.avi") as video:
        shown = [(seconds, frame[20, ::4].mean(axis=1).argmax()) for seconds, frame in video]
        assert shown[-1][0] == pytest.approx(2.7, abs=1 / video.frame_rate)
        for seconds, column in shown:
            # What is seen is what the source shows at this time, or within a frame of it.
            near = [
                column
                for column, start, end in zip(columns, times, [*times[1:], 9999], strict=True)
                if start / 1000 - 1 / video.frame_rate <= seconds <= end / 1000 + 1 / video.frame_rate
            ]
            assert column in near


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["none.mp4"], "none.mp4"),
        (["text.mp4"], "text.mp4"),
        (["empty.avi"], "no frame can be read"),
        (["camera:9876"], "camera:9876"),
        (["clip.avi", "clip.avi"], "one video or camera alone"),
        (["clip.avi", "photo.jpg"], "one video or camera alone"),
        (["clip.avi", "--frames", "0"], "--frames: expected a positive number. Received: 0"),
        (["clip.avi", "--output", "poses.txt"], "poses.txt"),
        (["clip.avi", "--draw", "drawn.gif"], "drawn.gif"),
        (["clip.avi", "--draw", "clip.avi"], "no input of the same command. Received: clip.avi"),
        (["photo.jpg", "--track"], "--track and --frames are for a video or a camera. Received: photo.jpg"),
        (["photo.jpg", "--frames", "3"], "--track and --frames are for a video or a camera. Received: photo.jpg"),
        (["long.avi", "--draw", "drawn.mp4"], "long.avi: image too elongated"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(predict, tmp_path, arguments, named):
    (tmp_path / "text.mp4").write_text("no video")
    cv2.imwrite("photo.jpg", made_frame())
    cv2.VideoWriter("empty.avi", cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (64, 48)).release()
    with write_video("long.avi", (2, 4000), 20.0) as add:
        add(np.zeros((2, 4000, 3), np.uint8))
    before = sorted(tmp_path.rglob("*"))
    code, output, errors = predict(*arguments, *([] if "--output" in arguments else ["--output", "poses.json"]))
    assert (code, output) == (2, "")
    assert errors.startswith("dekr predict: error: ") and errors.count("\n") == 1
    assert named in errors
    assert sorted(tmp_path.rglob("*")) == before
