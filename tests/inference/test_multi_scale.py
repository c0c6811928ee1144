"""Multi-scale test against the reference's outputs, with one scale against the plain way, and at odd scales.

Of the golden maps, offsets are zero where decoding looks at nothing, and without matching the heatmaps too.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dekr_tf.config import Config, DecoderConfig
from dekr_tf.errors import InputError
from dekr_tf.inference.decoder import average_heatmaps, find_candidates, heat_values, select_poses
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.matching import match_keypoints
from dekr_tf.inference.multi_scale import View, mean_heatmaps, merge_views
from dekr_tf.keypoints import COCO
from dekr_tf.preprocessing import scaled_size
from dekr_tf.sidecar import Artifact, Sidecar, write_sidecar

GOLDENS = Path(__file__).parents[1] / "goldens"
COORDINATES, SCORES, MATCHED = 1e-3, 1e-5, 0.02


def load_golden(name):
    """Views, size of the input at scale 1, settings, and the golden arrays."""
    with np.load(GOLDENS / f"decode_{name}.npz") as arrays:
        golden = dict(arrays)
    reference = json.loads(str(golden["config"]))
    config = DecoderConfig(nms_distance=reference["NMS_THRE"], multi_scale_damping=reference["DECREASE"])
    assert reference["flip"]

    def maps(scale, kind):
        return np.moveaxis(golden[f"s{scale}_{kind}"][0], 0, -1)

    views = []
    for scale in sorted(reference["scales"], reverse=True):
        heatmap, offset, other, other_offset = (
            maps(scale, kind) for kind in ("heatmap", "offset", "heatmap_flip", "offset_flip")
        )
        candidates = find_candidates(
            heatmap, offset, config, mirrored=(other, other_offset), flip_indices=COCO.flip_indices
        )
        views.append(View(scale, *candidates, average_heatmaps(heatmap, other, COCO.flip_indices)))
    height, width = maps("1.0", "heatmap").shape[:2]
    return views, (4 * height, 4 * width), config, golden


def check_golden_poses(poses, golden):
    expected = best_first(golden["poses"], golden)
    assert poses.keypoints.shape == expected.shape
    np.testing.assert_allclose(poses.keypoints[..., :2], expected[..., :2], rtol=0, atol=COORDINATES)
    np.testing.assert_allclose(poses.keypoints[..., 2], expected[..., 2], rtol=0, atol=SCORES)
    np.testing.assert_allclose(poses.scores, best_first(golden["scores"], golden), rtol=0, atol=SCORES)


def best_first(values, golden):
    return values[np.argsort(-golden["scores"], kind="stable")]


@pytest.mark.parametrize("name", ["multiscale", "multiscale_match", "flip_match"])
def test_same_poses_as_the_reference(name):
    views, size, config, golden = load_golden(name)
    check_golden_poses(select_poses(*merge_views(views, size, config.multi_scale_damping), config), golden)


@pytest.mark.parametrize("name", ["multiscale_match", "flip_match"])
def test_same_matched_poses_as_the_reference(name):
    views, size, config, golden = load_golden(name)
    poses = select_poses(*merge_views(views, size, config.multi_scale_damping), config)
    heatmaps = list(mean_heatmaps(views, size))
    matched = match_keypoints(poses, heatmaps, max_peaks=30, border="reference")
    np.testing.assert_array_equal(matched.keypoints[..., 2], poses.keypoints[..., 2])
    np.testing.assert_array_equal(matched.scores, poses.scores)
    expected = golden["matched_poses"][..., :2].copy()
    if name == "multiscale_match":
        # The 30th and 31st highest peak are equal, side by side; which one counts is a matter of the sorting method.
        np.testing.assert_array_equal(expected[[18, 22, 23], 10], [[72, 127]] * 3)
        assert heatmaps[10][126, 72] == heatmaps[10][127, 72]
        expected[[18, 22, 23], 10] = 72, 126
    expected = best_first(expected, golden)
    np.testing.assert_allclose(matched.keypoints[..., :2], expected, rtol=0, atol=MATCHED)

    # Without the reference's slip at the border, nothing else changes.
    cut = match_keypoints(poses, heatmaps, max_peaks=30).keypoints[..., :2]
    rows, columns = np.nonzero(np.abs(cut - expected).max(axis=-1) > MATCHED)
    assert len(rows) == {"multiscale_match": 14, "flip_match": 3}[name]
    peaks = poses.keypoints[rows, columns, :2]
    from_border = np.minimum(peaks, [size[1] - 1, size[0] - 1] - peaks).min(axis=-1)
    # A patch reaches six pixels, and the peak may be some pixels from the regressed keypoint.
    assert from_border.max() < 9


def random_view(scale, size, seed, people=4, count=3):
    rng = np.random.default_rng(seed)
    height, width = (side // 4 for side in scaled_size(size, scale))
    heatmap = rng.random((height, width, count + 1), np.float32)
    keypoints = rng.uniform(-9, scale * max(size), (people, count, 2)).astype(np.float32)
    centers = np.sort(rng.random(people, np.float32))[::-1]
    return View(scale, keypoints, centers[:, None] * heat_values(heatmap[..., :-1], keypoints), centers, heatmap)


@given(st.integers(0, 2**32 - 1))
def test_one_scale_is_the_plain_way(seed):
    """At scale 1 nothing is done; merged with a view that found nobody and saw the same, nothing changes either."""
    view = random_view(1.0, (64, 96), seed)
    merged = merge_views([view], (64, 96), 0.9)
    for got, expected in zip(merged, (view.keypoints, view.keypoint_scores, view.center_scores), strict=True):
        assert got is expected
    nobody = View(1.0, view.keypoints, view.keypoint_scores, np.zeros_like(view.center_scores), view.heatmap)
    keypoints, scores, centers = merge_views([view, nobody], (64, 96), 0.9)
    np.testing.assert_array_equal(keypoints[:4], view.keypoints)
    np.testing.assert_allclose(scores, np.concatenate([view.keypoint_scores, np.zeros((4, 3))]), atol=1e-6)
    np.testing.assert_array_equal(centers, [*view.center_scores, 0, 0, 0, 0])


def test_scores_of_other_scales_are_brought_to_those_of_scale_1():
    arrays = np.zeros((2, 1, 2)), np.zeros((2, 1))
    heatmap = np.ones((16, 16, 2), np.float32)
    views = [
        View(2.0, *arrays, np.array([0.8, 0.2]), heatmap),
        View(1.0, *arrays, np.array([0.5, 0.1]), heatmap),
        View(0.5, *arrays, np.array([0.0, 0.0]), heatmap),
    ]
    centers = merge_views(views, (32, 32), 0.9)[2]
    np.testing.assert_allclose(centers, [0.45, 0.1125, 0.5, 0.1, 0, 0])
    # Nobody at scale 1: the others are brought to 1.
    views[1] = View(1.0, *arrays, np.zeros(2), heatmap)
    np.testing.assert_allclose(merge_views(views, (32, 32), 0.8)[2], [0.8, 0.2, 0, 0, 0, 0])
    # No scale 1: the nearest one stands for it.
    views = [View(2.0, *arrays, np.array([0.8, 0.2]), heatmap), View(0.7, *arrays, np.array([0.6, 0.3]), heatmap)]
    np.testing.assert_allclose(merge_views(views, (32, 32), 0.5)[2], [0.3, 0.075, 0.6, 0.3])


@given(st.sampled_from([(1.0,), (2.0, 1.0, 0.5), (1.5, 1.0), (0.8,), (1.3, 0.7)]), st.integers(0, 2**32 - 1))
def test_heat_values_are_those_of_the_mean_heatmaps(scales, seed):
    size = (64, 96)
    views = [random_view(scale, size, seed + index) for index, scale in enumerate(scales)]
    keypoints, scores, centers = merge_views(views, size, 0.9)
    x = np.clip(np.floor(keypoints[..., 0]), 0, 95).astype(int)
    y = np.clip(np.floor(keypoints[..., 1]), 0, 63).astype(int)
    heatmaps = np.stack(list(mean_heatmaps(views, size)), axis=-1)
    assert heatmaps.shape == (*size, 3)
    assert heatmaps.dtype == np.float32
    np.testing.assert_allclose(scores, centers[:, None] * heatmaps[y, x, np.arange(3)], atol=2e-6)


@pytest.mark.parametrize("scale", [0.5, 2.0, 0.75, 1.1])
def test_heatmaps_of_other_scales_lie_where_they_belong(scale):
    """A slope along x: cell i of scale s lies at pixel 4 i / s."""
    height, width = (side // 4 for side in scaled_size((64, 96), scale))
    slope = np.broadcast_to(np.arange(width) * 4 / scale, (height, width)).astype(np.float32)
    view = View(scale, None, None, None, np.stack([slope, slope], axis=-1))
    (heatmap,) = mean_heatmaps([view], (64, 96))
    expected = np.minimum(np.arange(96), (width - 1) * 4 / scale)
    np.testing.assert_allclose(heatmap, np.broadcast_to(expected, (64, 96)), atol=1e-4)


@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, (64, 192)), (2.0, (128, 384)), (0.5, (32, 96)), (0.75, (64, 160)), (1.1, (96, 224))]
)
def test_sizes_are_filled_up_to_a_multiple_of_32(scale, expected):
    assert scaled_size((64, 192), scale) == expected


def test_too_many_people_are_those_with_the_highest_heat():
    keypoints = np.arange(8.0).repeat(2).reshape(4, 2, 2) * 50 + np.array([[0, 0], [9, 9]])
    heat = np.array([0.2, 0.8, 0.4, 0.6])
    centers = np.array([0.9, 0.1, 0.5, 0.3])
    poses = select_poses(keypoints, (heat * centers)[:, None].repeat(2, axis=1), centers, DecoderConfig(max_people=2))
    np.testing.assert_allclose(poses.scores, [0.18, 0.08])


POINT = Sidecar.from_config(Config(keypoints={"name": "point", "names": ["point"]}, input_size=64))


class BlobFinder:
    """A network for one keypoint: peak and center are where the image is bright, as a Gaussian."""

    def __init__(self):
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(images.shape[1:3])
        maps = []
        for image in images:
            height, width = image.shape[:2]
            bright = np.clip(image[..., 1], 0, None)
            x, y = (bright.sum(axis=axis) @ np.arange(n) / bright.sum() / 4 for axis, n in ((0, width), (1, height)))
            columns, rows = np.meshgrid(np.arange(width // 4), np.arange(height // 4))
            blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
            maps.append((np.stack([blob, blob], axis=-1), np.stack([columns - x + 0.5, rows - y], axis=-1)))
        return tuple(np.stack(kind).astype(np.float32) for kind in zip(*maps, strict=True))


def photo_with_blob(height, width, x, y):
    return cv2.circle(np.zeros((height, width, 3), np.uint8), (x, y), 8, (255, 255, 255), -1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1,), (0.5, 1, 2), (0.75, 1.3), (2,)])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (130, 100)])
def test_a_blob_is_found_at_every_scale(height, width, scales, flip):
    finder = BlobFinder()
    detector = PoseDetector(finder, POINT, dense=True, scales=scales, flip=flip, nms_threshold=50.0)
    matching = PoseDetector(BlobFinder(), POINT, dense=True, scales=scales, flip=flip, match=True)
    for x, y in [(40, 44), (width - 40, height - 35)]:
        (keypoints,) = detector(photo_with_blob(height, width, x, y)).keypoints[:1, 0]
        unit = min(height, width) / 64
        # The stand-in's offsets are half a cell wrong, which is up to four pixels at scale 1/2.
        error = 0 if flip else 4 / min(scales)
        np.testing.assert_allclose(keypoints[:2], [x, y], atol=(0.3 + error) * unit)
        # The peak is at the nearest cell; the Gaussian of interpolated values finds the middle.
        (keypoints,) = matching(photo_with_blob(height, width, x, y)).keypoints[:1, 0]
        np.testing.assert_allclose(keypoints[:2], [x, y], atol=0.75 * unit)
    assert finder.sizes[: len(scales)] == [
        tuple(-(-int(side * scale) // 32) * 32 for side in ((64, 128) if height < width else (128, 64)))
        for scale in sorted(scales, reverse=True)
    ]


@settings(max_examples=10)
@given(st.permutations([0.5, 1.0, 1.7]), st.booleans())
def test_the_order_of_scales_does_not_matter(scales, match):
    photo = photo_with_blob(64, 96, 40, 30)
    poses = PoseDetector(BlobFinder(), POINT, dense=True, scales=scales, match=match)(photo)
    expected = PoseDetector(BlobFinder(), POINT, dense=True, scales=(0.5, 1.0, 1.7), match=match)(photo)
    np.testing.assert_array_equal(poses.keypoints, expected.keypoints)


def test_a_batch_gives_what_each_photo_gives_alone():
    photos = [photo_with_blob(64, 96, 40, 30), photo_with_blob(96, 64, 30, 40), photo_with_blob(64, 96, 50, 20)]
    detector = PoseDetector(BlobFinder(), POINT, dense=True, scales=(0.5, 1), match=True, flip=True)
    for photo, poses in zip(photos, detector.detect_batch(photos), strict=True):
        np.testing.assert_array_equal(poses.keypoints, detector(photo).keypoints)


def test_the_threshold_of_pose_nms():
    def threshold(**options):
        return PoseDetector(BlobFinder(), POINT, dense=True, **options).decoder.nms_distance

    assert threshold() == threshold(match=True) == 0.05
    assert threshold(scales=(0.5, 1)) == 0.15
    assert threshold(scales=(0.5, 1), nms_threshold=0.3) == threshold(nms_threshold=0.3) == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (0.4, 1)}, "expected at least 0.5 at input size 64, for a map of 8 cells or more. Received: 0.4"),
        ({"scales": ()}, "expected positive numbers, each once. Received: $"),
        ({"scales": (1, 1.0)}, "expected positive numbers, each once. Received: 1 1.0"),
        ({"scales": (1, -2)}, "Received: 1 -2"),
        ({"scales": (float("nan"),)}, "Received: nan"),
        ({"nms_threshold": 0}, "NMS threshold: expected a positive number. Received: 0"),
        ({"nms_threshold": float("inf")}, "Received: inf"),
    ],
)
def test_settings_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        PoseDetector(BlobFinder(), POINT, dense=True, **options)


@pytest.mark.parametrize("options", [{"scales": (0.5, 1)}, {"match": True}])
def test_an_engine_of_poses_gives_no_heatmaps(options):
    def engine(images):
        raise AssertionError

    with pytest.raises(InputError, match="expected an engine that gives heatmaps, for several scales or matching"):
        PoseDetector(engine, POINT, **options)


def test_a_model_of_fixed_sizes_matches_but_has_no_scales():
    sidecar = POINT.model_copy(update={"artifact": Artifact(graph="maps", input_sizes=((96, 96), (64, 128)))})
    photo = photo_with_blob(64, 128, 40, 30)
    poses = PoseDetector(BlobFinder(), sidecar, dense=True, match=True, scales=[1.0])(photo)
    np.testing.assert_allclose(poses.keypoints[0, 0, :2], [40, 30], atol=0.75)
    with pytest.raises(InputError, match=r"no scales beside a model that takes 96x96, 64x128 only. Received: 0.5 1$"):
        PoseDetector(BlobFinder(), sidecar, dense=True, scales=[0.5, 1])


@pytest.mark.parametrize("options", [{"scales": (0.5, 1)}, {"match": True}])
def test_an_artifact_that_gives_poses_gives_no_heatmaps(tmp_path, options):
    path = tmp_path / "model.onnx"
    path.touch()
    write_sidecar(POINT.model_copy(update={"artifact": Artifact(graph="poses")}), path)
    with pytest.raises(InputError, match=r"one that ends at the maps, for several scales or .* Received: .*onnx"):
        PoseDetector(path, **options)
