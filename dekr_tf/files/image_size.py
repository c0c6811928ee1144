"""The size of an image from the header of its file, before any pixel is decoded."""

import struct

JPEG_START = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n"
# Frame headers are C0 to CF, except for the tables C4 and CC and the reserved C8.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: stuffed data bytes (00), TEM (01), restarts, and the start of an image.
_JPEG_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT = 256, 257, 3


def size_in_header(data: bytes) -> tuple[int, int] | None:
    """(height, width) in the header of a JPEG, PNG, BMP or TIFF file; None for other formats, or if it has none.

    WebP is left out: its sides have 14 bits, so they stay within `images.MAX_PIXELS`.

    Args:
        data: content of the file.
    """
    try:
        if data.startswith(JPEG_START):
            return _jpeg_size(data)
        if data.startswith(PNG_START):
            return struct.unpack_from(">II", data, 16)[::-1]
        if data.startswith(b"BM"):
            (header,) = struct.unpack_from("<I", data, 14)
            width, height = struct.unpack_from("<HH" if header < 16 else "<ii", data, 18)
            # A negative height means rows from the top.
            return abs(height), abs(width)
        if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            return _tiff_size(data)
    except (struct.error, OverflowError):  # The file ends early, or points beyond its end.
        pass
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = len(JPEG_START)
    while (position := data.find(b"\xff", position)) >= 0:
        (kind,) = struct.unpack_from("B", data, position + 1)
        if kind in _JPEG_FRAMES:
            return struct.unpack_from(">HH", data, position + 5)
        if kind == 0xFF:
            position += 1
        elif kind in _JPEG_WITHOUT_LENGTH:
            position += 2
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """The size of the first picture in the file."""
    order = "<" if data.startswith(b"II") else ">"
    big = b"+" in data[2:4]
    (directory,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, directory)
    first, length, value_at = (directory + 8, 20, 12) if big else (directory + 2, 12, 8)
    sides = {}
    for entry in range(first, min(first + count * length, len(data)), length):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            (sides[tag],) = struct.unpack_from(order + ("H" if kind == _TIFF_SHORT else "I"), data, entry + value_at)
    return (sides[_TIFF_HEIGHT], sides[_TIFF_WIDTH]) if len(sides) == 2 else None
