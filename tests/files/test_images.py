"""Reading and finding image files: the pixels that come out, and what is said of broken files."""

import contextlib
import os
import re
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dekr_tf.errors import InputError
from dekr_tf.files.image_size import size_in_header
from dekr_tf.files.images import check_images, decode_image, find_images, open_images, read_image, write_image

RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLORS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)


def encode(image_rgb, suffix):
    """Content of an image file; gray and four-channel images too."""
    if image_rgb.ndim == 3:
        order = [2, 1, 0, 3][: image_rgb.shape[-1]]
        image_rgb = np.ascontiguousarray(image_rgb[..., order])
    return cv2.imencode(suffix, image_rgb)[1].tobytes()


def exif(orientation):
    """A TIFF structure with one entry, the orientation."""
    return b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, orientation, 0)


def jpeg_with_exif(data, orientation, extra=b""):
    content = b"Exif\0\0" + exif(orientation) + extra
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colors_come_out_as_rgb(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(encode(COLORS, suffix))
    image = read_image(path, exif_orientation=True)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, COLORS)


def test_gray_becomes_three_equal_channels():
    image = decode_image(encode(RAMP, ".png"), "gray", exif_orientation=False)
    np.testing.assert_array_equal(image, np.repeat(RAMP[..., None], 3, axis=-1))


def test_alpha_is_dropped_without_blending():
    transparent = np.concatenate([COLORS, np.full((4, 6, 1), 3, np.uint8)], axis=-1)
    np.testing.assert_array_equal(decode_image(encode(transparent, ".png"), "rgba", exif_orientation=True), COLORS)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_not_clipped(suffix):
    deep = (COLORS.astype(np.uint16) << 8) + 128
    image = decode_image(encode(deep, suffix), "16 bit", exif_orientation=True)
    assert np.abs(image.astype(int) - COLORS).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 20_000)])
def test_odd_sizes(size):
    image = decode_image(encode(np.full((*size, 3), 9, np.uint8), ".png"), "odd", exif_orientation=True)
    np.testing.assert_array_equal(image, np.full((*size, 3), 9, np.uint8))


# Blocks of one gray level survive JPEG.
BLOCKS = np.kron(np.array([[20, 220, 120], [70, 170, 240]], np.uint8), np.ones((16, 16), np.uint8))


def jpeg_file(orientation):
    return jpeg_with_exif(encode(BLOCKS, ".jpg"), orientation)


def png_file(orientation):
    data = encode(BLOCKS, ".png")
    return data[:33] + png_chunk(b"eXIf", exif(orientation)) + data[33:]


def webp_file(orientation):
    if cv2.getVersionMajor() < 5:
        pytest.skip("OpenCV 4.11 does not turn WebP photos upright")
    height, width = BLOCKS.shape
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    image = encode(np.repeat(BLOCKS[..., None], 3, axis=-1), ".webp")[12:]
    content = b"WEBPVP8X" + struct.pack("<II", 10, 8) + sizes + image
    content += b"EXIF" + struct.pack("<I", len(exif(orientation))) + exif(orientation)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def avif_file(orientation):
    if not hasattr(cv2, "imencodeWithMetadata") or not cv2.haveImageWriter("photo.avif"):
        pytest.skip("this OpenCV writes no AVIF")
    entry = np.frombuffer(exif(orientation), np.uint8)
    image = np.repeat(BLOCKS[..., None], 3, axis=-1)
    return cv2.imencodeWithMetadata(".avif", image, [cv2.IMAGE_METADATA_EXIF], [entry])[1].tobytes()


