"""From untrusted image files to the network's input, and poses back to photos, inside TensorFlow's graph.

Whatever is sent, the graph fails only with a stated reason: it reads sizes before it decodes pixels, and catches the
errors of decoders.
"""

from collections.abc import Callable

import tensorflow as tf

from dekr_tf.files.image_size import JPEG_START, PNG_START
from dekr_tf.files.images import MAX_PIXELS
from dekr_tf.geometry import SIZE_MULTIPLE, round_up
from dekr_tf.preprocessing import most_pixels
from dekr_tf.sidecar import Sidecar

#: Most images in a batch.
MAX_IMAGES = 32
#: Progressive JPEG files have about ten scans; each costs as much as a whole image, but may have only a few bytes.
MAX_SCANS = 64

#: With the first byte of the marker that follows.
_JPEG_START = JPEG_START + b"\xff"
_PNG_HEADER = 33
_JPEG_SCAN = b"\xff\xda"
#: The Exif segment is one of the first, and each has at most 65,535 bytes.
_EXIF_WITHIN = 2**17
_EXIF_START = b"Exif\x00\x00"
#: By byte order: tag, type and count of the orientation entry, which precede its value, and the value's low byte.
_EXIF_ORIENTATION = {
    b"II": (b"\x12\x01\x03\x00\x01\x00\x00\x00", 0),
    b"MM": (b"\x01\x12\x00\x03\x00\x00\x00\x01", 1),
}


def encoded_images(
    network: Callable,
    sidecar: Sidecar,
    *,
    max_pixels: int = MAX_PIXELS,
    max_images: int = MAX_IMAGES,
    skip_bad: bool = False,
) -> Callable:
    """A function from encoded images to poses in their own pixels.

    JPEG and PNG files are resized as in `PoseDetector`, JPEG files turned upright by their EXIF orientation. With an
    input size in `sidecar.artifact`, images are letterboxed into it and go through the network together. Without, each
    gets the size that `PoseDetector` would choose and goes alone, so that its poses do not depend on the other images
    of the batch.

    Args:
        network: from (B, H, W, 3), 0..255, to a dict of float32 with `keypoints` (B, N, K, 2) in input pixels,
            `keypoint_scores` (B, N, K) and `center_scores` (B, N), zero where there is no candidate.
        sidecar: its settings.
        max_pixels: larger images are refused before they are decoded. Default: the limit of `PoseDetector`.
        max_images: larger batches are refused, and so are empty ones.
        skip_bad: refuse only the bad images of a batch: the result has `error` (B,), the reason why an image was
            refused or an empty string, and no people in such an image. Otherwise a bad image fails the whole batch.

    Returns:
        A function from (B,) strings to the dict of `network`, with keypoints in pixels of the images. It raises
        `tf.errors.InvalidArgumentError` with the reason.
    """
    fixed = sidecar.artifact.input_sizes[0] if sidecar.artifact and sidecar.artifact.input_sizes else None

    def prepare(index, content):
        image, size, placement, reason = _read(content, fixed, sidecar.input_size, max_pixels)
        if not skip_bad:
            where = tf.strings.join(["image ", tf.strings.as_string(index), ": ", reason])
            tf.debugging.Assert(tf.equal(reason, ""), [where])
        return _warp(image, size, placement), placement, reason

    def infer_alone(item):
        image, placement, reason = prepare(*item)
        outputs = {name: value[0] for name, value in network(image[None]).items()}
        return _in_photo(outputs, placement, reason), reason

    def prepare_fixed(item):
        image, placement, reason = prepare(*item)
        return tf.ensure_shape(image, (*fixed, 3)), placement, reason

    def infer(image_bytes):
        image_bytes = with_checked_shape(
            image_bytes, 1, lambda shape: (shape[0] >= 1) & (shape[0] <= max_images), f"1 to {max_images} images"
        )
        items = tf.range(tf.shape(image_bytes)[0]), image_bytes
        if fixed:
            signature = (
                tf.TensorSpec((*fixed, 3), tf.uint8),
                tf.TensorSpec((3,), tf.float64),
                tf.TensorSpec((), tf.string),
            )
            images, placements, reasons = tf.map_fn(
                prepare_fixed, items, fn_output_signature=signature, parallel_iterations=1
            )
            outputs = _in_photo(network(images), placements, reasons)
        else:
            people, keypoints = sidecar.decoder.max_people, len(sidecar.schema)
            signature = {
                "keypoints": tf.TensorSpec((people, keypoints, 2)),
                "keypoint_scores": tf.TensorSpec((people, keypoints)),
                "center_scores": tf.TensorSpec((people,)),
            }
            outputs, reasons = tf.map_fn(
                infer_alone, items, fn_output_signature=(signature, tf.TensorSpec((), tf.string)), parallel_iterations=1
            )
        return {**outputs, "error": reasons} if skip_bad else outputs

    return infer


