"""The offset head at the supervised cells against the same head on whole maps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dekr_tf.config import OffsetHeadConfig
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.models.dekr import _offset_head
from dekr_tf.models.supervised_offsets import SupervisedOffsets
from dekr_tf.training.losses import offset_loss

NAMES = ["a", "b", "c"]
SIZE = 10
#: Squares that are supervised, a list for each of two images: (top, left) and side.
PEOPLE = {
    # At the borders, overlapping, and apart from all others.
    "people": [[(-2, -1, 4), (8, 3, 4), (2, 2, 4), (4, 3, 4)], [(2, 5, 3)]],
    "a single cell": [[], [(0, 9, 1)]],
    "nobody": [[], []],
    "everywhere": [[(0, 0, SIZE)], [(0, 0, SIZE)]],
}

pytestmark = pytest.mark.slow


def build(**head):
    """The heads without a backbone, whose taps are spread and leave the map here and there."""
    image = keras.Input((SIZE, SIZE, 2))
    heatmap = keras.layers.Conv2D(len(NAMES) + 1, 1, name="heatmap")(image)
    offset = _offset_head(image, OffsetHeadConfig(channels=15, **head), KeypointSchema("three", NAMES))
    network = keras.Model(image, {"heatmap": heatmap, "offset": offset})
    random = np.random.default_rng(0)
    for layer in network.layers:
        if layer.name.startswith("offset_g"):
            for variable in layer.variables:
                spread = random.normal(0, 0.3, variable.shape)
                variable.assign(1 + np.abs(spread) if "variance" in variable.name else variable.numpy() + spread)
            if layer.name.endswith("_conv"):
                # Steep offsets would magnify rounding.
                layer.offset_kernel.assign(0.3 * layer.offset_kernel)
                layer.offset_bias.assign(layer.offset_bias + np.float32([1, 0, 0, 1, 0, 0]))
    return network


def make_case(people):
    """Features, and targets with weights on the squares; not every keypoint is labeled there."""
    random = np.random.default_rng(1)
    weight = np.zeros((2, SIZE, SIZE, 2 * len(NAMES)), np.float32)
    for image, squares in enumerate(PEOPLE[people]):
        for number, (top, left, side) in enumerate(squares):
            square = np.s_[image, max(top, 0) : top + side, max(left, 0) : left + side]
            weight[square][..., 2 * number :] = random.uniform(0.5, 1)
    targets = {"offset": random.normal(size=weight.shape), "offset_weight": weight}
    features = np.maximum(random.normal(size=(2, SIZE, SIZE, 15)), 0)
    return tf.constant(features, tf.float32), {name: tf.constant(each, tf.float32) for name, each in targets.items()}


def head_variables(network):
    return [variable for variable in network.trainable_variables if variable.path.startswith("offset_g")]


def loss_and_gradients(ingredients, features, network):
    """The loss of what `ingredients()` gives to `offset_loss`, and its gradients."""
    variables = head_variables(network)
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss = offset_loss(*ingredients(features))
    return [loss, *tape.gradient(loss, [features, *variables])]


def assert_equal(received, expected, network):
    names = ["loss", "features", *(variable.path for variable in head_variables(network))]
    for name, one, other in zip(names, received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=3e-5 * np.abs(other).max() + 1e-7, err_msg=name)


def dense_head(network):
    return keras.Model(network.get_layer("offset_transition_relu").output, network.output["offset"])


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("head", "people"),
    [
        *(({}, people) for people in PEOPLE),
        ({"blocks": 1}, "people"),
        ({"branches": "single"}, "people"),
        ({"branches": [["c", "a"], ["b"]]}, "people"),
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_whole_maps(head, people):
    network = build(**head)
    features, targets = make_case(people)
    whole, cells = dense_head(network), SupervisedOffsets(network)
    predicted, target, weight = cells(features, targets, training=False)
    supervised = np.any(targets["offset_weight"] > 0, axis=-1)
    count = supervised.sum()
    np.testing.assert_allclose(predicted[:count], whole(features)[supervised], rtol=1e-4, atol=3e-5)
    np.testing.assert_array_equal(target[:count], targets["offset"][supervised])
    np.testing.assert_array_equal(weight[:count], targets["offset_weight"][supervised])
    assert not np.any(weight[count:])

    received = loss_and_gradients(lambda x: cells(x, targets, training=False), features, network)
    expected = loss_and_gradients(lambda x: (whole(x), *targets.values()), features, network)
    assert_equal(received, expected, network)


def with_statistics_of(network, features, masks):
    """The head on whole maps, each block normalized by the moments of its outputs at the cells of a mask."""
    x = features
    for block, mask in enumerate(masks):
        norm = network.get_layer(f"offset_g1_block{block}_bn")
        y = network.get_layer(f"offset_g1_block{block}_conv")(x)
        mean, variance = tf.nn.moments(tf.boolean_mask(y, mask), axes=[0])
        x = tf.nn.relu(x + tf.nn.batch_normalization(y, mean, variance, norm.beta, norm.gamma, norm.epsilon))
    return network.get_layer("offset_g1_final")(x)


def around(mask):
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    return np.any([padded[:, y : y + SIZE, x : x + SIZE] for y in range(3) for x in range(3)], axis=0)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("blocks", [1, 2])
def test_batch_statistics_are_those_of_the_cells(blocks):
    network = build(blocks=blocks)
    features, targets = make_case("people")
    cells = SupervisedOffsets(network)
    supervised = np.any(targets["offset_weight"] > 0, axis=-1)
    masks = [around(supervised), supervised][-blocks:]
    before = np.array(network.get_layer("offset_g1_block0_bn").moving_mean)
    received = loss_and_gradients(lambda x: cells(x, targets), features, network)
    expected = loss_and_gradients(
        lambda x: (with_statistics_of(network, x, masks), *targets.values()), features, network
    )
    assert_equal(received, expected, network)
    # What inference will use moves toward them.
    mean = tf.boolean_mask(network.get_layer("offset_g1_block0_conv")(features), masks[0]).numpy().mean(axis=0)
    after = network.get_layer("offset_g1_block0_bn").moving_mean
    np.testing.assert_allclose(after, 0.9 * before + 0.1 * mean, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("eagerly")
def test_a_batch_without_people_leaves_the_moving_averages():
    network = build()
    before = [np.array(variable) for variable in network.non_trainable_variables]
    features, targets = make_case("nobody")
    loss = offset_loss(*SupervisedOffsets(network)(features, targets))
    assert loss == 0
    for variable, value in zip(network.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_compiled_for_any_number_of_cells():
    network = build()
    cells, whole = SupervisedOffsets(network), dense_head(network)

    @tf.function(autograph=False)
    def loss(features, offset, offset_weight):
        return offset_loss(*cells(features, {"offset": offset, "offset_weight": offset_weight}, training=False))

    for people in ("people", "everywhere", "nobody"):
        features, targets = make_case(people)
        expected = offset_loss(whole(features), *targets.values())
        np.testing.assert_allclose(loss(features, **targets), expected, rtol=1e-4)
    assert loss.experimental_get_tracing_count() == 1


def test_the_forward_pass_leaves_the_dense_head_out():
    network = build()
    names = {layer.name for layer in SupervisedOffsets(network).features.layers}
    assert names < {layer.name for layer in network.layers}
    assert not any(name.startswith("offset_g") for name in names)
