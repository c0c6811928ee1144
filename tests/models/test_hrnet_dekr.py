"""The network: its maps, its layers' settings, the families of the offset head, precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from networks import tiny_hrnet

from dekr_tf.config import Config
from dekr_tf.keypoints import COCO
from dekr_tf.models.dekr import branch_groups, build_backbone, build_dekr
from dekr_tf.models.hrnet import conv_bn
from dekr_tf.training.losses import heatmap_loss, offset_loss

TINY = tiny_hrnet(8)
ABCD = {"name": "abcd", "names": ["a", "b", "c", "d"]}
LIMBS = [list(COCO.names[:5])] + [
    [f"{side}_{part}" for part in parts]
    for parts in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
    for side in ("left", "right")
]
#: The offset head's families for COCO: settings, and keypoints of each branch.
FAMILIES = {
    "separate": ({}, [1] * 17),
    "single": ({"branches": "single"}, [17]),
    "thirteen groups": ({"branches": [LIMBS[0], *([name] for name in COCO.names[5:])]}, [1] * 12 + [5]),
    "five groups": ({"branches": LIMBS}, [3] * 4 + [5]),
    "plain": ({"block": "plain"}, [1] * 17),
    "dilated": ({"block": "plain", "dilation": 5, "branches": "single", "channels": 32, "blocks": 1}, [17]),
}

pytestmark = pytest.mark.slow


def build(keypoints="coco", image_size=(None, None), **head):
    config = Config(keypoints=keypoints, model={**TINY, "offset_head": head})
    return build_dekr(config.model, config.schema, image_size)


def randomize(model):
    """Random parameters that keep activations within float16's range."""
    for variable in model.variables:
        noise = np.random.standard_normal(variable.shape)
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(0.7 * np.exp(0.1 * noise))
        elif variable.name == "kernel":
            variable.assign(0.7 * variable)
        else:
            variable.assign(0.05 * noise)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("count", [1, 3, 21])
def test_maps_of_any_skeleton(count):
    model = build({"names": [f"point {index}" for index in range(count)]})
    # Sizes that leave odd numbers of cells at strides 8 to 32.
    maps = model(np.zeros((2, 96, 32, 3), np.float32))
    assert {name: value.shape for name, value in maps.items()} == {
        "heatmap": (2, 24, 8, count + 1),
        "offset": (2, 24, 8, 2 * count),
    }


@pytest.fixture(scope="module")
def abcd():
    """A network for a skeleton of four keypoints."""
    keras.utils.set_random_seed(1)
    model = build(ABCD)
    randomize(model)
    return model


@pytest.mark.usefixtures("eagerly")
def test_a_fixed_size_changes_nothing(abcd):
    fixed = build(ABCD, image_size=(64, 96))
    fixed.set_weights(abcd.get_weights())
    assert fixed.output["offset"].shape == (None, 16, 24, 8)
    image = np.random.standard_normal((1, 64, 96, 3)).astype(np.float32)
    for name, value in abcd(image).items():
        np.testing.assert_array_equal(value, fixed(image)[name])


@pytest.mark.usefixtures("eagerly")
def test_images_of_a_batch_do_not_mix(abcd):
    images = np.random.standard_normal((3, 32, 64, 3)).astype(np.float32)
    maps = abcd(images)
    for name, value in abcd(images[1:2]).items():
        np.testing.assert_allclose(maps[name][1:2], value, rtol=1e-4, atol=1e-5)