def tiff_file(orientation, order="<", big=False):
    """Gray without compression."""
    height, width = BLOCKS.shape
    start = 16 if big else 8
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: start, 0x112: orientation, 277: 1, 278: height}
    values[279] = BLOCKS.size
    offset, number, entry, value = ("Q", "Q", "HHQ", "Q") if big else ("I", "H", "HHI", "I")
    directory = struct.pack(order + number, len(values))
    for tag in sorted(values):
        short = struct.pack(order + "H", values[tag]).ljust(struct.calcsize("<" + value), b"\0")
        directory += struct.pack(order + entry, tag, 3, 1) + short
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    header += struct.pack(order + "HH", 8, 0) if big else b""
    directory += struct.pack(order + offset, 0)
    return header + struct.pack(order + offset, start + BLOCKS.size) + BLOCKS.tobytes() + directory


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.T),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: stored[::-1, ::-1].T),
        (8, lambda stored: np.rot90(stored, 1)),
    ],
)
@pytest.mark.parametrize(
    "file",
    [
        jpeg_file,
        png_file,
        webp_file,
        avif_file,
        tiff_file,
        lambda orientation: tiff_file(orientation, ">"),
        lambda orientation: tiff_file(orientation, "<", big=True),
        lambda orientation: tiff_file(orientation, ">", big=True),
    ],
    ids=["jpeg", "png", "webp", "avif", "tiff", "tiff big-endian", "bigtiff", "bigtiff big-endian"],
)
def test_exif_orientation_is_applied_on_request_only(file, orientation, upright):
    data = file(orientation)
    as_stored = decode_image(data, "photo", exif_orientation=False)[..., 0].astype(int)
    turned = decode_image(data, "photo", exif_orientation=True)[..., 0].astype(int)
    np.testing.assert_allclose(as_stored, BLOCKS, atol=8)
    np.testing.assert_array_equal(turned, upright(as_stored))


@pytest.mark.parametrize("big", [False, True])
def test_tiff_directories_that_lie_outside_the_file_are_no_other_errors(big):
    data = tiff_file(6, big=big)
    for length in range(0, len(data), 7):
        for broken in (data[:length], data[:4] + b"\xff" * 12 + data[16:length]):
            with contextlib.suppress(InputError):
                image = decode_image(broken, "photo", exif_orientation=False)
                assert image.shape[:2] in (BLOCKS.shape, BLOCKS.shape[::-1])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_every_truncation_is_found(tmp_path, suffix):
    data = encode(cv2.resize(COLORS, (48, 40)), suffix)
    path = tmp_path / f"cut{suffix}"
    for length in [1, 2, 3, 9, 40, len(data) // 4, len(data) // 2, len(data) - 12, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=f"cut{suffix}"):
            read_image(path, exif_orientation=True)


def photo(size=(96, 128)):
    """Smooth, with noise."""
    noise = np.random.default_rng(0).integers(0, 60, (*size, 3))
    return (np.linspace(0, 190, size[1])[None, :, None] + noise).astype(np.uint8)


def jpeg(image, *options):
    return cv2.imencode(".jpg", image, options)[1].tobytes()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("sampling", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420])
def test_a_jpeg_whose_data_ends_too_early_is_damaged(orientation, upright, sampling):
    whole = jpeg_with_exif(jpeg(photo(), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling), orientation)
    half = len(whole) // 2
    lost = whole[:half] + whole[half + 2000 :]
    ended = whole[:half] + b"\xff\xd9" + whole[half + 2 :]
    assert decode_image(whole, "photo", exif_orientation=upright).size == photo().size
    for data in (lost, ended):
        with pytest.raises(InputError, match=r"photo: expected a whole image\. Received: a damaged file"):
            decode_image(data, "photo", exif_orientation=upright)


