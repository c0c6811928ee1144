"""The example of a KServe server, docs/examples/kserve_server.py: KServe itself, in an environment of its own."""

import base64
import contextlib
import json
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import urllib3
from local_server import encode

from dekr_tf.cli.main import main
from dekr_tf.errors import ServingError
from dekr_tf.serving import Client

ROOT = Path(__file__).parents[2]
KSERVE = ROOT / ".venv" / "kserve" / "bin" / "python"
EXAMPLE = ROOT / "docs" / "examples" / "kserve_server.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not KSERVE.exists(), reason="`make test` installs KServe, which needs Python 3.13 or older"),
]


@contextlib.contextmanager
def serving(folder, log):
    """Starts a server of one model; its URL, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [KSERVE, EXAMPLE, folder, "--model_name", folder.parent.name, "--http_port", str(port)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def urls(any_size, fixed_size, tmp_path_factory):
    """Of servers of the two models; they start at the same time."""
    logs = tmp_path_factory.mktemp("kserve")
    with contextlib.ExitStack() as stack:
        urls = []
        started = [
            (folder, log, *stack.enter_context(serving(folder, log)))
            for folder, log in ((any_size, logs / "any_size"), (fixed_size, logs / "fixed_size"))
        ]
        for folder, log, url, process in started:
            while not is_ready(f"{url}/v1/models/{folder.parent.name}"):
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            urls.append(url)
        yield urls
    assert [process.returncode for *_, process in started] == [0, 0]


def is_ready(url):
    try:
        return json.loads(urllib3.request("GET", url, retries=False).data)["ready"]
    except urllib3.exceptions.HTTPError:
        return False


def post(url, body, content_type="application/json"):
    """The status and the parsed answer."""
    headers = {"Content-Type": content_type}
    # Otherwise `request` waits for three seconds only, and TensorFlow optimizes the graph upon the first request.
    response = urllib3.request("POST", url, body=body, headers=headers, retries=False, timeout=None)
    return response.status, json.loads(response.data)


def instances(files):
    return [{"b64": base64.b64encode(file).decode()} for file in files]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_it_answers_as_tensorflow_serving(urls, any_size_server, fixed_size_server, photos, content_type):
    """Both models; the second says of each photo whether it is bad."""
    files = [encode(photo) for photo in photos]
    for url, server, batch in (
        (urls[0], any_size_server, files),
        (urls[1], fixed_size_server, [files[0], b"no image", *files[1:]]),
    ):
        body = json.dumps({"instances": instances(batch)})
        path = f"/v1/models/{server.name}:predict"
        status, answer = post(url + path, body, content_type)
        assert status == 200, answer
        predictions = post(server.http_url + path, body)[1]["predictions"]
        assert len(answer["predictions"]) == len(predictions) == len(batch)
        for actual, expected in zip(answer["predictions"], predictions, strict=True):
            assert actual.keys() == expected.keys()
            assert actual["num_poses"] == expected["num_poses"]
            assert actual.get("error") == expected.get("error")
            for name in ("keypoints", "scores"):
                np.testing.assert_allclose(actual[name], expected[name], atol=1e-3)
    assert predictions[0]["num_poses"] > 1
    assert predictions[1]["error"] == "expected a JPEG or PNG file. Received: 8 bytes of another kind"


def test_a_bad_photo_is_refused_alone_or_with_its_batch(urls, photos):
    batch = [encode(photos[0]), b"no image", encode(photos[1])]
    reason = "expected a JPEG or PNG file. Received: 8 bytes of another kind"
    with Client(urls[0], name="dekr", timeout=600) as client:
        with pytest.raises(ServingError) as refusal:
            client.detect_batch(batch)
        assert str(refusal.value) == f"INVALID_ARGUMENT: image 1: {reason}"
        assert len(client.detect(batch[0])) > 1
    with Client(urls[1], name="stick", timeout=600) as client:
        first, bad, last = client.detect_batch(batch)
    assert str(bad) == f"INVALID_ARGUMENT: {reason}"
    assert len(first) > 1
    assert len(last) > 1


def test_the_command_works_unchanged(urls, any_size_server, photos, tmp_path, capsys):
    for index, photo in enumerate(photos):
        (tmp_path / f"{index}.png").write_bytes(encode(photo))
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "large.png").write_bytes(encode(np.zeros((600, 600, 3), np.uint8)))
    answers = []
    for url in (urls[0], any_size_server.http_url):
        command = ["serve-client", str(tmp_path), "--url", url, "--name", "dekr", "--timeout", "600"]
        assert main(command) == 2
        answers.append(capsys.readouterr())
    assert answers[0] == answers[1]
    assert len(answers[0].out.splitlines()) == len(photos)
    assert "large.png: INVALID_ARGUMENT: image 0: expected at most 262144 pixels. Received: 600x600" in answers[0].err


FORM = 'expected {"instances": [{"b64": FILE}, ...]}'
BASE64 = 'instance 0: expected {"b64": FILE}, the file in Base64'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("nonsense", "expected JSON. Received: "),
        ("[1]", FORM),
        ('{"instances": 3}', FORM),
        ('{"inputs": {"image_bytes": []}}', FORM),
        ('{"instances": ["photo.jpg"]}', BASE64),
        ('{"instances": [{"image_bytes": "photo.jpg"}]}', BASE64),
        ('{"instances": [{"b64": 3}]}', BASE64),
        ('{"instances": [{"b64": "!"}]}', BASE64),
        ('{"instances": []}', "expected 1 to 32 images. Received: shape [0]"),
        (json.dumps({"instances": 33 * [{"b64": ""}]}), "expected 1 to 32 images. Received: shape [33]"),
        ('{"instances": [], "signature_name": "maps"}', "expected the signature serving_default. Received: maps"),
    ],
)
def test_requests_of_another_form_are_refused_with_a_reason(urls, body, reason):
    status, answer = post(f"{urls[0]}/v1/models/dekr:predict", body, "text/plain")
    assert status == 400
    assert answer["error"].startswith(reason)


def test_a_model_or_a_version_that_is_not_there_is_not_found(urls, photos):
    for model in ({"name": "other"}, {"name": "dekr", "version": 1}):
        with Client(urls[0], **model) as client, pytest.raises(ServingError) as refusal:
            client.detect(photos[0])
        assert refusal.value.code == "NOT_FOUND"


def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path):
    run = subprocess.run([KSERVE, EXAMPLE, tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    # Before it there are TensorFlow's own lines.
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"error: expected a folder of dekr export --serving. Received: {tmp_path}, SavedModel file")
