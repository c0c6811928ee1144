"""Finding image files and reading them as 8-bit RGB."""

import glob
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from dekr_tf.errors import InputError

#: Files of a folder that count as images, by suffix in lower case.
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# A broken file is reported by InputError; OpenCV's own warning about it would be noise.
# The setting moved between OpenCV 4 and 5.
(cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging).setLogLevel(0)

_JPEG_START = b"\xff\xd8"
# FF followed by 00 is a data byte, by FF a fill byte, by D0..D7 a restart inside the data.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_END = 0xD9
_JPEG_WITHOUT_LENGTH = (0x01, 0xD8)
_PNG_START = b"\x89PNG\r\n\x1a\n"


def read_image(path: str | os.PathLike, *, exif_orientation: bool) -> np.ndarray:
    """Reads an image file; grey becomes RGB, alpha is dropped, 16 bits are scaled to 8.

    Args:
        path: of the file.
        exif_orientation: turn the picture upright as its EXIF entry says. Labels of data sets are in the stored
            pixels, so their images are read without.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, damaged or not an image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read image {path}: {error.strerror}") from error
    return decode_image(data, str(path), exif_orientation=exif_orientation)


def decode_image(data: bytes, source: str, *, exif_orientation: bool) -> np.ndarray:
    """Decodes the content of an image file, as `read_image` does.

    Args:
        data: content of the file.
        source: its name in the error message.
        exif_orientation: turn the picture upright as its EXIF entry says.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the content is empty, truncated, damaged or not an image.
    """
    if not data:
        raise InputError(f"image {source}: expected an image. Received: an empty file")
    # OpenCV fills the missing part of a truncated file with grey or black and says nothing.
    if not _is_whole(data):
        raise InputError(
            f"image {source}: expected a whole image. Received: a truncated or damaged file, {len(data)} bytes"
        )
    flags = cv2.IMREAD_COLOR if exif_orientation else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"image {source}: cannot decode it: {error.err}") from error
    if image is None:
        raise InputError(f"image {source}: expected an image. Received: a file that OpenCV cannot decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def find_images(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """The image files that files, folders and glob patterns stand for.

    Args:
        paths: a file counts whatever its suffix; a folder gives the images in it, not those of its subfolders; a
            pattern such as `photos/*.jpg` gives the files that match, `**` goes into subfolders.

    Returns:
        The files, sorted, each once.

    Raises:
        InputError: one of the paths gives no file.
    """
    found = set()
    for path in map(os.fspath, paths):
        if os.path.isdir(path):
            files = [file for file in Path(path).iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()]
            files = [file for file in files if not file.name.startswith(".")]
        elif os.path.exists(path):
            files = [Path(path)]
        else:
            files = [Path(file) for file in glob.glob(path, recursive=True) if os.path.isfile(file)]
        if not files:
            raise InputError(f"expected an image file, a folder of images or a pattern. Received: {path}")
        found.update(files)
    return sorted(found)


def check_images(names: Sequence[str], folder: str | os.PathLike) -> None:
    """Makes sure that every image file of a data set is there, before a long run starts.

    Args:
        names: of the files, relative to `folder`.
        folder: of the images.

    Raises:
        InputError: with the number of missing files and the first of them.
    """
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        raise InputError(
            f"expected all {len(names)} annotated images in {folder}. "
            f"Received: {len(missing)} missing, first {missing[0]}"
        )


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG, PNG or WebP file reaches its end; other formats are left to the decoder."""
    if data.startswith(_JPEG_START):
        return _jpeg_is_whole(data)
    if data.startswith(_PNG_START):
        return _png_is_whole(data)
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


def _jpeg_is_whole(data: bytes) -> bool:
    # Segments are skipped by their length, since an embedded preview has an end marker of its own.
    position = len(_JPEG_START)
    while marker := _JPEG_MARKER.search(data, position):
        kind, position = data[marker.end() - 1], marker.end()
        if kind == _JPEG_END:
            return True
        if kind not in _JPEG_WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return False


def _png_is_whole(data: bytes) -> bool:
    # The checksums too: on a wrong one, the decoder would print to standard error.
    content, position = memoryview(data), len(_PNG_START)
    while position < len(data):
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        chunk, checksum = content[position + 4 : end], content[end : end + 4]
        if len(checksum) < 4 or zlib.crc32(chunk) != int.from_bytes(checksum, "big"):
            return False
        if chunk[:4] == b"IEND":
            return True
        position = end + 4
    return False