def restart_markers(data):
    return [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", data)]


@pytest.mark.parametrize("sampling", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("size", [(120, 160), (121, 163), (8, 17)])
@pytest.mark.parametrize("progressive", [0, 1])
def test_restart_intervals(sampling, gray, size, progressive):
    image = cv2.resize(photo(), size[::-1])
    image = image[..., 0] if gray else image
    options = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    whole = jpeg(image, *options, cv2.IMWRITE_JPEG_RST_INTERVAL, 1)
    assert decode_image(whole, "photo", exif_orientation=True).shape == (*size, 3)
    if size[0] < 100:
        return
    first, second = restart_markers(whole)[5:7]
    lost, doubled = whole[:first] + whole[second:], whole[:second] + whole[first:]
    swapped = bytearray(whole)
    swapped[first + 1], swapped[second + 1] = whole[second + 1], whole[first + 1]
    for data in (lost, doubled, bytes(swapped)):
        with pytest.raises(InputError, match=r"photo: expected a whole image\. Received: a truncated or damaged file"):
            decode_image(data, "photo", exif_orientation=True)


def test_eight_lost_intervals_leave_the_count_too_low():
    whole = jpeg(photo(), cv2.IMWRITE_JPEG_RST_INTERVAL, 1)
    marks = restart_markers(whole)
    with pytest.raises(InputError, match="a truncated or damaged file"):
        decode_image(whole[: marks[5]] + whole[marks[13] :], "photo", exif_orientation=True)


@pytest.mark.parametrize("gray", [False, True])
def test_a_progressive_jpeg_without_its_last_scans(gray):
    whole = jpeg(photo()[..., 0] if gray else photo(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert decode_image(whole, "photo", exif_orientation=True).size == photo().size
    scans = [match.start() for match in re.finditer(rb"\xff\xda", whole)]
    assert len(scans) == (6 if gray else 10)
    for start in scans[1:]:
        with pytest.raises(InputError, match="a truncated or damaged file"):
            decode_image(whole[:start] + b"\xff\xd9", "photo", exif_orientation=True)


def test_a_whole_jpeg_may_be_as_gray_as_missing_data():
    for image in (np.full((40, 56, 3), 128, np.uint8), np.full((5, 3), 128, np.uint8), photo()):
        image[-24:] = 128
        for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)):
            decoded = decode_image(jpeg(image, *options), "gray", exif_orientation=True)
            assert (decoded[-4:, -4:] == 128).all()


def test_the_end_of_an_embedded_preview_is_not_the_end_of_the_photo():
    preview = encode(COLORS, ".jpg")
    data = jpeg_with_exif(encode(cv2.resize(COLORS, (48, 40)), ".jpg"), 1, extra=preview)
    assert decode_image(data, "photo", exif_orientation=True).shape == (40, 48, 3)
    with pytest.raises(InputError, match="truncated"):
        decode_image(data[:-200], "photo", exif_orientation=True)


def test_data_after_the_end_is_ignored():
    for suffix in (".jpg", ".png"):
        data = encode(COLORS, suffix) + b"\xff\xd8 a second picture, cut"
        assert decode_image(data, "photo", exif_orientation=True).shape == COLORS.shape


def test_damaged_png_is_found_and_nothing_is_printed(capfd):
    data = bytearray(encode(cv2.resize(COLORS, (48, 40)), ".png"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InputError, match=r"photo: .*damaged"):
        decode_image(bytes(data), "photo", exif_orientation=True)
    assert capfd.readouterr() == ("", "")


def test_an_enormous_header_is_refused_and_nothing_is_printed(capfd):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    with pytest.raises(InputError, match="bomb"):
        decode_image(data, "bomb", exif_orientation=True)
    assert capfd.readouterr() == ("", "")


def tiff(order, sides, big):
    """The start of a TIFF file: its directory of width and height, the latter in 16 bits."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQQ", 8, 0, 16, 2) if big else struct.pack(order + "IH", 8, 2)
    entries = [(257, 3, sides[0]), (256, 4, sides[1])]
    for tag, kind, value in entries:
        code = {3: "HH", 4: "I"}[kind]
        values = (value, 0) if kind == 3 else (value,)
        head += struct.pack(order + "HH" + ("Q" if big else "I") + code, tag, kind, 1, *values)
        head += b"\0" * (4 if big else 0)
    return head


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif"])
def test_the_header_says_the_size(suffix):
    data = encode(cv2.resize(COLORS, (48, 40)), suffix)
    assert size_in_header(data) == (40, 48)
    assert size_in_header(data[:4]) is None
    assert size_in_header(jpeg_with_exif(encode(COLORS, ".jpg"), 6, extra=data)) == (4, 6)


def test_headers_of_other_kinds():
    for order in "<>":
        for big in (False, True):
            assert size_in_header(tiff(order, (40_000, 70_000), big)) == (40_000, 70_000)
    assert size_in_header(b"BM" + bytes(12) + struct.pack("<IHH", 12, 7, 5)) == (5, 7)
    assert size_in_header(b"BM" + bytes(12) + struct.pack("<Iii", 40, 7, -5)) == (5, 7)
    # Fill bytes, a restart marker and a comment stand before the frame.
    head = b"\xff\xd8\xff\xff\xfe\0\4ab\xff\xd0\xff\xc2" + struct.pack(">HBHH", 11, 8, 5, 7)
    assert size_in_header(head) == (5, 7)
    for data in (
        b"",
        b"GIF89a",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe1\0\0",
        b"BM",
        b"II*\0\xff\xff\xff\xff",
    ):
        assert size_in_header(data) is None


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0+"]))
def test_no_header_makes_it_fail(data, start):
    size = size_in_header(start + data)
    assert size is None or min(size) >= 0


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 16_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    with pytest.raises(
        InputError, match=r"^image bomb: expected at most 268435456 pixels\. Received: 16000x20000 \(height x width\)$"
    ):
        decode_image(data, "bomb", exif_orientation=True)
    # Of a format whose header is not read.
    monkeypatch.setattr("dekr_tf.files.images.MAX_PIXELS", 23)
    with pytest.raises(InputError, match=r"at most 23 pixels\. Received: 4x6"):
        decode_image(encode(COLORS, ".webp"), "photo", exif_orientation=True)
    monkeypatch.setattr("dekr_tf.files.images.MAX_PIXELS", 24)
    for suffix in (".webp", ".png"):
        assert decode_image(encode(COLORS, suffix), "photo", exif_orientation=True).shape == (4, 6, 3)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_a_picture_is_written_and_read(tmp_path, suffix):
    write_image(COLORS, tmp_path / f"new/picture{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"new/picture{suffix}", exif_orientation=True), COLORS)


def test_pictures_that_cannot_be_written(tmp_path):
    for name in ("sheet.json", "sheet", "sheet.mp4"):
        with pytest.raises(InputError, match=rf"the name of a picture to write, such as .* Received: .*{name}$"):
            write_image(COLORS, tmp_path / name)
    with pytest.raises(InputError, match=r"expected a file name in UTF-8. Received: '.*\\udcdf"):
        write_image(COLORS, tmp_path / os.fsdecode(b"sheet.p\xdf"))
    # JPEG has 16 bits for a side.
    with pytest.raises(InputError, match=r"^cannot write .*wide\.jpg: .* Received: 1x70000 pixels"):
        write_image(np.zeros((1, 70_000, 3), np.uint8), tmp_path / "wide.jpg")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_an_image_is_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    for name, message in [("empty.jpg", "empty"), ("text.jpg", "cannot decode"), ("none.jpg", "No such file")]:
        with pytest.raises(InputError, match=f"{name}.*{message}"):
            read_image(tmp_path / name, exif_orientation=True)
    with pytest.raises(InputError, match="directory"):
        read_image(tmp_path, exif_orientation=True)
    with pytest.raises(InputError, match="cannot read image a\0b: embedded null byte"):
        read_image("a\0b", exif_orientation=True)
    for name in ("n" * 300, "a\0b"):
        with pytest.raises(InputError, match=f"cannot read .*{name}: (File name too long|embedded null byte)"):
            check_images([name], tmp_path)


@pytest.fixture
def folder(tmp_path):
    for name in ["b.jpg", "a.PNG", "c.webp", "notes.txt", ".hidden.jpg", "sub/d.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_find_images_in_files_folders_and_patterns(folder):
    def found(*paths):
        return [path.relative_to(folder).as_posix() for path in find_images([folder / path for path in paths])]

    assert found("") == ["a.PNG", "b.jpg", "c.webp"]
    assert found("*.jpg") == ["b.jpg"]
    assert found("**/*.jpg") == ["b.jpg", "sub/d.jpg"]
    assert found("sub", "b.jpg", "b.jpg", "?.jpg") == ["b.jpg", "sub/d.jpg"]
    assert found("notes.txt") == ["notes.txt"]


def test_image_files_that_are_passed_over_are_counted(folder, caplog):
    for name in ("d.jfif", "e.JPE", "f.gif", "g.HEIC", "h.gif", ".i.gif"):
        (folder / name).touch()
    assert [path.name for path in find_images([folder])] == ["a.PNG", "b.jpg", "c.webp", "d.jfif", "e.JPE"]
    (message,) = caplog.messages
    assert message.startswith(
        f"{folder}: skipped 3 image files in .gif, .heic; from a folder, only those in .bmp, .jfif, "
    )
    assert find_images([folder / "f.gif"]) == [folder / "f.gif"]


def test_a_name_that_looks_like_a_pattern_is_a_file_first(tmp_path):
    (tmp_path / "a[1].jpg").touch()
    assert find_images([tmp_path / "a[1].jpg"]) == [tmp_path / "a[1].jpg"]


@pytest.mark.parametrize("missing", ["none.jpg", "*.gif", "empty"])
def test_nothing_found_is_an_error(folder, missing):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"Received: .*none.jpg|Received: .*\.gif|Received: .*empty"):
        find_images([folder, folder / missing])


def test_missing_images_are_counted(tmp_path):
    names = ["a.jpg", "b/c.png"]
    (tmp_path / "a.jpg").touch()
    with pytest.raises(InputError, match=r"all 2 annotated images in .*Received: 1 missing, first b/c\.png$"):
        check_images(names, tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.png").touch()
    check_images(names, tmp_path)


@pytest.fixture
def archive(tmp_path):
    """A zip file as COCO's, with its images in a folder."""
    with zipfile.ZipFile(tmp_path / "train.ZIP", "w") as file:
        file.writestr("train/", "")
        for number in range(6):
            content = encode(np.full((4, 6 + number, 3), 40 * number, np.uint8), ".png")
            compression = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            file.writestr(f"train/{number}.png", content, compression)
        for name in ("train/same.png", "val/same.png"):
            file.writestr(name, encode(COLORS, ".png"))
    return tmp_path / "train.ZIP"


def test_images_of_a_folder_and_of_a_zip_file(archive, tmp_path):
    zipped = open_images(archive)
    zipfile.ZipFile(archive).extractall(tmp_path / "out")
    folder = open_images(tmp_path / "out")
    for name in ("train/3.png", "val/same.png"):
        assert zipped.content(name) == folder.content(name)
        np.testing.assert_array_equal(zipped.read(name), folder.read(name))
    assert zipped.read("3.png", size=(4, 9)).max() == 120
    # Another folder will do where the base name stands for one file only.
    assert zipped.read("images/3.png").shape == (4, 9, 3)
    assert "3.png" in zipped and "30.png" not in zipped
    assert "train/3.png" in folder and "3.png" not in folder


def test_separators_of_windows_in_a_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as file:
        for part in (1, 2):
            entry = zipfile.ZipInfo("name")
            entry.filename = f"train\\part {part}\\same.png"
            file.writestr(entry, encode(np.full((4, 6, 3), 40 * part, np.uint8), ".png"))
    images = open_images(tmp_path / "windows.zip")
    assert images.read("train/part 2/same.png").max() == 80
    assert images.read("part 1/same.png").max() == 40


def test_threads_may_read_a_zip_file_side_by_side(archive):
    images = open_images(archive)
    with ThreadPoolExecutor(8) as pool:
        shades = list(pool.map(lambda number: images.read(f"{number % 6}.png").max(), range(120)))
    assert shades == [40 * (number % 6) for number in range(120)]


def test_bad_names_and_sizes_in_a_zip_file(archive):
    images = open_images(archive)
    with pytest.raises(InputError, match=r"train\.ZIP/none\.png: No such file"):
        images.read("none.png")
    with pytest.raises(InputError, match=r"one file of this name .*Received: train/same\.png and val/same\.png"):
        images.read("same.png")
    with pytest.raises(InputError, match=r"0\.png: expected 6x4 pixels .* as annotated\. Received: 4x6$"):
        images.read("0.png", size=(6, 4))
    with pytest.raises(InputError, match=r"all 2 annotated images in .*Received: 1 missing, first none\.png$"):
        check_images(["0.png", "none.png"], archive)


def test_a_damaged_member_is_named(archive):
    with zipfile.ZipFile(archive) as file:
        entry = file.getinfo("train/0.png")
        start = entry.header_offset + 30 + len(entry.filename)
    data = bytearray(archive.read_bytes())
    data[start + 20] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"cannot read image .*train/0\.png: Bad CRC"):
        open_images(archive).read("0.png")


def test_what_holds_no_images(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "images.tar").touch()
    for name, message in [
        ("text.zip", "as a zip file: File is not a zip"),
        ("none.zip", "as a zip file: No such file"),
        ("images.tar", r"a folder or a zip file of images\. Received: .*images\.tar"),
    ]:
        with pytest.raises(InputError, match=message):
            open_images(tmp_path / name)
