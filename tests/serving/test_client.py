"""The client against a server in this process, and against answers that no server should give."""

import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import local_server
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from local_server import encode

from dekr_tf.cli.main import main
from dekr_tf.errors import InputError
from dekr_tf.poses import Poses
from dekr_tf.serving import client as module
from dekr_tf.serving.client import Client, ServingError, read_answer, read_outputs, read_tensor

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(params=["grpc", "http"])
def url(request, any_size_server):
    return getattr(any_size_server, f"{request.param}_url")


@pytest.fixture(scope="module")
def expected(any_size, photos):
    """The poses of each photo, from the graph itself."""
    function = tf.saved_model.load(str(any_size)).signatures["serving_default"]
    outputs = function(image_bytes=tf.constant([encode(photo) for photo in photos]))
    return [
        Poses(keypoints[:count], scores[:count])
        for keypoints, scores, count in zip(
            *(outputs[name].numpy() for name in ("keypoints", "scores", "num_poses")), strict=True
        )
    ]


def assert_equal(found, expected):
    # REST's decimal digits are those of float32.
    np.testing.assert_allclose(found.keypoints, expected.keypoints, rtol=1e-6)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


def test_poses_are_those_of_the_graph(url, photos, expected):
    with Client(url) as client:
        for photo, poses in zip(photos, expected, strict=True):
            assert_equal(client.detect(photo), poses)
        for found, poses in zip(client.detect_batch([encode(photo) for photo in photos]), expected, strict=True):
            assert_equal(found, poses)
        assert client.detect_batch([]) == []


def test_the_client_loads_no_tensorflow(url, photos, expected):
    program = (
        "import sys, numpy as np\n"
        "from dekr_tf.serving.client import Client\n"
        "with Client(sys.argv[1]) as client: poses = client.detect(sys.stdin.buffer.read())\n"
        "assert not {'tensorflow', 'tensorflow_serving', 'keras'} & sys.modules.keys()\n"
        "np.savez(sys.stdout.buffer, keypoints=poses.keypoints, scores=poses.scores)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, url], input=encode(photos[0]), cwd=ROOT, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr.decode()
    with np.load(io.BytesIO(run.stdout)) as found:
        assert_equal(Poses(**found), expected[0])


def test_a_version_may_be_asked_for(url, photos, expected):
    with Client(url, version=1) as client:
        assert_equal(client.detect(photos[0]), expected[0])
    with Client(url, version=2) as client, pytest.raises(ServingError, match="NOT_FOUND: Servable not found"):
        client.detect(photos[0])


def test_a_model_that_is_not_there(url, photos):
    with Client(url, name="../dekr") as client, pytest.raises(ServingError) as error:
        client.detect(photos[0])
    assert error.value.code == "NOT_FOUND"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "image 0: expected a JPEG or PNG file. Received: an empty one"),
        (b"/etc/passwd", "image 0: expected a JPEG or PNG file. Received: 11 bytes of another kind"),
        (b"\xff\xd8\xff\xe0", "image 0: expected a whole image. Received: a truncated or damaged header"),
    ],
)
def test_a_bad_image_is_refused_with_a_reason(url, content, reason):
    with Client(url) as client, pytest.raises(ServingError) as error:
        client.detect(content)
    assert str(error.value) == f"INVALID_ARGUMENT: {reason}"


@pytest.mark.parametrize("kind", ["grpc_url", "http_url"])
def test_only_the_bad_image_of_a_batch_is_refused(fixed_size_server, photos, kind):
    with Client(getattr(fixed_size_server, kind), name="stick") as client:
        good, bad, also_good = client.detect_batch([photos[0], b"no image", photos[3]])
        assert len(good) and len(also_good)
        assert str(bad) == "INVALID_ARGUMENT: expected a JPEG or PNG file. Received: 8 bytes of another kind"
        with pytest.raises(ServingError, match="8 bytes of another kind"):
            client.detect(b"no image")
        assert_equal(client.detect(photos[3]), also_good)


