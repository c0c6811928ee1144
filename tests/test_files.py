import os

import pytest

from dekr_tf.errors import InputError
from dekr_tf.files import atomic_output


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


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for path, reason in {
        "file/poses.json": r"expected a folder. Received: the file .*file$",
        "file/new/poses.json": "Not a directory$",
        "n" * 300: "File name too long$",
    }.items():
        with pytest.raises(InputError, match=rf"^cannot write .*{path}: {reason}"), atomic_output(tmp_path / path):
            pytest.fail("the block must not run")
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    folder = tmp_path / "poses.json"
    folder.mkdir()
    with pytest.raises(InputError, match=r"Received: the folder .*poses.json$"), atomic_output(folder):
        pytest.fail("the block must not run")
    assert os.listdir(tmp_path) == ["poses.json"]
