"""What the target encoder and the drawing make together: the reference's maps, and what must hold for any people."""

import functools
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from dekr_tf.config import TargetConfig
from dekr_tf.data.target_encoder import TargetEncoder, box_centers, person_centers, person_sizes
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.keypoints import CROWDPOSE

GOLDENS = Path(__file__).parents[1] / "goldens"
MAPS = ("heatmap", "heatmap_weight", "offset", "offset_weight")
PLAIN = TargetConfig(person_size="paper")
IGNORING = TargetConfig(person_size="paper", unlabeled_keypoints="ignore", heatmap_sigma=0.4, center_sigma=0.4)

pytestmark = pytest.mark.slow


@functools.cache
def drawing(config):
    """The drawing as a graph, which is made once for every size."""
    return tf.function(lambda labels: draw_targets(labels, config), autograph=False)


def encode(people, sizes, map_size, config=PLAIN, mask=None, max_people=8, boxes=None):
    """The maps of one sample as NumPy arrays."""
    mask = np.ones(map_size, np.uint8) if mask is None else mask
    labels = TargetEncoder(people.shape[1] - 1, config, max_people)(people, sizes, mask, boxes)
    maps = drawing(config)({name: tf.constant(values[None]) for name, values in labels.items()})
    return {name: np.array(values[0]) for name, values in maps.items()}


def draw_people(seed, count, num_keypoints, low=0.0, high=64.0):
    """(count, K + 1, 3) people whose labeled keypoints lie in the given range, each with a center."""
    generator = np.random.default_rng(seed)
    keypoints = np.zeros((count, num_keypoints, 3))
    keypoints[..., :2] = generator.uniform(low, high, (count, num_keypoints, 2))
    keypoints[..., 2] = generator.integers(0, 3, (count, num_keypoints))
    keypoints[:, 0, 2] = 2
    centers = person_centers(keypoints, np.full(count, 1e4), 0)
    return np.concatenate([keypoints, centers[:, None]], axis=1)


# In the reference, center_sigma has no effect on skeletons of fewer than 17 keypoints: CrowdPose's center has sigma 2.
@pytest.mark.parametrize(("name", "center_sigma"), [("coco", 4.0), ("crowdpose", 2.0)])
def test_equals_the_reference(name, center_sigma):
    golden = np.load(GOLDENS / f"targets_{name}.npz")
    config = TargetConfig(
        heatmap_sigma=float(golden["sigma"]),
        center_sigma=center_sigma,
        background_weight=float(golden["bg_weight"]),
        offset_radius=int(golden["radius"]),
    )
    keypoints = golden["keypoints"]
    targets = encode(keypoints, golden["area"], (128, 128), config)
    for key in MAPS:
        assert targets[key].dtype == np.float32
        # The relative part is one unit in the last place of a float32, for offsets above 16.
        np.testing.assert_allclose(targets[key], golden[key].transpose(1, 2, 0), rtol=1.2e-7, atol=1e-6, err_msg=key)


def test_plain_overlaps_equal_the_reference_but_where_rounding_decided_there():
    golden = np.load(GOLDENS / "targets_crowdpose.npz")
    config = TargetConfig(center_sigma=2, person_size="paper")
    targets = encode(golden["keypoints"], golden["area"], (128, 128), config)
    differs = np.abs(targets["offset"] - golden["offset"].transpose(1, 2, 0)).max(axis=-1) > 1e-6
    assert np.argwhere(differs).tolist() == [[90, 41], [90, 42]]
    # The smaller person wins wherever it has labels.
    smaller = golden["keypoints"][5]
    labeled = np.flatnonzero(smaller[:14, 2])
    np.testing.assert_allclose(
        targets["offset"][90, 41].reshape(14, 2)[labeled], (41, 90) - smaller[labeled, :2], atol=1e-5
    )