@pytest.fixture
def quick_retries(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)


def test_it_tries_again_when_the_server_is_unavailable(url, any_size_server, photos, expected, quick_retries):
    before = any_size_server.requests
    any_size_server.unavailable = 3
    with Client(url) as client:
        assert_equal(client.detect(photos[0]), expected[0])
    assert any_size_server.requests - before == 4


def test_a_bad_gateway_is_tried_again(any_size_server, photos, expected, quick_retries, monkeypatch):
    monkeypatch.setitem(local_server.HTTP_STATUS, "UNAVAILABLE", 502)
    before = any_size_server.requests
    any_size_server.unavailable = 3
    with Client(any_size_server.http_url) as client:
        assert_equal(client.detect(photos[0]), expected[0])
    assert any_size_server.requests - before == 4


def test_it_gives_up_after_so_many_tries(url, any_size_server, photos, quick_retries):
    before = any_size_server.requests
    any_size_server.unavailable = 3
    with Client(url, retries=2) as client, pytest.raises(ServingError, match="UNAVAILABLE: the queue is full"):
        client.detect(photos[0])
    assert any_size_server.requests - before == 3


def test_a_bad_image_is_not_sent_again(url, any_size_server):
    before = any_size_server.requests
    with Client(url) as client, pytest.raises(ServingError):
        client.detect(b"x")
    assert any_size_server.requests - before == 1


def test_a_deadline_ends_a_call(url, any_size_server, photos, monkeypatch):
    monkeypatch.setattr(any_size_server, "delay", 1.0)
    with Client(url, timeout=0.1) as client, pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
        client.detect(photos[0])


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_is_not_there(scheme, photos, quick_retries):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{bound.getsockname()[1]}"
        with Client(url, retries=1) as client, pytest.raises(ServingError) as error:
            client.detect(photos[0])
    assert error.value.code == "UNAVAILABLE"


@pytest.mark.parametrize(
    "url", ["localhost:8500", "ftp://h:8500", "grpc://localhost", "http://h:1/path", "http://h:x", "grpc://[::1", ""]
)
def test_a_url_that_does_not_fit(url):
    with pytest.raises(InputError, match="expected grpc://HOST:PORT or http://HOST:PORT"):
        Client(url)


def test_numbers_that_do_not_fit():
    for options in ({"timeout": 0}, {"timeout": float("nan")}, {"retries": -1}, {"version": -1}, {"name": ""}):
        with pytest.raises(InputError, match="Received: "):
            Client("http://localhost:1", **options)


def test_many_at_once_each_get_their_own_answer(url, photos, expected):
    """A tenth of them bad."""
    files = [encode(photo) for photo in photos]

    def ask(index):
        if index % 10 == 9:
            with pytest.raises(ServingError, match="INVALID_ARGUMENT: image 0: expected a whole image"):
                client.detect(files[0][: len(files[0]) // 2])
        else:
            assert_equal(client.detect(files[index % len(files)]), expected[index % len(files)])
        return index

    with Client(url) as client, ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(200))) == sum(range(200))


def answer(**changes):
    arrays = {"keypoints": np.zeros((1, 3, 2, 3), np.float32), "scores": np.zeros((1, 3)), "num_poses": np.array([2])}
    return arrays | changes


def test_a_good_answer():
    (poses,) = read_outputs(answer(), 1)
    assert poses.keypoints.shape == (2, 2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_poses": np.array([4])},
        {"num_poses": np.array([-1])},
        {"num_poses": np.array([1.5])},
        {"num_poses": np.array([1, 1])},
        {"scores": np.zeros((1, 2))},
        {"scores": np.array(["0.5"])},
        {"keypoints": np.zeros((1, 3, 2, 2))},
        {"keypoints": np.zeros((3, 2, 3))},
        {"keypoints": np.full((1, 3, 2, 3), np.nan)},
        {"keypoints": np.full((1, 3, 2, 3), 1e300)},
        {"error": np.zeros(1)},
        {"error": np.array(["", ""])},
    ],
)
def test_an_answer_that_is_none(changes):
    with pytest.raises(ServingError, match="INTERNAL: answer of the server: expected"):
        read_outputs(answer(**changes), 1)


