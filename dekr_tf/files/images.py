"""Finding image files, in folders and zip files, and reading them as 8-bit RGB."""

import abc
import glob
import itertools
import logging
import os
import re
import struct
import threading
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.files.image_size import JPEG_START, PNG_START, size_in_header
from dekr_tf.files.inputs import is_file, is_folder
from dekr_tf.files.opencv import silent
from dekr_tf.files.outputs import atomic_output

#: Files of a folder that count as images, by suffix in lower case.
SUFFIXES = frozenset({".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
#: Most pixels of an image that is decoded, to 0.8 GB. The largest photos from phones have 200 million.
MAX_PIXELS = 16384 * 16384

# Other image files, which some or all builds of OpenCV cannot decode.
_OTHER_SUFFIXES = frozenset(
    {".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".heic", ".heif", ".j2k", ".jp2", ".jxl", ".nef", ".orf"}
    | {".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raf", ".rw2", ".svg", ".tga"}
)

_log = logging.getLogger(__name__)

# FF followed by 00 is a data byte; by FF, a fill byte; by D0..D7, a restart inside the data.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_JPEG_END = 0xD9
#: Huffman-coded baseline, extended and progressive frames; restart intervals; scans.
_JPEG_FRAMES, _JPEG_INTERVAL, _JPEG_SCAN = (0xC0, 0xC1, 0xC2), 0xDD, 0xDA
#: Gray level of blocks without data.
_JPEG_MISSING = 128
_JPEG_WITHOUT_LENGTH = (0x01, 0xD8)
#: The orientation tag in TIFF and EXIF.
_ORIENTATION = 0x112


def read_image(path: str | os.PathLike, *, exif_orientation: bool) -> np.ndarray:
    """Reads an image file; gray becomes RGB, alpha is dropped, 16 bits are scaled to 8.

    Args:
        path: of the file.
        exif_orientation: turn the image upright by its EXIF orientation. Labels of data sets are in stored pixels, so
            their images are read without it.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is missing or unreadable, or as `decode_image`.
    """
    return decode_image(_read_file(path), str(path), exif_orientation=exif_orientation)


def decode_image(data: bytes, source: str, *, exif_orientation: bool) -> np.ndarray:
    """Decodes the content of an image file, as `read_image` does.

    Args:
        data: content of the file.
        source: its name in the error message.
        exif_orientation: turn the image upright by its EXIF orientation.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the content is empty, truncated, damaged or not an image, or has more than `MAX_PIXELS`.
    """
    if not data:
        raise InputError(f"image {source}: expected an image. Received: an empty file")
    check_pixels(size_in_header(data) or (0, 0), f"image {source}")
    # OpenCV silently fills the missing part of a truncated file with gray or black.
    if not _is_whole(data):
        raise InputError(
            f"image {source}: expected a whole image. Received: a truncated or damaged file, {len(data)} bytes"
        )
    flags = cv2.IMREAD_COLOR
    if not exif_orientation:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
        # OpenCV obeys this flag for every format but TIFF.
        data = _without_tiff_orientation(data)
    try:
        with silent:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"image {source}: cannot decode it: {error.err}") from error
    if image is None:
        raise InputError(f"image {source}: expected an image. Received: a file that OpenCV cannot decode")
    # For formats whose header `size_in_header` does not read; OpenCV's own limit is four times as high.
    check_pixels(image.shape[:2], f"image {source}")
    if _jpeg_ran_out(data, image):
        raise InputError(f"image {source}: expected a whole image. Received: a damaged file, a part of it is missing")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def check_pixels(size: tuple[int, int], where: str) -> None:
    """Raises InputError, which `where` begins, if an image of `size` (height, width) has more than `MAX_PIXELS`."""
    height, width = size
    if height * width > MAX_PIXELS:
        raise InputError(f"{where}: expected at most {MAX_PIXELS} pixels. Received: {height}x{width} (height x width)")


def opencv_name(path: str | os.PathLike) -> str:
    """A path as OpenCV takes it; OpenCV 5.0 crashes on names that are not UTF-8.

    Raises:
        InputError: the name is not UTF-8.
    """
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"expected a file name in UTF-8. Received: {name!a}") from error
    return name


def check_picture_name(path: str | os.PathLike) -> None:
    """Raises InputError unless `write_image` can write the format of the suffix."""
    if not cv2.haveImageWriter(f"picture{Path(opencv_name(path)).suffix}"):
        raise InputError(f"expected the name of a picture to write, such as sheet.png. Received: {path}")


def write_image(image: np.ndarray, path: str | os.PathLike) -> None:
    """Writes a picture in the format of the suffix, whole or not at all.

    Args:
        image: (H, W, 3) uint8 RGB.
        path: of the file.

    Raises:
        InputError: the format is unknown or cannot hold an image of this size, or the file cannot be written.
    """
    check_picture_name(path)
    try:
        with silent:
            written, encoded = cv2.imencode(Path(path).suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise InputError(
            f"cannot write {path}: expected a picture that fits into this format. "
            f"Received: {image.shape[0]}x{image.shape[1]} pixels (height x width)"
        )
    with atomic_output(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def find_images(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """The image files that files, folders and glob patterns stand for.

    Args:
        paths: a file counts whatever its suffix. A folder stands for its files with one of `SUFFIXES`, except hidden
            ones and those in subfolders; the log says how many other image files it has. A pattern such as
            `photos/*.jpg` stands for the files that match it; `**` includes subfolders.

    Returns:
        The files, sorted, each once.

    Raises:
        InputError: a path stands for no file, or cannot be read.
    """
    found = set()
    for path in map(os.fspath, paths):
        if is_folder(path):
            files = _folder_images(path)
        elif is_file(path):
            files = [Path(path)]
        else:
            files = [Path(file) for file in glob.glob(path, recursive=True) if os.path.isfile(file)]
        if not files:
            raise InputError(f"expected an image file, a folder of images or a pattern. Received: {path}")
        found.update(files)
    return sorted(found)


def _folder_images(folder: str) -> list[Path]:
    try:
        files = [file for file in Path(folder).iterdir() if not file.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error
    others = sorted(file.suffix.lower() for file in files if file.suffix.lower() in _OTHER_SUFFIXES)
    if others:
        _log.warning(
            "%s: skipped %d image files in %s; from a folder, only those in %s are taken",
            folder,
            len(others),
            ", ".join(dict.fromkeys(others)),
            ", ".join(sorted(SUFFIXES)),
        )
    return [file for file in files if file.suffix.lower() in SUFFIXES and is_file(file)]


class ImageSource(abc.ABC):
    """The images of a data set, by their names in its annotations. Several threads may read at once.

    Args:
        path: of the folder or file that holds them.
    """

    def __init__(self, path: Path):
        self.path = path

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def content(self, name: str) -> bytes:
        """The content of an image file.

        Raises:
            InputError: it is missing, unreadable or damaged in a zip file, or several files could be meant.
        """
        found = self._find(name)
        if found is None:
            raise InputError(f"cannot read image {self.path / name}: No such file or directory")
        return self._content(found)

    def read(self, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """The image in stored pixels, like the labels: (H, W, 3) uint8 RGB.

        Args:
            name: of the image in the annotations.
            size: (height, width) that it must have. Default: any.

        Raises:
            InputError: as `content` and `decode_image`, or the size differs.
        """
        image = decode_image(self.content(name), str(self.path / name), exif_orientation=False)
        if size is not None and image.shape[:2] != tuple(size):
            raise InputError(
                f"image {self.path / name}: expected {size[0]}x{size[1]} pixels (height x width) as annotated. "
                f"Received: {image.shape[0]}x{image.shape[1]}"
            )
        return image

    @abc.abstractmethod
    def _find(self, name: str):
        """What `_content` needs to read the file; None if there is no such file."""

    @abc.abstractmethod
    def _content(self, found) -> bytes: ...


class _Folder(ImageSource):
    def _find(self, name):
        path = self.path / name
        return path if is_file(path) else None

    def _content(self, found):
        return _read_file(found)


class _Zip(ImageSource):
    def __init__(self, path):
        super().__init__(path)
        try:
            self._file = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"cannot read {path} as a zip file: {reason}") from error
        # ZipFile's count of open members is not thread-safe.
        self._lock = threading.Lock()
        self._entries = defaultdict(list)
        for entry in self._file.infolist():
            if not entry.is_dir():
                # Some Windows programs write backslashes, which the format forbids.
                entry.filename = entry.filename.replace("\\", "/")
                self._entries[_base_name(entry.filename)].append(entry)

    def _find(self, name):
        # COCO's train2017.zip has its images under train2017/, which the annotations leave out.
        same_base = self._entries.get(_base_name(name), [])
        fits = [entry for entry in same_base if f"/{entry.filename}".endswith(f"/{name}")] or same_base
        exact = [entry for entry in fits if entry.filename == name]
        found = (exact or fits)[:2]
        if len(found) > 1:
            raise InputError(
                f"image {name}: expected one file of this name in {self.path}. "
                f"Received: {found[0].filename} and {found[1].filename}"
            )
        return found[0] if found else None

    def _content(self, found):
        try:
            with self._lock:
                return self._file.read(found)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise InputError(f"cannot read image {self.path / found.filename}: {error}") from error


def open_images(path: str | os.PathLike) -> ImageSource:
    """The images in a folder, or in a zip file.

    In a folder, names are paths relative to it. In a zip file, a name may leave out leading folders, or have wrong ones
    if only one file has its base name: `000000000009.jpg` finds `train2017/000000000009.jpg`.

    Raises:
        InputError: it is another file, or a zip file that cannot be read. A missing folder just has no images.
    """
    path = Path(path)
    if path.suffix.lower() == ".zip" and not is_folder(path):
        return _Zip(path)
    if is_file(path):
        raise InputError(f"expected a folder or a zip file of images. Received: {path}")
    return _Folder(path)


def check_images(names: Sequence[str], path: str | os.PathLike) -> ImageSource:
    """Opens the images of a data set and makes sure that every one is there, before a long run starts.

    Args:
        names: of the images in the annotations.
        path: of the folder or zip file, see `open_images`.

    Raises:
        InputError: images are missing (it says how many, and which is the first), or as `open_images`.
    """
    images = open_images(path)
    missing = [name for name in names if name not in images]
    if missing:
        raise InputError(
            f"expected all {len(names)} annotated images in {path}. "
            f"Received: {len(missing)} missing, first {missing[0]}"
        )
    return images


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]


def _read_file(path: str | os.PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # A name with a null character raises ValueError.
        raise InputError(f"cannot read image {path}: {getattr(error, 'strerror', error)}") from error


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG, PNG or WebP file reaches its end; other formats are left to the decoder."""
    if data.startswith(JPEG_START):
        return _jpeg_end(data) is not None and not _jpeg_lacks_parts(data)
    if data.startswith(PNG_START):
        return _png_is_whole(data)
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


def _without_tiff_orientation(data: bytes) -> bytes:
    """A TIFF file with its first page marked as stored upright; any other file unchanged."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    version = struct.unpack(f"{order}H", data[2:4])[0] if order and len(data) >= 16 else 0
    # Formats of offset, number of entries, and entry (tag, type, count, value). BigTIFF has wider ones.
    formats = {42: ("4xI", "H", "HHI4s"), 43: ("8xQ", "Q", "HHQ8s")}.get(version)
    if formats is None:
        return data
    header, number, entry = (struct.Struct(order + form) for form in formats)
    (position,) = header.unpack_from(data)
    if position + number.size > len(data):
        return data
    (count,) = number.unpack_from(data, position)
    position += number.size
    for start in range(position, min(position + count * entry.size, len(data) - entry.size + 1), entry.size):
        if entry.unpack_from(data, start)[0] == _ORIENTATION:
            upright = bytearray(data)
            entry.pack_into(upright, start, _ORIENTATION, 3, 1, struct.pack(f"{order}H", 1))
            return bytes(upright)
    return data


def _jpeg_ran_out(data: bytes, image: np.ndarray) -> bool:
    """Whether a JPEG's data ended before the picture did, as after damage or with an end marker in the middle.

    libjpeg then leaves the rest of the picture gray. OpenCV does not report it, but data inserted before the end marker
    changes the picture if, and only if, some was missing.

    Args:
        data: content of the file.
        image: (H, W, 3), as OpenCV decoded it.
    """
    corners = (image[y, x] for y in (np.s_[:4], np.s_[-4:]) for x in (np.s_[:4], np.s_[-4:]))
    if not data.startswith(JPEG_START) or not any((corner == _JPEG_MISSING).all() for corner in corners):
        return False
    end = _jpeg_end(data)
    # Any bytes but FF, which begins a marker.
    more = np.random.default_rng(0).integers(1, 0xFF, 256, np.uint8).tobytes()
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
    with silent:
        pictures = [
            cv2.imdecode(np.frombuffer(content, np.uint8), flags) for content in (data, data[:end] + more + data[end:])
        ]
    return not np.array_equal(*pictures)


def _jpeg_end(data: bytes) -> int | None:
    """The position of the end marker; None if there is none."""
    return next((start for kind, start, _ in _jpeg_markers(data) if kind == _JPEG_END), None)


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, start, and end of the segment of each marker up to the end marker."""
    # Segments are skipped by their length, since an embedded preview has an end marker of its own.
    position = len(JPEG_START)
    while marker := _JPEG_MARKER.search(data, position):
        kind, position = data[marker.end() - 1], marker.end()
        if kind not in (_JPEG_END, *_JPEG_WITHOUT_LENGTH):
            position += int.from_bytes(data[position : position + 2], "big")
        yield kind, marker.start(), position
        if kind == _JPEG_END:
            return


def _jpeg_lacks_parts(data: bytes) -> bool:
    """Whether restart intervals or scans of a JPEG are missing (ITU-T T.81, sections B.2, E.1.4 and G.1.1).

    The decoder fills them in and goes on. Restart markers count from 0 to 7 over and over, one between two intervals,
    and a progressive file sends the last bit of every coefficient that it began. This cannot detect damage within an
    interval that leaves its markers in place, the loss of the last scans of a progressive file that sends each
    coefficient at once, or the loss of the end of the very last scan, some fine detail.
    """
    interval, frame, missing_bits = 0, {}, {}
    size, progressive = (0, 0), False
    markers = list(_jpeg_markers(data))
    for (kind, start, end), (_, following, _) in itertools.pairwise(markers):
        segment = data[start + 4 : end]
        if kind == _JPEG_INTERVAL:
            interval = int.from_bytes(segment[:2], "big")
        elif kind in _JPEG_FRAMES and len(segment) >= 6 + 3 * segment[5]:
            progressive, size = kind == _JPEG_FRAMES[-1], struct.unpack(">HH", segment[1:5])
            entries = [segment[6 + 3 * index : 9 + 3 * index] for index in range(segment[5])]
            # Horizontal and vertical sampling, by component.
            frame = {entry[0]: (entry[1] >> 4, entry[1] & 15) for entry in entries}
        elif kind == _JPEG_SCAN and segment and len(segment) == 4 + 2 * segment[0]:
            components = [segment[1 + 2 * index] for index in range(segment[0])]
            if not frame.keys() >= set(components):
                return False
            first, last, bits = segment[-3:]
            missing_bits |= {(each, place): bits & 15 for each in components for place in range(first, last + 1)}
            restarts = [marker[1] & 7 for marker in _JPEG_RESTART.findall(data, end, following)]
            if restarts != [index % 8 for index in range(len(restarts))]:
                return True
            units = _jpeg_units(size, frame, components)
            if interval and len(restarts) < -(-units // interval) - 1:
                return True
    if not progressive:
        return False
    return any(missing_bits.values()) or any((each, 0) not in missing_bits for each in frame)


def _jpeg_units(size: tuple[int, int], frame: Mapping[int, tuple[int, int]], components: Sequence[int]) -> int:
    """The units that restart intervals count: blocks of one component, or groups of blocks of several."""
    across, down = (max(sampling) for sampling in zip(*frame.values(), strict=True))
    height, width = size
    if len(components) == 1:
        horizontal, vertical = frame[components[0]]
        columns, rows = -(-width * horizontal // across), -(-height * vertical // down)
        return -(-columns // 8) * -(-rows // 8)
    return -(-width // (8 * across)) * -(-height // (8 * down))


def _png_is_whole(data: bytes) -> bool:
    # Checksums count too: on a wrong one, the decoder would print to standard error.
    content, position = memoryview(data), len(PNG_START)
    while position < len(data):
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        chunk, checksum = content[position + 4 : end], content[end : end + 4]
        if len(checksum) < 4 or zlib.crc32(chunk) != int.from_bytes(checksum, "big"):
            return False
        if chunk[:4] == b"IEND":
            return True
        position = end + 4
    return False
