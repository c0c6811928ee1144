"""Poses with their OKS: which person counts, what is left out, what a file must hold."""

import numpy as np
import pytest

from dekr_tf.errors import InputError
from dekr_tf.evaluation.crowdpose import area_of_box
from dekr_tf.files.coco_format import read_labels
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.training.rescoring_samples import RescoringSamples, collect_samples

STICK = KeypointSchema(
    name="stick", names=("top", "end"), edges=((0, 1),), oks_sigmas=(0.1, 0.2), normalization_edges=((0, 1),)
)
LABELS = {
    "images": [{"id": number, "file_name": f"{number}.png"} for number in (1, 2, 3)],
    "annotations": [
        {"image_id": 1, "category_id": 1, "keypoints": [0, 0, 2, 0, 100, 2], "area": 2500, "bbox": [0, 0, 50, 100]},
        {"image_id": 1, "category_id": 1, "keypoints": [300, 0, 2, 0, 0, 0], "area": 2500, "bbox": [300, 0, 50, 100]},
        # Nobody and a crowd: a pose there may be right.
        {"image_id": 2, "category_id": 1, "keypoints": [0] * 6, "area": 2500, "bbox": [0, 0, 50, 100]},
        {"image_id": 2, "category_id": 1, "keypoints": [0, 0, 2, 0, 100, 2], "area": 2500, "iscrowd": 1},
    ],
}


def entry(image_id, *keypoints):
    return {"image_id": image_id, "keypoints": np.ravel(keypoints).tolist(), "score": 0.5}


def similarity(distance, sigma, area=2500):
    return np.exp(-(distance**2) / (2 * (2 * sigma) ** 2 * area))


def test_a_pose_has_the_oks_of_the_person_whom_it_fits_best():
    results = [
        entry(1, [0, 0, 0.9], [0, 100, 0.8]),
        entry(2, [0, 0, 0.9], [0, 100, 0.8]),
        # The same person once more: not worth less for that.
        entry(1, [3, 4, 0.7], [0, 110, 0.6]),
        entry(1, [310, 0, 0.5], [0, 0, 0.4]),
        entry(3, [0, 0, 0.9], [0, 100, 0.8]),
        entry(1, [5000, 0, 0.3], [5000, 100, 0.2]),
    ]
    samples = collect_samples(read_labels(LABELS, STICK), results, STICK)
    assert samples.schema is STICK
    np.testing.assert_allclose(samples.keypoints[:, :, 2], [[0.9, 0.8], [0.7, 0.6], [0.5, 0.4], [0.3, 0.2]])
    np.testing.assert_allclose(samples.keypoints[1, :, :2], [[3, 4], [0, 110]])
    half = (similarity(5, 0.1) + similarity(10, 0.2)) / 2
    np.testing.assert_allclose(samples.oks, [1, half, similarity(10, 0.1), 0], rtol=1e-6)

    of_boxes = collect_samples(read_labels(LABELS, STICK), results, STICK, area_of_box).oks
    area = 0.53 * 50 * 100
    half = (similarity(5, 0.1, area) + similarity(10, 0.2, area)) / 2
    np.testing.assert_allclose(of_boxes, [1, half, similarity(10, 0.1, area), 0], rtol=1e-6)


def test_nothing_to_learn_from():
    labels = read_labels(LABELS, STICK)
    pose = [0, 0, 0.9], [0, 100, 0.8]
    with pytest.raises(InputError, match=r"there are no poses in the 1 images with labeled people"):
        collect_samples(labels, [entry(2, *pose), entry(3, *pose)], STICK)
    with pytest.raises(InputError, match=r"no person in .* has labeled keypoints"):
        collect_samples(labels[1:], [entry(2, *pose)], STICK)
    bare = KeypointSchema(name="bare", names=STICK.names)
    with pytest.raises(InputError, match=r"needs edges and normalization_edges\. Received: skeleton bare without"):
        collect_samples(labels, [entry(1, *pose)], bare)


def test_what_is_saved_is_loaded(tmp_path):
    random = np.random.default_rng(0)
    samples = RescoringSamples(STICK, random.normal(size=(5, 2, 3)).astype(np.float32), np.float32(random.random(5)))
    samples.save(tmp_path / "poses.npz")
    loaded = RescoringSamples.load(tmp_path / "poses.npz")
    assert loaded.schema == STICK
    np.testing.assert_array_equal(loaded.keypoints, samples.keypoints)
    np.testing.assert_array_equal(loaded.oks, samples.oks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"oks": None}, "expected the arrays keypoints, oks, with their skeleton. Received: a file without oks$"),
        ({"oks": np.ones(2)}, r"Received: keypoints \(3, 2, 3\), oks \(2,\)$"),
        ({"oks": np.ones((3, 1))}, r"Received: keypoints \(3, 2, 3\), oks \(3, 1\)$"),
        ({"oks": np.zeros(0), "keypoints": np.zeros((0, 2, 3))}, "of at least one pose"),
        ({"keypoints": np.zeros((3, 4, 3))}, r"expected keypoints \(N, 2, 3\) .* Received: keypoints \(3, 4, 3\)"),
        ({"oks": np.array([0, 0.5, 1.5])}, "and oks in 0..1"),
        ({"oks": np.array([0, 0.5, np.nan])}, "and oks in 0..1"),
        ({"keypoints": np.full((3, 2, 3), np.inf)}, "keypoints must be finite"),
        ({"version": np.array(2)}, "expected version 1. Received: 2"),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, message):
    path = tmp_path / "poses.npz"
    RescoringSamples(STICK, np.zeros((3, 2, 3)), np.zeros(3)).save(path)
    with np.load(path) as archive:
        content = {name: value for name, value in (dict(archive) | change).items() if value is not None}
    np.savez(path, **content)
    with pytest.raises(InputError, match=message) as caught:
        RescoringSamples.load(path)
    assert str(caught.value).startswith(f"poses {path}: ")
