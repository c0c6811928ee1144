"""Downloads from a server on this machine: whole, broken off, wrong, refused."""

import hashlib
import os
import resource
import socket

import numpy as np
import pytest
from file_server import FileServer, running

from dekr_tf.errors import InputError
from dekr_tf.files import download as module
from dekr_tf.files.download import download

CONTENT = np.random.default_rng(0).bytes(50_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running(FileServer({"/model.pth": CONTENT})) as server:
        yield server


@pytest.fixture
def fetch(server, tmp_path):
    """Downloads the file of the server."""

    def fetch(path="/model.pth", sha256=SHA256[:8]):
        download(server.url + path, tmp_path / "model.pth", sha256)

    return fetch


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("digits", [8, 64])
def test_a_whole_file(fetch, tmp_path, capfd, digits):
    fetch(sha256=SHA256[:digits])
    assert (tmp_path / "model.pth").read_bytes() == CONTENT
    assert names(tmp_path) == ["model.pth"]
    assert capfd.readouterr() == ("", "")


def test_a_broken_off_download_goes_on(server, fetch, tmp_path):
    server.cut = 20_000
    for received in (20_000, 40_000):
        with pytest.raises(InputError, match=f"expected 50000 bytes. Received: {received}, .* goes on from there$"):
            fetch()
        assert names(tmp_path) == ["model.pth.part"]
    fetch()
    assert (tmp_path / "model.pth").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=20000-", "bytes=40000-"]
    assert names(tmp_path) == ["model.pth"]


def test_a_server_without_parts_sends_the_whole_again(server, fetch, tmp_path):
    (tmp_path / "model.pth.part").write_bytes(b"something else")
    server.ranges = False
    fetch()
    assert (tmp_path / "model.pth").read_bytes() == CONTENT


def test_a_part_that_is_whole_already(server, fetch, tmp_path):
    (tmp_path / "model.pth.part").write_bytes(CONTENT)
    fetch()
    assert (tmp_path / "model.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("begun", [False, True])
def test_wrong_bytes_are_refused_and_not_kept(server, fetch, tmp_path, begun):
    if begun:
        (tmp_path / "model.pth.part").write_bytes(bytes(10_000))
    else:
        server.files["/model.pth"] = CONTENT[:-1] + b"?"
    with pytest.raises(InputError, match=f"expected a file whose SHA-256 begins with {SHA256[:8]}. Received: [0-9a-f]"):
        fetch()
    assert names(tmp_path) == []


def test_redirects_are_followed(server, fetch, tmp_path):
    server.redirects["/old.pth"] = "/model.pth"
    fetch("/old.pth")
    assert (tmp_path / "model.pth").read_bytes() == CONTENT


def test_a_slow_server(server, fetch, tmp_path):
    server.pause = 0.002
    fetch()
    assert (tmp_path / "model.pth").read_bytes() == CONTENT


def test_a_server_that_falls_silent(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    server.pause = 1
    server.files["/model.pth"] = CONTENT[:2000]
    with pytest.raises(InputError, match=r"Received: \d+, timed out; the same command goes on from there$"):
        fetch()
    assert names(tmp_path) == ["model.pth.part"]


def test_a_file_that_is_not_there(fetch, tmp_path):
    with pytest.raises(InputError, match=r"/gone.pth: expected a file. Received: 404 Not Found$"):
        fetch("/gone.pth")
    assert names(tmp_path) == []


@pytest.mark.parametrize("begun", [False, True])
def test_no_network(tmp_path, begun, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    if begun:
        (tmp_path / "model.pth.part").write_bytes(CONTENT[:100])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # Nobody listens.
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/model.pth"
        with pytest.raises(InputError, match=r"^cannot reach http://.*/model.pth: .*refused"):
            download(url, tmp_path / "model.pth", SHA256)
    # What had come before is still there.
    assert names(tmp_path) == (["model.pth.part"] if begun else [])


def test_a_full_disk(fetch, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"^cannot write .*model.pth: File too large$"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "model.pth").exists()
    fetch()
    assert (tmp_path / "model.pth").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written(server, tmp_path):
    os.mkdir(tmp_path / "model.pth.part")
    with pytest.raises(InputError, match=r"^cannot write .*model.pth: Is a directory$"):
        download(f"{server.url}/model.pth", tmp_path / "model.pth", SHA256)
