"""Reads `.pth` files without PyTorch, as data: no code in them is run, and nothing that they name is imported.

A checkpoint is a pickle that refers to storages, which hold the bytes of the tensors. PyTorch has two containers for
both: a zip archive (since 1.6), and before that one pickle after another with the bytes at the end. A pickle is a
program for a small stack machine; the one here knows the operations of plain values and a short list of names.
"""

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dekr_tf.errors import InputError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

#: NumPy's dtype of each kind of storage; NumPy has no bfloat16, the upper half of a float32.
STORAGES = {
    "torch FloatStorage": "f4",
    "torch DoubleStorage": "f8",
    "torch HalfStorage": "f2",
    "torch BFloat16Storage": "u2",
    "torch LongStorage": "i8",
    "torch IntStorage": "i4",
    "torch ShortStorage": "i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
#: Names that the logs and notes beside a state_dict use in mmengine's checkpoints. They are left out, not read.
LEFT_OUT_NAMES = (
    "numpy ndarray",
    "numpy dtype",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray _reconstruct",
    "numpy._core.multiarray scalar",
    "_codecs encode",
    "__builtin__ getattr",
    "mmengine.logging.history_buffer HistoryBuffer",
)
LEFT_OUT = object()
#: Most axes of an array in NumPy 1.
MAX_AXES = 32


@dataclass(eq=False)
class Storage:
    """The values that tensors are made of.

    Attributes:
        kind: name in `STORAGES`.
        count: number of values.
        values: (count,), once they are read.
    """

    kind: str
    count: int
    values: np.ndarray | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all values."""
        return self.count * np.dtype(STORAGES[self.kind]).itemsize

    def fill(self, content: bytes | memoryview, byte_order: str) -> None:
        """Takes the values from their bytes; `byte_order` is NumPy's, `<` or `>`."""
        if len(content) != self.num_bytes:
            raise ValueError(f"{len(content)} bytes in place of the {self.num_bytes} of a storage")
        values = np.frombuffer(content, np.dtype(STORAGES[self.kind]).newbyteorder(byte_order))
        if self.kind == "torch BFloat16Storage":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        self.values = values


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage, with PyTorch's numbers: offset and strides count values, not bytes."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self):
        if len(self.size) != len(self.stride) or len(self.size) > MAX_AXES:
            raise ValueError("a tensor with other strides than axes, or with too many")
        # A tensor with more values than its storage would repeat a few bytes, up to any size.
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))
        if math.prod(self.size) > self.storage.count or (all(self.size) and last >= self.storage.count):
            raise ValueError("a tensor that leads out of its storage")

    def numpy(self) -> np.ndarray:
        """The values, a view of the file's bytes where possible; bfloat16 becomes float32."""
        values = self.storage.values
        if not all(self.size):
            return np.empty(self.size, values.dtype)
        # The stride of an axis of length one is never used, and may be any number.
        strides = [
            values.itemsize * stride if size > 1 else 0 for size, stride in zip(self.size, self.stride, strict=True)
        ]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides, writeable=False)