def test_an_output_that_is_missing():
    arrays = answer()
    del arrays["scores"]
    with pytest.raises(ServingError, match="Received: keypoints, num_poses"):
        read_outputs(arrays, 1)


def test_a_reason_cannot_write_to_the_terminal():
    error = read_outputs(answer(error=np.array([b"\x1b[2J\xff bad\nline"], object)), 1)[0]
    assert str(error) == "INVALID_ARGUMENT: [2J\ufffd bad line"


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (200, b"", "expected predictions of 1 images as JSON"),
        (200, b"[" * 100_000, "expected predictions of 1 images as JSON"),
        (200, b'{"predictions": []}', "expected predictions of 1 images as JSON"),
        (200, b'{"predictions": [1]}', "expected predictions of 1 images as JSON"),
        (200, b'{"predictions": [{"scores": [[1], [1, 2]]}]}', "expected arrays of numbers"),
        (200, b'{"predictions": [{"scores": [1.5, true]}]}', "scores holds values that are not finite numbers"),
        (200, b'{"predictions": [{"scores": [1.5, 1e39]}]}', "scores holds values that are not finite numbers"),
        (400, b'{"error": "bad"}', "INVALID_ARGUMENT: bad"),
        (400, b'{"error": {}}', "INVALID_ARGUMENT: HTTP status 400"),
        (302, b"", "UNKNOWN: HTTP status 302"),
        (500, b"<html>", "UNKNOWN: HTTP status 500"),
        (502, b"<html>", "UNAVAILABLE: HTTP status 502"),
        (503, b"x", "UNAVAILABLE: HTTP status 503"),
    ],
)
def test_rest_answers(status, content, message):
    with pytest.raises(ServingError, match=message):
        read_answer(status, content, 1)


def test_a_tensor_that_claims_to_be_huge():
    tensor = tf.make_tensor_proto(1.0)
    for size in (2**30, 2**31, 2**31, 2**31):
        tensor.tensor_shape.dim.add(size=size)
        with pytest.raises(ServingError, match="Received: type 1, shape"):
            read_tensor(tensor)


@pytest.mark.parametrize(
    "values",
    [np.float32([[1.5, 2]]), np.float64([0.1, 0.2, 0.2]), np.int32(7), np.zeros((2, 0)), np.int64([2**40, -1])],
)
def test_tensors_are_read_as_tensorflow_reads_them(values):
    # The second form holds its values one by one, and leaves out what repeats the last one.
    for tensor in (tf.make_tensor_proto(values), tf.make_tensor_proto(values.tolist(), values.dtype)):
        found = read_tensor(tensor)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, tf.make_ndarray(tensor))
    words = tf.make_tensor_proto([b"a", b"\xff", b"\xff"])
    assert read_tensor(words).tolist() == [b"a", b"\xff", b"\xff"]


def test_the_last_value_stands_for_the_rest():
    tensor = tf.make_tensor_proto(np.zeros((2, 3), np.float32))
    tensor.tensor_content = b""
    assert read_tensor(tensor).tolist() == [[0, 0, 0], [0, 0, 0]]
    tensor.float_val.extend([1, 2])
    np.testing.assert_array_equal(read_tensor(tensor), [[1, 2, 2], [2, 2, 2]])
    np.testing.assert_array_equal(read_tensor(tensor), tf.make_ndarray(tensor))
    tensor.float_val.extend(6 * [0])
    with pytest.raises(ServingError, match="expected arrays of numbers"):
        read_tensor(tensor)


def test_a_tensor_of_another_type():
    with pytest.raises(ServingError, match="expected arrays of numbers"):
        read_tensor(tf.make_tensor_proto(True))


