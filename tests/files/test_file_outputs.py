import contextlib
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dekr_tf.errors import InputError
from dekr_tf.files.inputs import is_file, is_folder, read_json, read_yaml
from dekr_tf.files.outputs import atomic_output, atomic_outputs, check_outputs, write_text


@contextlib.contextmanager
def largest_file(size):
    """As `ulimit -f`: a stand-in for a full disk, whose error names no file either."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "poses.json"
    with atomic_output(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert (temporary.suffix, temporary.name) == (".json", "poses.json")
        with temporary.open("a") as file:
            file.write(" and half")
    assert path.read_text() == "half and half"
    assert os.listdir(path.parent) == ["poses.json"]


def test_an_existing_file_is_replaced_whole(tmp_path):
    path = tmp_path / "poses.json"
    path.write_text("a longer text that stood there before")
    with atomic_output(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "a longer text that stood there before"
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("written", [False, True])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, failure, written):
    path = tmp_path / "poses.json"
    path.write_text("old")
    with pytest.raises(failure), atomic_output(path) as temporary:
        if written:
            temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["poses.json"]


@pytest.mark.parametrize("write", [lambda path: write_text(path, ""), lambda path: check_outputs([path])])
def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path, write):
    (tmp_path / "file").write_text("no folder")
    for path, reason in {
        "file/poses.json": r"expected a folder. Received: the file .*file$",
        "file/new/poses.json": r"(Not a directory|expected a folder. Received: the file .*file)$",
        "n" * 300: "File name too long$",
    }.items():
        with pytest.raises(InputError, match=rf"^cannot write .*{path}: {reason}"):
            write(tmp_path / path)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("write", [lambda path: write_text(path, ""), lambda path: check_outputs([path])])
def test_a_folder_is_not_replaced_by_a_file(tmp_path, write):
    folder = tmp_path / "poses.json"
    folder.mkdir()
    with pytest.raises(InputError, match=r"Received: the folder .*poses.json$"):
        write(folder)
    assert os.listdir(tmp_path) == ["poses.json"]


def test_a_long_name_is_written(tmp_path):
    write_text(tmp_path / ("ä" * 120 + ".json"), "whole")
    assert (tmp_path / ("ä" * 120 + ".json")).read_text() == "whole"


def test_a_link_stays_and_its_target_gets_the_content(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/run1.json").write_text("old")
    latest, fresh, loop = (tmp_path / name for name in ("latest.json", "fresh.json", "loop.json"))
    latest.symlink_to("kept/run1.json")
    fresh.symlink_to("made/later.json")
    loop.symlink_to("loop.json")
    write_text(latest, "new")
    write_text(fresh, "also new")
    assert os.readlink(latest) == "kept/run1.json" and (tmp_path / "kept/run1.json").read_text() == "new"
    assert os.readlink(fresh) == "made/later.json" and (tmp_path / "made/later.json").read_text() == "also new"
    with pytest.raises(InputError, match=r"^cannot write .*loop\.json: Too many levels of symbolic links$"):
        write_text(loop, "lost")
    assert os.listdir(tmp_path / "kept") == ["run1.json"]


def test_a_pipe_gets_the_content(tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    received = []
    # Opened for both, so that it does not matter who comes first.
    with open(os.open(pipe, os.O_RDWR), "rb") as held:
        reader = threading.Thread(target=lambda: received.append(held.read(5)))
        reader.start()
        write_text(pipe, "poses")
        reader.join()
    assert received == [b"poses"]
    assert pipe.is_fifo()
    with pytest.raises(InputError, match=r"^cannot write .*pipe\.json: no program reads from this pipe$"):
        write_text(pipe, "poses")
    check_outputs([pipe, pipe])
    assert os.listdir(tmp_path) == ["pipe.json"]


def test_a_device_gets_the_content(tmp_path):
    link = tmp_path / "null.json"
    link.symlink_to(os.devnull)
    before = os.stat(os.devnull)
    for path in (link, os.devnull):
        check_outputs([path])
        write_text(path, "poses")
    assert os.path.samestat(os.stat(os.devnull), before)
    # Its folder need not take new files.
    with pytest.raises(InputError, match=r"cannot write /dev/full: No space left on device"):
        write_text("/dev/full", "poses")


def test_a_file_that_cannot_be_replaced_is_written_to(tmp_path, monkeypatch):
    """As `docker run --volume host.json:/out.json`."""

    def replace(source, target):
        raise OSError(16, os.strerror(16), source, None, target)

    monkeypatch.setattr("os.replace", replace)
    path = tmp_path / "out.json"
    path.write_text("an older and longer text")
    inode = path.stat().st_ino
    write_text(path, "new")
    assert (path.read_text(), path.stat().st_ino) == ("new", inode)
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs the names of open files")
def test_open_files_are_written_to(tmp_path):
    program = (
        "import os, sys\n"
        "from dekr_tf.files.outputs import atomic_outputs, check_outputs, write_text\n"
        "print('before')\n"
        "for name in ('/dev/stdout', '/dev/fd/1', '/proc/self/fd/1', 'link'):\n"
        "    check_outputs([name])\n"
        "    write_text(name, f'{name}\\n')\n"
        "print('after')\n"
        "try:\n"
        "    with atomic_outputs('/dev/stdout'):\n"
        "        print('the block must not run')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    os.symlink("/dev/stdout", tmp_path / "link")
    path = tmp_path / "out.txt"
    path.write_text("an older and much longer text, which the shell's > would have removed\n" * 9)
    lines = ["before", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link", "after"]
    lines.append("expected the name of a file or folder to write. Received: /dev/stdout")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with open(path, "w") as file:
        inode = os.fstat(file.fileno()).st_ino
        subprocess.run([sys.executable, "-c", program], stdout=file, cwd=tmp_path, env=environment, check=True)
    assert path.read_text().splitlines() == lines
    assert path.stat().st_ino == inode
    assert sorted(os.listdir(tmp_path)) == ["link", "out.txt"]
    piped = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=tmp_path, env=environment, text=True, check=True
    )
    assert piped.stdout.splitlines() == lines


@pytest.mark.parametrize("writes", [atomic_output, atomic_outputs])
def test_a_full_disk_is_said_with_the_output(tmp_path, writes):
    path = tmp_path / "poses.json"
    with (
        pytest.raises(InputError, match=r"^cannot write .*/poses\.json: File too large$"),
        largest_file(1000),
        writes(path) as temporary,
    ):
        temporary.write_text("x" * 2000)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("writes", [atomic_output, atomic_outputs])
def test_errors_about_other_files_are_left_alone(tmp_path, writes):
    with pytest.raises(FileNotFoundError, match=r"photo\.jpg"), writes(tmp_path / "poses.json"):
        (tmp_path / "photo.jpg").read_bytes()
    with pytest.raises(BrokenPipeError), writes(tmp_path / "poses.json"):
        raise BrokenPipeError(32, "Broken pipe")
    with pytest.raises(OSError, match="no HDF5"), writes(tmp_path / "poses.json"):
        raise OSError("no HDF5 file")
    with (
        pytest.raises(InputError, match=r"^cannot write .*/poses\.json: No such file or directory$"),
        writes(tmp_path / "poses.json") as temporary,
    ):
        (temporary.parent / "missing" / "part").write_text("x")
    assert os.listdir(tmp_path) == []


def test_what_a_writer_leaves_behind_is_no_error(tmp_path):
    with atomic_output(tmp_path / "poses.json") as temporary:
        temporary.write_text("whole")
        (temporary.parent / "scratch").mkdir()
        (temporary.parent / "scratch" / "part").write_text("x")
    assert os.listdir(tmp_path) == ["poses.json"]


def test_several_outputs_appear_beside_each_other(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "model.tflite").symlink_to("kept/v1.tflite")
    with atomic_outputs(tmp_path / "model.tflite") as temporary:
        temporary.write_text("model")
        temporary.with_name("model.tflite.json").write_text("settings")
    assert (tmp_path / "kept/v1.tflite").read_text() == "model"
    assert (tmp_path / "model.tflite").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["kept", "model.tflite", "model.tflite.json"]
    (tmp_path / "empty").mkdir()
    with atomic_outputs(tmp_path / "empty", folder=True) as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("x")
    assert os.listdir(tmp_path / "empty") == ["part"]
    for taken in ("empty", "model.tflite"):
        with (
            pytest.raises(InputError, match=rf"expected a new or empty folder to write to. Received: .*{taken}$"),
            atomic_outputs(tmp_path / taken, folder=True),
        ):
            pytest.fail("the block must not run")


def test_outputs_that_would_destroy_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "ann.json").write_text("labels")
    (tmp_path / "link.json").symlink_to("ann.json")
    os.link("ann.json", "hard.json")
    for output in ("ann.json", "./folder/../ann.json", tmp_path / "ann.json", "link.json", "hard.json"):
        with pytest.raises(InputError, match=r"an output that is no input of the same command. Received: .*\.json"):
            check_outputs([None, output], iter([None, "missing.json", "ann.json"]))
    with pytest.raises(InputError, match=r"Received: link\.json, which is the input ann\.json$"):
        check_outputs(["link.json"], ["ann.json"])
    for first, second in [
        ("new.json", "new.json"),
        ("new.json", "folder/../new.json"),
        ("ann.json", "link.json"),
        ("hard.json", "ann.json"),
    ]:
        with pytest.raises(InputError, match=rf"a different file for every output. Received: {first} and {second}$"):
            check_outputs([first, second])
    with pytest.raises(InputError, match=r"^cannot write new\.json/drawn\.png: expected a folder. Received: the file"):
        check_outputs(["new.json", "new.json/drawn.png"])
    check_outputs(["new.json", None, "folder/new.json", "link.json"], ["hard.csv", "folder"])
    assert (tmp_path / "ann.json").read_text() == "labels"
    assert sorted(os.listdir(tmp_path)) == ["ann.json", "folder", "hard.json", "link.json"]
    assert os.listdir(tmp_path / "folder") == []


def test_no_input_is_looked_at_for_new_outputs(tmp_path):
    def inputs():
        pytest.fail("there is nothing to destroy")
        yield

    check_outputs([tmp_path / "new.json"], inputs())


def test_what_is_there(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    found = {name: (is_file(tmp_path / name), is_folder(tmp_path / name)) for name in ("file", "pipe", ".", "none")}
    assert found == {"file": (True, False), "pipe": (True, False), ".": (False, True), "none": (False, False)}
    assert not is_file(tmp_path / "file" / "below")
    for look in (is_file, is_folder):
        with pytest.raises(InputError, match=r"^cannot read .*nnn: File name too long$"):
            look(tmp_path / ("n" * 300))


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root may open every folder")
def test_a_closed_folder_is_said():
    """As root without its privilege, which is held to permissions like any user."""
    program = (
        "import os, sys, tempfile\n"
        "from dekr_tf.errors import InputError\n"
        "from dekr_tf.files.inputs import is_file\n"
        "from dekr_tf.files.outputs import write_text\n"
        "folder = tempfile.mkdtemp()\n"
        "os.chmod(folder, 0)\n"
        "for act in (is_file, lambda path: write_text(path, '')):\n"
        "    try:\n"
        "        act(os.path.join(folder, 'file'))\n"
        "    except InputError as error:\n"
        "        print(str(error).replace(folder, ''))\n"
        "os.rmdir(folder)\n"
    )
    drop = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", sys.executable, "-c", program]
    run = subprocess.run(command if os.getuid() == 0 else command[3:], capture_output=True, text=True, check=False)
    assert run.stdout == "cannot read /file: Permission denied\ncannot write /file: Permission denied\n", run.stderr


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("training:\n  epochs: 1\n  seed: 2\n  epochs: 3\n")
    with pytest.raises(
        InputError, match=r"^config .*config\.yaml: expected YAML. Received: the key epochs twice .*line 4"
    ):
        read_yaml(path, "config")
    path.write_text("{a: {x: 1}, b: {x: 2}, 1: 3, '1': 4, base: &base {x: 5, y: 6}, merged: {<<: *base, x: 7}}")
    assert read_yaml(path, "config") == {
        "a": {"x": 1},
        "b": {"x": 2},
        1: 3,
        "1": 4,
        "base": {"x": 5, "y": 6},
        "merged": {"x": 7, "y": 6},
    }
    path.write_text('{"a": [{"b": 1, "c": 2, "b": 3}]}')
    with pytest.raises(InputError, match=r"expected JSON\. Received: the key b twice$"):
        read_json(path, "config")
    path.write_text('{"a": 1}')
    assert read_json(path, "config") == read_yaml(path, "config") == {"a": 1}