def read_checkpoint(path: str | Path) -> Any:
    """The content that `torch.save` wrote: dicts, lists, tuples, plain values and `Tensor`.

    An `OrderedDict` becomes a dict, a `Parameter` its tensor. Objects made of `LEFT_OUT_NAMES` become `LEFT_OUT`.

    Args:
        path: of a `.pth` file in either format.

    Raises:
        InputError: the file cannot be read, is not a checkpoint, is damaged, or names anything else.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # A name with a null character raises ValueError.
        raise InputError(f"cannot read checkpoint {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        return _read_zip(content) if content.startswith(ZIP_MAGIC) else _read_legacy(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # On a damaged file, zipfile can raise almost any exception.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is not a PyTorch checkpoint, or it is damaged: {reason:.200}") from error


def _read_zip(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise InputError(f"expected one data.pkl in a PyTorch archive. Received: {len(roots)}")

        def read(name):
            name = roots[0] + name
            # PyTorch compresses nothing, and unpacking could yield any number of bytes.
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise InputError(f"expected no compression in a PyTorch archive. Received: {name}")
            try:
                return archive.read(name)
            except zipfile.BadZipFile as error:
                raise InputError(
                    f"damaged, expected content that agrees with its checksum. Received: {name}"
                ) from error

        storages: dict[str, Storage] = {}
        result = _run(io.BytesIO(read("data.pkl")), storages)
        named = f"{roots[0]}byteorder" in archive.namelist()
        byte_order = _byte_order(not named or read("byteorder") == b"little")
        for key, storage in storages.items():
            storage.fill(read(f"data/{key}"), byte_order)
        return result


def _read_legacy(content):
    stream = io.BytesIO(content)
    if _run(stream, {}) != LEGACY_MAGIC or _run(stream, {}) != LEGACY_VERSION:
        raise ValueError("its first values are others")
    byte_order = _byte_order(_run(stream, {})["little_endian"])
    storages: dict[str, Storage] = {}
    result = _run(stream, storages)
    view = memoryview(content)
    for key in _run(stream, {}):
        if not isinstance(key, str) or key not in storages:
            raise ValueError("a storage that no tensor needs")
        storage = storages[key]
        # The storage's length comes first.
        start = stream.tell() + 8
        if int.from_bytes(view[start - 8 : start], "little") != storage.count:
            raise ValueError("a storage of another length")
        storage.fill(view[start : start + storage.num_bytes], byte_order)
        stream.seek(start + storage.num_bytes)
    missing = [key for key, storage in storages.items() if storage.values is None]
    if missing:
        raise ValueError("a storage is missing")
    return result


def _byte_order(little):
    return "<" if little else ">"


def _run(stream: io.BytesIO, storages: dict[str, Storage]) -> Any:
    """Runs one pickle, to its end in the stream.

    Args:
        stream: at the start of the pickle.
        storages: receives those that the pickle refers to, by key.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop(count):
        if count > len(stack):
            raise ValueError("a pickle takes more values than it has")
        values = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return values

    def pop_to_mark():
        return pop(len(stack) - marks.pop())

    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_named(argument))
        elif name == "BINPERSID":
            stack.append(_storage(*pop(1), storages))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(pop(int(name[-1]))))
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name in ("APPEND", "APPENDS"):
            values = pop(1) if name == "APPEND" else pop_to_mark()
            _last(stack, list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = pop(2) if name == "SETITEM" else pop_to_mark()
            _set_items(_last(stack, dict), zip(values[::2], values[1::2], strict=True))
        elif name in ("REDUCE", "NEWOBJ"):
            make, arguments = pop(2)
            if make not in _FUNCTIONS or not isinstance(arguments, tuple):
                raise ValueError("a pickle calls a value")
            stack.append(make(*arguments))
        elif name == "BUILD":
            # These are attributes, such as `_metadata` of a state_dict, which are not needed.
            pop(1)
        elif name == "STOP":
            return pop(1)[0]
        elif name != "PROTO":
            raise ValueError(f"{name} in a pickle")
    raise ValueError("a pickle without an end")


def _last(stack, kind):
    if not stack or not isinstance(stack[-1], kind):
        raise ValueError(f"a pickle fills something that is no {kind.__name__}")
    return stack[-1]


def _set_items(target: dict, pairs: Iterable[tuple[Any, Any]]) -> None:
    for key, value in pairs:
        # Hashing tuples within tuples would overflow the stack.
        if not isinstance(key, str | int | float | None):
            raise ValueError(f"a key that is a {type(key).__name__}")
        target[key] = value


def _named(name: str) -> Any:
    """The value that a pickle means by the name of a module and of something in it."""
    if name in STORAGES:
        return name
    if name in LEFT_OUT_NAMES:
        return _left_out
    if name not in _NAMED_FUNCTIONS:
        raise InputError(f"only tensors and plain values are read. Received: {name.replace(' ', '.')}")
    return _NAMED_FUNCTIONS[name]


def _storage(reference, storages):
    """The storage that a pickle refers to: ("storage", kind, key, device, count), in the old format with a None."""
    word, kind, key, _, count, *rest = reference
    texts = isinstance(kind, str) and isinstance(key, str)
    if word != "storage" or not texts or kind not in STORAGES or not _is_count(count) or rest not in ([], [None]):
        raise ValueError("a reference to something that is no storage")
    storage = storages.setdefault(key, Storage(kind, count))
    if (storage.kind, storage.count) != (kind, count):
        raise ValueError("a storage of two kinds")
    return storage


def _ordered_dict(pairs=()):
    result: dict[Any, Any] = {}
    _set_items(result, pairs)
    return result


def _rebuild_tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
    if not isinstance(storage, Storage) or not all(map(_is_count, (offset, *size, *stride))) or metadata:
        raise ValueError("a tensor that is no plain view of a storage")
    return Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(tensor, requires_grad, hooks):
    return tensor


def _left_out(*arguments):
    return LEFT_OUT


def _is_count(value):
    return type(value) is int and 0 <= value < 2**63


#: Operations that push the value written after them.
_PUSHED = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING")
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_NAMED_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
}
_FUNCTIONS = (*_NAMED_FUNCTIONS.values(), _left_out)
