"""The served graph against `PoseDetector`, what lies beside it, and what it refuses."""

import cv2
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from local_server import Refusal, encode
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from converters.encoded_images import MAX_IMAGES
from converters.final_poses import expected_similarity, final_poses, predict_oks, select_poses
from converters.serving_files import docker_command
from converters.serving_graph import ServingOptions
from converters.to_serving import export_serving
from dekr_tf import oks
from dekr_tf.cli.main import main
from dekr_tf.config import Config, DecoderConfig
from dekr_tf.errors import InputError
from dekr_tf.files.images import MAX_PIXELS
from dekr_tf.inference import decoder
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.engines import POSES, KerasEngine
from dekr_tf.keypoints import COCO
from dekr_tf.models import save_model
from dekr_tf.models.pose_model import build_pose_model
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Artifact, Sidecar, read_sidecar

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def any_size_model(any_size):
    return tf.saved_model.load(str(any_size))


@pytest.fixture(scope="module")
def fixed_size_model(fixed_size):
    return tf.saved_model.load(str(fixed_size))


@pytest.fixture(scope="module")
def detector(network):
    return PoseDetector(*network)


def find(model, files):
    outputs = model.signatures["serving_default"](image_bytes=tf.constant(files))
    return {name: value.numpy() for name, value in outputs.items()}


def poses_of(outputs, index):
    count = outputs["num_poses"][index]
    # Best first for whoever reads the answer without our client.
    assert (np.diff(outputs["scores"][index, :count]) <= 0).all()
    return Poses(outputs["keypoints"][index, :count], outputs["scores"][index, :count])


def assert_same(found, expected):
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.keypoints[..., :2], expected.keypoints[..., :2], atol=0.05)
    np.testing.assert_allclose(found.keypoints[..., 2], expected.keypoints[..., 2], atol=1e-4)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_poses_are_those_of_the_detector(any_size_model, detector, photos):
    if cv2.__version__ < "5":
        # Of photos whose resizing is the same: none, or by a whole number.
        photos = photos[:3]
    outputs = find(any_size_model, [encode(photo) for photo in photos])
    assert outputs["keypoints"].shape == (len(photos), 30, 17, 3)
    assert outputs["num_poses"].dtype == np.int32
    for index, photo in enumerate(photos):
        expected = detector(photo)
        assert len(expected) > 1
        assert_same(poses_of(outputs, index), expected)
        assert not outputs["keypoints"][index, len(expected) :].any()
        assert not outputs["scores"][index, len(expected) :].any()


def test_pose_nms_has_something_to_do(detector, photos):
    candidates = detector.engine.run(detector.preprocessor(photos[0])[0][0][None])[2]
    assert np.count_nonzero(candidates) > len(detector(photos[0]))


def test_what_is_found_does_not_depend_on_the_company(any_size_model, photos):
    files = [encode(photo) for photo in photos]
    together = find(any_size_model, files)
    for index, file in enumerate(files):
        alone = find(any_size_model, [file])
        for name, values in alone.items():
            np.testing.assert_array_equal(values[0], together[name][index])


def test_flip_test_rescoring_and_one_size_are_those_of_the_detector(fixed_size_model, network, rescoring_net, photos):
    model, sidecar = network
    artifact = Artifact(graph="poses", input_sizes=((64, 96),))
    engine = KerasEngine(build_pose_model(model, sidecar, flip=True), POSES)
    detector = PoseDetector(engine, sidecar.model_copy(update={"artifact": artifact}), rescore=rescoring_net)
    # The third is made smaller by three, to the pixel; the fourth is no image.
    outputs = find(fixed_size_model, [encode(photos[0]), encode(photos[2]), b"no image", encode(photos[1][:, :96])])
    for index, photo in ((0, photos[0]), (1, photos[2]), (3, photos[1][:, :96])):
        assert_same(poses_of(outputs, index), detector(photo))
    assert outputs["num_poses"][2] == 0
    assert not outputs["keypoints"][2].any()
    assert outputs["error"].tolist() == [
        b"",
        b"",
        b"expected a JPEG or PNG file. Received: 8 bytes of another kind",
        b"",
    ]


