"""Checkpoints without PyTorch, and pickles that PyTorch would not write."""

import io
import pickle
import struct
import zipfile

import numpy as np

KINDS = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage"}


class Opcodes(bytes):
    """A part of a pickle, put in as it is."""


def named(name):
    """Something of a module, such as "torch FloatStorage"."""
    module, name = name.split()
    return Opcodes(f"c{module}\n{name}\n".encode())


def call(function, *arguments):
    """What a function gives."""
    return Opcodes(opcodes(function) + opcodes(arguments) + b"R")


def storage(key="0", kind="torch FloatStorage", count=6):
    """A reference to a storage."""
    return Opcodes(opcodes(("storage", named(kind), key, "cpu", count)) + b"Q")


def tensor(of, offset=0, size=(2, 3), stride=(3, 1)):
    """A tensor of a storage."""
    return call(named("torch._utils _rebuild_tensor_v2"), of, offset, size, stride, False, {})


def opcodes(value, storages=None):
    """The part of a pickle that gives a value; arrays become tensors, and their bytes go to `storages`."""
    if isinstance(value, Opcodes):
        return value
    if isinstance(value, dict):
        return b"}(" + b"".join(opcodes(part, storages) for item in value.items() for part in item) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(opcodes(part, storages) for part in value) + b"t"
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        number = pickle.encode_long(value)
        return b"\x8a" + bytes([len(number)]) + number
    array = np.ascontiguousarray(value)
    key = str(len(storages))
    storages[key] = array.tobytes()
    kind = KINDS[array.dtype.str.lstrip("<")]
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return tensor(storage(key, f"torch {kind}", array.size), 0, np.shape(value), strides[array.ndim - np.ndim(value) :])


def pickled(value, storages=None):
    """A whole pickle."""
    return b"\x80\x02" + opcodes(value, storages) + b"."


def archive(data, storages=(), compression=zipfile.ZIP_STORED, byte_order=None):
    """A file in the zip format, of a pickle and the bytes of storages by key."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        for key, content in dict(storages).items():
            file.writestr(f"archive/data/{key}", content)
        if byte_order:
            file.writestr("archive/byteorder", byte_order)
    return buffer.getvalue()


def checkpoint(content):
    """The bytes of a checkpoint of dicts, plain values and arrays."""
    storages = {}
    data = pickled(content, storages)
    return archive(data, storages)


def write_pth(path, content):
    """Writes a checkpoint; returns its path."""
    path.write_bytes(checkpoint(content))
    return path
