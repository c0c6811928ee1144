"""Two served models of one small network, and a server for each."""

import itertools

import keras
import numpy as np
import pytest
from local_server import LocalServer

from converters.serving_graph import ServingOptions
from converters.to_serving import export_serving
from dekr_tf.config import Config
from dekr_tf.data.synthetic import draw_scene
from dekr_tf.inference.rescoring import RescoringNet, count_features
from dekr_tf.keypoints import COCO
from dekr_tf.models import build_dekr
from dekr_tf.sidecar import Artifact, Sidecar

# Plain blocks, as nothing here depends on how a network computes its maps.
TINY = {
    "input_size": 64,
    "decoder": {"keypoint_error": 4},
    "model": {"width": 2, "modules": [1, 1, 1], "blocks": 1, "offset_head": {"block": "plain", "blocks": 1}},
}
FIXED = (64, 96)


@pytest.fixture(scope="session")
def network():
    """An untrained network that finds many people, some of them twice, and its settings."""
    config = Config(**TINY)
    keras.utils.set_random_seed(0)
    model = build_dekr(config.model, config.schema)
    # Scores about a half, and people wide enough for some neighboring centers to be one person.
    image = np.random.default_rng(0).standard_normal((1, 128, 128, 3))
    generator = np.random.default_rng(1)
    for name, output, deviation in (("heatmap", "heatmap", 0.1), ("offset_g1_final", "offset", 0.5)):
        layer = model.get_layer(name)
        kernel, bias = (generator.standard_normal(each.shape) for each in layer.get_weights())
        layer.set_weights([kernel, 0 * bias])
        values = np.asarray(model(image)[output])
        zoom = deviation / values.std()
        layer.set_weights([zoom * kernel, 12 * bias if output == "offset" else 0 * bias + 0.5 - zoom * values.mean()])
    return model, Sidecar.from_config(config)


@pytest.fixture(scope="session")
def rescoring_net():
    generator = np.random.default_rng(1)
    sides = [count_features(COCO), 8, 8, 1]
    layers = [(generator.normal(0, 0.2, (a, b)), generator.normal(0, 0.2, b)) for a, b in itertools.pairwise(sides)]
    layers[-1] = (0.1 * layers[-1][0], np.array([0.5]))
    return RescoringNet(COCO, tuple(layers))


@pytest.fixture(scope="session")
def photos():
    """Images of several sizes, upright and not, that need no resizing and such that do."""
    generator = np.random.default_rng(2)
    return [draw_scene(size, generator).image for size in ((64, 64), (64, 128), (192, 128), (100, 75), (300, 401))]


@pytest.fixture(scope="session")
def any_size(network, photos, tmp_path_factory):
    """A model for images of any size that refuses a batch for a bad image."""
    folder = tmp_path_factory.mktemp("any_size") / "models" / "dekr" / "1"
    export_serving(*network, folder, Artifact(graph="poses"), ServingOptions(max_pixels=512 * 512), photos[:3])
    return folder


@pytest.fixture(scope="session")
def fixed_size(network, rescoring_net, photos, tmp_path_factory):
    """A model with flip test and rescoring that makes images fit one size, and refuses bad ones of a batch."""
    folder = tmp_path_factory.mktemp("fixed_size") / "models" / "stick" / "7"
    artifact = Artifact(graph="poses", input_sizes=(FIXED,), flip=True)
    export_serving(*network, folder, artifact, ServingOptions(rescore=rescoring_net, skip_bad_images=True), photos[:2])
    return folder


@pytest.fixture(scope="session")
def any_size_server(any_size):
    with LocalServer(any_size) as server:
        yield server


@pytest.fixture(scope="session")
def fixed_size_server(fixed_size):
    with LocalServer(fixed_size) as server:
        yield server