def test_one_bad_image_is_an_error_of_the_batch_by_default(any_size_model, photos):
    with pytest.raises(tf.errors.InvalidArgumentError, match="image 1: expected a JPEG or PNG file"):
        find(any_size_model, [encode(photos[0]), b""])


@pytest.mark.parametrize("count", [0, MAX_IMAGES + 1])
def test_a_batch_of_no_or_many_images_is_refused(any_size_model, fixed_size_model, count):
    for model in (any_size_model, fixed_size_model):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=rf"expected 1 to 32 images. Received: shape \[{count}\]"
        ):
            find(model, np.full(count, b"x"))


def test_tensors_are_taken_as_they_are(any_size_model, photos, detector):
    outputs = any_size_model.signatures["tensors"](image=tf.constant(photos[1][None]))
    outputs = {name: value.numpy() for name, value in outputs.items()}
    assert_same(poses_of(outputs, 0), detector(photos[1]))


def test_maps_are_those_of_the_model(any_size_model, photos, network):
    model, sidecar = network
    image = photos[0][None]
    outputs = any_size_model.signatures["maps"](image=tf.constant(image))
    expected = model(((image / 255 - sidecar.mean) / sidecar.std).astype(np.float32))
    assert outputs["offset"].shape == (1, 16, 16, 34)
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, atol=1e-3)


