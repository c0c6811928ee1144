"""The rescoring net in NumPy: parity with the reference, features by hand, what is no net."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.rescoring import RescoringNet, count_features, open_rescoring_net, rescoring_features
from dekr_tf.keypoints import COCO, CROWDPOSE, KeypointSchema
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Sidecar

GOLDENS = Path(__file__).parents[1] / "goldens"
KITE = KeypointSchema(
    name="kite",
    names=("a", "b", "c", "d"),
    edges=((0, 1), (1, 2), (3, 0)),
    normalization_edges=((0, 1), (2, 3)),
)
#: Edges of 5, 12 and 15 pixels; (5 + 15) / 2 is the size.
POSE = [[[0, 0, 0.1], [3, 4, 0.2], [3, 16, 0.3], [3, 1, 0.4]]]


def golden_net(schema):
    """The net with the parameters that the goldens were made with."""

    def tensor(name, shape):
        values = np.random.default_rng(zlib.crc32(f"rescore_{schema.name}.{name}".encode())).standard_normal(shape)
        return values / np.sqrt(shape[1]) if len(shape) > 1 else 0.1 * values

    sizes = {"l1": (256, count_features(schema)), "l2": (256, 256), "l3": (1, 256)}
    return RescoringNet(
        schema,
        tuple((tensor(f"{name}.weight", size).T, tensor(f"{name}.bias", size[:1])) for name, size in sizes.items()),
    )


@pytest.fixture
def net():
    """The OKS is the score of keypoint d, minus that of a, plus 0.5."""
    first = np.zeros((13, 2))
    first[12, 0] = first[9, 1] = 1
    return RescoringNet(
        KITE, ((first, np.zeros(2)), (np.eye(2), np.zeros(2)), (np.array([[1], [-1]]), np.array([0.5])))
    )


@pytest.mark.parametrize("schema", [COCO, CROWDPOSE], ids=lambda schema: schema.name)
def test_parity_with_the_reference(schema):
    with np.load(GOLDENS / f"rescore_{schema.name}.npz") as golden:
        poses, feature, score = golden["poses"], golden["feature"], golden["score"].ravel()
    np.testing.assert_allclose(rescoring_features(poses, schema), feature, rtol=0, atol=1e-6)
    net = golden_net(schema)
    np.testing.assert_allclose(net.predict_oks(poses), score, rtol=0, atol=1e-5)
    scores = poses[..., 2].mean(axis=1)
    rescored = net.rescore(Poses(poses, scores))
    order = np.argsort(-score * scores, kind="stable")
    np.testing.assert_allclose(rescored.scores, (score * scores)[order], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(rescored.keypoints, poses[order].astype(np.float32))


def test_number_of_features():
    assert [count_features(schema) for schema in (COCO, CROWDPOSE, KITE)] == [74, 59, 13]


def test_features_by_hand():
    vectors = [-0.3, -0.4, 0, -1.2, 0.3, 0.1]
    lengths = [0.5, 1.2, np.sqrt(10) / 10]
    expected = [*vectors, *lengths, 0.1, 0.2, 0.3, 0.4]
    features = rescoring_features(POSE, KITE)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, [expected], rtol=1e-6)


def test_a_small_person_counts_as_one_pixel():
    pose = np.array(POSE) * [0.05, 0.05, 1]
    np.testing.assert_allclose(rescoring_features(pose, KITE)[0, :2], [-0.15, -0.2], rtol=1e-6)
    pose[..., :2] = 7
    np.testing.assert_array_equal(rescoring_features(pose, KITE)[0, :9], 0)


coordinates = st.floats(-1000, 1000, width=32)


@given(
    arrays(np.float64, (3, 4, 3), elements=coordinates),
    st.floats(0.1, 10),
    arrays(np.float64, 2, elements=coordinates),
)
def test_place_and_size_of_a_person_make_no_difference(keypoints, scale, shift):
    # No person is smaller than one pixel, before or after.
    keypoints[:, 1, 0] = keypoints[:, 0, 0] + 40
    moved = keypoints.copy()
    moved[..., :2] = scale * keypoints[..., :2] + shift
    expected = rescoring_features(keypoints, KITE)
    np.testing.assert_allclose(rescoring_features(moved, KITE), expected, rtol=1e-5, atol=1e-6)


def test_the_score_is_the_expected_oks_times_the_pose_score(net):
    poses = Poses(POSE * 2, [0.5, 0.25])
    poses.keypoints[1, :, 2] = 0.6, 0.2, 0.2, 0.1
    np.testing.assert_allclose(net.predict_oks(poses.keypoints), [0.8, 0], atol=1e-7)
    np.testing.assert_allclose(net.rescore(poses).scores, [0.4, 0], atol=1e-7)
    # The better pose may become the worse one.
    swapped = Poses(poses.keypoints[::-1], [0.5, 0.25])
    rescored = net.rescore(swapped)
    np.testing.assert_allclose(rescored.scores, [0.2, 0], atol=1e-7)
    np.testing.assert_array_equal(rescored.keypoints, poses.keypoints)


def test_no_poses(net):
    assert len(net.rescore(Poses.empty(4))) == 0


def test_a_skeleton_without_a_size_cannot_be_rescored():
    with pytest.raises(InputError, match=r"edges and normalization_edges\. Received: skeleton kite without"):
        rescoring_features(POSE, replace(KITE, normalization_edges=()))
    with pytest.raises(InputError, match="edges and normalization_edges"):
        count_features(replace(KITE, edges=()))


@pytest.mark.parametrize("schema", [COCO, CROWDPOSE, KITE], ids=lambda schema: schema.name)
def test_what_is_saved_is_loaded(net, schema, tmp_path):
    net = net if schema is KITE else golden_net(schema)
    path = tmp_path / "new" / "net.npz"
    net.save(path)
    loaded = RescoringNet.load(path)
    assert loaded.schema == schema
    for expected, received in zip(net.layers, loaded.layers, strict=True):
        for one, other in zip(expected, received, strict=True):
            np.testing.assert_array_equal(one, other)
            assert other.dtype == np.float32
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["net.npz"]


def test_what_is_no_net(net, tmp_path):
    net.save(tmp_path / "net.npz")
    content = (tmp_path / "net.npz").read_bytes()
    middle = content.index(net.layers[0][0].tobytes()) + 20
    np.save(tmp_path / "array.npy", np.zeros(3))
    files = {
        "empty": b"",
        "text": b"no net\n",
        "half": content[: len(content) // 2],
        "flipped bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "array": (tmp_path / "array.npy").read_bytes(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: this is no \.npz file, or it is damaged: "):
            RescoringNet.load(tmp_path / name)
    with pytest.raises(InputError, match=r"cannot read rescoring net .*gone\.npz: No such file or directory"):
        RescoringNet.load(tmp_path / "gone.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": np.array(2)}, "expected version 1. Received: 2"),
        ({"version": np.array([1, 2])}, r"expected version 1. Received: \[1, 2\]"),
        ({"version": None}, "Received: a file without version$"),
        ({"l2_bias": None, "l3_kernel": None}, "Received: a file without l2_bias, l3_kernel$"),
        ({"l2_bias": np.array(["0", "0"])}, "expected numbers as l2_bias. Received: <U1"),
        ({"l2_bias": np.array([{}, None])}, "this is no .npz file"),
        (
            {"l2_bias": np.zeros(3)},
            r"expected l2 to have 2 inputs and 3 outputs. Received: kernel \(2, 2\), bias \(3,\)",
        ),
        ({"l3_bias": np.zeros(())}, r"expected l3 to have 2 inputs and 1 outputs. Received: .* bias \(\)"),
        ({"l1_kernel": np.full((13, 2), np.nan)}, "expected finite values in l1. Received: NaN or infinite values"),
        ({"skeleton": np.array("{")}, "expected a skeleton as JSON. Received: Expecting"),
        ({"skeleton": np.array("[]")}, "expected a skeleton as JSON. Received: "),
        ({"skeleton": np.array(json.dumps({"names": []}))}, "a skeleton needs at least one keypoint"),
        ({"skeleton": np.array(json.dumps({"names": ["a"]}))}, "needs edges and normalization_edges"),
        ({"skeleton": np.array(json.dumps(COCO.to_dict()))}, r"l1 to have 74 inputs .* Received: kernel \(13, 2\)"),
    ],
)
def test_nets_that_do_not_fit(net, tmp_path, change, message):
    path = tmp_path / "net.npz"
    net.save(path)
    with np.load(path) as archive:
        content = {name: value for name, value in (dict(archive) | change).items() if value is not None}
    np.savez(path, **content)
    with pytest.raises(InputError, match=message) as caught:
        RescoringNet.load(path)
    assert str(caught.value).startswith(f"rescoring net {path}: ")


def test_a_net_of_other_keypoints(net, tmp_path):
    net.save(tmp_path / "net.npz")
    message = r"expected the 17 keypoints of the model's skeleton coco. Received: the 4 of kite"
    for source in (net, tmp_path / "net.npz"):
        with pytest.raises(InputError, match=message):
            open_rescoring_net(source, COCO)
        with pytest.raises(InputError, match=message):
            PoseDetector(lambda images: None, config=Config(), rescore=source)
    # The net's own edges make the features.
    like = KeypointSchema(name="other", names=KITE.names, edges=((2, 0),))
    assert open_rescoring_net(net, like) is net


@pytest.mark.parametrize("as_file", [False, True])
def test_a_detector_rescores(net, tmp_path, as_file):
    keypoints = np.array([POSE[0], POSE[0], POSE[0]])[..., :2] * 3 + np.arange(3)[:, None, None] * 20
    keypoint_scores = np.array([[0.6, 0.6, 0.6, 0.2], [0.2, 0.2, 0.2, 0.6], [0.15, 0.05, 0.1, 0.1]])

    def network(images):
        return tuple(np.stack([part] * len(images)) for part in (keypoints, keypoint_scores, np.array([0.9, 0.8, 0.7])))

    net.save(tmp_path / "net.npz")
    sidecar = Sidecar.from_config(Config(keypoints=KITE.to_dict(), input_size=64))
    image = np.zeros((128, 128, 3), np.uint8)
    plain = PoseDetector(network, sidecar)(image)
    rescored = PoseDetector(network, sidecar, rescore=str(tmp_path / "net.npz") if as_file else net)(image)
    np.testing.assert_array_equal(rescored.keypoints, plain.keypoints[[1, 0, 2]])
    np.testing.assert_allclose(plain.scores, [0.5, 0.3, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rescored.scores, [0.3 * 0.9, 0.5 * 0.1, 0.1 * 0.45], rtol=1e-5)
