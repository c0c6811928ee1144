"""The way from a photo through a network and back, with stand-ins for the network."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.files.video import write_video
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.sidecar import Sidecar

GOLDENS = Path(__file__).parents[1] / "goldens"
POINT = {"name": "point", "names": ["point"]}
POINT_SIDECAR = Sidecar.from_config(Config(keypoints=POINT, input_size=64))


class BlobFinder:
    """A network for a skeleton of one keypoint: it finds the middle of what is bright, and its own mirrored copies."""

    def __init__(self):
        self.images = None

    def __call__(self, images):
        self.images = images
        batch, height, width, _ = images.shape
        heatmap = np.zeros((batch, height // 4, width // 4, 2), np.float32)
        heatmap[..., 0] = 0.5
        x, y = np.meshgrid(np.arange(width // 4), np.arange(height // 4))
        offsets = []
        for index, image in enumerate(images):
            bright = np.clip(image[..., 1], 0, None)
            middle_x = (bright * np.arange(width)).sum() / bright.sum() / 4
            middle_y = (bright.T * np.arange(height)).sum() / bright.sum() / 4
            # Both copies must agree on the center's cell once the second is mirrored back.
            cell_x = round(middle_x) if index == 0 else width // 4 - 1 - round(width // 4 - 1 - middle_x)
            heatmap[index, round(middle_y), cell_x] = 0.5
            offsets.append(np.stack([x - middle_x, y - middle_y], axis=-1))
        return heatmap, np.stack(offsets).astype(np.float32)


def photo_with_blob(height, width, x, y):
    """A black photo with a bright disc."""
    photo = np.zeros((height, width, 3), np.uint8)
    return cv2.circle(photo, (x, y), 8, (255, 255, 255), -1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("height", "width"), [(60, 90), (91, 60), (301, 200), (64, 64), (50, 230)])
def test_a_blob_is_found_where_it_is_in_the_photo(height, width, flip):
    detector = PoseDetector(BlobFinder(), POINT_SIDECAR, dense=True, flip=flip)
    for x, y in [(20, 22), (width - 22, height - 25)]:
        poses = detector(photo_with_blob(height, width, x, y))
        # A fraction of a pixel of the network's input, which is coarser than a large photo.
        np.testing.assert_allclose(poses.keypoints, [[[x, y, 0.25]]], atol=0.15 * max(1, min(height, width) / 64))
        np.testing.assert_array_equal(poses.scores, poses.keypoints[:, 0, 2])


def test_the_network_sees_the_photo_as_the_reference_resizes_it():
    with np.load(GOLDENS / "preprocess.npz") as golden:
        photo, resized = golden["image"], golden["resized_1x"]
    finder = BlobFinder()
    PoseDetector(finder, POINT_SIDECAR, dense=True, input_size=128)(photo)
    pixels = (finder.images[0] * POINT_SIDECAR.std + POINT_SIDECAR.mean) * 255
    assert finder.images.dtype == np.float32
    # OpenCV 4 takes its bilinear weights in 1/32 pixel, OpenCV 5 exactly.
    np.testing.assert_allclose(pixels, resized, atol=4.01)
    assert (np.abs(pixels - resized) < 0.01).mean() > 0.9


def test_pixels_are_normalized_with_mean_and_deviation_per_channel():
    finder = BlobFinder()
    PoseDetector(finder, POINT_SIDECAR, dense=True)(np.full((64, 64, 3), (255, 128, 0), np.uint8))
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(finder.images[0, 32, 32], expected, rtol=1e-5)


def test_the_mirrored_image_goes_in_the_same_batch():
    finder = BlobFinder()
    PoseDetector(finder, POINT_SIDECAR, dense=True, flip=True)(photo_with_blob(70, 100, 20, 30))
    plain, mirrored = finder.images
    np.testing.assert_array_equal(mirrored[:, :-3], plain[:, ::-1][:, 3:])


@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_gives_what_each_photo_gives_alone(flip):
    class OneByOne:
        """Looks at each photo and its mirrored copy with the stand-in, and keeps what came together."""

        def __init__(self):
            self.shapes = []

        def __call__(self, images):
            self.shapes.append(images.shape)
            count = len(images) // 2 if flip else len(images)
            maps = [BlobFinder()(images[index::count]) for index in range(count)]
            # All photos come first, then all mirrored copies.
            return tuple(np.concatenate(np.stack(kind, axis=1)) for kind in zip(*maps, strict=True))

    sizes = [(60, 90), (90, 60), (64, 64), (120, 180), (91, 60), (70, 150)]
    photos = [photo_with_blob(*size, 20 + 2 * index, 30) for index, size in enumerate(sizes)]
    networks = OneByOne()
    detector = PoseDetector(networks, POINT_SIDECAR, dense=True, flip=flip)
    together = detector.detect_batch(photos)
    assert [(count // (1 + flip), *shape) for count, *shape, _ in networks.shapes] == [
        (2, 64, 128),
        (2, 128, 64),
        (1, 64, 64),
        (1, 64, 192),
    ]
    for photo, poses in zip(photos, together, strict=True):
        alone = detector(photo)
        assert len(alone) == 1
        np.testing.assert_array_equal(poses.keypoints, alone.keypoints)
        np.testing.assert_array_equal(poses.scores, alone.scores)


def test_no_photos_give_no_poses():
    assert PoseDetector(nobody, POINT_SIDECAR, dense=True).detect_batch([]) == []


def test_a_file_is_turned_upright(tmp_path):
    stored = photo_with_blob(60, 90, 20, 40)
    data = cv2.imencode(".jpg", stored)[1].tobytes()
    orientation = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"  # 3: upside down.
    (tmp_path / "photo.jpg").write_bytes(
        data[:2] + b"\xff\xe1\0" + bytes([len(orientation) + 2]) + orientation + data[2:]
    )
    poses = PoseDetector(BlobFinder(), POINT_SIDECAR, dense=True)(tmp_path / "photo.jpg")
    np.testing.assert_allclose(poses.keypoints[0, 0, :2], [69, 19], atol=0.5)


def test_the_input_size_is_the_models_unless_given():
    finder = BlobFinder()
    photo = photo_with_blob(60, 90, 20, 30)
    PoseDetector(finder, POINT_SIDECAR, dense=True)(photo)
    assert finder.images.shape == (1, 64, 128, 3)
    PoseDetector(finder, POINT_SIDECAR, dense=True, input_size=100)(photo)
    assert finder.images.shape == (1, 128, 192, 3)


def nobody(images):
    batch, height, width, _ = images.shape
    return np.zeros((batch, height // 4, width // 4, 18)), np.zeros((batch, height // 4, width // 4, 34))


def test_a_view_with_channels_reversed_is_an_image_too():
    photo = photo_with_blob(60, 90, 20, 30)
    np.testing.assert_array_equal(
        PoseDetector(BlobFinder(), POINT_SIDECAR, dense=True)(photo[..., ::-1]).keypoints,
        PoseDetector(BlobFinder(), POINT_SIDECAR, dense=True)(photo).keypoints,
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 400)])
def test_tiny_photos_have_nobody(size):
    poses = PoseDetector(nobody, config=Config(input_size=64), dense=True, flip=True)(np.zeros((*size, 3), np.uint8))
    assert poses.keypoints.shape == (0, 17, 3)


def test_maps_that_do_not_fit_the_skeleton():
    with pytest.raises(InputError, match=r"expected 2 heatmap and 2 offset channels .* Received: 18 and 34"):
        PoseDetector(nobody, POINT_SIDECAR, dense=True)(np.zeros((64, 64, 3), np.uint8))


def test_settings_are_needed():
    with pytest.raises(InputError, match="sidecar or a config"):
        PoseDetector(nobody)
    with pytest.raises(InputError, match="Received: 0"):
        PoseDetector(nobody, POINT_SIDECAR, input_size=0)


def test_detection_loads_no_tensorflow_and_no_keras():
    program = """