def test_an_answer_without_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWER", 1000)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(200_000))
                while connection.recv(2**16):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ServingError, match="it has more than 1000 bytes"):
            client.detect(b"x")
        thread.join()


def test_an_answer_that_drips_ends_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.01)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, timeout=0.3) as client, pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
            client.detect(b"x")
        thread.join()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.sampled_from(["keypoints", "scores", "num_poses", "error"]), values)
    ),
    max_leaves=20,
)


@settings(max_examples=200)
@given(JSON, st.integers(1, 2))
def test_no_json_makes_the_client_fail(values, count):
    content = json.dumps({"predictions": values}).encode()
    try:
        found = read_outputs(read_answer(200, content, count), count)
    except ServingError:
        return
    assert len(found) == count


@settings(max_examples=200)
@given(st.binary(max_size=60), st.sampled_from([200, 400, 503]))
def test_no_bytes_make_the_client_fail(content, status):
    with pytest.raises(ServingError):
        read_answer(status, content, 1)


@settings(max_examples=200)
@given(
    dtype=st.sampled_from([1, 2, 3, 7, 9, 0, 21]),
    shape=st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**40]), max_size=4),
    content=st.binary(max_size=40),
    floats=st.lists(st.floats(width=32), max_size=3),
    integers=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
)
def test_no_tensor_makes_the_client_fail(dtype, shape, content, floats, integers):
    tensor = tf.make_tensor_proto(1.0)
    tensor.Clear()
    tensor.dtype = dtype
    tensor.tensor_content = content
    tensor.float_val.extend(floats)
    tensor.int_val.extend(integers)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    try:
        values = read_tensor(tensor)
    except ServingError:
        return
    assert values.shape == tuple(shape)


@pytest.fixture
def folder(photos, tmp_path):
    for index, photo in enumerate(photos[:3]):
        (tmp_path / f"{index}.png").write_bytes(encode(photo))
    return tmp_path


def test_the_command_draws_and_writes(url, folder, expected, capsys):
    output, drawn = folder / "out" / "poses.json", folder / "drawn"
    command = ["serve-client", *(str(folder / f"{index}.png") for index in range(3)), "--url", url]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(folder / f"{index}.png") for index in range(3)]
    assert f": {len(expected[0])} people, scores 0.2" in lines[0]
    assert main([*command, "--output", str(output), "--draw", str(drawn), "--concurrency", "2"]) == 0
    assert sorted(path.name for path in drawn.iterdir()) == ["0.png", "1.png", "2.png"]
    results = json.loads(output.read_text())
    assert len(results) == sum(map(len, expected[:3]))
    np.testing.assert_allclose(results[0]["keypoints"][:2], expected[0].keypoints[0, 0, :2], atol=1e-3)


def test_the_command_names_the_photos_that_were_refused(url, folder, capsys):
    (folder / "1.png").write_bytes(encode(np.zeros((600, 600, 3), np.uint8)))
    (folder / "bad.bmp").write_bytes(b"x")
    assert main(["serve-client", str(folder), "--url", url]) == 2
    output, errors = capsys.readouterr()
    assert len(output.splitlines()) == 2
    assert f"{folder}/1.png: INVALID_ARGUMENT: image 0: expected at most 262144 pixels. Received: 600x600" in errors
    assert f"{folder}/bad.bmp: image {folder}/bad.bmp: " in errors
    assert "expected photos that can be used. Received: 2 of 4 that cannot" in errors


def test_the_command_ends_when_there_is_no_server(folder, capsys, quick_retries):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert main(["serve-client", str(folder), "--url", url, "--retries", "1"]) == 2
    assert "dekr serve-client: error: UNAVAILABLE" in capsys.readouterr().err


def test_the_command_asks_for_the_models_skeleton(url, folder, capsys):
    command = ["serve-client", str(folder), "--url", url, "--draw", str(folder / "drawn"), "--keypoints", "crowdpose"]
    assert main(command) == 2
    assert "expected poses of the 14 keypoints of crowdpose. Received: poses of 17" in capsys.readouterr().err
