"""`dekr import` of MoveNet: a `.tflite` file with the same convolutions, made from random weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from converters.movenet import import_movenet
from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.models.dekr import build_backbone, build_dekr
from dekr_tf.training.initial_weights import load_backbone

CONFIG = Config(keypoints={"names": ["a", "b"]}, model={"backbone": "mobilenet_v2"})

pytestmark = pytest.mark.slow


def randomize(model):
    random = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            # The scale of a unit keeps; numbers that float16 holds exactly.
            *kernels, bias = layer.get_weights() if getattr(layer, "use_bias", True) else [*layer.get_weights(), None]
            is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            for index, kernel in enumerate(kernels):
                fan_in = np.prod(kernel.shape[: 2 if is_depthwise else 3])
                kernels[index] = random.normal(0, (2 / fan_in) ** 0.5, kernel.shape).astype(np.float16)
            biases = [] if bias is None else [random.normal(0, 0.1, bias.shape).astype(np.float16)]
            layer.set_weights([*kernels, *biases])


@pytest.fixture(scope="module")
def backbone():
    model = build_backbone(CONFIG.model)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def heads(backbone):
    """MoveNet's six heads, from the map of the pyramid."""
    features = keras.Input(backbone.output.shape[1:])
    outputs = []
    for filters in (2, 2, 1, 17, 34, 34):
        y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(features)
        y = keras.layers.Conv2D(96, 1, activation="relu")(y)
        outputs.append(keras.layers.Conv2D(filters, 1)(y))
    model = keras.Model(features, outputs)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def movenet(backbone, heads):
    """The bytes of the backbone with the heads behind it, in float16, as MoveNet comes."""
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(backbone.input, heads(backbone.output)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def test_the_backbone_is_read(backbone, movenet, tmp_path):
    path = tmp_path / "movenet.tflite"
    path.write_bytes(movenet)
    image = np.random.default_rng(1).uniform(-1, 1, (1, 64, 96, 3)).astype(np.float32)
    expected = np.asarray(backbone(image))
    assert expected.shape == (1, 16, 24, 24) and expected.std() > 0.05
    found = import_movenet(path, CONFIG)
    np.testing.assert_allclose(found(image), expected, rtol=0, atol=1e-4 * expected.max())

    (tmp_path / "config.yaml").write_text("{keypoints: {names: [a, b]}, model: {backbone: mobilenet_v2}}")
    words = ["import", str(path), "--config", str(tmp_path / "config.yaml")]
    assert main([*words, "--output", str(tmp_path / "backbone.keras")]) == 0
    network = build_dekr(CONFIG.model, CONFIG.schema)
    load_backbone(network, tmp_path / "backbone.keras")
    features = keras.Model(network.input, network.get_layer("features").output)
    np.testing.assert_array_equal(features(image), found(image))
    assert main([*words, "model.backbone=hrnet", "--output", str(tmp_path / "other.keras")]) == 2


def test_the_heatmap_head_is_read(backbone, heads, movenet, tmp_path):
    path = tmp_path / "movenet.tflite"
    path.write_bytes(movenet)
    config = Config(model={"backbone": "mobilenet_v2", "heatmap_block": "separable"})
    image = np.random.default_rng(1).uniform(-1, 1, (1, 64, 96, 3)).astype(np.float32)
    _, _, centers, heatmaps, *_ = heads(backbone(image))
    expected = np.asarray(keras.ops.sigmoid(keras.ops.concatenate([heatmaps, centers], axis=-1)))
    assert expected.shape == (1, 16, 24, 18)
    assert expected.std(axis=(1, 2)).min() > 0.01
    found = import_movenet(path, config)
    np.testing.assert_allclose(found(image), expected, rtol=0, atol=1e-4)

    found.save(tmp_path / "movenet.keras")
    network = build_dekr(config.model, config.schema)
    load_backbone(network, tmp_path / "movenet.keras")
    np.testing.assert_array_equal(network(image)["heatmap"], found(image))
    animal = Config(keypoints={"names": ["a", "b"]}, model=config.model)
    with pytest.raises(InputError, match=r"heatmaps are those of COCO's keypoints\. Received: the skeleton custom$"):
        import_movenet(path, animal)


def test_heads_of_other_sizes(backbone, tmp_path):
    """As many convolutions as in MoveNet, but no head for 17 keypoints."""
    outputs = []
    for filters in (2, 2, 1, 16, 34, 34):
        y = keras.layers.SeparableConv2D(96, 3, padding="same", activation="relu")(backbone.output)
        outputs.append(keras.layers.Conv2D(filters, 1)(y))
    path = tmp_path / "movenet.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(keras.Model(backbone.input, outputs)).convert())
    config = Config(model={"backbone": "mobilenet_v2", "heatmap_block": "separable"})
    with pytest.raises(InputError, match=r"expected heads for heatmaps and centers\. Received: none with 17$"):
        import_movenet(path, config)


def changed(change):
    def apply(content):
        model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
        change(model)
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))

    return apply


def drop_a_head(model):
    graph = model.subgraphs[0]
    last = graph.operators[-1]
    graph.operators = graph.operators[:-1]
    graph.outputs = [index for index in graph.outputs if index not in last.outputs]


def spoil_the_stem(model):
    # The first stored float16 kernel of three input channels.
    graph = model.subgraphs[0]
    stem = next(each for each in graph.tensors if each.type == schema.TensorType.FLOAT16 and each.shape[-1] == 3)
    model.buffers[stem.buffer].data = np.full(stem.shape, np.nan, np.float16).view(np.uint8).ravel()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"PK" + content, "expected a .tflite file. Received: bytes of another format$"),
        (lambda content: content[:200], "expected a .tflite file with float weights. Received: "),
        (changed(drop_a_head), "MoveNet MultiPose Lightning with 80 convolutions. Received: 79$"),
        (changed(spoil_the_stem), "expected finite weights for stem_conv. Received: NaN or infinity$"),
    ],
)
def test_what_is_another_file(movenet, tmp_path, change, message):
    path = tmp_path / "movenet.tflite"
    path.write_bytes(change(movenet))
    with pytest.raises(InputError, match=message):
        import_movenet(path, CONFIG)


def test_another_backbone_or_no_file(tmp_path):
    with pytest.raises(InputError, match=r"expected model.backbone mobilenet_v2\. Received: hrnet$"):
        import_movenet(tmp_path / "movenet.tflite", Config())
    with pytest.raises(InputError, match=r"cannot read .*movenet.tflite: No such file or directory$"):
        import_movenet(tmp_path / "movenet.tflite", CONFIG)