@pytest.mark.parametrize("signature", ["tensors", "maps"])
@pytest.mark.parametrize("shape", [(0, 64, 64), (1, 60, 64), (1, 0, 64), (33, 64, 64), (1, 32, 32 * 2**10 + 32)])
def test_tensors_that_do_not_fit_are_refused(any_size_model, signature, shape):
    image = tf.zeros((*shape, 3), tf.uint8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Received: shape \[{} {} {} 3\]".format(*shape)):
        any_size_model.signatures[signature](image=image)


def test_wrong_shapes_and_types_are_refused_with_a_reason(any_size_server, fixed_size_server, photos):
    """As the server runs a graph, nothing but the graph looks at shapes."""
    photo = encode(photos[0])

    def refusal(server, signature, value):
        key = "image_bytes" if signature == "serving_default" else "image"
        with pytest.raises(Refusal) as error:
            server.predict(server.name, None, signature, {key: value})
        assert error.value.code == "INVALID_ARGUMENT"
        return str(error.value).splitlines()[0]

    for server in (any_size_server, fixed_size_server):
        for value, shape in ((photo, ""), ([[photo, photo]], "1 2"), ([[photo]], "1 1"), ([[[photo]]], "1 1 1")):
            reason = refusal(server, "serving_default", np.array(value, object))
            assert reason == f"assertion failed: [expected 1 to 32 images. Received: shape [{shape}]]"
        assert "actual float vs. expect string" in refusal(server, "serving_default", np.zeros(1, np.float32))
        for signature in ("tensors", "maps"):
            for shape in ((), (64,), (64, 96), (64, 96, 3), (1, 64, 96, 1), (1, 64, 96, 4), (1, 1, 64, 96, 3)):
                reason = refusal(server, signature, np.zeros(shape, np.uint8))
                assert reason.startswith("assertion failed: [expected 1 to 32 images")
                assert reason.endswith(f"Received: shape [{' '.join(map(str, shape))}]]")
            for value, name in ((np.float32(0), "float"), (b"x", "string"), (np.int64(0), "int64")):
                dtype = getattr(value, "dtype", object)
                reason = refusal(server, signature, np.full((1, 64, 96, 3), value, dtype))
                assert f"actual {name} vs. expect uint8" in reason
    for signature in ("tensors", "maps"):
        reason = refusal(fixed_size_server, signature, np.zeros((1, 96, 64, 3), np.uint8))
        assert reason == "assertion failed: [expected 1 to 32 images of 64x96x3. Received: shape [1 96 64 3]]"


def test_the_warm_up_asks_every_signature(fixed_size, fixed_size_model):
    records = tf.data.TFRecordDataset(str(fixed_size / "assets.extra" / "tf_serving_warmup_requests"))
    requests = [prediction_log_pb2.PredictionLog.FromString(each.numpy()).predict_log.request for each in records]
    assert [each.model_spec.name for each in requests] == ["stick"] * 3
    assert [each.model_spec.signature_name for each in requests] == ["serving_default", "tensors", "maps"]
    for request in requests:
        function = fixed_size_model.signatures[request.model_spec.signature_name]
        outputs = function(**{name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()})
        if "num_poses" in outputs:
            assert (outputs["num_poses"].numpy() > 0).all()
        if "error" in outputs:
            assert set(outputs["error"].numpy()) == {b""}


def test_files_for_the_server(any_size, fixed_size):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((any_size.parents[1] / "models.config").read_text(), config)
    (entry,) = config.model_config_list.config
    assert (entry.name, entry.base_path, entry.model_platform) == ("dekr", "/models/dekr", "tensorflow")
    compose = (any_size.parents[1] / "docker-compose.yaml").read_text()
    assert f"image: tensorflow/serving:{tf.__version__}\n" in compose
    # A batch of several callers only where none can spoil it, and all images have one size.
    assert not (any_size / "batching_params.pbtxt").exists()
    batching = (fixed_size / "batching_params.pbtxt").read_text().splitlines()
    # Requests of as many images as the graph takes are split, else the server would refuse them.
    assert batching[:3] == [
        f"max_batch_size {{ value: {MAX_IMAGES} }}",
        "enable_large_batch_splitting { value: true }",
        "max_execution_batch_size { value: 8 }",
    ]
    assert read_sidecar(fixed_size).artifact.flip
    assert docker_command("/srv/models") == (
        "docker run --rm -p 127.0.0.1:8500:8500 -p 127.0.0.1:8501:8501 "
        "--mount 'type=bind,source=/srv/models,target=/models,readonly' "
        f"tensorflow/serving:{tf.__version__} --model_config_file=/models/models.config --enable_batching=true "
        "--enable_per_model_batching_parameters=true"
    )


def test_the_command_adds_a_model_and_other_files_stay(network, detector, photos, tmp_path, capsys):
    (tmp_path / "models.config").write_text('model_config_list { config { name: "old" base_path: "/models/old" } }')
    (tmp_path / "docker-compose.yaml").write_text("mine")
    save_model(network[0], tmp_path / "m.keras", network[1])
    cv2.imwrite(str(tmp_path / "photo.png"), photos[0][..., ::-1])
    command = f"export --model {tmp_path}/m.keras --format saved_model --serving {tmp_path}/new/2 --input-size 64x64"
    assert main([*command.split(), "--no-nms", "--calibration", str(tmp_path / "photo.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/new/2: poses for TensorFlow Serving, input of 64x64"
    assert lines[-1] == docker_command(tmp_path)
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((tmp_path / "models.config").read_text(), config)
    assert [each.name for each in config.model_config_list.config] == ["old", "new"]
    assert (tmp_path / "docker-compose.yaml").read_text() == "mine"
    # Without pose NMS, all candidates are there.
    outputs = find(tf.saved_model.load(str(tmp_path / "new" / "2")), [encode(photos[0])])
    candidates = detector.engine.run(detector.preprocessor(photos[0])[0][0][None])[2]
    assert outputs["num_poses"][0] == np.count_nonzero(candidates)


def test_serving_is_of_a_saved_model(capsys):
    assert main(["export", "--model", "m.keras", "--format", "onnx", "--serving", "models/dekr/1"]) == 2
    assert "expected --format saved_model. Received: onnx" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--no-nms", "--rescore=net.npz", "--skip-bad-images", "--max-pixels=9"])
def test_what_only_a_served_graph_does_is_not_asked_of_another(option, tmp_path, capsys):
    command = ["export", "--model", "m.keras", "--format", "saved_model", "--output", str(tmp_path / "m"), option]
    assert main(command) == 2
    beside = "--final or --serving" if option.startswith("--rescore") else "--serving"
    assert f"{option.partition('=')[0]}: expected {beside} beside it. Received: --output" in capsys.readouterr().err


def test_the_detector_refuses_a_served_model(any_size):
    with pytest.raises(InputError, match="expected the outputs keypoints, keypoint_scores, center_scores"):
        PoseDetector(any_size)


@pytest.mark.parametrize("folder", ["models/dekr/latest", "models/dekr/0", "models/a b/1", "models/dekr/-1"])
def test_a_folder_that_the_server_would_not_find_is_refused(network, photos, tmp_path, folder):
    with pytest.raises(InputError, match="expected a folder MODELS/NAME/VERSION"):
        export_serving(*network, tmp_path / folder, Artifact(graph="poses"), ServingOptions(), photos)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("artifact", "message"),
    [
        (Artifact(graph="maps"), "is always the graph poses"),
        (Artifact(graph="poses", precision="int8"), "is always the graph poses"),
        (Artifact(graph="poses", input_sizes=((64, 64), (96, 96))), "expected one input size"),
        (Artifact(graph="poses", input_sizes=((60, 64),)), "multiples of 32"),
    ],
)
def test_what_is_not_served_is_refused(network, photos, tmp_path, artifact, message):
    with pytest.raises(InputError, match=message):
        export_serving(*network, tmp_path / "dekr" / "1", artifact, ServingOptions(), photos)


@pytest.mark.parametrize("max_pixels", [0, -1, MAX_PIXELS + 1])
def test_the_size_of_an_image_is_bounded_by_the_detectors(network, photos, tmp_path, max_pixels):
    with pytest.raises(InputError, match=f"expected 1 to 268435456 as the most pixels. Received: {max_pixels}"):
        export_serving(
            *network, tmp_path / "dekr" / "1", Artifact(graph="poses"), ServingOptions(max_pixels=max_pixels), photos
        )


def candidates_of(seed, people, found, spread):
    """Candidates (1, N, ...) in clusters, the first `found` of them there."""
    generator = np.random.default_rng(seed)
    clusters = generator.uniform(0, 200, (3, 17, 2))
    keypoints = clusters[generator.integers(0, 3, people)] + generator.normal(0, spread, (people, 17, 2))
    center_scores = np.sort(generator.uniform(0.02, 1, people))[::-1]
    keypoint_scores = center_scores[:, None] * generator.uniform(0, 1, (people, 17))
    there = np.arange(people) < found
    arrays = {
        "keypoints": keypoints * there[:, None, None],
        "keypoint_scores": keypoint_scores * there[:, None],
        "center_scores": center_scores * there,
    }
    return {name: values.astype(np.float32) for name, values in arrays.items()}


@pytest.fixture(scope="module")
def pose_nms_graph():
    specification = {
        "keypoints": tf.TensorSpec((None, 30, 17, 2)),
        "keypoint_scores": tf.TensorSpec((None, 30, 17)),
        "center_scores": tf.TensorSpec((None, 30)),
    }
    return tf.function(
        lambda candidates: final_poses(select_poses(candidates, DecoderConfig()), None),
        input_signature=[specification],
        autograph=False,
    )


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    found=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    spread=st.sampled_from([0.0, 1.0, 5.0, 12.0]),
)
def test_pose_nms_is_that_of_numpy(pose_nms_graph, seed, found, spread):
    images = [candidates_of(seed + index, 30, count, spread) for index, count in enumerate(found)]
    outputs = pose_nms_graph({name: np.stack([image[name] for image in images]) for name in images[0]})
    outputs = {name: value.numpy() for name, value in outputs.items()}
    for index, image in enumerate(images):
        expected = decoder.select_poses(*image.values(), DecoderConfig())
        actual = poses_of(outputs, index)
        np.testing.assert_array_equal(actual.keypoints, expected.keypoints)
        np.testing.assert_allclose(actual.scores, expected.scores, rtol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([0.0, 1.0, 300.0]))
def test_expected_similarity_is_that_of_numpy(seed, size):
    keypoints = np.random.default_rng(seed).uniform(0, size, (2, 5, 17, 2)).astype(np.float32)
    sidecar = Sidecar.from_config(Config(decoder={"keypoint_error": 7}))
    actual = expected_similarity(tf.constant(keypoints), sidecar)
    expected = [oks.expected_similarity(each, 7, COCO.oks_sigmas) for each in keypoints]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([0.0, 1e-3, 1.0, 300.0]))
def test_rescoring_is_that_of_numpy(rescoring_net, seed, size):
    generator = np.random.default_rng(seed)
    keypoints = generator.uniform(0, 1, (2, 5, 17, 3)) * [size, size, 1]
    expected = [rescoring_net.predict_oks(each) for each in keypoints]
    actual = predict_oks(tf.constant(keypoints, tf.float32), rescoring_net)
    # Float32 keypoints move the features of tiny people.
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