@pytest.mark.parametrize("num_keypoints", [1, 3, 17, 21])
def test_decoding_gives_the_keypoints_back(num_keypoints):
    person = draw_people(num_keypoints, 1, num_keypoints, 8, 56)
    targets = encode(person, np.array([400.0]), (64, 64))
    assert targets["heatmap"].shape == (64, 64, num_keypoints + 1)
    assert targets["offset"].shape == (64, 64, 2 * num_keypoints)
    labeled = person[0, :, 2] > 0
    peaks = targets["heatmap"].reshape(-1, num_keypoints + 1).argmax(axis=0)
    peaks = np.stack([peaks % 64, peaks // 64], axis=1)
    assert np.abs(peaks - person[0, :, :2])[labeled].max() <= 0.5
    column, row = person[0, -1, :2].astype(int)
    decoded = (column, row) - targets["offset"][row, column].reshape(-1, 2)
    np.testing.assert_allclose(decoded[labeled[:-1]], person[0, :-1][labeled[:-1], :2], atol=1e-5)
    weights = targets["offset_weight"][row, column].reshape(-1, 2)
    np.testing.assert_allclose(weights, np.repeat(labeled[:-1, None], 2, axis=1) / 20, rtol=1e-6)


def test_values_by_hand():
    """One keypoint at (10.25, 6), center at (9.5, 7.5), a map that cuts nothing off but the right of the patch."""
    person = np.array([[[10.25, 6, 2], [9.5, 7.5, 1]]])
    targets = encode(person, np.array([25.0]), (30, 16))
    heatmap, weight = targets["heatmap"][:, :, 0], targets["heatmap_weight"][:, :, 0]
    assert heatmap[6, 10] == pytest.approx(np.exp(-(0.25**2) / 8))
    assert heatmap[9, 12] == pytest.approx(np.exp(-(1.75**2 + 3**2) / 8))
    rows, columns = np.nonzero(weight == 1)
    # floor(10.25 - 7) = 3 up to the border; 6 - 7 = -1 up to 6 + 8.
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (3, 15, 0, 13)
    np.testing.assert_array_equal(heatmap > 0, weight == 1)
    np.testing.assert_allclose(weight[weight != 1], 0.1)
    rows, columns = np.nonzero(targets["offset_weight"][:, :, 0])
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (5, 12, 3, 10)
    np.testing.assert_allclose(targets["offset"][3, 12], (12 - 10.25, 3 - 6))
    np.testing.assert_allclose(targets["offset_weight"][3, 12], 1 / 5)


def test_unlabeled_keypoints_by_hand():
    """The first person lacks keypoint 0 and lies beside the map; the second has it within the first one's box."""
    people = np.array([[[0, 0, 0], [-3, 5, 2], [-3, 5, 1]], [[4, 4, 2], [0, 0, 0], [4, 4, 1]]], float)
    boxes = np.array([[-5, 0.5, 7.2, 9.5], [3.5, 3, 4.5, 5]])
    weight = encode(people, np.ones(2), (12, 12), IGNORING, boxes=boxes)["heatmap_weight"]
    expected = np.full((12, 12, 3), 0.1)
    expected[0:11, 0:9, 0] = 0
    expected[3:6, 3:6, 1] = 0
    # Patches with sigma 0.4: from floor(4 - 2.2) = 1 up to 4 + ceil(3.2) = 8, which is left out.
    expected[1:8, 1:8, [0, 2]] = 1
    np.testing.assert_allclose(weight, expected)
    background = encode(people, np.ones(2), (12, 12), PLAIN, boxes=boxes)["heatmap_weight"]
    np.testing.assert_allclose(np.unique(background), (0.1, 1))


@given(seed=st.integers(0, 10**6), count=st.integers(0, 4))
def test_unlabeled_keypoints_equal_the_slow_form(seed, count):
    generator = np.random.default_rng(seed)
    people = draw_people(seed, count, 3, -8, 24)
    boxes = np.sort(generator.uniform(-20, 36, (count, 2, 2)), axis=1).reshape(count, 4)
    targets = encode(people, np.arange(count) + 30.0, (16, 20), IGNORING, boxes=boxes)
    weight = np.full((16, 20, 4), 0.1)
    for person, (left, top, right, bottom) in zip(people, boxes, strict=True):
        for row in range(16):
            for column in range(20):
                if left - 1 < column < right + 1 and top - 1 < row < bottom + 1:
                    weight[row, column, :3][person[:3, 2] == 0] = 0
    weight[targets["heatmap"] > 0] = 1
    np.testing.assert_allclose(targets["heatmap_weight"], weight)
    plain = encode(
        people, np.arange(count) + 30.0, (16, 20), IGNORING.model_copy(update={"unlabeled_keypoints": "background"})
    )
    for key in ("heatmap", "offset", "offset_weight"):
        np.testing.assert_array_equal(targets[key], plain[key])


@given(seed=st.integers(0, 10**6), count=st.integers(0, 5))
def test_mirrored_people_give_mirrored_targets(seed, count):
    schema, side = CROWDPOSE, 48
    config = TargetConfig(person_size="paper", unlabeled_keypoints="ignore")
    people = draw_people(seed, count, len(schema), 0, side - 1)
    # Whole centers, since a square about a truncated one has no mirror image.
    people[:, -1, :2] = 6 + 9 * np.arange(count)[:, None] % 40
    sizes = np.arange(1, count + 1) * 50.0
    mirrored = people[:, [*schema.flip_indices, len(schema)]]
    mirrored[..., 0] = side - 1 - mirrored[..., 0]
    boxes = np.sort(np.random.default_rng(seed).uniform(-10, side + 10, (count, 2, 2)), axis=1).reshape(count, 4)
    mirrored_boxes = np.stack([side - 1 - boxes[:, 2], boxes[:, 1], side - 1 - boxes[:, 0], boxes[:, 3]], axis=1)
    plain, flipped = (
        encode(each, sizes, (side, side), config, boxes=its_boxes)
        for each, its_boxes in ((people, boxes), (mirrored, mirrored_boxes))
    )
    channels = [*schema.flip_indices, len(schema)]
    for key in ("heatmap", "heatmap_weight"):
        np.testing.assert_allclose(flipped[key][:, ::-1][:, :, channels], plain[key], atol=1e-6)
    # The square [c - 4, c + 4) becomes (c - 4, c + 4]: compare where both ask.
    offset, mirrored_offset = (each["offset"].reshape(side, side, -1, 2) for each in (plain, flipped))
    mirrored_offset = mirrored_offset[:, ::-1][:, :, list(schema.flip_indices)] * (-1, 1)
    both = (offset != 0) & (mirrored_offset != 0)
    np.testing.assert_allclose(mirrored_offset[both], offset[both], atol=1e-5)


@given(seed=st.integers(0, 10**6), distance=st.floats(200, 1e9))
def test_people_far_outside_change_nothing(seed, distance):
    people = draw_people(seed, 3, 3)
    far = draw_people(seed + 1, 2, 3)
    far[0, :, 0] += distance
    far[1, :, 1] -= distance
    for config in (PLAIN, TargetConfig()):
        alone = encode(people, np.array([100.0, 200.0, 300.0]), (64, 64), config)
        sizes = np.array([50.0, 60.0, 100.0, 200.0, 300.0])
        together = encode(np.concatenate([far, people]), sizes, (64, 64), config)
        for key in MAPS:
            np.testing.assert_array_equal(together[key], alone[key])


@given(seed=st.integers(0, 10**6))
def test_the_order_of_people_does_not_matter(seed):
    people = draw_people(seed, 4, 5, 20, 40)
    sizes = np.array([90.0, 40.0, 70.0, 55.0])
    order = np.random.default_rng(seed).permutation(4)
    first, second = encode(people, sizes, (64, 64)), encode(people[order], sizes[order], (64, 64))
    for key in MAPS:
        np.testing.assert_array_equal(first[key], second[key])


def slow_reference_offsets(people, sizes, side, radius):
    """The overlap rule that the encoder's docstring states, cell by cell."""
    count = people.shape[1] - 1
    offset = np.zeros((side, side, count, 2), np.float32)
    weight = np.zeros((side, side, count, 2), np.float32)
    last_size = np.zeros((side, side), np.float32)
    for person, size in zip(people, sizes, strict=True):
        x, y = person[-1, :2].astype(int)
        for row in range(max(0, y - radius), min(side, y + radius)):
            for column in range(max(0, x - radius), min(side, x + radius)):
                for k in np.flatnonzero(person[:-1, 2] > 0):
                    if weight[row, column, k, 0] > 0 and float(last_size[row, column]) < size:
                        continue
                    offset[row, column, k] = (column, row) - person[k, :2]
                    weight[row, column, k] = 1 / np.sqrt(size)
                    last_size[row, column] = size
    return offset.reshape(side, side, -1), weight.reshape(side, side, -1)


@given(seed=st.integers(0, 10**6))
def test_reference_overlaps_equal_the_slow_form(seed):
    people = draw_people(seed, 4, 5, 8, 22)
    sizes = np.random.default_rng(seed).uniform(10, 20, 4)
    targets = encode(people, sizes, (32, 32), TargetConfig())
    offset, weight = slow_reference_offsets(people, sizes, 32, 4)
    np.testing.assert_allclose(targets["offset"], offset, atol=1e-5)
    np.testing.assert_allclose(targets["offset_weight"], weight, rtol=1e-6)


def test_no_people_and_masks():
    mask = np.ones((16, 24), np.uint8)
    mask[:4] = 0
    targets = encode(np.zeros((0, 4, 3)), np.zeros(0), (16, 24), mask=mask)
    assert [targets[key].shape for key in MAPS] == [(16, 24, 4), (16, 24, 4), (16, 24, 6), (16, 24, 6)]
    assert not targets["heatmap"].any()
    assert not targets["offset_weight"].any()
    np.testing.assert_allclose(targets["heatmap_weight"], np.where(mask, 0.1, 0)[:, :, None] * np.ones(4))


def test_people_without_size_have_weight_one():
    """A single labeled keypoint has no box, so its person has size 0."""
    person = draw_people(0, 1, 1, 8, 24)
    assert person_sizes(person[:, :1], "paper") == 0
    weight = encode(person, np.zeros(1), (32, 32))["offset_weight"]
    assert weight.max() == 1


def test_centers_are_means_of_labeled_keypoints():
    keypoints = np.array([[[0, 0, 0], [10, 20, 1], [30, 24, 2]], [[5, 5, 2], [7, 9, 2], [0, 0, 0]]], float)
    centers = person_centers(keypoints, np.array([1024.0, 1023.9]), 1024)
    np.testing.assert_allclose(centers, [[20, 22, 1], [6, 7, 0]])
    np.testing.assert_allclose(person_centers(keypoints, np.array([1.0, 1.0]), 0)[:, 2], 1)
    assert person_centers(np.zeros((0, 3, 3)), np.zeros(0), 0).shape == (0, 3)


def test_centers_are_the_middles_of_the_boxes_on_the_map():
    boxes = np.array([[2, 4, 6, 16], [-8, 4, 4, 8], [20, 4, 40, 40], [30, 4, 40, 8], [2, 4, 6, 16]])
    centers = box_centers(boxes, (20, 24), np.array([1, 1, 1, 1, 0]))
    np.testing.assert_array_equal(centers[:3], [[4, 10, 1], [2, 6, 1], [22, 12, 1]])
    np.testing.assert_array_equal(centers[3:, 2], [0, 0])


def test_person_sizes():
    person = np.array([[[420, 100, 2], [460, 180, 1], [0, 0, 0]]], float)
    assert person_sizes(person, "paper") == pytest.approx(40**2 + 80**2)
    assert person_sizes(person, "reference") == pytest.approx(460**2 + 180**2)
    # The center's zero row is in the reference's box even where every keypoint is labeled.
    assert person_sizes(person[:, :2], "reference") == pytest.approx(460**2 + 180**2)
    assert person_sizes(np.zeros((0, 17, 3)), "paper").shape == (0,)


def test_batches_compiled_maps_and_mixed_precision_give_the_same():
    golden = np.load(GOLDENS / "targets_coco.npz")
    encoder, config = TargetEncoder(17, TargetConfig(), 30), TargetConfig()
    mask = np.ones((128, 128), np.uint8)
    alone = [encoder(golden["keypoints"][:count], golden["area"][:count], mask) for count in (7, 0, 2)]
    batch = {name: tf.constant(np.stack([labels[name] for labels in alone])) for name in alone[0]}
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        compiled = tf.function(lambda labels: draw_targets(labels, config), jit_compile=True, autograph=False)(batch)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    for number, count in enumerate((7, 0, 2)):
        expected = encode(golden["keypoints"][:count], golden["area"][:count], (128, 128), config)
        for key in MAPS:
            assert compiled[key].dtype == tf.float32
            np.testing.assert_allclose(compiled[key][number], expected[key], rtol=1e-6, atol=1e-6, err_msg=key)


@given(seed=st.integers(0, 10**6), reference=st.booleans())
def test_every_value_has_one_winner(seed, reference):
    people = draw_people(seed, 5, 4, 0, 24)
    sizes = np.random.default_rng(seed).uniform(10, 20, 5)
    config = TargetConfig(person_size="reference" if reference else "paper", offset_radius=3)
    labels = TargetEncoder(4, config, 6)(people, sizes, np.ones((24, 24), np.uint8))
    winners = np.zeros((24 + 12, 24 + 12, 4), int)
    for (x, y), wins in zip(labels["cells"][:, -1], labels["wins"], strict=True):
        winners[y + 3 : y + 9, x + 3 : x + 9] += wins
    # The map's border is 6 cells away from that of the array.
    winners[6:30, 6:30] -= encode(people, sizes, (24, 24), config)["offset_weight"][..., ::2] > 0
    assert not winners.any()
