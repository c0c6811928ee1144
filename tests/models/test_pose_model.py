"""The pose model gives what decoding the dense maps gives."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import tiny_hrnet

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.inference.decoder import average_heatmaps, find_candidates, mirror_input
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.engines import POSES
from dekr_tf.models.dekr import build_dekr
from dekr_tf.models.pose_model import build_pose_model
from dekr_tf.sidecar import Sidecar

TINY = tiny_hrnet(4)
LITE0 = {"backbone": "efficientnet_lite0", "pyramid_channels": 8}
MOBILENET = {"backbone": "mobilenet_v2", "heatmap_block": "separable", "heatmap_channels": 8}
ANIMAL = {"names": ["nose", "left", "right", "tail"], "flip_pairs": [["left", "right"]]}
#: Pixels, scores.
COORDINATES, SCORES = 1e-3, 1e-5

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("eagerly_in_module")]


@pytest.fixture
def graphs():
    """Runs functions as graphs again, for one test."""
    tf.config.run_functions_eagerly(False)
    yield
    tf.config.run_functions_eagerly(True)


def build(backbone=TINY, peak_distance=0.0, **head):
    """A network with random weights that finds centers everywhere, and its sidecar."""
    keras.utils.set_random_seed(0)
    decoder = {"peak_distance": peak_distance}
    config = Config(keypoints=ANIMAL, input_size=64, model={**backbone, "offset_head": head}, decoder=decoder)
    model = build_dekr(config.model, config.schema)
    for layer in model.layers:
        if hasattr(layer, "offset_bias"):
            layer.offset_bias.assign(np.random.normal([1, 0, 0, 1, 0, 0], 0.5, layer.offset_bias.shape))
            layer.offset_kernel.assign(np.random.normal(0, 0.02, layer.offset_kernel.shape))
        if hasattr(layer, "moving_mean"):
            for variable in (layer.moving_mean, layer.beta):
                variable.assign(np.random.normal(0, 0.1, variable.shape))
            for variable in (layer.moving_variance, layer.gamma):
                variable.assign(np.random.uniform(0.9, 1.1, variable.shape))
        if layer.name.endswith("_final"):
            layer.kernel.assign(np.random.normal(0, 0.1, layer.kernel.shape))
    heatmap = model.get_layer("heatmap")
    heatmap.kernel.assign(np.random.normal(0, 0.1, heatmap.kernel.shape))
    heatmap.bias.assign(np.full(heatmap.bias.shape, 0.3))
    return model, Sidecar.from_config(config)


@pytest.fixture(scope="module")
def network():
    return build()


@pytest.fixture(scope="module")
def lite0():
    return build(LITE0, output_scale=2.0)


@pytest.fixture(scope="module")
def mobilenet():
    return build(MOBILENET, peak_distance=0.2)


@pytest.fixture(params=["network", "lite0", "mobilenet"])
def any_network(request):
    return request.getfixturevalue(request.param)


def images_of(count, height, width):
    return np.random.default_rng(0).standard_normal((count, height, width, 3), np.float32)


def dense_poses(model, sidecar, images, flip):
    """Candidates of the dense maps, image by image."""
    batch = np.concatenate([images, mirror_input(images)]) if flip else images
    maps = model(batch, training=False)
    heatmap, offset = (np.asarray(maps[name]) for name in ("heatmap", "offset"))
    count = len(images)
    return [
        find_candidates(
            heatmap[index],
            offset[index],
            sidecar.decoder,
            mirrored=(heatmap[count + index], offset[count + index]) if flip else None,
            flip_indices=sidecar.schema.flip_indices,
        )
        for index in range(count)
    ]


def check(poses, expected):
    """Returns how many candidates each image has."""
    for name, *arrays in zip(POSES, *expected, strict=True):
        found = np.asarray(poses[name])
        assert found.dtype == np.float32
        for image, values, (keypoints, *_) in zip(found, arrays, expected, strict=True):
            clear = np.ones(values.shape, bool)
            if name == "keypoint_scores":
                # Heat is read at the pixel below: where that is a matter of rounding, the score may be the next one's.
                clear = np.abs(keypoints - np.round(keypoints)).min(axis=-1) > COORDINATES
            tolerance = COORDINATES if name == "keypoints" else SCORES * max(1, np.abs(values).max(initial=0))
            np.testing.assert_allclose(image[: len(values)][clear], values[clear], rtol=0, atol=tolerance)
            assert not image[len(values) :].any()
    return [len(scores) for *_, scores in expected]


@pytest.mark.parametrize("flip", [False, True])
def test_same_as_the_dense_maps(any_network, flip):
    model, sidecar = any_network
    images = images_of(2, 64, 96)
    poses = build_pose_model(model, sidecar, flip=flip)(images)
    assert poses["keypoints"].shape == (2, 30, 4, 2)
    counts = check(poses, dense_poses(model, sidecar, images, flip))
    assert min(counts) > 5


def test_the_heatmap_is_an_output_where_asked(network):
    model, sidecar = network
    images = images_of(2, 64, 96)
    plain, mirrored = np.split(np.asarray(model(np.concatenate([images, mirror_input(images)]))["heatmap"]), 2)
    poses = build_pose_model(model, sidecar, heatmap_output=True)(images)
    np.testing.assert_allclose(poses["heatmap"], plain, rtol=1e-5, atol=1e-5)
    assert set(poses) == {*POSES, "heatmap"}
    averaged = build_pose_model(model, sidecar, flip=True, heatmap_output=True)(images)["heatmap"]
    flip = sidecar.schema.flip_indices
    expected = [average_heatmaps(*pair, flip) for pair in zip(plain, mirrored, strict=True)]
    np.testing.assert_allclose(averaged, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("options", [{"scales": (0.75, 1, 2)}, {"match": True}])
def test_several_scales_and_matching_are_the_same_either_way(network, flip, options):
    model, sidecar = network
    photo = np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8)
    options = {**options, "flip": flip, "input_size": 64}
    sparse = PoseDetector(model, sidecar, **options)(photo)
    dense = PoseDetector(model, sidecar, dense=True, **options)(photo)
    assert len(sparse) > 2
    # Rounding decides the order of poses with equal scores.
    orders = [np.argsort(poses.keypoints[:, 0, 0]) for poses in (sparse, dense)]
    found, expected = (poses.keypoints[order] for poses, order in zip((sparse, dense), orders, strict=True))
    np.testing.assert_allclose(found[..., :2], expected[..., :2], rtol=0, atol=0.05)
    found, expected = (poses.scores[order] for poses, order in zip((sparse, dense), orders, strict=True))
    np.testing.assert_allclose(found, expected, rtol=SCORES, atol=SCORES)


def test_branches_in_another_order_of_keypoints():
    model, sidecar = build(branches=[["tail", "nose"], ["right"], ["left"]], channels=12)
    images = images_of(1, 64, 64)
    poses = build_pose_model(model, sidecar, flip=True)(images)
    assert check(poses, dense_poses(model, sidecar, images, True))[0] > 5


@pytest.mark.parametrize("threshold", [0.5, 100.0])
def test_few_and_no_people(network, threshold):
    model, _ = network
    sidecar = Sidecar.from_config(Config(keypoints=ANIMAL, decoder={"max_people": 7}))
    # A network with random weights has centers above 1, the highest threshold that the settings take.
    sidecar = sidecar.model_copy(update={"decoder": sidecar.decoder.model_copy(update={"center_threshold": threshold})})
    images = images_of(1, 64, 64)
    poses = build_pose_model(model, sidecar)(images)
    assert poses["center_scores"].shape == (1, 7)
    check(poses, dense_poses(model, sidecar, images, False))


def test_more_people_than_cells(network):
    model, _ = network
    sidecar = Sidecar.from_config(Config(keypoints=ANIMAL, decoder={"max_people": 100}))
    images = images_of(1, 32, 32)
    check(build_pose_model(model, sidecar)(images), dense_poses(model, sidecar, images, False))


def test_a_fixed_size_changes_nothing(network):
    model, sidecar = network
    images = images_of(1, 64, 96)
    fixed = build_pose_model(model, sidecar, (64, 96), batch_size=1, flip=True)
    assert {name: value.shape for name, value in fixed.output.items()} == {
        "keypoints": (1, 30, 4, 2),
        "keypoint_scores": (1, 30, 4),
        "center_scores": (1, 30),
    }
    check(fixed(images), dense_poses(model, sidecar, images, True))


def sums_of(model):
    """The layers of the backbone and heatmap head that add or subtract, and which of them add a biased convolution."""
    layers = [layer for part in model.get_layer("maps").layers for layer in getattr(part, "layers", [part])]
    biased = {id(layer.output) for layer in layers if isinstance(layer, keras.layers.Conv2D) and layer.use_bias}
    added = [layer for layer in layers if isinstance(layer, keras.layers.Add)]
    subtracted = [layer for layer in layers if isinstance(layer, keras.layers.Subtract)]
    return added, subtracted, [layer for layer in added if biased & {id(each) for each in layer.input}]


def test_tensorflow_finds_no_convolution_to_fuse_with_an_addition(network):
    _, subtracted, fusible = sums_of(build_pose_model(*network))
    # One for each block of stages 2 to 4, one for each convolution from a finer to a coarser branch in their fusions,
    # and one each for stage 1 and the heatmap head.
    assert len(subtracted) == (2 + 3 + 4) + (1 + 3 + 6) + 2
    assert not fusible


def test_other_engines_do(network):
    images = images_of(2, 64, 96)
    expected = build_pose_model(*network)(images)
    model = build_pose_model(*network, fusible=True)
    added, subtracted, fusible = sums_of(model)
    # Nine blocks, nine fusions and the transition to the heatmap head besides the two blocks.
    assert (len(added), len(subtracted), len(fusible)) == (9 + 9 + 1 + 2, 0, 9 + 6 + 2)
    found = model(images)
    for name in POSES:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=COORDINATES)


def test_sums_of_efficientnet(lite0):
    # Each block with a shortcut, each level of the pyramid but the coarsest, and the unit of the heatmap head.
    _, subtracted, fusible = sums_of(build_pose_model(*lite0))
    assert (len(subtracted), len(fusible)) == (1 + 1 + 2 + 2 + 3 + 3 + 1, 0)
    added, subtracted, fusible = sums_of(build_pose_model(*lite0, fusible=True))
    assert (len(added), len(subtracted), len(fusible)) == (13, 0, 13)


def test_sums_of_mobilenet(mobilenet):
    # Convolutions with a bias of their own: each block with a shortcut, each level of the pyramid.
    _, subtracted, fusible = sums_of(build_pose_model(*mobilenet))
    assert (len(subtracted), len(fusible)) == (1 + 2 + 3 + 2 + 2 + 3, 0)
    added, subtracted, fusible = sums_of(build_pose_model(*mobilenet, fusible=True))
    assert (len(added), len(subtracted), len(fusible)) == (13, 0, 13)


def test_calls_of_several_threads_do_not_disturb_each_other(any_network, graphs):
    graph = tf.function(
        build_pose_model(*any_network), input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)]
    )
    images = [images_of(1, *size) for size in ((64, 64), (64, 96), (96, 64), (96, 128), (128, 64))]
    expected = [graph(image) for image in images]

    def ask(index):
        found = graph(images[index % 5])
        return all((found[name].numpy() == expected[index % 5][name].numpy()).all() for name in POSES)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(500))) == [True] * 500


def test_it_is_saved_and_loaded(network, tmp_path):
    poses = build_pose_model(*network, flip=True)
    poses.save(tmp_path / "poses.keras")
    images = images_of(1, 64, 64)
    expected, found = poses(images), keras.models.load_model(tmp_path / "poses.keras")(images)
    for name in POSES:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_the_detector_finds_the_same_either_way(network, flip):
    model, sidecar = network
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    sparse = PoseDetector(model, sidecar, flip=flip)(photo)
    dense = PoseDetector(model, sidecar, flip=flip, dense=True)(photo)
    assert len(sparse) == len(dense) > 0
    np.testing.assert_allclose(sparse.keypoints, dense.keypoints, rtol=0, atol=COORDINATES)
    np.testing.assert_allclose(sparse.scores, dense.scores, rtol=SCORES, atol=SCORES)


def test_another_network_or_skeleton_is_refused(network):
    model, _ = network
    with pytest.raises(InputError, match=r"expected 18 heatmap channels\. Received: 5"):
        build_pose_model(model, Sidecar.from_config(Config()))
    images = keras.Input((None, None, 3))
    with pytest.raises(InputError, match="expected a network of build_dekr"):
        build_pose_model(keras.Model(images, keras.layers.ReLU()(images)), Sidecar.from_config(Config()))
