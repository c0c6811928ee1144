"""Very many photos in shards: lists, object stores, workers that die, runs that are stopped and go on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import fsspec
import numpy as np
import onnx
import pytest
import ray
from onnx import TensorProto, helper, numpy_helper

from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.errors import InputError, WorkerError
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.shards import label_photos, list_photos, predict_shards
from dekr_tf.sidecar import Artifact, Sidecar, write_sidecar

ROOT = Path(__file__).parents[2]


def write_model(path):
    """A network of one keypoint, which finds one person: x is 32 plus 8 times the photo's mean, y is 16."""
    values = {
        "times": np.float32([[[[8, 0]]]]),
        "plus": np.float32([[[[32, 16]]]]),
        "nothing": np.float32(0),
        "center_score": np.float32(0.75),
        "keypoint_score": np.float32(0.5),
        "axes": np.int64([1, 2, 3]),
        "line": np.int64([-1, 1]),
        "cube": np.int64([-1, 1, 1]),
        "four": np.int64([-1, 1, 1, 1]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "four"], ["x"]),
        helper.make_node("Mul", ["x", "times"], ["moved"]),
        helper.make_node("Add", ["moved", "plus"], ["keypoints"]),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "center_score"], ["centers"]),
        helper.make_node("Reshape", ["centers", "line"], ["center_scores"]),
        helper.make_node("Add", ["zero", "keypoint_score"], ["heat"]),
        helper.make_node("Reshape", ["heat", "cube"], ["keypoint_scores"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", "height", "width", 3])]
    shapes = {"keypoints": ["batch", 1, 1, 2], "keypoint_scores": ["batch", 1, 1], "center_scores": ["batch", 1]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "mean", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    config = Config(keypoints={"name": "point", "names": ["point"]}, input_size=64)
    write_sidecar(Sidecar.from_config(config).model_copy(update={"artifact": Artifact(graph="poses")}), path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with `model.onnx` and a folder of five photos, of which one is damaged."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.onnx")
    (tmp_path / "photos").mkdir()
    for index in range(5):
        cv2.imwrite(f"photos/{index}.png", np.full((64, 64 + 8 * index, 3), 50 * index, np.uint8))
    Path("photos/3.png").write_bytes(Path("photos/3.png").read_bytes()[:50])
    return tmp_path


@pytest.fixture(scope="module")
def running_ray():
    """Ray with two processors, which the tests of this file share."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def lines(pattern):
    """The values in the lines of the files that a pattern gives, in the order of their names."""
    return [json.loads(line) for path in sorted(Path().glob(pattern)) for line in path.read_text().splitlines()]


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def in_store(name):
    """The photos under `memory://name/`."""
    store = fsspec.filesystem("memory")
    for path in Path("photos").iterdir():
        store.pipe(f"/{name}/{path.name}", path.read_bytes())
    store.pipe(f"/{name}/deeper/5.png", b"")
    store.pipe(f"/{name}/notes.md", b"")


def test_photos_of_every_kind_of_source(here):
    in_store("kinds")
    Path("list.txt").write_text("\ufeffphotos/4.png\r\nnone.png\n\nmemory://kinds/1.png\nphotos/4.png\nlast.png")
    local, stored = ([f"{start}/{index}.png" for index in range(5)] for start in ("photos", "memory:///kinds"))
    assert list_photos(["photos"]) == local
    assert list_photos(["photos/[24].png", Path("photos/0.png"), "photos"]) == [local[i] for i in (2, 4, 0, 1, 3)]
    assert list_photos(["memory://kinds"]) == list_photos(["memory://kinds/"]) == stored
    assert list_photos(["memory://kinds/*.png"]) == stored
    assert list_photos(["memory://kinds/**/5.png", "memory://kinds/1.png"]) == [
        "memory:///kinds/deeper/5.png",
        stored[1],
    ]
    assert list_photos([f"file://{here}/photos/*.png"]) == [f"file://{here}/{name}" for name in local]
    listed = ["photos/4.png", "none.png", "memory://kinds/1.png", "last.png"]
    assert list_photos(["list.txt"]) == listed
    fsspec.filesystem("memory").pipe("/lists/list.txt", Path("list.txt").read_bytes())
    assert list_photos(["photos/4.png", "memory://lists/list.txt"]) == listed


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none", "expected an image file, a folder of images or a pattern. Received: none"),
        ("none.txt", "cannot read none.txt: No such file or directory"),
        ("empty.txt", "expected an image file, a folder of images, a pattern or a list. Received: empty.txt"),
        ("memory://none", "expected an image file, a folder of images, a pattern or a list. Received: memory://none"),
        ("memory://none.txt", "cannot read memory://none.txt: FileNotFoundError /none.txt"),
        ("nowhere://photos", "cannot read nowhere://photos: ValueError Protocol not known: nowhere"),
        ("listed.txt", "cannot read addresses with nowhere://: Protocol not known: nowhere"),
    ],
)
def test_sources_without_photos_are_refused(here, source, message):
    Path("empty.txt").write_text("\n")
    Path("listed.txt").write_text("photos/1.png\nnowhere://bucket/1.png\n")
    with pytest.raises(InputError, match=f"^{message}"):
        list_photos([source])


def test_each_photo_has_one_line(here):
    in_store("lines")
    detector = PoseDetector("model.onnx", threads=1)
    photos = ["photos/0.png", "photos/3.png", "memory://lines/0.png", "memory://lines/3.png", "memory://lines/9.png"]
    (local, stored), bad = label_photos(detector, photos)
    # The photo is black, so the mean is that of -mean / std over the channels.
    x = 32 - 8 * np.mean(np.array([0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    assert (local["file_name"], stored["file_name"]) == ("photos/0.png", "memory://lines/0.png")
    assert local["poses"] == stored["poses"]
    (person,) = local["poses"]
    assert person["keypoints"] == pytest.approx([x, 16, 0.5], abs=0.01)
    assert (person["score"], person["category_id"]) == (0.5, 1)
    assert [each["file_name"] for each in bad] == [photos[1], *photos[3:]]
    assert [each["reason"] for each in bad] == [
        "image photos/3.png: expected a whole image. Received: a truncated or damaged file, 50 bytes",
        "image memory://lines/3.png: expected a whole image. Received: a truncated or damaged file, 50 bytes",
        "cannot read memory://lines/9.png: FileNotFoundError /lines/9.png",
    ]


@pytest.mark.slow
def test_shards_hold_what_the_plain_loop_finds(here, running_ray):
    photos = list_photos(["photos/[01].png", f"file://{here}/photos/", "photos"])
    assert predict_shards(photos, "made", "model.onnx", shard_size=4) == 2
    names = [f"{kind}-0000{number}-of-00003.jsonl" for kind in ("bad", "poses") for number in range(3)]
    # Photos 0 to 3, 4 to 7 and 8 to 9, where the damaged ones are 5 and 8.
    assert sorted(contents("made")) == [
        "bad-00001-of-00003.jsonl",
        "bad-00002-of-00003.jsonl",
        "manifest.json",
        *names[3:],
    ]
    found, bad = label_photos(PoseDetector("model.onnx", threads=1), photos, str(here))
    assert (lines("made/poses-*"), len(found)) == (found, 8)
    assert [each["file_name"] for each in lines("made/bad-*")] == [each["file_name"] for each in bad]
    assert [len(lines(f"made/{name}")) for name in names[3:]] == [4, 3, 1]


@pytest.mark.slow
def test_finished_shards_are_not_made_again(here, running_ray):
    photos = list_photos(["photos"])
    assert predict_shards(photos, "made", "model.onnx", shard_size=2) == 1
    complete = contents("made")
    Path("made/poses-00000-of-00003.jsonl").write_text("as it was\n")
    Path("made/poses-00001-of-00003.jsonl").unlink()
    assert predict_shards(photos, "made", "model.onnx", shard_size=2, workers=1) == 1
    assert contents("made") == complete | {"poses-00000-of-00003.jsonl": b"as it was\n"}
    # Of a shard that is made again, a photo may be whole by now.
    cv2.imwrite("photos/3.png", np.zeros((64, 64, 3), np.uint8))
    Path("made/poses-00001-of-00003.jsonl").unlink()
    assert predict_shards(photos, "made", "model.onnx", shard_size=2) == 0
    assert contents("made").keys() == complete.keys() - {"bad-00001-of-00003.jsonl"}
    assert len(lines("made/poses-00001-*")) == 2


def open_pipe(path, killed=(), ended=None):
    """Waits until a process reads from a pipe, other than those killed, and returns the end to write to and it.

    Returns two None if the event `ended` is set before.
    """
    deadline = time.monotonic() + 120
    while True:
        try:
            end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:
            if ended and ended.is_set():
                return None, None
            assert time.monotonic() < deadline, "no worker reads the photo"
            time.sleep(0.05)
    while True:
        if ended and ended.is_set():
            os.close(end)
            return None, None
        for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                found = os.readlink(descriptor) == str(path.absolute()) and int(descriptor.parts[2])
            except OSError:
                continue
            if found and found not in (os.getpid(), *killed):
                return end, found


def write_photo(end, content):
    os.set_blocking(end, True)
    with open(end, "wb") as file:
        file.write(content)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds the worker in /proc")
def test_a_killed_worker_changes_nothing(here, running_ray):
    expected = label_photos(PoseDetector("model.onnx", threads=1), list_photos(["photos"]), str(here))
    content = Path("photos/2.png").read_bytes()
    Path("photos/2.png").unlink()
    os.mkfifo("photos/2.png")

    def kill_the_reader():
        end, first = open_pipe(Path("photos/2.png"))
        os.kill(first, signal.SIGKILL)
        os.close(end)
        end, _ = open_pipe(Path("photos/2.png"), killed=[first])
        write_photo(end, content)

    with ThreadPoolExecutor() as pool:
        done = pool.submit(kill_the_reader)
        assert predict_shards([f"photos/{index}.png" for index in range(5)], "made", "model.onnx", shard_size=4) == 1
        done.result()
    assert (lines("made/poses-*"), lines("made/bad-*")) == expected


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds the worker in /proc")
def test_a_photo_that_no_worker_survives_ends_the_run(here, running_ray):
    Path("photos/2.png").unlink()
    os.mkfifo("photos/2.png")

    killed, ended = [], threading.Event()

    def kill_the_readers():
        while not ended.is_set():
            end, reader = open_pipe(Path("photos/2.png"), killed, ended)
            if reader:
                os.kill(reader, signal.SIGKILL)
                os.close(end)
                killed.append(reader)

    with ThreadPoolExecutor() as pool:
        done = pool.submit(kill_the_readers)
        with pytest.raises(WorkerError, match="workers cannot go on, but the same call continues"):
            predict_shards(["photos/0.png", "photos/2.png"], "made", "model.onnx", shard_size=1, workers=1)
        ended.set()
        done.result()
    assert 2 <= len(killed) <= 9
    assert contents("made").keys() == {"manifest.json", "poses-00000-of-00002.jsonl"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds the worker in /proc")
def test_a_run_that_was_stopped_goes_on(here, running_ray):
    photos = list_photos(["photos"])
    expected = label_photos(PoseDetector("model.onnx", threads=1), photos, str(here))
    content = Path("photos/4.png").read_bytes()
    Path("photos/4.png").unlink()
    os.mkfifo("photos/4.png")
    words = ["predict", *photos, "--model", "model.onnx", "--shards", "made", "--shard-size", "2", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dekr_tf", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end, _ = open_pipe(Path("photos/4.png"))
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    os.close(end)
    # Ray may log before it that a task was lost.
    assert (process.returncode, errors.splitlines()[-1]) == (143, "dekr predict: interrupted")
    assert "Traceback" not in errors
    names = {"bad-00001-of-00003.jsonl", "manifest.json", "poses-00000-of-00003.jsonl", "poses-00001-of-00003.jsonl"}
    assert contents("made").keys() == names
    Path("photos/4.png").unlink()
    Path("photos/4.png").write_bytes(content)
    Path("photos/0.png").write_bytes(b"")  # It has been looked at.
    assert main(words) == 2
    assert (lines("made/poses-*"), lines("made/bad-*")) == expected


@pytest.mark.slow
def test_another_list_or_other_settings_are_refused(here, running_ray, monkeypatch):
    photos = list_photos(["photos"])
    options = {"shard_size": 2, "nms_threshold": 0.1, "scales": (1.0,)}
    predict_shards(photos, "made", "model.onnx", **options)
    before = contents("made")

    def refused(photos=photos, **changes):
        with pytest.raises(InputError) as caught:
            predict_shards(photos, here / "made", here / "model.onnx", **options | changes)
        start = f"expected the photos and settings that {here}/made/manifest.json was written for, or another folder. "
        assert str(caught.value).startswith(start)
        return str(caught.value).removeprefix(start)

    assert refused(photos[:-1]) == "Received: another photos"
    assert refused(photos[::-1]) == "Received: another photos"
    assert refused(shard_size=3, nms_threshold=0.2) == "Received: another shard_size, nms_threshold"
    assert refused(scales=(1.0, 0.5), flip=True) == "Received: another scales, flip"
    monkeypatch.chdir("photos")
    assert refused() == "Received: another photos"
    monkeypatch.chdir(here)
    with open("model.onnx", "ab") as file:
        file.write(b" ")
    assert refused() == "Received: another model"
    assert contents("made") == before


@pytest.mark.slow
def test_what_cannot_work_writes_nothing(here, running_ray):
    Path("taken").mkdir()
    Path("taken/poses.json").touch()
    Path("broken.onnx").write_bytes(b"no network")
    Path("broken.onnx.json").write_bytes(Path("model.onnx.json").read_bytes())
    photos = list_photos(["photos"])
    for arguments, options, message in [
        (("taken", "model.onnx"), {}, "expected a new or empty folder, or one with a manifest.json. Received: taken"),
        (("model.onnx", "model.onnx"), {}, "cannot write model.onnx/manifest.json: expected a folder"),
        (("made", "model.onnx"), {"workers": 0}, "workers: expected 1 or more. Received: 0"),
        (("made", "model.onnx"), {"shard_size": -1}, "shard size: expected 1 or more. Received: -1"),
        (
            ("made", "model.onnx"),
            {"shard_size": 1, "workers": 3},
            "workers: expected at most 2, one for each processor",
        ),
        (("made", "model.onnx"), {"flip": True}, "expected a model that was exported with --flip"),
        (("made", "broken.onnx"), {}, "[^ ]*broken.onnx is no ONNX model that can be run"),
        (("made", "none.onnx"), {}, "no such model: none.onnx"),
    ]:
        with pytest.raises(InputError, match=f"^{message}"):
            predict_shards(photos, *arguments, **options)
    assert contents("taken") == {"poses.json": b""}
    assert not Path("made").exists()


@pytest.mark.slow
def test_the_command_line_starts_ray_and_stops_it(here, capfd, monkeypatch):
    ray.shutdown()  # That of the other tests.
    handler = signal.getsignal(signal.SIGTERM)
    words = ["predict", "photos", "--model", "model.onnx", "--shards", "made", "--workers", "2", "--shard-size", "3"]
    line = "dekr predict: error: expected photos that can be used. Received: 1 of 5 that cannot, see made/bad-*.jsonl"

    def printed():
        out, errors = capfd.readouterr()
        # gRPC, if other tests of this process have used it, reports every fork.
        return out, [each for each in errors.splitlines() if "fork_posix" not in each]

    for _ in range(2):
        assert main(words) == 2
        assert printed() == ("", [line])
        assert not ray.is_initialized()
    expected = label_photos(PoseDetector("model.onnx", threads=1), list_photos(["photos"]), str(here))
    assert (lines("made/poses-*"), lines("made/bad-*")) == expected
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:1")
    assert main(words) == 2
    assert printed() == ("", [line])  # All shards are there.
    assert main([*words[:-1], "2"]) == 2
    assert "Received: another shard_size" in printed()[1][-1]