import json, sys
import numpy as np
from dekr_tf import PoseDetector
from dekr_tf.config import Config
import dekr_tf.visualization.drawing, dekr_tf.cli.predict_command
maps = lambda images: (np.ones((1, 16, 16, 18)), np.ones((1, 16, 16, 34)))
poses = PoseDetector(maps, config=Config(input_size=64), dense=True)(np.zeros((64, 64, 3), np.uint8))
print(json.dumps([len(poses), sorted({name.split(".")[0] for name in sys.modules} & {"tensorflow", "keras", "torch"})]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [30, []]


def test_a_video_is_looked_at_frame_by_frame(tmp_path):
    photos = [photo_with_blob(64, 96, x, 32) for x in (24, 40, 72)]
    with write_video(tmp_path / "clip.avi", (64, 96), 10.0) as add:
        for photo in photos:
            add(photo)
    detector = PoseDetector(BlobFinder(), POINT_SIDECAR, dense=True)
    frames = list(detector.stream(tmp_path / "clip.avi"))
    np.testing.assert_allclose([frame.seconds for frame in frames], [0, 0.1, 0.2], atol=1e-6)
    for photo, (_, image, poses) in zip(photos, frames, strict=True):
        assert np.abs(image.astype(int) - photo).mean() < 3
        np.testing.assert_array_equal(poses.xy, detector(image).xy)
        np.testing.assert_allclose(poses[0].xy, detector(photo)[0].xy, atol=1)
        assert poses.schema == POINT_SIDECAR.schema
    # Before the first frame is asked for.
    with pytest.raises(InputError, match="no_clip"):
        detector.stream("no_clip.avi")


def test_an_array_of_images_is_a_sequence_of_images():
    detector = PoseDetector(BlobFinder(), POINT_SIDECAR, dense=True)
    photos = np.stack([photo_with_blob(64, 64, x, 30) for x in (20, 40)])
    found = detector.detect_batch(photos)
    assert [poses.keypoints.round().tolist() for poses in found] == [[[[20, 30, 0]]], [[[40, 30, 0]]]]
    assert detector.detect_batch(photos[:0]) == []


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"scales": (0.5, 1.0)}, {"match": True}])
@pytest.mark.parametrize(
    ("broken", "value", "left"),
    [
        (np.s_[0, ...], np.nan, False),  # All offsets.
        (np.s_[0, ...], np.inf, False),
        (np.s_[0, :, :8], np.nan, True),  # Those of the upper half.
        (np.s_[1, ..., 1], np.nan, False),  # Centers.
        (np.s_[1, ..., 0], np.nan, False),  # Heat values.
    ],
)
def test_a_network_that_overflows_finds_nobody_there(broken, value, left, options):
    def network(images):
        batch, height, width, _ = images.shape
        maps = np.zeros((2, batch, height // 4, width // 4, 2), np.float32)
        maps[1, ..., 0] = 0.5
        # Symmetric, so that the mirrored copy says the same.
        maps[1, :, 4 * height // 64, [width // 16, width // 4 - 1 - width // 16], 1] = 0.5
        maps[1, :, 12 * height // 64, [width // 16, width // 4 - 1 - width // 16], 1] = 0.5
        maps[broken] = value
        return maps[1], maps[0]

    detector = PoseDetector(network, POINT_SIDECAR, dense=True, **options)
    poses = detector(np.zeros((64, 64, 3), np.uint8))
    assert np.isfinite(poses.keypoints).all() and np.isfinite(poses.scores).all()
    assert bool(len(poses)) == left
