"""Writing files so that nobody ever sees half of one."""

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from dekr_tf.errors import InputError
from dekr_tf.files.inputs import file_mode

# Errors that stop a write without naming the file: a full disk, a used-up quota, and `ulimit -f`.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_outputs(outputs: Iterable[str | os.PathLike | None], inputs: Iterable[str | os.PathLike | None] = ()) -> None:
    """Refuses outputs that cannot be written or would destroy another file, before the work that makes them.

    Args:
        outputs: all files that a command will write; None stands for an option that is not given.
        inputs: all files that it reads. They are iterated over only if an output exists already.

    Raises:
        InputError: an output is a folder or cannot be written; or it is an input or another output, even under another
            name.
    """
    names: dict[Path, str | os.PathLike] = {}
    existing: dict[tuple[int, int], str | os.PathLike] = {}
    for path in outputs:
        target = None if path is None else _target(path)
        if target is None:
            continue
        identity = _identity(target)
        other = names.get(target, existing.get(identity))
        if other is not None:
            raise InputError(f"expected a different file for every output. Received: {other} and {path}")
        names[target] = path
        if identity:
            existing[identity] = path
    for folder, target in {target.parent: target for target in names}.items():
        _check_folder(folder, names[target], names)
    for path in inputs if existing else ():
        output = None if path is None else existing.get(_identity(path))
        if output is not None:
            same = "" if os.fspath(path) == os.fspath(output) else f", which is the input {path}"
            raise InputError(f"expected an output that is no input of the same command. Received: {output}{same}")


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path; what is written there becomes `path` when the block ends without an exception.

    The temporary path keeps the file name, since writers choose their format by its suffix. Missing parent folders are
    made. A link stays, and its target is replaced. What cannot be replaced is written in place: devices, pipes, mount
    points such as a file that a container shares with its host, and this program's open files, `/dev/stdout`,
    `/dev/fd/3` and the like.

    Raises:
        InputError: `path` is a folder, cannot be written or is a pipe without a reader, or the disk is full.
    """
    target = _target(path)
    with _temporary_folder(path, target and target.parent) as folder:
        temporary = folder / Path(path).name
        yield temporary
        _put(temporary, target or Path(path))


@contextlib.contextmanager
def atomic_outputs(path: str | os.PathLike, *, folder: bool = False) -> Iterator[Path]:
    """As `atomic_output`, for a folder, or for a file with others beside it.

    Whatever lies beside the temporary path when the block ends is moved beside `path`.

    Args:
        path: of the folder or file.
        folder: whether it will be a folder.

    Raises:
        InputError: as `atomic_output`; or `path` is a folder that is not empty, a file where a folder is to be made, or
            one of this program's open files.
    """
    path = Path(path)
    if _open_file(path) is not None:
        raise InputError(f"expected the name of a file or folder to write. Received: {path}")
    with _cannot_write(path):
        taken = any(path.iterdir()) if path.is_dir() else folder and path.exists()
    if taken:
        kind = "a new or empty folder" if folder else "a new file, or a new or empty folder"
        raise InputError(f"expected {kind} to write to. Received: {path}")
    target = Path(os.path.realpath(path))
    with _temporary_folder(path, target.parent) as temporary:
        yield temporary / path.name
        for made in temporary.iterdir():
            _put(made, target if made.name == path.name else path.parent / made.name)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8, as `atomic_output` does."""
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _identity(path: str | os.PathLike) -> tuple[int, int] | None:
    """Device and inode, which all names of a file share; None if `path` does not exist or cannot be looked up."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _target(path: str | os.PathLike) -> Path | None:
    """The file that an output replaces, with links resolved; None for what is written in place instead.

    Raises:
        InputError: it is a folder, or cannot be looked up.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"expected a file to write. Received: the folder {path}")
    return Path(os.path.realpath(path)) if stat.S_ISREG(mode) and _open_file(path) is None else None


def _open_file(path: str | os.PathLike) -> int | None:
    """The open file descriptor of this process that a path names; None for any other path."""
    path = os.path.abspath(path)
    for _ in range(40):  # As far as Linux follows links.
        folder, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(folder) == f"/proc/{os.getpid()}/fd":
            return int(name)
        try:
            path = os.path.join(folder, os.readlink(path))
        except OSError:
            return None
    return None


def _check_folder(folder: Path, path: str | os.PathLike, names: Container[Path]) -> None:
    """Makes sure that `path` can be written in `folder`, which may be missing but not be one of the outputs `names`."""
    nearest = next(each for each in (folder, *folder.parents) if each in names or os.path.lexists(each))
    if nearest in names or not nearest.is_dir():
        raise InputError(f"cannot write {path}: expected a folder. Received: the file {nearest}")
    with _temporary_folder(path, nearest):
        pass


@contextlib.contextmanager
def _temporary_folder(path: str | os.PathLike, parent: Path | None) -> Iterator[Path]:
    """Yields a folder to prepare the output `path` in, and removes it afterwards.

    An OSError of the block becomes an InputError about `path` if it names a file in the folder, or names none and can
    only come from writing. Others, such as one from reading another file, pass through.

    Args:
        path: of the output, for the errors.
        parent: where to make the folder. Default: among the system's temporary files.
    """
    with _cannot_write(path):
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{Path(path).name[:20]}.", dir=parent))
    try:
        yield folder
    except OSError as error:
        within = str(error.filename).startswith(f"{folder}{os.sep}")
        if not within and (error.filename is not None or error.errno not in _NO_ROOM):
            raise
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _cannot_write(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise InputError(f"cannot write {path}: expected a folder. Received: the file {error.filename}") from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _put(temporary: Path, target: Path) -> None:
    """Moves a prepared file or folder into place."""
    descriptor = _open_file(target)
    if descriptor is not None:
        # Earlier prints come first. Opening the file by its name would truncate it.
        sys.stdout.flush()
        with _cannot_write(target), open(temporary, "rb") as source, open(os.dup(descriptor), "wb") as sink:
            shutil.copyfileobj(source, sink)
        return
    mode = file_mode(target)
    if mode is None or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        try:
            os.replace(temporary, target)
            return
        except OSError as error:
            # The target is a mount point, or a link leads to another disk.
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
    with (
        _cannot_write(target),
        open(temporary, "rb") as source,
        open(target, "wb", opener=_open_if_read) as sink,
    ):
        shutil.copyfileobj(source, sink)


def _open_if_read(path: str, flags: int) -> int:
    """Opens a file for writing without waiting for a reader, which a pipe may never get."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise InputError(f"cannot write {path}: no program reads from this pipe") from error
        raise
    os.set_blocking(descriptor, True)
    return descriptor
