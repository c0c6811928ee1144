import cv2
import numpy as np
import pytest

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.evaluation.evaluator import default_metric, detect_people, evaluate_detector
from dekr_tf.files.coco_format import read_labels
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.keypoints import COCO, CROWDPOSE
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Sidecar

POINT = {"name": "point", "names": ["point"]}
SIDECAR = Sidecar.from_config(Config(keypoints=POINT, input_size=64))
#: Height and width of the images; the brightest pixel of each is at (30 + number, 25).
SIZES = [(60, 90), (90, 60), (64, 64), (120, 180), (60, 100), (90, 60), (64, 128)]


def brightest(images):
    """A network for a skeleton of one keypoint: the brightest cell of each image is a person's center and keypoint."""
    cells = images[:, ::4, ::4, 1]
    peaks = cells == cells.max(axis=(1, 2), keepdims=True)
    heatmap = np.repeat(peaks[..., None].astype(np.float32), 2, axis=-1)
    return heatmap, np.zeros_like(heatmap)


class Watched:
    """An engine that keeps the shapes of the batches it is given."""

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(images.shape[:3])
        return brightest(images)


@pytest.fixture
def folder(tmp_path):
    for number, (height, width) in enumerate(SIZES):
        image = np.zeros((height, width, 3), np.uint8)
        cv2.circle(image, (30 + number, 25), 6, (255, 255, 255), -1)
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.GaussianBlur(image, (0, 0), 3))
    return tmp_path


def content(**image):
    images, people = [], []
    for number, (height, width) in enumerate(SIZES):
        images.append({"id": 100 - number, "file_name": f"{number}.png", "height": height, "width": width} | image)
        keypoints, box = [30 + number, 25, 2], [0, 0, 60, 60]
        people.append({"image_id": 100 - number, "category_id": 3, "keypoints": keypoints, "bbox": box})
    return {"images": images, "annotations": people}


def point_labels(**image):
    return read_labels(content(**image), SIDECAR.schema)


def test_every_image_counts_once_and_stays_in_its_place(folder):
    for batch_size in (1, 2, 7, 50):
        results = detect_people(
            PoseDetector(brightest, SIDECAR, dense=True), point_labels(), folder, batch_size=batch_size
        )
        assert [entry["image_id"] for entry in results] == [100 - number for number in range(len(SIZES))]
        assert {entry["category_id"] for entry in results} == {3}
        found = [entry["keypoints"][:2] for entry in results]
        # A cell of a map is up to eight pixels of the image.
        np.testing.assert_allclose(found, [[30 + number, 25] for number in range(len(SIZES))], atol=5)


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_batches_give_what_single_images_give(folder, batch_size):
    alone = detect_people(PoseDetector(brightest, SIDECAR, dense=True), point_labels(), folder)
    together = detect_people(
        PoseDetector(brightest, SIDECAR, dense=True), point_labels(), folder, batch_size=batch_size
    )
    assert together == alone


@pytest.mark.parametrize("sizes", [{}, {"height": None}])
def test_images_of_like_shape_go_together(folder, sizes):
    network = Watched()
    detect_people(PoseDetector(network, SIDECAR, dense=True), point_labels(**sizes), folder, batch_size=3)
    assert sum(batch[0] for batch in network.batches) == len(SIZES)
    if not sizes:
        # Portraits first, then the square one; the last batch is what is left.
        assert network.batches == [(2, 128, 64), (1, 64, 64), (3, 64, 128), (1, 64, 128)]


def test_the_flip_test_runs_in_batches_too(folder):
    network = Watched()
    detector = PoseDetector(network, SIDECAR, dense=True, flip=True)
    results = detect_people(detector, point_labels(), folder, batch_size=3)
    assert network.batches == [(4, 128, 64), (2, 64, 64), (6, 64, 128), (2, 64, 128)]
    assert results == detect_people(PoseDetector(brightest, SIDECAR, dense=True, flip=True), point_labels(), folder)


def test_metric_and_results(folder):
    labels = point_labels()
    metrics, results = evaluate_detector(PoseDetector(brightest, SIDECAR, dense=True), labels, folder, batch_size=4)
    assert metrics["AP50"] == pytest.approx(1)
    assert len(results) == len(SIZES)
    metrics, _ = evaluate_detector(PoseDetector(brightest, SIDECAR, dense=True), point_labels(crowdIndex=0.9), folder)
    assert "APL" in metrics
    metrics, _ = evaluate_detector(
        PoseDetector(brightest, SIDECAR, dense=True), point_labels(crowdIndex=0.9), folder, metric="crowdpose"
    )
    assert (metrics["APE"], metrics["APH"]) == (-1, pytest.approx(metrics["AP"], abs=1e-4))


def test_the_default_metric():
    for schema, image, metric in (
        (COCO, {}, "coco"),
        (COCO, {"crowdIndex": 0.5}, "coco"),
        (CROWDPOSE, {}, "coco"),
        (CROWDPOSE, {"crowdIndex": 0.5}, "crowdpose"),
    ):
        keypoints = [1, 1, 2] * len(schema)
        person = {"image_id": 1, "category_id": 1, "keypoints": keypoints}
        labels = read_labels({"images": [{"id": 1, **image}], "annotations": [person]}, schema)
        assert default_metric(labels, schema) == metric


def refuse(images):
    raise AssertionError("the network was used")


def test_labels_are_refused_before_the_images_are_looked_at(folder):
    detector = PoseDetector(refuse, SIDECAR, dense=True)
    with pytest.raises(InputError, match="image 100: expected a finite number as crowdIndex"):
        evaluate_detector(detector, point_labels(), folder, metric="crowdpose")
    nobody = content()
    for person in nobody["annotations"]:
        person["keypoints"] = [0, 0, 0]
    with pytest.raises(InputError, match="no person in 7 images"):
        evaluate_detector(detector, read_labels(nobody, SIDECAR.schema), folder)
    with pytest.raises(InputError, match=r"batch size: expected a positive number\. Received: 0"):
        evaluate_detector(detector, point_labels(), folder, batch_size=0)
    (folder / "3.png").unlink()
    with pytest.raises(InputError, match=r"all 7 annotated images .* 1 missing, first 3\.png"):
        evaluate_detector(detector, point_labels(), folder)


def test_an_image_of_another_size_than_annotated(folder):
    with pytest.raises(InputError, match=r"0\.png: expected 90x60 pixels .* as annotated\. Received: 60x90$"):
        detect_people(PoseDetector(brightest, SIDECAR, dense=True), point_labels(height=90, width=60), folder)


def test_an_image_that_the_detector_refuses_is_named(folder):
    cv2.imwrite(str(folder / "0.png"), np.zeros((1, 5000, 3), np.uint8))
    labels = point_labels(height=None)
    with pytest.raises(InputError, match=r"^0\.png: image too elongated"):
        detect_people(PoseDetector(brightest, SIDECAR, dense=True), labels, folder)
    with pytest.raises(InputError, match=r"^0\.png, 1\.png: image too elongated"):
        detect_people(PoseDetector(brightest, SIDECAR, dense=True), labels, folder, batch_size=2)


def test_any_detector_will_do(folder):
    class Nobody:
        sidecar = SIDECAR

        def detect_batch(self, images):
            return [Poses.empty(1) for _ in images]

    metrics, results = evaluate_detector(Nobody(), point_labels(), folder, batch_size=2)
    assert (metrics["AP"], results) == (0.0, [])
