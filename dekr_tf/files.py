"""Reading files of settings and labels; writing files so that nobody ever sees half of one."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from dekr_tf.errors import InputError


def read_json(path: str | os.PathLike, kind: str) -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        kind: what it holds, for the error.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    return _parsed(path, kind, "JSON", json.loads)


def read_yaml(path: str | os.PathLike, kind: str) -> Any:
    """The content of a YAML file; otherwise as `read_json`."""
    return _parsed(path, kind, "YAML", yaml.safe_load)


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the same folder; it becomes `path` when the block ends without an exception.

    The temporary name keeps the suffix of `path`, since writers choose their format by it. Missing parent folders
    are made.

    Raises:
        InputError: the folder cannot be written to, or `path` is a folder.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"expected a file to write. Received: the folder {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)
    except FileExistsError as error:
        raise InputError(f"cannot write {path}: expected a folder. Received: the file {error.filename}") from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    temporary = Path(folder) / path.name
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        os.rmdir(folder)


@contextlib.contextmanager
def atomic_outputs(path: str | os.PathLike) -> Iterator[Path]:
    """As `atomic_output`, for a folder, or for a file with others beside it.

    What lies beside the temporary path when the block ends comes to lie beside `path`.

    Raises:
        InputError: the folder cannot be written to, or `path` is a folder that is not empty.
    """
    path = Path(path)
    try:
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"expected a new file, or a new or empty folder to write to. Received: {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as holder:
            yield Path(holder) / path.name
            for made in Path(holder).iterdir():
                os.replace(made, path.parent / made.name)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _parsed(path, kind: str, form: str, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {kind} {path}: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{kind} {path}: expected {form}. Received: {' '.join(str(error).split())}") from error
