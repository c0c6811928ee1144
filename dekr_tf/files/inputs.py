"""Looking for files, and reading JSON and YAML."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dekr_tf.errors import InputError


def exists(path: str | os.PathLike) -> bool:
    """Whether there is a file or a folder.

    Raises:
        InputError: the path cannot be looked up, because permission is missing or the name is too long. From Python
            3.14 on, `Path.exists` would call such a file missing.
    """
    return file_mode(path) is not None


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is a file of any kind, but not a folder; raises as `exists` does."""
    mode = file_mode(path)
    return mode is not None and not stat.S_ISDIR(mode)


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder; raises as `exists` does."""
    mode = file_mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def read_json(path: str | os.PathLike, kind: str) -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        kind: what it holds, for the error.

    Raises:
        InputError: it cannot be read, is not JSON, or has a key twice, where Python's `json` would take the last.
    """
    return _parsed(path, kind, "JSON", lambda text: json.loads(text, object_pairs_hook=_mapping))


def read_yaml(path: str | os.PathLike, kind: str) -> Any:
    """The content of a YAML file; otherwise as `read_json`."""
    return _parsed(path, kind, "YAML", parse_yaml)


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, or has a key twice, where PyYAML alone would take the last.
    """
    return yaml.load(text, _UniqueKeysLoader)


def file_mode(path: str | os.PathLike) -> int | None:
    """`st_mode`, the kind and permissions of a file or folder; None if there is nothing.

    Raises:
        InputError: as `exists`.
    """
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # A name with a null character raises ValueError.
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)} twice")
    return mapping


class _UniqueKeysLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value} twice", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


def _parsed(path, kind: str, form: str, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {kind} {path}: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{kind} {path}: expected {form}. Received: {' '.join(str(error).split())}") from error
