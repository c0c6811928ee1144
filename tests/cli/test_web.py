"""`dekr web` with files that stand for models and npm packages; `make test-web` opens the page in Chromium."""

import json
import os
import threading
import urllib.request
import zipfile
from functools import partial
from pathlib import Path

import pytest

from dekr_tf.cli import web_site
from dekr_tf.cli.main import main
from dekr_tf.cli.web_command import IsolatedHandler, open_server
from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.sidecar import Artifact, Sidecar, to_json, write_sidecar


def sidecar(graph="poses", **changes):
    artifact = Artifact(graph=graph, input_sizes=((64, 96),), **changes)
    return Sidecar.from_config(Config()).model_copy(update={"artifact": artifact})


def model(path, graph="poses"):
    """A file that begins as a network does and carries its settings."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x1c\0\0\0TFL3 network")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("sidecar.json", to_json(sidecar(graph)))
    return path


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A program `npm` that makes the packages' files; what it was called with is in `npm.log`."""
    made = " ".join(f"node_modules/{name}" for name in web_site.LITERT)
    log = tmp_path / "npm.log"
    npm(tmp_path, monkeypatch, f'echo "$@" >> {log}; ls >> {log}; for name in {made}; do '
        'mkdir -p "$(dirname "$name")"; echo "$name" > "$name"; done')  # fmt: skip
    return log


def npm(tmp_path, monkeypatch, script):
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DEKR_TF_CACHE", str(tmp_path / "cache"))


def refused(capsys, *words):
    """The only line that a command prints."""
    assert main(["web", *map(str, words)]) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.count("\n") == 1
    return error.removeprefix("dekr web: error: ").rstrip()


def test_a_site_holds_all_that_the_page_needs(tmp_path, packages, capsys):
    models = model(tmp_path / "a" / "person #1.tflite"), model(tmp_path / "b" / "person #1.tflite", "maps")
    site = tmp_path / "new" / "site"
    assert main(["web", "--model", *map(str, models), "--output", str(site)]) == 0
    assert capsys.readouterr().out == f"{site}: the page with person #1.tflite, person #1.tflite\n"
    assert json.loads((site / "models.json").read_text()) == [
        {"graph": "poses", "file": "person #1.tflite"},
        {"graph": "maps", "file": "person #1.tflite"},
    ]
    for graph, path in zip(("poses", "maps"), models, strict=True):
        assert (site / "models" / graph / path.name).read_bytes() == path.read_bytes()
    names = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert names >= {"index.html", "page.js", "page.css", "dekr-pose/index.js", *web_site.LITERT.values()}
    assert (site / "litert/core.js").read_text() == "node_modules/@litertjs/core/dist/index.js\n"
    # Neither tests nor types.
    assert not [name for name in names if "test" in name or name.endswith(".d.ts")]
    # The second site finds the packages in the cache.
    assert main(["web", "--model", str(models[0]), "--output", str(tmp_path / "other")]) == 0
    command, *files = packages.read_text().splitlines()
    assert command.startswith("ci --omit=dev --ignore-scripts ")
    assert files == ["package-lock.json", "package.json"]


def test_models_are_checked(tmp_path, capsys):
    def received(*models):
        error = refused(capsys, "--model", *models, "--output", tmp_path / "site")
        assert not (tmp_path / "site").exists()
        return error

    poses = model(tmp_path / "poses.tflite")
    other = model(tmp_path / "other.tflite")
    assert received(poses, other) == f"expected one model for each graph. Received: {poses} and {other}, both poses"
    keras = tmp_path / "model.keras"
    keras.write_bytes(b"")
    for path in (keras, tmp_path / "missing.tflite", tmp_path):
        assert received(path) == f"expected a .tflite file, which dekr export writes. Received: {path}"
    write_sidecar(sidecar(precision="int8"), other)
    assert received(other) == (
        f"{other}: expected the settings that are inside it, which the page reads. Received: {other}.json"
    )
    other.write_bytes(b"\x1c\0\0\0TFL3 network")
    assert "inside it" in received(other)
    write_sidecar(Sidecar.from_config(Config()), tmp_path / "plain.tflite")
    with zipfile.ZipFile(tmp_path / "plain.tflite", "w") as archive:
        archive.write(f"{tmp_path / 'plain.tflite'}.json", "sidecar.json")
    assert received(tmp_path / "plain.tflite").endswith("Received: a sidecar of a Keras model")


def test_without_npm(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DEKR_TF_CACHE", str(tmp_path / "cache"))
    error = refused(capsys, "--model", model(tmp_path / "a.tflite"), "--output", tmp_path / "site")
    assert error == "the page needs LiteRT.js, which npm installs: expected npm (on Debian: apt install npm)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tflite"]


def test_an_npm_that_fails_leaves_nothing(tmp_path, capsys, monkeypatch):
    npm(tmp_path, monkeypatch, "echo npm error: no network >&2; touch half; exit 1")
    error = refused(capsys, "--model", model(tmp_path / "a.tflite"), "--output", tmp_path / "site")
    assert error == "npm cannot install LiteRT.js: npm error: no network"
    assert not (tmp_path / "site").exists()
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_with_files_is_left_alone(tmp_path, packages, capsys):
    error = refused(capsys, "--model", model(tmp_path / "a.tflite"), "--output", tmp_path)
    assert error == f"expected a new or empty folder to write to. Received: {tmp_path}"


def test_files_are_served_with_their_types_and_the_headers_for_threads(tmp_path):
    for name in ("page.js", "network.wasm", "index.html", "model.tflite"):
        (tmp_path / name).write_text(name)
    with open_server(0, partial(IsolatedHandler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            types = {}
            for name in ("page.js", "network.wasm", "", "model.tflite"):
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    f"http://localhost:{server.server_port}/{name}"
                ) as response:
                    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
                    types[name] = response.headers["Content-Type"]
        finally:
            server.shutdown()
        assert types == {
            "page.js": "text/javascript",
            "network.wasm": "application/wasm",
            "": "text/html",
            "model.tflite": "application/octet-stream",
        }
        with pytest.raises(InputError, match=f"^cannot serve on port {server.server_port}: Address already in use$"):
            open_server(server.server_port, IsolatedHandler)
    with pytest.raises(InputError, match=r"^cannot serve on port 70000: \w"):
        open_server(70000, IsolatedHandler)


def test_the_page_is_part_of_the_package():
    folder = web_site.web_folder()
    assert (folder / "package-lock.json").is_file()
    assert Path(folder, "src", "index.d.ts").is_file()