def test_normalization_has_the_constants_of_the_reference(abcd):
    norms = [layer for layer in abcd.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) > 40
    assert {(layer.epsilon, layer.momentum, layer.axis) for layer in norms} == {(1e-5, 0.9, -1)}


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_strided_convolutions_sample_as_pytorch_does(size):
    image = keras.Input((*size, 3))
    model = keras.Model(image, conv_bn(image, 4, "x", kernel_size=3, strides=2, relu=False))
    x = tf.random.normal((1, *size, 3))
    kernel = model.get_layer("x_conv").kernel
    expected = np.zeros((1, (size[0] + 1) // 2, (size[1] + 1) // 2, 4), np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for row, column in np.ndindex(*expected.shape[1:3]):
        window = padded[0, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        expected[0, row, column] = np.einsum("hwc,hwcf->f", window, kernel)
    np.testing.assert_allclose(model(x), expected / np.sqrt(1 + 1e-5), rtol=1e-4, atol=1e-5)


def test_the_backbone_has_the_names_that_it_has_in_the_whole(abcd):
    config = Config(model=TINY)
    whole = {layer.name: layer for layer in abcd.layers}
    backbone = build_backbone(config.model)
    heads = {name for name in whole if name.startswith(("features", "heatmap", "offset"))}
    assert {layer.name for layer in backbone.layers} == set(whole) - heads
    for layer in backbone.layers:
        assert [v.shape for v in layer.weights] == [v.shape for v in whole[layer.name].weights]
    assert [output.shape[-1] for output in backbone.outputs] == [8, 16, 32, 64]


@pytest.mark.parametrize("family", FAMILIES)
def test_branches_of_a_family(family):
    head, sizes = FAMILIES[family]
    config = Config(model={"offset_head": head})
    groups = branch_groups(config.model.offset_head, COCO)
    assert [len(group) for group in groups] == sizes
    assert sorted(index for group in groups for index in group) == list(range(17))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_variable_of_a_family_learns_and_is_saved(family, tmp_path):
    model = build(**FAMILIES[family][0])
    image = tf.random.normal((2, 64, 64, 3))
    heatmap, offset = tf.random.uniform((2, 16, 16, 18)), tf.random.normal((2, 16, 16, 34))

    def loss():
        maps = model(image, training=True)
        return heatmap_loss(maps["heatmap"], heatmap, 1.0) + offset_loss(maps["offset"], offset, tf.ones_like(offset))

    with tf.GradientTape() as tape:
        before = loss()
    gradients = tape.gradient(before, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all() and np.any(gradient != 0), variable.path
        variable.assign_sub(1e-3 * gradient)
    assert loss() < before

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.get_config() for layer in again.layers] == [layer.get_config() for layer in model.layers]
    for name, value in model(image).items():
        np.testing.assert_array_equal(again(image)[name], value)


@pytest.mark.usefixtures("eagerly")
def test_groups_come_out_in_keypoint_order():
    model = build(ABCD, branches=[["c", "a"], ["b", "d"]])
    other = build(ABCD, branches=[["d", "b"], ["c", "a"]])
    randomize(model)
    # In the other network the two branches have changed places, and b and d within theirs.
    swap = np.r_[30:60, 0:30]
    for layer in model.layers:
        weights = layer.get_weights()
        if layer.name == "offset_transition_conv":
            weights = [weights[0][..., swap]]
        elif layer.name.startswith("offset") and layer.name.endswith("_bn"):
            weights = [value[swap] for value in weights]
        elif layer.name.startswith("offset_g2_block"):
            weights = [value[::-1] for value in weights]
        elif layer.name == "offset_g2_final":
            kernel, bias = weights
            kernel, bias = kernel[::-1].copy(), bias.reshape(2, 4)[::-1].copy()
            kernel[0], bias[0] = kernel[0][..., [2, 3, 0, 1]], bias[0][[2, 3, 0, 1]]
            weights = [kernel, bias.ravel()]
        other.get_layer(layer.name).set_weights(weights)
    image = np.random.standard_normal((1, 64, 64, 3)).astype(np.float32)
    expected = model(image)["offset"]
    assert len({float(value) for value in expected[0, 0, 0]}) == 8
    np.testing.assert_allclose(other(image)["offset"], expected, rtol=1e-4, atol=1e-4)
    # c comes before a within the branch: keypoint 2 has its first pair of outputs.
    branch = keras.Model(model.input, model.get_layer("offset_g2_final").output)(image)
    np.testing.assert_array_equal(expected[..., 4:6], branch[..., 0:2])
    np.testing.assert_array_equal(expected[..., 0:2], branch[..., 2:4])
    np.testing.assert_array_equal(expected[..., 2:4], branch[..., 4:6])


@pytest.mark.usefixtures("eagerly")
def test_a_keypoint_depends_on_its_branch_alone():
    # Groups of different sizes: the smaller comes first.
    model = build(ABCD, branches=[["d", "b", "a"], ["c"]])
    randomize(model)
    image = np.random.standard_normal((1, 32, 32, 3)).astype(np.float32)
    before = ops.reshape(model(image)["offset"], (1, 8, 8, 4, 2))
    norm = model.get_layer("offset_transition_bn")
    norm.beta.assign(ops.where(ops.arange(60) < 15, norm.beta + 1, norm.beta))
    after = ops.reshape(model(image)["offset"], (1, 8, 8, 4, 2))
    changed = np.abs(after - before).max(axis=(0, 1, 2, 4))
    assert changed[2] > 1e-3
    np.testing.assert_array_equal(changed[[0, 1, 3]], 0)


@pytest.fixture
def mixed_precision():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    yield
    keras.mixed_precision.set_dtype_policy("float32")


@pytest.mark.usefixtures("eagerly")
def test_mixed_precision(abcd, mixed_precision):
    half = build(ABCD)
    half.set_weights(abcd.get_weights())
    image = np.random.standard_normal((1, 64, 64, 3)).astype(np.float32)
    maps = half(image)
    assert {name: value.dtype for name, value in maps.items()} == {"heatmap": tf.float32, "offset": tf.float32}
    assert half.get_layer("stem_1_conv").compute_dtype == "float16"
    assert {variable.dtype for variable in half.variables} == {"float32"}
    keras.mixed_precision.set_dtype_policy("float32")
    for name, value in abcd(image).items():
        np.testing.assert_allclose(maps[name], value, rtol=0, atol=0.03 * np.abs(value).max())