def with_checked_shape(tensor: tf.Tensor, rank: int, fits: Callable[[tf.Tensor], tf.Tensor], kind: str) -> tf.Tensor:
    """The tensor itself, or an error of the graph: servers feed any shape that they are sent, whatever the signature.

    Args:
        tensor: of any shape, whatever its static shape says.
        rank: expected.
        fits: whether a shape (rank,) int32 is right; also called with padded or cut shapes of another rank.
        kind: what is expected, for the error.
    """
    shape = tf.shape(tensor)
    # A raw operation, since `tf.size` trusts the static shape.
    right_rank = tf.equal(tf.raw_ops.Size(input=shape), rank)
    padded = tf.concat([shape, tf.zeros((rank,), tf.int32)], axis=0)[:rank]
    message = tf.strings.format(f"expected {kind}. Received: shape {{}}", shape)
    with tf.control_dependencies([tf.debugging.Assert(right_rank & fits(padded), [message])]):
        return tf.identity(tensor)


def _read(content, fixed, input_size, max_pixels):
    """From one string: image (H, W, 3) uint8, size (2,) of the network's input, placement (3,), and reason.

    If the reason says why the image is refused, the image is a black pixel.
    """
    content = tf.ensure_shape(content, ())
    length = tf.strings.length(content)
    is_jpeg = tf.equal(tf.strings.substr(content, 0, len(_JPEG_START)), _JPEG_START)
    is_png = tf.equal(tf.strings.substr(content, 0, len(PNG_START)), PNG_START)
    stored_size = tf.cond(is_jpeg, lambda: _jpeg_size(content), lambda: _png_size(content))
    height, width = tf.unstack(tf.cast(stored_size, tf.int64))
    # No more pieces than the check needs, since each takes memory.
    pieces = tf.cond(is_jpeg, lambda: tf.size(tf.strings.split(content, _JPEG_SCAN, maxsplit=MAX_SCANS + 1)), lambda: 0)
    network_size, too_elongated = _network_size(stored_size, fixed, input_size)

    text = tf.strings.as_string
    received = tf.strings.join([" Received: ", text(width), "x", text(height)])
    reason = _first_reason(
        (length == 0, "expected a JPEG or PNG file. Received: an empty one"),
        (
            ~(is_jpeg | is_png),
            tf.strings.join(["expected a JPEG or PNG file. Received: ", text(length), " bytes of another kind"]),
        ),
        ((height < 1) | (width < 1), "expected a whole image. Received: a truncated or damaged header"),
        (height * width > max_pixels, tf.strings.join([f"expected at most {max_pixels} pixels.", received])),
        (pieces > MAX_SCANS + 1, f"the JPEG file has more than {MAX_SCANS} scans"),
        (too_elongated, tf.strings.join(["expected a less elongated image.", received])),
    )
    # A refused file goes to the decoder as an empty string.
    decoded = _attempt(
        lambda each: tf.cond(
            tf.equal(tf.strings.substr(each, 0, len(_JPEG_START)), _JPEG_START),
            # The arithmetic of OpenCV's decoder.
            lambda: tf.io.decode_jpeg(each, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_png(each, channels=3),
        ),
        tf.where(tf.equal(reason, ""), content, ""),
        tf.zeros((0, 0, 3), tf.uint8),
    )
    failed = tf.equal(tf.size(decoded), 0)
    reason = _first_reason(
        (tf.not_equal(reason, ""), reason),
        (failed, "expected a whole image. Received: a truncated or damaged file"),
    )
    image = tf.cond(failed, lambda: tf.zeros((1, 1, 3), tf.uint8), lambda: decoded)
    image = _upright(image, tf.cond(is_jpeg, lambda: _orientation(content), lambda: 1))
    size = tf.shape(image)[:2]
    network_size, _ = _network_size(size, fixed, input_size)
    return image, network_size, _placement(size, network_size, fixed), reason


def _attempt(function, content, fallback):
    """The result of a function of a string or, if it raises an error, the fallback, which has the same type.

    A graph has no other way to continue after an error.
    """
    attempt = tf.data.Dataset.from_tensors(content).map(function).ignore_errors()
    return attempt.concatenate(tf.data.Dataset.from_tensors(fallback)).take(1).get_single_element()


def _first_reason(*cases):
    """The first text of (condition, text) pairs whose condition holds, or an empty string."""
    reason = tf.constant("")
    for condition, text in reversed(cases):
        reason = tf.where(condition, text, reason)
    return reason


def _jpeg_size(content):
    return _attempt(lambda each: tf.io.extract_jpeg_shape(each)[:2], content, tf.zeros((2,), tf.int32))


def _png_size(content):
    header = tf.strings.join([tf.strings.substr(content, 0, _PNG_HEADER), b"\0" * _PNG_HEADER])
    size = tf.io.decode_raw(tf.strings.substr(header, 16, 8), tf.int32, little_endian=False)
    size = tf.ensure_shape(size, (2,))[::-1]
    return tf.where(tf.equal(tf.strings.substr(header, 12, 4), "IHDR"), size, 0)


def _orientation(content):
    """The EXIF orientation of a JPEG file, 1..8; 1 if it has none."""
    start = tf.strings.substr(content, 0, _EXIF_WITHIN)
    exif = _rest_behind(start, _EXIF_START)
    orientation = tf.constant(1)
    for order, (entry, position) in _EXIF_ORIENTATION.items():
        value = tf.strings.join([_rest_behind(exif, entry), b"\0\0"])
        number = tf.cast(tf.io.decode_raw(tf.strings.substr(value, position, 1), tf.uint8)[0], tf.int32)
        orientation = tf.where(tf.equal(tf.strings.substr(exif, 0, 2), order), number, orientation)
    return tf.where((orientation >= 1) & (orientation <= 8), orientation, 1)


def _rest_behind(content, separator):
    """The part of a string after the first separator; empty if there is none."""
    return tf.concat([tf.strings.split(content, separator, maxsplit=1)[1:], [""]], axis=0)[0]


def _upright(image, orientation):
    """An image (H, W, 3) turned and mirrored as an EXIF orientation 1..8 says."""

    def turned(transposed, axes):
        source = tf.transpose(image, (1, 0, 2)) if transposed else image
        return tf.reverse(source, axes) if axes else source

    cases = [(False, [1]), (False, [0, 1]), (False, [0]), (True, []), (True, [1]), (True, [0, 1]), (True, [0])]
    branches = [lambda: image] + [lambda case=case: turned(*case) for case in cases]
    return tf.ensure_shape(tf.switch_case(orientation - 1, branches), (None, None, 3))


def _network_size(size, fixed, input_size):
    """`preprocessing.bounded_network_size` for a size (2,) int32, and whether the image is too elongated for it."""
    if fixed:
        return tf.constant(fixed), tf.constant(False)
    largest = most_pixels(input_size)
    shorts = tf.range(round_up(input_size), 0, -SIZE_MULTIPLE, dtype=tf.int64)
    sides = tf.cast(tf.maximum(size, 1), tf.float64)
    exact = tf.cast(shorts, tf.float64) / tf.reduce_min(sides) * tf.reduce_max(sides)
    longs = (tf.cast(exact, tf.int64) + (SIZE_MULTIPLE - 1)) // SIZE_MULTIPLE * SIZE_MULTIPLE
    fits = shorts * longs <= largest
    best = tf.argmax(tf.cast(fits, tf.int32))
    short, long = tf.cast(shorts[best], tf.int32), tf.cast(longs[best], tf.int32)
    return tf.where(size[1] < size[0], tf.stack([long, short]), tf.stack([short, long])), ~tf.reduce_any(fits)


def _placement(size, network_size, fixed):
    """Zoom, shift in x and shift in y, (3,) float64, from network input to image.

    It is the inverse of `geometry.fit_transform` if the input's size is fixed, else of `geometry.resize_transform`.
    """
    size, network_size = tf.cast(size, tf.float64), tf.cast(network_size, tf.float64)
    zooms = size / network_size
    zoom = tf.reduce_max(zooms) if fixed else zooms[tf.argmin(size)]
    shift_y, shift_x = tf.unstack(tf.floor(size / 2 + 0.5) - network_size / 2 * zoom)
    return tf.stack([zoom, shift_x, shift_y])


def _warp(image, size, placement):
    """Warps an image (H, W, 3) uint8 to `size` (2,): bilinear, black outside, with the arithmetic of OpenCV 5."""
    zoom, shift_x, shift_y = tf.unstack(placement)

    def along(axis, values, shift):
        positions = zoom * tf.cast(tf.range(size[axis]), tf.float64) + shift
        first = tf.floor(positions)
        share = tf.cast(positions - first, tf.float32)
        cells = tf.cast(first, tf.int32)
        last = tf.shape(values)[axis] - 1

        def at(near, weight):
            inside = (near >= 0) & (near <= last)
            weight = tf.reshape(tf.where(inside, weight, 0.0), (-1, 1) if axis else (-1, 1, 1))
            return tf.cast(tf.gather(values, tf.clip_by_value(near, 0, last), axis=axis), tf.float32) * weight

        return at(cells, 1 - share) + at(cells + 1, share)

    # Rows first, since most rows of a large photo are left out.
    warped = along(1, along(0, image, shift_y), shift_x)
    return tf.cast(tf.round(warped), tf.uint8)


def _in_photo(outputs, placement, reason):
    """Poses with keypoints in pixels of the photos; none for a photo that has a reason to be refused.

    Args:
        outputs: dict of arrays (..., N, K, 2), (..., N, K) and (..., N).
        placement: (..., 3).
        reason: (...).
    """
    placement = tf.cast(placement, tf.float32)
    zoom, shift = placement[..., None, None, :1], placement[..., None, None, 1:]
    found = (outputs["center_scores"] > 0) & tf.equal(reason, "")[..., None]
    return {
        "keypoints": tf.where(found[..., None, None], outputs["keypoints"] * zoom + shift, 0.0),
        "keypoint_scores": tf.where(found[..., None], outputs["keypoint_scores"], 0.0),
        "center_scores": tf.where(found, outputs["center_scores"], 0.0),
    }
